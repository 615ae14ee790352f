"""Writes ``docs/tensorrt.md`` from the table of TensorRT's versions and the classes that exist.

python tools/tensorrt_page.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lamina.tensorrt as trt
from lamina.tensorrt import exports, persona, table
from lamina.tensorrt.limits import LIMITS
from lamina.tensorrt.plugin_api.standard import ABSENT, DEFINITIONS

PAGE = Path(__file__).parents[1] / "docs/tensorrt.md"
TITLES = {"8": "8.6", "10": "10.16", "11": "11.1"}
GROUPS = (
    ("Plugins", ("IPlugin", "PluginF", "PluginT", "Expr", "KernelLaunch")),
    ("Parsers", ("Parser", "FieldMap", "FieldCollection", "Blob", "Caffe", "Uff")),
    ("INT8 calibration and algorithm selection", ("Calibrator", "Algorithm")),
    ("Refitting and inspection", ("Refit", "Inspector", "Profiler", "DebugListener")),
    ("Running", ("Engine", "Context", "Runtime", "Allocator", "Stream", "Serialization")),
    ("Building", ("Builder", "Profile", "TimingCache", "Progress")),
    ("Networks", ("Layer", "Loop", "Conditional", "INetwork", "ITensor", "IAttention")),
    ("Foundations", ("",)),
)
"""Groups by what the names of their classes contain; the first that fits counts."""

HEAD = """\
# The TensorRT API

`import lamina.tensorrt as trt` gives TensorRT's Python API on top of Lamina: programs for TensorRT
build, save, load and run engines with it. Where there is no GPU they run on the CPU, and addresses
are those of the host.

The package speaks for TensorRT 10. `LAMINA_TENSORRT_VERSION=8.6` (or `lamina.tensorrt.use("8.6")`,
before anything else) chooses version 8 with what programs of 7 use; `11` chooses version 11.
Members, methods and the numbers of enumerations are then those of that version.
`LAMINA_TENSORRT_DEVICE=cpu` keeps it from using a GPU.

```python
import numpy as np

import lamina
import lamina.tensorrt as trt

builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
network = builder.create_network()
x = network.add_input("x", trt.float32, (1, 3))
y = network.add_activation(x, trt.ActivationType.RELU).get_output(0)
network.mark_output(y)
plan = builder.build_serialized_network(network, builder.create_builder_config())
print(lamina.load(bytes(plan))(np.array([[-1, 0, 2]], np.float32)))
```

```text
[[0. 0. 2.]]
```

`DeviceType.GPU` is the device that engines are built for, which may be a CPU. Beyond TensorRT,
`IBuilderConfig.set_layer_on_host(layer, True)` lets the host run a layer of an engine for a GPU,
between its kernels.

An engine file is a plan like any other: `lamina.load`, `lamina run` and `lamina inspect` take it
too. Failed builds give `None` and say why in the logger, with the name of the layer; arguments of a
wrong type are a `TypeError`.

Plugins in Python run on either device: `enqueue` and functions under `tensorrt.plugin.impl` get
addresses of host memory, or of the GPU's with the stream to work on. Kernels from
`tensorrt.plugin.aot_impl` become a part of the engine, which then needs neither the plugin nor its
compiler. Where a plugin has several tactics, all are timed while the engine is built.

This page is made by `tools/tensorrt_page.py` from the classes themselves; a test compares them.
"""


def group_of(name: str) -> str:
    """Return the group that a class stands under."""
    return next(title for title, parts in GROUPS if any(part in name for part in parts))


def members(name: str, version: str) -> set[str]:
    """Return the members of a class in a version, without special methods."""
    listed = table.class_members(name, version) or frozenset()
    return {m for m in listed if not m.startswith("__")}


def row(name: str, classes: dict[str, Any]) -> str:
    """Return the line of one class: its versions, and how many of its members exist."""
    versions = [v for v in table.VERSIONS if table.class_members(name, v) is not None]
    everything = set().union(*(members(name, v) for v in versions))
    cls = classes.get(name)
    missing = sorted(m for m in everything if cls is None or not persona.implements(cls, m))
    count = f"{len(everything) - len(missing)} of {len(everything)}"
    if cls is None:
        absent = "the class"
    else:
        absent = ", ".join(f"`{m}`" for m in missing)
    spoken = ", ".join(TITLES[v] for v in versions)
    return f"| `{name}` | {spoken} | {'' if not everything else count} | {absent} |"


def lines() -> Iterator[str]:
    """Yield the page."""
    classes = exports.collect()
    names = sorted(table.class_names() - {"<module>"}, key=str.lower)
    yield HEAD
    for title, _ in reversed(GROUPS):
        yield f"## {title}\n"
        yield "| class | versions | members | missing |"
        yield "|---|---|---|---|"
        yield from (row(n, classes) for n in names if group_of(n) == title)
        yield ""
    yield from standard_plugins()
    yield "## What does less than in TensorRT\n"
    yield "| what | how |"
    yield "|---|---|"
    yield from (f"| `{name}` | {text} |" for name, text in sorted(LIMITS.items()))
    yield ""


def standard_plugins() -> Iterator[str]:
    """Yield what ``init_libnvinfer_plugins`` registers, and what it does not."""
    yield "## Standard plugins\n"
    found = sorted(DEFINITIONS, key=lambda d: d.name.lower())
    names = (f"`{d.name}` ({', '.join(d.versions)})" for d in found)
    yield "`init_libnvinfer_plugins` registers, with versions in brackets, as compositions of"
    yield f"operators: {', '.join(names)}.\n"
    yield "| not registered | why, and what to do |"
    yield "|---|---|"
    yield from (f"| `{name}` | {reason} |" for name, reason in sorted(ABSENT.items()))
    yield ""


def page() -> str:
    """Return the page as text."""
    trt.use("10")
    return "\n".join(lines()).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
