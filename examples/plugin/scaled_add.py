"""An operator of one's own: a function in NumPy, and a Triton kernel for GPUs.

An ONNX model uses it by its domain.  On a CPU the function runs; an engine for a GPU holds the
kernel, compiled, and needs neither Triton nor this file to run.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

import lamina
from lamina.plugins import Launch, PluginTensor, cdiv

MODEL = """
<ir_version: 10, opset_import: ["" : 21, "example" : 1]>
g (float[n] a, float[n] b) => (float[n] y) {
  sum = example.scaled_add <factor = 3.0> (a, b)
  y = Relu (sum)
}
"""


def launches(
    a: PluginTensor, b: PluginTensor, y: PluginTensor, *, factor: float
) -> Iterator[Launch]:
    """Say what to launch on a GPU; of several ways a build takes the fastest."""
    from scaled_add_kernel import scaled_add_kernel  # a CPU may have no Triton

    for block in (256, 1024):
        grid = (cdiv(y.size, block),)
        yield Launch(scaled_add_kernel, grid, a, b, y, y.size, FACTOR=factor, BLOCK=block)


@lamina.plugin("example::scaled_add", types=lambda a, b, factor: a, triton=launches)
def scaled_add(a: np.ndarray, b: np.ndarray, *, factor: float = 1.0) -> np.ndarray:
    """Return ``a + factor * b``."""
    return a + a.dtype.type(factor) * b


def main() -> None:
    """Build for the GPU if there is one, else for the CPU, and run."""
    model = onnx.parser.parse_model(MODEL)
    try:
        engine = lamina.build(model, target="cuda")
    except lamina.DeviceError:
        engine = lamina.build(model)
    for size in (5, 1000):
        a, b = np.linspace(-4, 4, size, dtype=np.float32), np.ones(size, np.float32)
        result = engine.run({"a": a, "b": b})["y"]
        np.testing.assert_allclose(result, np.maximum(a + 3 * b, 0), rtol=1e-6, atol=1e-6)
    print([layer.tactic for layer in engine.inspect().layers])


if __name__ == "__main__":
    main()
