"""Answer: how long does a refit take beside copies of the bytes that it has to move.

    python -m benchmarks.refit_bench [--model resnet50] [--precision fp32 ...] [--device cpu]
        [--rounds 9] [--json [FILE]]

``refit`` replaces every weight of an engine, ``refit_one`` its largest one.  A refit keeps a copy
of the weights that it is given and makes the packed constants again, so it cannot be faster than
``copy``, which copies as many bytes (weights and constants) in as many threads into memory that was
used before; ``copy_weights`` copies the weights alone.  On a GPU ``upload`` brings the constants'
bytes to the device.  ``rebuild`` is what a refit replaces: building the plan again with the times
and kernels of the first build in the caches.  All but that take turns; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx

import lamina
from benchmarks import machine, models
from lamina.backends.cuda.device import Device, current
from lamina.config import default_threads
from lamina.refit.rebuild import rebuild

RESULTS = pathlib.Path(__file__).parent / "results/refit.json"

Array = np.ndarray[Any, Any]


def milliseconds(call: Callable[[], Any]) -> float:
    """Return the time of one call."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


class Copies:
    """Copies arrays to the same places again and again, in threads."""

    def __init__(self, arrays: Sequence[Array], threads: int) -> None:
        # In pieces, so that threads share the work evenly.
        flat = [np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in arrays]
        self._sources = [a[i : i + (1 << 20)] for a in flat for i in range(0, a.size, 1 << 20)]
        self._targets = [s.copy() for s in self._sources]
        self._pool = ThreadPoolExecutor(threads)

    def __call__(self) -> None:
        list(self._pool.map(np.copyto, self._targets, self._sources))


class Upload:
    """Copies the constants of an engine to its device."""

    def __init__(self, engine: lamina.Engine, constants: Sequence[Array]) -> None:
        device: Device = engine.driver.device  # type: ignore[attr-defined]
        self._device, self._arrays = device, [np.ascontiguousarray(a) for a in constants]
        with current(device):
            self._stream = device.stream()
            self._places = [device.allocate(max(1, a.nbytes), self._stream) for a in self._arrays]

    def __call__(self) -> None:
        with current(self._device):
            for place, array in zip(self._places, self._arrays, strict=True):
                if array.nbytes:
                    self._device.copy(place, array.ctypes.data, array.nbytes, self._stream)
            self._device.synchronize(self._stream)


def other_weights(engine: lamina.Engine) -> dict[str, Array]:
    """Return other contents for every weight that is more than a number."""
    found = {}
    for name, array in engine.weights().items():
        if array.size > 1 and array.dtype.kind == "f":
            found[name] = array * array.dtype.type(1.01)
    return found


def measure(model: onnx.ModelProto, precision: str, device: str, rounds: int) -> dict[str, Any]:
    """Return the medians."""
    target = device.partition(":")[0]
    engine = lamina.build(model, precision=precision, target=target)
    new = other_weights(engine)
    largest = max(new, key=lambda name: new[name].nbytes)
    constants = [w.contents for w in engine.section.blobs]
    threads = default_threads()
    calls: dict[str, Callable[[], Any]] = {
        "refit": lambda: engine.refit(new),
        "refit_one": lambda: engine.refit({largest: new[largest]}),
        "copy": Copies([*new.values(), *constants], threads),
        "copy_weights": Copies(list(new.values()), threads),
    }
    if target == "cuda":
        calls["upload"] = Upload(engine, constants)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 3):  # the first ones touch memory for the first time
        for name, call in calls.items():
            taken = milliseconds(call)
            if number >= 3:
                times[name].append(taken)
    figures = {f"{n}_milliseconds": round(statistics.median(t), 2) for n, t in times.items()}
    again = [milliseconds(lambda: rebuild(engine.plan, {}, 0)) for _ in range(2)]
    return figures | {
        "rebuild_milliseconds": round(min(again), 1),
        "weights": len(new),
        "weight_bytes": sum(a.nbytes for a in new.values()),
        "constant_bytes": sum(a.nbytes for a in constants),
        "largest_weight_bytes": new[largest].nbytes,
        "recipe_bytes": len(engine.section.recipes),
    }


def main() -> None:
    """Print the figures, or write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--precision", nargs="+", default=["fp32", "fp16", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", nargs="?", const=str(RESULTS))
    options = parser.parse_args()
    path = pathlib.Path(options.model)
    model = onnx.load(path) if path.is_file() else models.find(options.model).build(1)
    figures = {p: measure(model, p, options.device, options.rounds) for p in options.precision}
    result = {
        "machine": machine.describe(),
        "model": path.stem,
        "device": options.device,
        "precisions": figures,
    }
    print(json.dumps(figures, indent=2))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
