"""Refits of engines whose weights were quantized by the dynamic ranges of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

import lamina.tensorrt as trt
from tests.tensorrt.engine.models import engine_of, point
from tests.tensorrt.running import Net, random

X = random(4, 16, seed=1)


def built(matrix: np.ndarray) -> tuple[Any, Any]:
    """Return an engine that multiplies by a matrix, with the ranges of its tensors."""
    net = Net()
    x = net.network.add_input("x", trt.float32, X.shape)
    x.dynamic_range = (-3, 3)
    layer = net.network.add_constant(matrix.shape, matrix)
    layer.name = "matrix"
    none = trt.MatrixOperation.NONE
    y = net.network.add_matrix_multiply(x, none, layer.get_output(0), none).get_output(0)
    y.name = "y"
    net.network.mark_output(y)
    for flag in (trt.BuilderFlag.INT8, trt.BuilderFlag.REFIT):
        net.config.set_flag(flag)
    return engine_of(net), net.logger


def run(engine: Any) -> np.ndarray:
    context, y = engine.create_execution_context(), np.zeros((4, 8), np.float32)
    point(context, x=X, y=y)
    assert context.execute_async_v3(0)
    return y


def test_weights_are_quantized_again_with_scales_of_their_own() -> None:
    first, second = random(16, 8, seed=2), 5 * random(16, 8, seed=3)
    second[:, 3] = 0
    engine, logger = built(first)
    refitter = trt.Refitter(engine, logger)
    assert refitter.set_named_weights("matrix CONSTANT", second), logger.errors
    assert refitter.refit_cuda_engine(), logger.errors
    y = run(engine)
    np.testing.assert_array_equal(y, run(built(second)[0]))
    exact = X @ second
    assert 0 < np.abs(y - exact).max() < 0.05 * np.abs(exact).max()
