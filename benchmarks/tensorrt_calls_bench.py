"""Answer: what do calls through TensorRT's API cost above Lamina's own.

    python -m benchmarks.tensorrt_calls_bench [--rounds 2000] [--json FILE]

A network of one small layer runs on the CPU in both ways by turns in one process.  ``added`` is the
median of the differences of neighbouring runs; ``with_addresses`` that when shapes and
addresses are set before every run, as many programs do.
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

SHAPE = (2, 16)


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


def measure(rounds: int) -> dict[str, float]:
    """Return the medians."""
    data = plan()
    own = lamina.load(data).create_context()
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(data)
    assert engine is not None
    context = engine.create_execution_context()
    x, y = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)

    def address() -> None:
        context.set_input_shape("x", SHAPE)
        context.set_tensor_address("x", x.ctypes.data)
        context.set_tensor_address("y", y.ctypes.data)

    def addressed() -> None:
        address()
        context.execute_async_v3(0)

    address()
    assert context.execute_async_v3(0)
    times: dict[str, list[float]] = {"own": [], "added": [], "with_addresses": []}
    for _ in range(rounds):
        base = microseconds(lambda: own.run({"x": x}, out={"y": y}))
        times["own"].append(base)
        times["added"].append(microseconds(lambda: context.execute_async_v3(0)) - base)
        times["with_addresses"].append(microseconds(addressed) - base)
    return {name: round(statistics.median(t), 3) for name, t in times.items()}


def main() -> None:
    """Measure and print, or write, the figures in microseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    figures = {"machine": machine.describe(), "microseconds": measure(options.rounds)}
    text = json.dumps(figures, indent=1)
    if options.json is None:
        print(text)
    else:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
