"""Small engines for the tests of contexts, and running them on addresses."""

from __future__ import annotations

from typing import Any

import numpy as np

import lamina.tensorrt as trt
from tests.tensorrt.running import Messages, Net, random

WEIGHTS = random(3, 2, seed=7)


def affine(*profiles: tuple[int, int, int], flags: Any = (), batch: int = -1) -> Net:
    """Return a network that multiplies rows x by a matrix and adds a bias."""
    net = Net(1 << int(trt.NetworkDefinitionCreationFlag.named("EXPLICIT_BATCH")))
    x = net.network.add_input("x", trt.float32, (batch, 3))
    layer = net.network.add_constant((3, 2), WEIGHTS)
    layer.name = "matrix"
    none = trt.MatrixOperation.NONE
    product = net.network.add_matrix_multiply(x, none, layer.get_output(0), none)
    product.name = "product"
    row = net.network.add_constant((1, 2), np.array([[1, 2]], np.float32))
    row.name = "row"
    total = net.network.add_elementwise(
        product.get_output(0), row.get_output(0), trt.ElementWiseOperation.SUM
    )
    total.name = "total"
    total.metadata = "block 1"
    y = total.get_output(0)
    y.name = "y"
    net.network.mark_output(y)
    for low, opt, high in profiles:
        profile = net.builder.create_optimization_profile()
        profile.set_shape("x", (low, 3), (opt, 3), (high, 3))
        net.config.add_optimization_profile(profile)
    for flag in flags:
        net.config.set_flag(flag)
    return net


def expected(x: Any) -> Any:
    return x @ WEIGHTS + np.array([1, 2], np.float32)


def engine_of(net: Net, logger: Messages | None = None) -> Any:
    data = net.builder.build_serialized_network(net.network, net.config)
    assert data is not None, net.logger.errors
    engine = trt.Runtime(logger or net.logger).deserialize_cuda_engine(data)
    assert engine is not None, net.logger.errors
    return engine


def point(context: Any, **arrays: Any) -> None:
    """Let tensors lie in arrays."""
    for name, array in arrays.items():
        assert context.set_tensor_address(name, array.ctypes.data)
