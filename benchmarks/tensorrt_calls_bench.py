"""Answer: what do calls through TensorRT's API cost above Lamina's own.

    python -m benchmarks.tensorrt_calls_bench [--rounds 2000] [--json FILE]

A network of one small layer runs in both ways by turns in one process, on a GPU where there is one
(work is put on a stream, and waited for outside of what is timed), else on the CPU.  ``added`` is
the median of the differences of neighbouring runs; ``with_addresses`` that when shapes and
addresses are set before every run, as many programs do.  In a row, runs follow one another without
waiting, as where a GPU is kept busy.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import lamina
import lamina.tensorrt as trt
from benchmarks import machine
from lamina.backends.cuda.arrays import DeviceArray
from lamina.backends.cuda.device import LEGACY_STREAM, Device, current
from lamina.ir.types import DType
from lamina.tensorrt import platform

SHAPE = (2, 16)
IN_A_ROW = 50


def plan() -> bytes:
    """Return an engine of one activation."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network()
    x = network.add_input("x", trt.float32, SHAPE)
    y = network.add_activation(x, trt.ActivationType.RELU).get_output(0)
    y.name = "y"
    network.mark_output(y)
    data = builder.build_serialized_network(network, builder.create_builder_config())
    assert data is not None
    return bytes(data)


def microseconds(call: Callable[[], Any]) -> float:
    """Return the time of one call."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e6


class Memory:
    """Memory of the engine's device for one array: its address, and what Lamina takes for it."""

    def __init__(self, engine: lamina.Engine) -> None:
        device: Device | None = getattr(engine.driver, "device", None)
        self.array: Any = np.zeros(SHAPE, np.float32)
        if device is None:
            self.address: int = self.array.ctypes.data
            return
        size = self.array.nbytes
        with current(device):
            self.address = device.allocate(size, LEGACY_STREAM)
            device.copy(self.address, self.array.ctypes.data, size, LEGACY_STREAM)
            device.synchronize(LEGACY_STREAM)
        self.array = DeviceArray(device, self.address, DType.F32, SHAPE, None)


def measure(rounds: int) -> dict[str, float]:
    """Return the medians."""
    data = plan()
    own = lamina.load(data, device=platform.device())
    ours = own.create_context()
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(data)
    assert engine is not None
    context = engine.create_execution_context()
    x, y = Memory(own), Memory(own)
    device: Device | None = getattr(own.driver, "device", None)
    stream = 0 if device is None else device.stream()
    streams = {} if device is None else {"stream": stream}

    def finish() -> None:
        if device is not None:
            device.synchronize(stream)

    def address() -> None:
        context.set_input_shape("x", SHAPE)
        context.set_tensor_address("x", x.address)
        context.set_tensor_address("y", y.address)

    def addressed() -> None:
        address()
        context.execute_async_v3(stream)

    def timed(call: Callable[[], Any]) -> float:
        finish()
        return microseconds(call)

    def run() -> None:
        ours.run({"x": x.array}, {"y": y.array}, **streams)

    def execute() -> None:
        context.execute_async_v3(stream)

    address()
    assert context.execute_async_v3(stream)
    names = ("own", "added", "with_addresses", "own_in_a_row", "added_in_a_row")
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        base = timed(run)
        times["own"].append(base)
        times["added"].append(timed(execute) - base)
        times["with_addresses"].append(timed(addressed) - base)
    for _ in range(rounds // IN_A_ROW):
        base = timed(lambda: [run() for _ in range(IN_A_ROW)]) / IN_A_ROW
        times["own_in_a_row"].append(base)
        each = timed(lambda: [execute() for _ in range(IN_A_ROW)]) / IN_A_ROW
        times["added_in_a_row"].append(each - base)
    return {name: round(statistics.median(t), 3) for name, t in times.items()}


def main() -> None:
    """Measure and print, or write, the figures in microseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    figures = {
        "machine": machine.describe(),
        "device": platform.device(),
        "microseconds": measure(options.rounds),
    }
    text = json.dumps(figures, indent=1)
    if options.json is None:
        print(text)
    else:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
