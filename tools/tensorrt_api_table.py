"""Makes ``src/lamina/tensorrt/data/api.json`` from listings of TensorRT's Python API.

    python tools/tensorrt_api_table.py FOLDER

``FOLDER`` holds one Markdown listing a version (``api_8.6.md``, ``api_10.16.md``, ``api_11.1.md``),
in which a line ``## Name [class|enum|module] (file)`` comes before a line with the members between
semicolons.  The listings give the order of an enumeration's members; where the public headers
number them otherwise, the numbers stand in NUMBERS.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path

LISTINGS = {"8": "api_8.6.md", "10": "api_10.16.md", "11": "api_11.1.md"}
OUTPUT = Path(__file__).parents[1] / "src/lamina/tensorrt/data/api.json"

_FLAGS_8 = (
    "FP16 INT8 DEBUG GPU_FALLBACK STRICT_TYPES REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS "
    "SAFETY_SCOPE OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS DIRECT_IO "
    "REJECT_EMPTY_ALGORITHMS ENABLE_TACTIC_HEURISTIC VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME FP8"
)
_FLAGS_10 = (
    "FP16 INT8 DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE "
    "OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS DIRECT_IO REJECT_EMPTY_ALGORITHMS "
    "VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME FP8 ERROR_ON_TIMING_CACHE_MISS BF16 "
    "DISABLE_COMPILATION_CACHE STRIP_PLAN REFIT_IDENTICAL WEIGHT_STREAMING INT4 REFIT_INDIVIDUAL "
    "STRICT_NANS MONITOR_MEMORY FP4 EDITABLE_TIMING_CACHE DISTRIBUTIVE_INDEPENDENCE"
)
_LAYERS_8 = (
    "CONVOLUTION FULLY_CONNECTED ACTIVATION POOLING LRN SCALE SOFTMAX DECONVOLUTION CONCATENATION "
    "ELEMENTWISE PLUGIN UNARY PADDING SHUFFLE REDUCE TOPK GATHER MATRIX_MULTIPLY RAGGED_SOFTMAX "
    "CONSTANT RNN_V2 IDENTITY PLUGIN_V2 SLICE SHAPE PARAMETRIC_RELU RESIZE TRIP_LIMIT RECURRENCE "
    "ITERATOR LOOP_OUTPUT SELECT FILL QUANTIZE DEQUANTIZE CONDITION CONDITIONAL_INPUT "
    "CONDITIONAL_OUTPUT SCATTER EINSUM ASSERTION ONE_HOT NON_ZERO GRID_SAMPLE NMS "
    "REVERSE_SEQUENCE NORMALIZATION CAST"
)
_LAYERS_10 = (
    _LAYERS_8.replace(" FULLY_CONNECTED", " CAST").replace(" RNN_V2", "").removesuffix(" CAST")
    + " PLUGIN_V3 SQUEEZE UNSQUEEZE CUMULATIVE DYNAMIC_QUANTIZE ATTENTION_INPUT ATTENTION_OUTPUT "
    "ROTARY_EMBEDDING KV_CACHE_UPDATE MOE DIST_COLLECTIVE"
)
_TYPES = "FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64 INT4 FP4 E8M0"
NUMBERS = {
    ("BuilderFlag", "8"): _FLAGS_8,
    ("BuilderFlag", "10"): _FLAGS_10,
    ("BuilderFlag", "11"): _FLAGS_10.replace(" REJECT_EMPTY_ALGORITHMS", ""),
    ("LayerType", "8"): _LAYERS_8,
    ("LayerType", "10"): _LAYERS_10,
    ("LayerType", "11"): _LAYERS_10,
    ("DataType", "8"): _TYPES,
    ("DataType", "10"): _TYPES,
    ("DataType", "11"): _TYPES,
    ("ProfilingVerbosity", "8"): "LAYER_NAMES_ONLY NONE DETAILED",
    ("ProfilingVerbosity", "10"): "LAYER_NAMES_ONLY NONE DETAILED",
    ("ProfilingVerbosity", "11"): "LAYER_NAMES_ONLY NONE DETAILED",
    ("EngineCapability", "8"): "STANDARD SAFETY DLA_STANDALONE",
    ("SampleMode", "8"): "STRICT_BOUNDS WRAP CLAMP FILL REFLECT",
    ("NetworkDefinitionCreationFlag", "10"): (
        "EXPLICIT_BATCH STRONGLY_TYPED PREFER_JIT_PYTHON_PLUGINS PREFER_AOT_PYTHON_PLUGINS"
    ),
    ("NetworkDefinitionCreationFlag", "11"): (
        "STRONGLY_TYPED PREFER_JIT_PYTHON_PLUGINS PREFER_AOT_PYTHON_PLUGINS"
    ),
}
"""Members in the order of their numbers; those that a listing lacks are numbered all the same."""

ALIASES = {
    "BuilderFlag": {"WEIGHTLESS": "STRIP_PLAN"},
    "ProfilingVerbosity": {"DEFAULT": "LAYER_NAMES_ONLY", "VERBOSE": "DETAILED"},
    "EngineCapability": {
        "DEFAULT": "STANDARD",
        "SAFE_GPU": "SAFETY",
        "SAFE_DLA": "DLA_STANDALONE",
    },
    "SampleMode": {"DEFAULT": "STRICT_BOUNDS"},
}


def parse(text: str) -> dict[str, tuple[str, list[str]]]:
    """Return kind and members of each entry of a listing."""
    entries: dict[str, tuple[str, list[str]]] = {}
    lines = text.splitlines()
    for heading, members in itertools.pairwise(lines):
        found = re.match(r"## (\S+) \[(\w+)\]", heading)
        if found:
            entries[found[1]] = (found[2], [m.strip() for m in members.split(";") if m.strip()])
    return entries


def member_name(text: str) -> str:
    """Return the name in ``name[rw]``, ``name(arguments)``, ``static name(…)`` or ``name=…``."""
    found = re.match(r"(?:static )?(\w+)(?!\w*::)", text)
    return found[1] if found else ""


def numbered(enum: str, version: str, names: list[str]) -> str:
    """Return ``NAME=number`` for each member, aliases last."""
    aliases = ALIASES.get(enum, {})
    order = NUMBERS.get((enum, version), " ".join(n for n in names if n not in aliases)).split()
    number = {name: i for i, name in enumerate(order)}
    number |= {a: number[n] for a, n in aliases.items() if n in number}
    return " ".join(f"{n}={number[n]}" for n in sorted(names, key=lambda n: (n in aliases, 0)))


def table(folder: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Return enumerations and classes by name and version."""
    result: dict[str, dict[str, dict[str, str]]] = {"enums": {}, "classes": {}}
    for version, file in LISTINGS.items():
        for name, (kind, members) in parse((folder / file).read_text()).items():
            names = list(dict.fromkeys(filter(None, map(member_name, members))))
            if kind == "enum":
                values = [n for n in names if not n.startswith("__")]
                result["enums"].setdefault(name, {})[version] = numbered(name, version, values)
            else:
                result["classes"].setdefault(name, {})[version] = " ".join(names)
    return result


def main() -> None:
    """Write the table."""
    text = json.dumps(table(Path(sys.argv[1])), indent=1, sort_keys=True)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(text + "\n")


if __name__ == "__main__":
    main()
