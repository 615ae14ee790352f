"""LeNet as for TensorRT 7: implicit batch, fully connected layers, builder options, pycuda.

Run it with LAMINA_TENSORRT_VERSION=8.6 and the distribution in compat/tensorrt, which gives the
modules ``tensorrt`` and, where there is no GPU, a stand-in for ``pycuda``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pycuda.autoinit  # noqa: F401
import pycuda.driver as cuda
import tensorrt as trt

BATCH = 4


def weights() -> dict[str, Any]:
    """Return random kernels and biases."""
    rng = np.random.default_rng(0)
    shapes = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "ip1": (500, 800), "ip2": (10, 500)}
    made = {}
    for name, shape in shapes.items():
        spread = np.sqrt(2 / np.prod(shape[1:]))
        made[name] = (rng.standard_normal(shape) * spread).astype(np.float32)
        made[f"{name}.bias"] = (rng.standard_normal(shape[0]) * 0.1).astype(np.float32)
    return made


def populate(network: Any, w: dict[str, Any]) -> None:
    """Add the layers."""
    x = network.add_input(name="data", dtype=trt.float32, shape=(1, 28, 28))
    for name in ("conv1", "conv2"):
        conv = network.add_convolution(
            input=x,
            num_output_maps=len(w[name]),
            kernel_shape=(5, 5),
            kernel=w[name],
            bias=w[f"{name}.bias"],
        )
        conv.stride = (1, 1)
        pool = network.add_pooling(conv.get_output(0), trt.PoolingType.MAX, (2, 2))
        pool.stride = (2, 2)
        x = pool.get_output(0)
    first = network.add_fully_connected(x, 500, w["ip1"], w["ip1.bias"])
    relu = network.add_activation(first.get_output(0), type=trt.ActivationType.RELU)
    second = network.add_fully_connected(relu.get_output(0), 10, w["ip2"], w["ip2.bias"])
    softmax = network.add_softmax(second.get_output(0))
    softmax.get_output(0).name = "prob"
    network.mark_output(tensor=softmax.get_output(0))


def in_numpy(x: Any, w: dict[str, Any]) -> Any:
    """Return what the network means."""
    for name in ("conv1", "conv2"):
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(2, 3))
        x = np.einsum("nchwij,mcij->nmhw", windows, w[name]) + w[f"{name}.bias"][:, None, None]
        n, c, height, width = x.shape
        x = x.reshape(n, c, height // 2, 2, width // 2, 2).max(axis=(3, 5))
    x = np.maximum(x.reshape(len(x), -1) @ w["ip1"].T + w["ip1.bias"], 0)
    x = x @ w["ip2"].T + w["ip2.bias"]
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def main() -> None:
    """Build with the builder's own options and run asynchronously on a stream."""
    w = weights()
    with trt.Builder(trt.Logger(trt.Logger.ERROR)) as builder, builder.create_network() as network:
        builder.max_batch_size = BATCH
        builder.max_workspace_size = 1 << 20
        populate(network, w)
        engine = builder.build_cuda_engine(network)
    host, device = [], []
    for binding in engine:
        size = trt.volume(engine.get_binding_shape(binding)) * engine.max_batch_size
        dtype = trt.nptype(engine.get_binding_dtype(binding))
        host.append(cuda.pagelocked_empty(size, dtype))
        device.append(cuda.mem_alloc(host[-1].nbytes))
    images = np.random.default_rng(1).random((BATCH, 1, 28, 28), np.float32)
    np.copyto(host[0], images.ravel())
    stream = cuda.Stream()
    with engine.create_execution_context() as context:
        cuda.memcpy_htod_async(device[0], host[0], stream)
        context.execute_async(BATCH, [int(d) for d in device], stream.handle)
        cuda.memcpy_dtoh_async(host[1], device[1], stream)
        stream.synchronize()
    difference = np.abs(host[1].reshape(BATCH, 10) - in_numpy(images, w)).max()
    print(f"{BATCH} images, largest difference from NumPy {difference:.1e}")
    assert difference < 1e-2  # a GPU multiplies in TF32 unless a configuration forbids it


if __name__ == "__main__":
    main()
