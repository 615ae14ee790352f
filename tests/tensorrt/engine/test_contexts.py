"""Shapes, addresses, profiles and runs, and what contexts refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from tests.tensorrt.engine.models import affine, engine_of, expected, point
from tests.tensorrt.running import Messages, Net, close, random


def context_of(*profiles: tuple[int, int, int], batch: int = -1) -> tuple[Any, Messages]:
    net = affine(*profiles, batch=batch)
    return engine_of(net).create_execution_context(), net.logger


def test_a_run_on_addresses() -> None:
    context, _ = context_of((1, 2, 4))
    assert context.infer_shapes() == ["x"] and not context.all_binding_shapes_specified
    assert context.get_tensor_shape("y") == (-1, 2)
    assert context.set_input_shape("x", (2, 3))
    assert context.get_tensor_shape("y") == (2, 2) and context.infer_shapes() == []
    assert context.get_tensor_strides("x") == (3, 1)
    x, y = random(2, 3), np.zeros((2, 2), np.float32)
    point(context, x=x, y=y)
    assert context.get_tensor_address("x") == x.ctypes.data
    assert context.execute_async_v3(0)
    close(y, expected(x))
    x[:] = random(2, 3, seed=1)
    assert context.execute_async_v3(stream_handle=0)
    close(y, expected(x))
    assert context.execute_v2([x.ctypes.data, y.ctypes.data])


def test_other_shapes_and_addresses_later() -> None:
    context, _ = context_of((1, 2, 4))
    for rows in (1, 4, 2):
        x, y = random(rows, 3, seed=rows), np.zeros((rows, 2), np.float32)
        assert context.set_input_shape("x", (rows, 3))
        point(context, x=x, y=y)
        assert context.execute_async_v3(0)
        close(y, expected(x))


def test_each_profile_has_its_range() -> None:
    context, logger = context_of((1, 1, 2), (4, 6, 8))
    assert context.engine.num_optimization_profiles == 2
    assert context.engine.get_tensor_profile_shape("x", 1) == [(4, 3), (6, 3), (8, 3)]
    assert not context.set_input_shape("x", (6, 3))
    assert "optimization profile 0: it allows (1, 3) to (2, 3)" in logger.errors[-1]
    assert not context.set_optimization_profile_async(2, 0)
    assert "there is no optimization profile 2 of 2" in logger.errors[-1]
    assert context.set_input_shape("x", (2, 3))
    assert context.set_optimization_profile_async(1, 0)
    assert context.active_optimization_profile == 1
    assert context.infer_shapes() == ["x"], "shapes of the old profile are forgotten"
    assert context.set_input_shape("x", (6, 3))
    x, y = random(6, 3), np.zeros((6, 2), np.float32)
    assert context.execute_v2([x.ctypes.data, y.ctypes.data])
    close(y, expected(x))


def test_what_was_not_set_is_named() -> None:
    context, logger = context_of((1, 2, 4))
    x, y = random(2, 3), np.zeros((2, 2), np.float32)
    assert not context.execute_async_v3(0)
    assert "no shape was set for it" in logger.errors[-1]
    context.set_input_shape("x", (2, 3))
    assert not context.execute_async_v3(0)
    assert "no address was set for input 'x'" in logger.errors[-1]
    point(context, x=x)
    assert not context.execute_async_v3(0)
    assert "no address was set for output 'y'" in logger.errors[-1]
    point(context, y=y)
    assert context.execute_async_v3(0)


def test_wrong_names_numbers_and_types_are_refused() -> None:
    context, logger = context_of(batch=2)
    assert not context.set_tensor_address("z", 4096)
    assert "the engine has no tensor 'z'; it has x, y" in logger.errors[-1]
    assert not context.set_input_shape("y", (2, 2))
    assert "'y' is an output" in logger.errors[-1]
    assert not context.set_input_shape("x", (3, 3))
    assert "it cannot be (3, 3)" in logger.errors[-1]
    assert not context.execute_v2([1])
    assert "1 bindings for the 2 tensors" in logger.errors[-1]
    for call in (
        lambda: context.get_tensor_shape(0),
        lambda: context.set_output_allocator("y", object()),
        lambda: context.set_input_shape("x", "wide"),
        lambda: setattr(context, "profiler", 3),
    ):
        with pytest.raises(TypeError):
            call()


def test_inputs_that_contradict_each_other_are_refused() -> None:
    net = Net()
    tensors = [net.network.add_input(n, trt.float32, (-1, 2)) for n in ("a", "b")]
    for t in tensors:
        t.set_dimension_name(0, "rows")
    net.output(net.network.add_elementwise(*tensors, trt.ElementWiseOperation.SUM).get_output(0))
    net.profile(a=((1, 2), (2, 2), (4, 2)), b=((1, 2), (2, 2), (4, 2)))
    context = engine_of(net).create_execution_context()
    assert context.set_input_shape("a", (2, 2)) and context.set_input_shape("b", (3, 2))
    assert not context.execute_v2([1, 1, 1])
    assert "input 'b' has size 3 on axis 0" in net.logger.errors[-1]


def test_two_contexts_do_not_disturb_each_other() -> None:
    engine = engine_of(affine((1, 2, 4)))
    pairs = []
    for rows in (1, 3):
        context = engine.create_execution_context()
        context.set_input_shape("x", (rows, 3))
        x, y = random(rows, 3, seed=rows), np.zeros((rows, 2), np.float32)
        point(context, x=x, y=y)
        pairs.append((context, x, y))
    for context, x, y in pairs:
        assert context.execute_async_v3(0)
        close(y, expected(x))


class Growing(trt.IOutputAllocator):
    """Allocates with NumPy and keeps what it is told."""

    def __init__(self, refuse: bool = False) -> None:
        trt.IOutputAllocator.__init__(self)
        self.refuse = refuse
        self.buffer = np.zeros(0, np.uint8)
        self.shape: tuple[int, ...] = ()

    def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
        if self.refuse:
            return 0
        if size > self.buffer.nbytes:
            self.buffer = np.zeros(size + alignment, np.uint8)
        return int(self.buffer.ctypes.data)

    def notify_shape(self, tensor_name: str, shape: Any) -> None:
        self.shape = tuple(shape)


def nonzero_engine() -> tuple[Any, Net]:
    net = Net()
    x = net.network.add_input("x", trt.float32, (2, 4))
    net.output(net.network.add_non_zero(x).get_output(0))
    return engine_of(net), net


def test_an_output_allocator_gets_what_only_the_run_can_tell() -> None:
    engine, net = nonzero_engine()
    context = engine.create_execution_context()
    x = np.array([[0, 1, 0, 2], [0, 0, 3, 0]], np.float32)
    point(context, x=x)
    assert context.get_tensor_shape("y0") == (2, -1)
    assert context.get_max_output_size("y0") == 2 * 8 * 4
    assert not context.execute_async_v3(0)
    assert "data decides the shape of output 'y0', (2, 3) in this run" in net.logger.errors[-1]
    allocator = Growing()
    assert context.set_output_allocator("y0", allocator)
    assert context.get_output_allocator("y0") is allocator
    assert context.execute_async_v3(0)
    assert allocator.shape == (2, 3) and context.get_tensor_shape("y0") == (2, 3)
    found = allocator.buffer[: 2 * 3 * 4].view(np.int32).reshape(2, 3)
    np.testing.assert_array_equal(found, np.array(np.nonzero(x)))


def test_an_output_allocator_may_refuse() -> None:
    context, logger = context_of(batch=2)
    point(context, x=random(2, 3))
    context.set_output_allocator("y", Growing(refuse=True))
    assert not context.execute_async_v3(0)
    assert "the output allocator gave no memory for the 16 bytes of 'y'" in logger.errors[-1]
    allocator = Growing()
    x = random(2, 3)
    point(context, x=x)
    context.set_output_allocator("y", allocator)
    assert context.execute_async_v3(0)
    close(allocator.buffer[:16].view(np.float32).reshape(2, 2), expected(x))


def test_shape_tensors_decide_output_shapes_before_the_run() -> None:
    net = Net()
    x = net.network.add_input("x", trt.float32, (-1,))
    size = net.network.add_input("size", trt.int32, (2,))
    shuffle = net.network.add_shuffle(x)
    shuffle.set_input(1, size)
    net.output(shuffle.get_output(0))
    profile = net.profile(x=((1,), (6,), (12,)))
    profile.set_shape_input("size", (1, 1), (2, 3), (12, 12))
    context = engine_of(net).create_execution_context()
    assert context.engine.get_tensor_location("size").name == "HOST"
    data, dims = random(6), np.array([3, 2], np.int32)
    context.set_input_shape("x", (6,))
    assert context.infer_shapes() == ["size"]
    point(context, x=data, size=dims)
    assert context.get_tensor_shape("y0") == (3, 2)
    y = np.zeros((3, 2), np.float32)
    point(context, y0=y)
    assert context.execute_async_v3(0)
    close(y, data.reshape(3, 2))


class Times(trt.IProfiler):
    def __init__(self) -> None:
        trt.IProfiler.__init__(self)
        self.found: dict[str, float] = {}

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        self.found[layer_name] = ms


def test_a_profiler_is_told_every_layer() -> None:
    context, _ = context_of(batch=2)
    x, y = random(2, 3), np.zeros((2, 2), np.float32)
    context.profiler = times = Times()
    assert context.execute_v2([x.ctypes.data, y.ctypes.data])
    close(y, expected(x))
    assert len(times.found) == context.engine.num_layers and min(times.found.values()) >= 0
    times.found.clear()
    context.enqueue_emits_profile = False
    assert context.execute_async_v3(0) and not times.found
    assert context.report_to_profiler() and times.found


class Listener(trt.IDebugListener):
    def __init__(self) -> None:
        trt.IDebugListener.__init__(self)
        self.seen: dict[str, Any] = {}

    def process_debug_tensor(
        self, addr: int, location: Any, type: Any, shape: Any, name: str, stream: int
    ) -> bool:
        from lamina.tensorrt.engine.memory import view
        from lamina.tensorrt.foundation.dtype import to_ir

        self.seen[name] = view(addr, to_ir(type), tuple(shape)).copy()
        return True


def test_a_debug_listener_sees_marked_tensors() -> None:
    net = affine(batch=2)
    inner = net.network.get_layer(1).get_output(0)
    inner.name = "inner"
    net.network.mark_debug(inner)
    engine = engine_of(net)
    assert engine.num_io_tensors == 2 and engine.is_debug_tensor("inner")
    context, listener = engine.create_execution_context(), Listener()
    x, y = random(2, 3), np.zeros((2, 2), np.float32)
    assert context.set_debug_listener(listener) and context.get_debug_listener() is listener
    assert context.execute_v2([x.ctypes.data, y.ctypes.data]) and not listener.seen
    assert context.set_tensor_debug_state("inner", True) and context.get_debug_state("inner")
    assert not context.set_tensor_debug_state("y", True)
    assert context.execute_v2([x.ctypes.data, y.ctypes.data])
    close(listener.seen["inner"], expected(x) - np.array([1, 2], np.float32))
