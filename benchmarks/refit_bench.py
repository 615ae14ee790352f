"""Answer: how long does a refit take beside copies of the bytes that it has to move.

    python -m benchmarks.refit_bench [--model resnet50] [--precision fp32 ...] [--device cpu]
        [--level 3] [--rounds 9] [--json [FILE]]

``refit`` replaces every weight of an engine, ``refit_one`` its largest one.  A refit keeps a copy
of the weights that it is given and makes the packed constants again.  Its ``floor`` is to copy as
many bytes, weights and constants, in as many threads into memory that was used before.  On a GPU it
is to copy the weights into page-locked memory and to bring as many bytes as there are constants
from there to the device, one after the other; ``copy_weights`` and ``upload`` are these two.
``rebuild`` is what a refit replaces: building the plan again with the times and kernels of the
first build in the caches.  All but that take turns; figures are medians.
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
from lamina.backends.cuda.memory import Memory
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
    """Copies arrays to the same places again and again, in threads with equal shares."""

    def __init__(self, arrays: Sequence[Array], threads: int, into: Array | None = None) -> None:
        flat = [np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in arrays]
        total = sum(a.size for a in flat)
        into = np.ones(total, np.uint8) if into is None else into
        share = -(-total // threads)
        self._shares: list[list[tuple[Array, Array]]] = [[] for _ in range(threads)]
        at = 0
        for array in flat:
            while array.size:
                thread, within = divmod(at, share)
                part, array = array[: share - within], array[share - within :]
                self._shares[thread].append((into[at : at + part.size], part))
                at += part.size
        self._pool = ThreadPoolExecutor(threads)

    def __call__(self) -> None:
        list(self._pool.map(self._copy, self._shares))

    @staticmethod
    def _copy(share: list[tuple[Array, Array]]) -> None:
        for target, source in share:
            np.copyto(target, source)


class Upload:
    """Copies as many bytes as an engine has constants from page-locked memory to its device."""

    def __init__(self, engine: lamina.Engine, size_bytes: int, pinned_bytes: int) -> None:
        self._device: Device = engine.driver.device  # type: ignore[attr-defined]
        self._size = size_bytes
        with current(self._device):
            self._stream = self._device.stream()
            self._place = self._device.allocate(size_bytes, self._stream)
            self.pinned = Memory(self._device).pinned(max(size_bytes, pinned_bytes))
        self.pinned[:] = 1

    def __call__(self) -> None:
        with current(self._device):
            source = self.pinned.ctypes.data
            self._device.copy(self._place, source, self._size, self._stream)
            self._device.synchronize(self._stream)


def other_weights(engine: lamina.Engine) -> dict[str, Array]:
    """Return other contents for every weight that is more than a number.

    Of 8-bit integers only those that are no zero points.
    """
    found = {}
    for name, array in engine.weights().items():
        if array.size > 1 and array.dtype.kind == "f":
            found[name] = array * array.dtype.type(1.01)
        elif array.ndim > 1 and array.dtype == np.int8:
            found[name] = np.ascontiguousarray(np.flip(array))
    return found


def floors(
    engine: lamina.Engine, weights: Sequence[Array], constant_bytes: int
) -> dict[str, Callable[[], Any]]:
    """Return what a refit cannot be faster than."""
    threads = default_threads()
    if dict(engine.section.target)["device"] != "cuda":
        constants = np.ones(constant_bytes, np.uint8)
        return {
            "floor": Copies([*weights, constants], threads),
            "copy_weights": Copies(weights, threads),
        }
    weight_bytes = sum(w.nbytes for w in weights)
    upload = Upload(engine, constant_bytes, weight_bytes)
    return {
        "copy_weights": Copies(weights, threads, into=upload.pinned),
        "upload": upload,
    }


def measure(engine: lamina.Engine, rounds: int) -> dict[str, Any]:
    """Return the medians of refits and of what they cannot be faster than."""
    new = other_weights(engine)
    largest = max(new, key=lambda name: new[name].nbytes)
    halves = set(engine.section.halves)
    sizes = [w.nbytes * (1 + (i in halves)) for i, w in enumerate(engine.section.blobs)]
    calls = {
        "refit": lambda: engine.refit(new),
        "refit_one": lambda: engine.refit({largest: new[largest]}),
        **floors(engine, list(new.values()), sum(sizes)),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 3):  # the first ones touch memory for the first time
        for name, call in calls.items():
            taken = milliseconds(call)
            if number >= 3:
                times[name].append(taken)
    medians = {name: statistics.median(t) for name, t in times.items()}
    if "upload" in medians:
        medians["floor"] = medians["copy_weights"] + medians["upload"]
    figures: dict[str, Any] = {f"{n}_milliseconds": round(ms, 2) for n, ms in medians.items()}
    return figures | {
        "ratio": round(medians["refit"] / medians["floor"], 2),
        "weights": len(new),
        "weight_bytes": sum(a.nbytes for a in new.values()),
        "constant_bytes": sum(sizes),
        "largest_weight_bytes": new[largest].nbytes,
        "recipe_bytes": len(engine.section.recipes),
    }


def rebuilt(engine: lamina.Engine) -> dict[str, float]:
    """Return what building the plan again takes."""
    again = [milliseconds(lambda: rebuild(engine.plan, {}, 0)) for _ in range(2)]
    return {"rebuild_milliseconds": round(min(again), 1)}


def main() -> None:
    """Print the figures, or write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--precision", nargs="+", default=["fp32", "fp16", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--level", type=int, default=3, help="optimization level of the build")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", nargs="?", const=str(RESULTS))
    options = parser.parse_args()
    path = pathlib.Path(options.model)
    model = onnx.load(path) if path.is_file() else models.find(options.model).build(1)
    figures = {}
    for precision in options.precision:
        target = options.device.partition(":")[0]
        engine = lamina.build(
            model, precision=precision, target=target, optimization_level=options.level
        )
        figures[precision] = measure(engine, options.rounds) | rebuilt(engine)
    print(json.dumps(figures, indent=2))
    if options.json:
        file = pathlib.Path(options.json)
        results = json.loads(file.read_text()) if file.is_file() else {}
        entry = results.setdefault(f"{path.stem} {options.device}", {"precisions": {}})
        entry["machine"] = machine.describe()
        entry["precisions"] |= figures
        file.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
