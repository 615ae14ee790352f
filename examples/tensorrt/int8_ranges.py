"""INT8 without a calibrator: the ranges of activations are measured in NumPy and set by hand.

Calibrators measure ranges by themselves.  Version 11 has neither: there, quantize and dequantize
layers say where 8-bit integers flow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from buffers import Buffers

import lamina.tensorrt as trt


def build(kernel: Any, amax: float | None) -> Any:
    """Return an engine of one convolution, in INT8 when a range is given."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network()
    config = builder.create_builder_config()
    x = network.add_input("x", trt.float32, (1, 16, 12, 12))
    y = network.add_convolution_nd(x, 16, (3, 3), kernel).get_output(0)
    y.name = "y"
    network.mark_output(y)
    if amax is not None:
        config.set_flag(trt.BuilderFlag.INT8)
        x.set_dynamic_range(-amax, amax)
    return builder.build_engine_with_config(network, config)


def main() -> None:
    """Compare INT8 with float."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12
    x = rng.standard_normal((1, 16, 12, 12)).astype(np.float32)
    results = []
    for amax in (None, float(np.abs(x).max())):
        buffers = Buffers(build(kernel, amax).create_execution_context())
        results.append(buffers.run({"x": x})["y"])
        buffers.free()
    exact, rounded = results
    noise = np.mean((exact - rounded) ** 2) / np.mean(exact**2)
    print(f"signal over quantization noise: {-10 * np.log10(noise):.0f} dB")
    assert 0 < noise < 1e-3


if __name__ == "__main__":
    main()
