"""Refitting through the refitter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lamina.tensorrt as trt
from tests.tensorrt.engine.models import WEIGHTS, affine, engine_of, point
from tests.tensorrt.running import Messages, Net, close, random

ROW = np.array([[1, 2]], np.float32)


def refittable() -> tuple[Any, Messages]:
    net = affine(batch=2, flags=[trt.BuilderFlag.REFIT])
    return engine_of(net), net.logger


def test_weights_change_under_contexts_that_exist() -> None:
    engine, logger = refittable()
    context = engine.create_execution_context()
    x, y = random(2, 3), np.zeros((2, 2), np.float32)
    point(context, x=x, y=y)
    assert context.execute_async_v3(0)
    close(y, x @ WEIGHTS + ROW)
    refitter = trt.Refitter(engine, logger)
    assert refitter.get_all_weights() == ["matrix CONSTANT", "row CONSTANT"]
    layers, roles = refitter.get_all()
    assert layers == ["matrix", "row"] and roles[0] == trt.WeightsRole.CONSTANT
    other = random(3, 2, seed=9)
    assert refitter.set_weights("matrix", trt.WeightsRole.CONSTANT, other)
    assert refitter.get_missing() == ([], []) and refitter.get_missing_weights() == []
    assert refitter.refit_cuda_engine()
    assert context.execute_async_v3(0)
    close(y, x @ other + ROW)
    assert refitter.set_named_weights("row CONSTANT", np.zeros((1, 2), np.float32))
    assert refitter.refit_cuda_engine_async(0) and context.execute_async_v3(0)
    close(y, x @ other)
    again = trt.Runtime(logger).deserialize_cuda_engine(engine.serialize())
    context = again.create_execution_context()
    point(context, x=x, y=y)
    y[:] = 0
    assert context.execute_async_v3(0)
    close(y, x @ other)


def test_weights_that_do_not_fit_are_refused() -> None:
    engine, logger = refittable()
    refitter = trt.Refitter(engine, logger)
    assert not refitter.set_named_weights("matrix", np.zeros(6, np.float32))
    assert "no refittable weights 'matrix'; it has matrix CONSTANT" in logger.errors[-1]
    assert not refitter.set_weights("matrix", trt.WeightsRole.KERNEL, np.zeros(6, np.float32))
    assert "layer 'matrix' has no refittable weights of role KERNEL" in logger.errors[-1]
    assert not refitter.set_named_weights("row CONSTANT", np.zeros(3, np.float32))
    assert "are 2 of type FLOAT, 3 of type FLOAT were given" in logger.errors[-1]
    assert not refitter.set_named_weights("row CONSTANT", np.zeros(2, np.float16))
    with pytest.raises(TypeError):
        refitter.set_named_weights("row CONSTANT", [1.0, 2.0])
    assert refitter.get_weights_prototype("row CONSTANT").size == 2


def test_all_weights_change_or_none() -> None:
    engine, logger = refittable()
    before = bytes(engine.serialize())
    refitter = trt.Refitter(engine, logger)
    assert refitter.set_named_weights("row CONSTANT", np.ones(2, np.float32))
    assert refitter.set_named_weights("matrix CONSTANT", np.full(6, np.nan, np.float32))
    assert refitter.get_weights_location("row CONSTANT") == trt.TensorLocation.HOST
    assert not refitter.refit_cuda_engine()
    assert "'matrix CONSTANT' hold numbers that are not finite" in logger.errors[-1]
    assert bytes(engine.serialize()) == before
    assert refitter.unset_named_weights("matrix CONSTANT")
    assert not refitter.unset_named_weights("matrix CONSTANT")
    assert refitter.refit_cuda_engine()
    assert bytes(engine.serialize()) != before


def test_an_engine_without_the_flag_cannot_be_refitted() -> None:
    net = affine(batch=2)
    engine = engine_of(net)
    with pytest.raises(TypeError, match="not refittable"):
        trt.Refitter(engine, net.logger)
    assert "was not built with BuilderFlag.REFIT" in net.logger.errors[-1]


KERNELS = {
    "w": random(40, 3, 1, 1, seed=1),
    "b": random(40, seed=2),
    "up": random(40, 2, 1, 1, seed=3),
}
X = random(1, 3, 5, 5, seed=4)


def parsed(*flags: Any) -> tuple[Net, bytes]:
    """Return the plan of a parsed model: a convolution and, on its result, a transposed one."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], name="Conv_0"),
        helper.make_node("ConvTranspose", ["h", "up"], ["y"], name="Up_0"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(array, name) for name, array in KERNELS.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    net = Net()
    assert trt.OnnxParser(net.network, net.logger).parse(model.SerializeToString())
    for flag in flags:
        net.config.set_flag(flag)
    data = net.builder.build_serialized_network(net.network, net.config)
    assert data is not None, net.logger.errors
    return net, bytes(data)


def result(engine: Any) -> Any:
    y = np.zeros((1, 2, 5, 5), np.float32)
    context = engine.create_execution_context()
    point(context, x=X, y=y)
    assert context.execute_async_v3(0)
    return y


def convolved(w: Any, b: Any, up: Any) -> Any:
    h = np.einsum("nchw,mcij->nmhw", X, w) + b[:, None, None]
    return np.einsum("nmhw,mcij->nchw", h, up)


PLACES = [
    ("Conv_0", trt.WeightsRole.KERNEL, "w"),
    ("Conv_0", trt.WeightsRole.BIAS, "b"),
    ("Up_0", trt.WeightsRole.KERNEL, "up"),
]


def test_weights_of_parsed_layers_have_a_layer_a_role_and_a_name() -> None:
    net, data = parsed(trt.BuilderFlag.REFIT)
    weights = dict(KERNELS)
    for layer, role, name in PLACES:
        engine = trt.Runtime(net.logger).deserialize_cuda_engine(data)
        refitter = trt.Refitter(engine, net.logger)
        assert list(zip(*refitter.get_all(), strict=True)) == [p[:2] for p in PLACES]
        assert refitter.get_all_weights() == [p[2] for p in PLACES]
        weights[name] = -2 * KERNELS[name]
        assert refitter.set_weights(layer, role, weights[name])
        assert refitter.get_named_weights(name).size == weights[name].size
        assert refitter.refit_cuda_engine()
        close(result(engine), convolved(**weights))
        data = bytes(engine.serialize())  # the next one starts from what was saved
    refitter = trt.Refitter(engine, net.logger)
    for layer, role in ("w", trt.WeightsRole.CONSTANT), ("Conv_0", trt.WeightsRole.KERNEL):
        assert refitter.set_weights(layer, role, KERNELS["w"])  # the same weights twice
    assert refitter.refit_cuda_engine()
    close(result(engine), convolved(**{**weights, "w": KERNELS["w"]}))
    for layer, role in ("Up_0", trt.WeightsRole.BIAS), ("Conv_0", trt.WeightsRole.CONSTANT):
        assert not refitter.set_weights(layer, role, KERNELS["b"])
    assert "'Conv_0' has no refittable weights of role CONSTANT" in net.logger.errors[-1]


def test_stripped_weights_of_parsed_layers_are_missing_by_layer_and_role() -> None:
    net, data = parsed(trt.BuilderFlag.STRIP_PLAN)
    engine = trt.Runtime(net.logger).deserialize_cuda_engine(data)
    refitter = trt.Refitter(engine, net.logger)
    missing = list(zip(*refitter.get_missing(), strict=True))
    assert missing == [p[:2] for p in PLACES] and not refitter.refit_cuda_engine()
    for layer, role, name in PLACES:
        assert refitter.set_weights(layer, role, KERNELS[name])
    assert refitter.get_missing() == ([], []) and refitter.refit_cuda_engine()
    close(result(engine), convolved(**KERNELS))
