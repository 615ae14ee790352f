"""Times oneDNN's primitives against each other in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lamina.backends.cpu.onednn import library, primitives
from lamina.backends.cpu.onednn.library import OneDnnError
from lamina.backends.cpu.onednn.memory import NUMPY_DTYPE, allocate

ROUNDS = 15
Row = dict[str, Any]


class Runnable:
    """A primitive with buffers full of small random numbers."""

    def __init__(self, onednn: library.Library, spec: primitives.Specification) -> None:
        rng = np.random.default_rng(1)
        self.primitive = primitives.create(onednn, spec)
        self.arguments = self.primitive.arguments()
        self.buffers = []
        for name in self.primitive.argument_names:
            layout = self.primitive.layout(name)
            buffer = allocate(max(layout.size_bytes, 64))
            buffer[:] = rng.integers(0, 5, buffer.size, np.uint8)
            if layout.dtype in ("f32", "bf16", "f16"):
                values = buffer.view(NUMPY_DTYPE[layout.dtype])
                values[:] = rng.standard_normal(values.size, np.float32)
            self.buffers.append(buffer)
            self.arguments.point(name, buffer.ctypes.data)
        self.stream = onednn.stream()

    def __call__(self) -> None:
        self.arguments.run(self.stream)


def interleaved_ms(calls: dict[str, Callable[[], None]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the lower quartile of each call's milliseconds, all called in turn every round."""
    repeats = {}
    for name, call in calls.items():
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        repeats[name] = max(1, min(50, int(2e-3 / min(seconds))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.quantiles(values)[0] * 1e3 for name, values in times.items()}


def compare(onednn: library.Library, title: str, specs: dict[str, Any]) -> list[Row]:
    """Time specifications against each other; one that the library refuses says why.

    Plain C++ reference code (``ref:any``) takes up to a thousand times as long and is left out;
    the recurrent layers' ``ref`` is fast matrix products and stays.
    """
    runnables, rows = {}, []
    for name, spec in specs.items():
        try:
            runnable = Runnable(onednn, spec)
        except OneDnnError as e:
            rows.append({"case": title, "variant": name, "refused": e.status})
            continue
        if runnable.primitive.implementation == "ref:any":
            rows.append({"case": title, "variant": name, "refused": "only reference code"})
        else:
            runnables[name] = runnable
    for name, ms in interleaved_ms(dict(runnables)).items():
        rows.append(
            {
                "case": title,
                "variant": name,
                "ms": round(ms, 4),
                "gflops": round(2e-6 * specs[name].multiply_adds / ms, 1),
                "implementation": runnables[name].primitive.implementation,
            }
        )
    return rows


def timed(title: str, calls: dict[str, Runnable]) -> list[Row]:
    """Return a row for each of some primitives of which speed in operations means little."""
    return [
        {
            "case": title,
            "variant": name,
            "ms": round(ms, 4),
            "implementation": calls[name].primitive.implementation,
        }
        for name, ms in interleaved_ms(dict(calls)).items()
    ]
