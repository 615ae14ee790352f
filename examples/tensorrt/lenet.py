"""LeNet-5 built layer by layer, saved, loaded and compared with the same network in NumPy.

LeCun et al., "Gradient-based learning applied to document recognition" (1998), with maximum pooling
and rectifiers, as TensorRT's own samples have it.  The weights are random: what is shown is how a
network is built.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from buffers import Buffers

import lamina.tensorrt as trt

Weights = dict[str, Any]


def random_weights() -> Weights:
    """Return kernels and biases of the two convolutions and two matrices."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        return (rng.standard_normal(shape) * spread).astype(np.float32)

    kernels = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "fc1": (500, 800), "fc2": (10, 500)}
    weights: Weights = {}
    for name, shape in kernels.items():
        weights[name] = normal(*shape)
        weights[f"{name}.bias"] = (rng.standard_normal(shape[0]) * 0.1).astype(np.float32)
    return weights


def convolution(network: Any, x: Any, name: str, weights: Weights) -> Any:
    """Add a convolution and a pooling that halves height and width."""
    kernel = weights[name]
    layer = network.add_convolution_nd(
        x, kernel.shape[0], kernel.shape[2:], kernel, weights[f"{name}.bias"]
    )
    layer.name = name
    layer.stride_nd = (1, 1)
    pool = network.add_pooling_nd(layer.get_output(0), trt.PoolingType.MAX, (2, 2))
    pool.stride_nd = (2, 2)
    return pool.get_output(0)


def matrix(network: Any, x: Any, name: str, weights: Weights) -> Any:
    """Add ``x @ weights^T + bias``."""
    w, b = weights[name], weights[f"{name}.bias"]
    constant = network.add_constant(w.shape, w).get_output(0)
    product = network.add_matrix_multiply(
        x, trt.MatrixOperation.NONE, constant, trt.MatrixOperation.TRANSPOSE
    )
    product.name = name
    bias = network.add_constant((1, len(b)), b).get_output(0)
    total = network.add_elementwise(product.get_output(0), bias, trt.ElementWiseOperation.SUM)
    return total.get_output(0)


def build(weights: Weights) -> Any:
    """Return the engine as bytes."""
    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    network = builder.create_network()
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # full precision on GPUs too, for the comparison
    x = network.add_input("image", trt.float32, (1, 1, 28, 28))
    x = convolution(network, x, "conv1", weights)
    x = convolution(network, x, "conv2", weights)
    flat = network.add_shuffle(x)
    flat.reshape_dims = (1, -1)
    x = matrix(network, flat.get_output(0), "fc1", weights)
    x = network.add_activation(x, trt.ActivationType.RELU).get_output(0)
    x = matrix(network, x, "fc2", weights)
    softmax = network.add_softmax(x)
    softmax.axes = 1 << 1
    softmax.get_output(0).name = "probabilities"
    network.mark_output(softmax.get_output(0))
    return builder.build_serialized_network(network, config)


def in_numpy(image: Any, weights: Weights) -> Any:
    """Return what the network means."""
    x = image
    for name in ("conv1", "conv2"):
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(2, 3))
        x = np.einsum("nchwij,mcij->nmhw", windows, weights[name])
        x = x + weights[f"{name}.bias"][:, None, None]
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))
    x = np.maximum(x.reshape(1, -1) @ weights["fc1"].T + weights["fc1.bias"], 0)
    x = x @ weights["fc2"].T + weights["fc2.bias"]
    e = np.exp(x - x.max())
    return e / e.sum()


def main() -> None:
    """Build, save, load, run, compare."""
    weights = random_weights()
    plan = build(weights)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lenet.engine"
        path.write_bytes(plan)
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
    buffers = Buffers(engine.create_execution_context())
    image = np.random.default_rng(1).random((1, 1, 28, 28), np.float32)
    probabilities = buffers.run({"image": image})["probabilities"]
    wanted = in_numpy(image, weights)
    difference = np.abs(probabilities - wanted).max()
    print(f"digit {probabilities.argmax()}, largest difference from NumPy {difference:.1e}")
    assert difference < 1e-4
    buffers.free()


if __name__ == "__main__":
    main()
