"""Numbered bindings and implicit batches, as programs of versions 7 and 8 use them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from tests.tensorrt.engine.models import affine, engine_of, expected
from tests.tensorrt.running import Messages, close, random


@pytest.fixture(autouse=True)
def _legacy() -> Iterator[None]:
    trt.use("8.6")
    yield
    trt.use("10")


def implicit() -> Any:
    logger = Messages()
    builder = trt.Builder(logger)
    network = builder.create_network()
    builder.max_batch_size = 4
    x = network.add_input("x", trt.float32, (3,))
    y = network.add_activation(x, trt.ActivationType.RELU).get_output(0)
    y.name = "y"
    network.mark_output(y)
    engine = builder.build_engine(network, builder.create_builder_config())
    assert engine is not None, logger.errors
    return engine, logger


def explicit(*profiles: tuple[int, int, int]) -> Any:
    net = affine(*profiles)
    return engine_of(net), net.logger


def test_an_implicit_batch() -> None:
    engine, logger = implicit()
    assert engine.has_implicit_batch_dimension and engine.max_batch_size == 4
    assert engine.get_binding_shape("x") == (3,) and engine.get_binding_shape(1) == (3,)
    context = engine.create_execution_context()
    x, y = random(4, 3), np.zeros((4, 3), np.float32)
    addresses = [x.ctypes.data, y.ctypes.data]
    assert context.execute(batch_size=4, bindings=addresses)
    close(y, np.maximum(x, 0))
    y[:] = 0
    assert context.execute_async(2, addresses, 0)
    with pytest.raises(TypeError, match="stream_handle is a bytes, not a number"):
        context.execute_async(2, addresses, b"s")
    close(y[:2], np.maximum(x[:2], 0))
    assert not y[2:].any()
    assert not context.execute(5, addresses)
    assert "batch size 5 is not within 1 to 4" in logger.errors[-1]


def test_an_explicit_batch_is_not_executed_with_one() -> None:
    engine, logger = explicit((1, 2, 4))
    assert not engine.has_implicit_batch_dimension and engine.max_batch_size == 1
    assert not engine.create_execution_context().execute(1, [0, 0])
    assert "explicit batch" in logger.errors[-1]


def test_bindings_have_numbers_and_names() -> None:
    engine, logger = explicit((1, 2, 4))
    assert engine.num_bindings == len(engine) == 2
    assert [engine[i] for i in range(2)] == list(engine) == ["x", "y"]
    assert engine["y"] == engine.get_binding_index("y") == 1
    assert engine.binding_is_input(0) and not engine.binding_is_input("y")
    assert engine.get_binding_name(0) == "x" and engine.get_binding_dtype("x") == trt.float32
    assert engine.get_location(0) == trt.TensorLocation.DEVICE
    assert engine.is_execution_binding(0) and not engine.is_shape_binding(0)
    assert engine.get_profile_shape(0, "x") == [(1, 3), (2, 3), (4, 3)]
    assert engine.get_binding_index("z") == -1
    assert "the engine has no binding 'z'" in logger.errors[-1]


def test_shapes_of_bindings() -> None:
    engine, logger = explicit((1, 2, 4))
    context = engine.create_execution_context()
    assert context.get_binding_shape(1) == (-1, 2)
    assert not context.set_binding_shape(0, (5, 3))
    assert "does not satisfy optimization profile 0" in logger.errors[-1]
    assert context.set_binding_shape(0, (4, 3))
    assert context.get_binding_shape(1) == (4, 2) and context.get_strides(0) == (3, 1)
    assert context.all_binding_shapes_specified
    x, y = random(4, 3), np.zeros((4, 2), np.float32)
    assert context.execute_async_v2([x.ctypes.data, y.ctypes.data], 0)
    with pytest.raises(TypeError, match="stream_handle is a float, not a number"):
        context.execute_async_v2([x.ctypes.data, y.ctypes.data], 0.5)
    close(y, expected(x))
    assert not context.set_binding_shape(7, (4, 3))
    assert "there is no binding 7" in logger.errors[-1]


def test_each_profile_has_bindings_of_its_own() -> None:
    engine, logger = explicit((1, 1, 2), (4, 6, 8))
    assert (
        engine.num_bindings == 4 and engine[2] == "x [profile 1]" and engine["y [profile 1]"] == 3
    )
    context = engine.create_execution_context()
    context.active_optimization_profile = 1
    assert not context.set_binding_shape(0, (6, 3))
    assert "does not belong to optimization profile 1" in logger.errors[-1]
    assert context.set_binding_shape(2, (6, 3))
    x, y = random(6, 3), np.zeros((6, 2), np.float32)
    assert context.execute_v2([0, 0, x.ctypes.data, y.ctypes.data])
    close(y, expected(x))


def test_elements_of_shape_tensors_are_given_as_numbers() -> None:
    logger = Messages()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    x = network.add_input("x", trt.float32, (6,))
    size = network.add_input("size", trt.int32, (2,))
    shuffle = network.add_shuffle(x)
    shuffle.set_input(1, size)
    network.mark_output(shuffle.get_output(0))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape_input("size", (1, 1), (2, 3), (6, 6))
    config.add_optimization_profile(profile)
    engine = builder.build_engine(network, config)
    assert engine is not None, logger.errors
    context = engine.create_execution_context()
    assert engine.is_shape_binding(1) and not engine.is_execution_binding(1)
    assert not context.set_shape_input(1, [9, 9])
    assert "does not satisfy optimization profile 0" in logger.errors[-1]
    assert context.set_shape_input(1, [3, 2]) and context.get_shape(1) == [3, 2]
    assert context.get_binding_shape(2) == (3, 2)
    data, y = random(6), np.zeros((3, 2), np.float32)
    assert context.execute_v2([data.ctypes.data, 0, y.ctypes.data])
    close(y, data.reshape(3, 2))
