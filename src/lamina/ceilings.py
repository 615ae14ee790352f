"""What a device can do, measured once: bytes of memory and operations a second.

A large copy tells the one, large matrix products by the fastest kernels at hand the other.  The
figures are kept in ``ceilings.json`` in the cache folder, by machine:
``{machine: {"bytes": per microsecond, "f16": per microsecond, ...}}``.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import numpy as np

from lamina import ops
from lamina.backends.cpu.features import cpu_name
from lamina.builder import build
from lamina.config import cache_folder, default_threads
from lamina.errors import ConfigError, DeviceError, Unsupported
from lamina.ir.text import parse_graph
from lamina.ir.types import DType
from lamina.runtime.driver import Driver
from lamina.runtime.layers import Ceilings

_BYTES: Final = "bytes"
_COPIED: Final = {"cpu": 1 << 25, "cuda": 1 << 27}
"""Numbers of f32 that are copied: far more than caches hold."""
_SIDE: Final = {"cpu": 2048, "cuda": 8192}
"""Rows, columns and depth of the product."""
_RUNS: Final = 5
MULTIPLIED: Final = ("f32", "tf32", "f16", "bf16")
"""Types whose products are measured; others have no ceiling but that of memory."""


def measure_ceilings(driver: Driver, dtypes: Iterable[str], threads: int = 0) -> Ceilings:
    """Return the ceilings of a driver's device, measuring what is not known of it yet.

    A type that it does not multiply has no entry.  The first call for a device takes some seconds.
    """
    machine, device = machine_name(driver, threads), dict(driver.target())["device"]
    wanted = [_BYTES, *(d for d in dict.fromkeys(dtypes) if d in MULTIPLIED)]
    known = _read().get(machine, {})
    if missing := [w for w in wanted if w not in known]:
        for what in missing:
            with suppress(ConfigError, DeviceError, Unsupported):  # of a type that it lacks
                known[what] = round(_measured(what, device, threads), 3)
        _write(machine, known)
    rates = {k: v for k, v in known.items() if k != _BYTES}
    return Ceilings(known.get(_BYTES, float("inf")), rates)


def machine_name(driver: Driver, threads: int = 0) -> str:
    """Return what the figures of a device are kept under."""
    target = dict(driver.target())
    model = getattr(getattr(driver, "device", None), "model", "")
    if target["device"] == "cpu":
        return f"{cpu_name()} threads={threads or default_threads()}"
    return f"{target['device']} {target.get('arch', '')} {model}"


def _measured(what: str, device: str, threads: int) -> float:
    if what == _BYTES:
        count = _COPIED[device]
        text = f"graph(%x: f32[{count}]) {{\n  %y = unary(%x) kind=neg\n  return %y\n}}"
        return 8 * count / _fastest(text, "fp32", device, threads)
    n = _SIDE[device]
    dtype = "f32" if what == "tf32" else what
    square = f"{dtype}[{n},{n}]"
    text = f"graph(%a: {square}, %b: {square}) {{\n  %y = matmul(%a, %b)\n  return %y\n}}"
    if device == "cpu":  # whose kernels are fastest with weights that they packed themselves
        weights = f"  %b = const() type={square} seed=1\n"
        text = text.replace(f", %b: {square}", "").replace("{\n", "{\n" + weights, 1)
    precision = "tf32" if what == "tf32" else "fp32"
    return 2.0 * n**3 / _fastest(text, precision, device, threads)


def _fastest(text: str, precision: str, device: str, threads: int) -> float:
    """Return the microseconds of a graph's fastest run."""
    graph = parse_graph(text, ops.BY_NAME)
    feed = {v.name: _numbers(v.tensor.dtype, v.tensor.static_shape) for v in graph.inputs}
    engine: Any = build(
        graph,
        target=device,
        precision=precision,
        threads=threads,
        optimization_level=2,
        keep_graph=False,
    )
    context = engine.create_context()
    if device != "cpu":
        return float(min(sum(context.profile(feed)) for _ in range(_RUNS)))
    results = context.run(feed)  # memory that is written for the first time is slow
    return min(_timed(lambda: context.run(feed, out=results)) for _ in range(_RUNS))


def _timed(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return 1e6 * (time.perf_counter() - begin)


def _numbers(dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Return normal numbers, of which there are not many different ones: that takes long."""
    few = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32).astype(dtype.numpy)
    return np.resize(few, shape)


def _read() -> dict[str, dict[str, float]]:
    with suppress(OSError, ValueError):
        data = json.loads((cache_folder() / "ceilings.json").read_text())
        rows = data.items() if isinstance(data, dict) else ()
        return {
            m: {k: float(v) for k, v in row.items() if isinstance(v, int | float) and v > 0}
            for m, row in rows
            if isinstance(row, dict)
        }
    return {}


def _write(machine: str, figures: dict[str, float]) -> None:
    """Keep the figures of a machine; a place that cannot be written is no error."""
    data = _read()
    data[machine] = figures
    path = cache_folder() / "ceilings.json"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".ceilings")
        with os.fdopen(handle, "w") as f:
            json.dump(data, f, sort_keys=True, indent=1)
        os.replace(temporary, path)
