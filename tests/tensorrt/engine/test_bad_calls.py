"""Calls that are wrong, and what the user is told; the engine survives all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from tests.tensorrt.engine.models import affine, engine_of
from tests.tensorrt.running import Messages, Net


@pytest.fixture
def reshaped() -> tuple[trt.IExecutionContext, Messages, dict[str, np.ndarray]]:
    """Return a context that reshapes 6 numbers as the contents of a shape tensor say."""
    net = Net()
    x = net.input("x", np.zeros(6, np.float32), (-1,))
    size = net.input("size", np.zeros(2, np.int32))
    shuffle = net.network.add_shuffle(x)
    shuffle.set_input(1, size)
    doubled = net.network.add_elementwise(
        shuffle.get_output(0), shuffle.get_output(0), trt.ElementWiseOperation.SUM
    )
    net.output(doubled.get_output(0))
    net.profile(x=((1,), (6,), (12,))).set_shape_input("size", (1, 1), (2, 3), (12, 12))
    data = net.builder.build_serialized_network(net.network, net.config)
    engine = trt.Runtime(net.logger).deserialize_cuda_engine(data)
    assert engine is not None
    context = engine.create_execution_context()
    arrays = {
        "x": np.arange(6, dtype=np.float32),
        "size": np.array([2, 3], np.int32),
        "y0": np.zeros(16, np.float32),
    }
    assert context.set_input_shape("x", (6,))
    for name, array in arrays.items():
        assert context.set_tensor_address(name, array.ctypes.data)
    return context, net.logger, arrays


def test_sizes_that_do_not_fit_are_found_before_anything_is_read(reshaped: Any) -> None:
    context, logger, arrays = reshaped
    assert context.execute_async_v3(0), logger.errors
    arrays["size"][:] = (4, 4)
    assert not context.execute_async_v3(0)
    assert "f32[4,4], 64 bytes of the 24 bytes" in logger.errors[-1]
    arrays["size"][:] = (-2, 3)
    assert not context.execute_async_v3(0)
    arrays["size"][:] = (6, 1)
    assert context.execute_async_v3(0), logger.errors
    np.testing.assert_array_equal(arrays["y0"][:6], 2 * arrays["x"])


def test_shape_tensors_are_read_in_every_run(reshaped: Any) -> None:
    context, logger, arrays = reshaped
    for shape in ((2, 3), (3, 2), (1, 6), (2, 3)):
        arrays["size"][:] = shape
        assert context.execute_async_v3(0), logger.errors
        assert tuple(context.get_tensor_shape("y0")) == shape


@pytest.fixture
def context() -> trt.IExecutionContext:
    found = engine_of(affine((1, 2, 8))).create_execution_context()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.set_tensor_address("x", "p"), "the address of 'x' is a str"),
        (lambda c: c.set_tensor_address("x", None), "the address of 'x' is a NoneType"),
        (lambda c: c.set_input_shape("x", "ab"), "'ab' is not a shape"),
        (lambda c: c.set_tensor_address("x", "12"), "the address of 'x' is a str"),
        (lambda c: c.set_tensor_address("x", 1.0), "the address of 'x' is a float"),
        (lambda c: c.execute_async_v3(stream_handle="s"), "stream_handle is a str, not a number"),
        (lambda c: c.execute_async_v3("0"), "stream_handle is a str, not a number"),
        (lambda c: c.execute_async_v3(None), "stream_handle is a NoneType, not a number"),
        (lambda c: c.execute_v2(None), "bindings are a list of addresses, not a NoneType"),
        (lambda c: c.set_output_allocator("y", "no"), "set_output_allocator"),
        (lambda c: c.set_debug_listener(3), "set_debug_listener"),
        (lambda c: setattr(c, "profiler", 3), "profiler"),
        (lambda c: setattr(c, "device_memory", None), "device_memory"),
        (lambda c: c.engine.create_execution_context("x"), "create_execution_context()"),
        (lambda c: c.engine.get_tensor_name("x"), "get_tensor_name"),
        (lambda c: c.engine.create_engine_inspector().get_engine_information("json"), "format"),
    ],
)
def test_arguments_of_a_wrong_type(context: Any, call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=r"[\s\S]*") as caught:
        call(context)
    assert message in str(caught.value)


class Raises(trt.IOutputAllocator):
    def reallocate_output(self, *arguments: Any) -> int:
        raise OSError("the user's own error")

    def notify_shape(self, tensor_name: str, shape: Any) -> None:
        raise AssertionError("there was no memory")


class Undefined(trt.IOutputAllocator):
    pass


def test_errors_of_callbacks_reach_the_user_and_the_context_goes_on(context: Any) -> None:
    names = context.engine._names
    arrays = {}
    for name in names:
        if context.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            shape = context.engine.get_tensor_profile_shape(name, 0)[1]
            context.set_input_shape(name, shape)
    for name in names:
        dtype = trt.nptype(context.engine.get_tensor_dtype(name))
        arrays[name] = np.zeros(tuple(context.get_tensor_shape(name)), dtype)
        context.set_tensor_address(name, arrays[name].ctypes.data)
    output = names[-1]
    context.set_output_allocator(output, Raises())
    with pytest.raises(OSError, match="the user's own error"):
        context.execute_async_v3(0)
    context.set_output_allocator(output, Undefined())
    with pytest.raises(NotImplementedError, match="Undefined must define reallocate_output"):
        context.execute_async_v3(0)
    context.set_output_allocator(output, None)
    assert context.execute_async_v3(0)

    class Profiler(trt.IProfiler):
        pass

    context.profiler = Profiler()
    with pytest.raises(NotImplementedError, match="must define report_layer_time"):
        context.execute_async_v3(0)
    context.profiler = None
    assert context.execute_async_v3(0)
