"""Engines without their weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from tests.tensorrt.running import Messages, Net, random

KERNEL, BIAS, MATRIX = random(8, 3, 3, 3, seed=1), random(8, seed=2), random(512, 64, seed=3)
X = random(2, 3, 10, 10, seed=4)


def network(flags: Any) -> Net:
    net = Net()
    x = net.network.add_input("x", trt.float32, X.shape)
    conv = net.network.add_convolution_nd(x, 8, (3, 3), KERNEL, BIAS)
    conv.name = "conv"
    relu = net.network.add_activation(conv.get_output(0), trt.ActivationType.RELU)
    flat = net.network.add_shuffle(relu.get_output(0))
    flat.reshape_dims = (2, -1)
    constant = net.network.add_constant(MATRIX.shape, MATRIX)
    constant.name = "matrix"
    none = trt.MatrixOperation.NONE
    product = net.network.add_matrix_multiply(
        flat.get_output(0), none, constant.get_output(0), none
    )
    net.output(product.get_output(0))
    for flag in flags:
        net.config.set_flag(trt.BuilderFlag.named(flag))
    return net


def expected(kernel: Any = KERNEL, bias: Any = BIAS, matrix: Any = MATRIX) -> Any:
    windows = np.lib.stride_tricks.sliding_window_view(X, (3, 3), axis=(2, 3))
    y = np.einsum("nchwij,mcij->nmhw", windows, kernel) + bias[:, None, None]
    return np.maximum(y, 0).reshape(2, -1) @ matrix


def built(flags: Any) -> bytes:
    net = network(flags)
    data = net.builder.build_serialized_network(net.network, net.config)
    assert data is not None, net.logger.errors
    return bytes(data)


def loaded(data: Any) -> tuple[trt.ICudaEngine, Messages]:
    logger = Messages()
    engine = trt.Runtime(logger).deserialize_cuda_engine(data)
    assert engine is not None, logger.errors
    return engine, logger


def run(context: trt.IExecutionContext) -> np.ndarray | None:
    y = np.zeros((2, 64), np.float32)
    good = context.execute_v2([X.ctypes.data, y.ctypes.data])
    return y if good else None


def refit(engine: trt.ICudaEngine, logger: Messages, scale: float = 1) -> trt.Refitter:
    refitter = trt.Refitter(engine, logger)
    roles = trt.WeightsRole.__members__
    for layer, role, array in (
        ("conv", "KERNEL", KERNEL * np.float32(scale)),
        ("conv", "BIAS", BIAS * np.float32(scale)),
        ("matrix", "CONSTANT", MATRIX),
    ):
        assert refitter.set_weights(layer, roles[role], array), logger.errors
    return refitter


@pytest.mark.parametrize("flags", [("STRIP_PLAN", "REFIT"), ("STRIP_PLAN",)])
def test_a_stripped_plan_runs_after_a_refit(flags: Any) -> None:
    small, whole = built(flags), built(("REFIT",))
    assert len(small) < len(whole) - MATRIX.nbytes, "neither packed nor plain weights are there"
    assert MATRIX.tobytes()[:256] not in small and KERNEL.tobytes()[:256] not in small
    engine, logger = loaded(small)
    stats = trt.EngineStat.__members__
    assert engine.get_engine_stat(stats["STRIPPED_WEIGHTS_SIZE"]) >= MATRIX.nbytes + KERNEL.nbytes
    context = engine.create_execution_context()
    assert run(context) is None and "the plan was saved without its weights" in logger.errors[-1]
    refitter = trt.Refitter(engine, logger)
    layers, roles = refitter.get_missing()
    assert {*zip(layers, (r.name for r in roles), strict=True)} == {
        ("conv", "KERNEL"),
        ("matrix", "CONSTANT"),
    }, "a few numbers stay: the text of the graph shows them"
    assert set(refitter.get_missing_weights()) < set(refitter.get_all_weights())
    assert not refitter.refit_cuda_engine() and "stripped are not given" in logger.errors[-1]
    assert refit(engine, logger).refit_cuda_engine(), logger.errors
    y = run(context)
    assert y is not None, logger.errors
    np.testing.assert_allclose(y, expected(), rtol=1e-4, atol=1e-3)
    assert engine.get_engine_stat(stats["STRIPPED_WEIGHTS_SIZE"]) == 0
    assert trt.Refitter(engine, logger).get_missing_weights() == []
    again, _ = loaded(engine.serialize())
    np.testing.assert_array_equal(run(again.create_execution_context()), y)


def test_weights_are_excluded_when_an_engine_is_serialized() -> None:
    engine, logger = loaded(built(("REFIT",)))
    config = engine.create_serialization_config()
    assert config.set_flag(trt.SerializationFlag.named("EXCLUDE_WEIGHTS"))
    small = engine.serialize_with_config(config)
    assert small.nbytes < engine.serialize().nbytes - MATRIX.nbytes
    assert run(engine.create_execution_context()) is not None, "the engine itself keeps them"
    other, logger = loaded(small)
    assert refit(other, logger, scale=2).refit_cuda_engine(), logger.errors
    y = run(other.create_execution_context())
    np.testing.assert_allclose(y, 2 * expected(), rtol=1e-4, atol=1e-3)


def test_weights_stay_in_an_engine_that_cannot_be_refitted() -> None:
    engine, logger = loaded(built(()))
    config = engine.create_serialization_config()
    config.set_flag(trt.SerializationFlag.named("EXCLUDE_WEIGHTS"))
    whole = engine.serialize_with_config(config)
    assert ("WARNING", "the engine cannot be refitted, so it keeps its weights") in logger.lines
    other, _ = loaded(whole)
    np.testing.assert_allclose(
        run(other.create_execution_context()), expected(), rtol=1e-4, atol=1e-3
    )
