"""Memory that the program provides for contexts, on the CPU and on a simulated GPU."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from lamina.backends.cuda import driver
from lamina.errors import InputError
from lamina.tensorrt import metadata, platform
from lamina.tensorrt.engine.runtime import deserialize_plan
from lamina.tensorrt.error_reporting import Reporter
from tests.backends.cuda.sections import Net as Steps
from tests.backends.cuda.sections import Recorder, chain, chained, on_device, plan_of
from tests.tensorrt.running import Messages, Net

X = np.arange(8, dtype=np.float32)


def aligned(size: int) -> np.ndarray:
    raw = np.full(size + 256, 0xEE, np.uint8)
    return raw[-raw.ctypes.data % 256 :][:size]


def softmaxes() -> tuple[trt.ICudaEngine, Messages]:
    """Return an engine that needs memory between two steps, with a profile."""
    net = Net()
    x = net.input("x", np.zeros((1, 64), np.float32), (-1, 64))
    first = net.network.add_softmax(x)
    first.axes = 1 << 1
    sums = net.network.add_cumulative(
        first.get_output(0), net.constant(np.int32(0)), trt.CumulativeOperation.SUM, False, False
    )
    last = net.network.add_softmax(sums.get_output(0))
    last.axes = 1 << 1
    net.output(last.get_output(0))
    net.profile(x=((1, 64), (4, 64), (32, 64)))
    net.profile(x=((1, 64), (1, 64), (2, 64)))
    data = net.builder.build_serialized_network(net.network, net.config)
    engine = trt.Runtime(net.logger).deserialize_cuda_engine(data)
    assert engine is not None
    return engine, net.logger


def meant(x: np.ndarray) -> np.ndarray:
    def softmax(v: np.ndarray) -> np.ndarray:
        e = np.exp(v - v.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    return softmax(np.cumsum(softmax(x), axis=0))


def test_activations_lie_where_the_program_wants_them_on_the_cpu() -> None:
    engine, logger = softmaxes()
    size = engine.device_memory_size_v2
    assert size >= 32 * 64 * 4 and engine.device_memory_size == size
    assert engine.get_device_memory_size_for_profile(0) == size
    assert 0 < engine.get_device_memory_size_for_profile_v2(1) < size
    context = engine.create_execution_context_without_device_memory()
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    y = np.zeros_like(x)
    assert context.update_device_memory_size_for_shapes() == 0, "shapes are not set"
    assert context.set_input_shape("x", x.shape)
    assert 0 < context.update_device_memory_size_for_shapes() < size
    context.set_tensor_address("x", x.ctypes.data), context.set_tensor_address("y0", y.ctypes.data)
    assert not context.execute_async_v3(0) and "was given 0" in logger.errors[-1]
    for memory in (aligned(size), aligned(size)):
        context.device_memory = memory.ctypes.data
        assert context.device_memory == memory.ctypes.data
        y[...] = 0
        assert context.execute_async_v3(0), logger.errors
        np.testing.assert_allclose(y, meant(x), rtol=1e-5)
        assert (memory != 0xEE).any(), "the activations were there"
    context.set_device_memory(memory.ctypes.data, 256)
    assert not context.execute_async_v3(0) and "the context was given 256" in logger.errors[-1]
    context.set_device_memory(memory.ctypes.data + 1, size)
    assert "no multiple of 256" in logger.errors[-1]


def test_a_context_takes_its_memory_from_its_own_allocator_on_the_cpu() -> None:
    blocks: dict[int, np.ndarray] = {}

    class Own(trt.IGpuAllocator):
        def allocate(self, size: int, alignment: int, flags: int) -> int:
            block = aligned(size)
            blocks[block.ctypes.data] = block
            return int(block.ctypes.data)

        def deallocate(self, memory: int) -> bool:
            return blocks.pop(memory, None) is not None

    engine, logger = softmaxes()
    context = engine.create_execution_context()
    assert context.temporary_allocator is None
    allocator = context.temporary_allocator = Own()
    assert context.temporary_allocator is allocator
    x, y = np.ones((4, 64), np.float32), np.zeros((4, 64), np.float32)
    context.set_input_shape("x", x.shape)
    assert context.execute_v2([x.ctypes.data, y.ctypes.data]), logger.errors
    np.testing.assert_allclose(y, meant(x), rtol=1e-5)
    assert blocks
    context.temporary_allocator = None
    gc.collect()  # what runs a program refers to itself
    assert not blocks and context.execute_v2([x.ctypes.data, y.ctypes.data])


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    on = Recorder()

    def make(threads: Any = None, device: str = "", *, allocator: Any = None) -> Any:
        return driver.CudaDriver(on, allocator=allocator)

    monkeypatch.setattr(driver, "driver", make)
    monkeypatch.setattr(platform, "device", lambda: "cuda")
    return on


def context_of(device: Any, engine: Any, n: int) -> tuple[trt.IExecutionContext, Any, Any]:
    context = engine.create_execution_context(
        trt.ExecutionContextAllocationStrategy.named("USER_MANAGED")
    )
    x, y = (on_device(device, np.arange(n, dtype=np.float32)) for _ in range(2))
    context.set_input_shape("x", (n,))
    context.set_tensor_address("x", x.pointer), context.set_tensor_address("y", y.pointer)
    return context, x, y


def test_activations_lie_where_the_program_wants_them_on_a_gpu(device: Any) -> None:
    logger = Messages()
    plan = plan_of(chain("n"), [("n", 1, 8, 1 << 12)])
    engine = deserialize_plan(plan, Reporter(logger))
    assert engine is not None and engine.device_memory_size_v2 == 2 * 4 << 12
    context, x, y = context_of(device, engine, 64)
    stream = device.stream()
    assert not context.execute_async_v3(stream) and "was given 0" in logger.errors[-1]
    blocks = [device.allocate(engine.device_memory_size_v2, 0) for _ in range(2)]
    for block in (*blocks, *blocks):
        context.device_memory = block
        device.clear(block, 512, 0)
        for _ in range(3):
            assert context.execute_async_v3(stream), logger.errors
            np.testing.assert_array_equal(y.numpy(), chained(np.arange(64)))
        found = np.zeros(64, np.float32)
        device.copy(found.ctypes.data, block, 256, 0)
        assert found.any(), "the activations were there"
    assert context.set_input_shape("x", (1 << 12,))
    x, y = (on_device(device, np.zeros(1 << 12, np.float32)) for _ in range(2))
    before = device.used_bytes
    context.set_tensor_address("x", x.pointer), context.set_tensor_address("y", y.pointer)
    assert context.execute_async_v3(stream), logger.errors
    assert device.used_bytes == before, "nothing else was allocated"


def test_a_context_takes_its_memory_from_its_own_allocator_on_a_gpu(device: Any) -> None:
    class Own(trt.IGpuAsyncAllocator):
        def __init__(self) -> None:
            trt.IGpuAsyncAllocator.__init__(self)
            self.out: dict[int, int] = {}

        def allocate_async(self, size: int, alignment: int, flags: int, stream: int) -> int:
            address = int(device.allocate(size, stream))
            self.out[address] = size
            return address

        def deallocate_async(self, memory: int, stream: int) -> bool:
            device.free(memory, self.out.pop(memory), stream)
            return True

    engine = deserialize_plan(plan_of(chain(8)), Reporter(Messages()))
    assert engine is not None
    context, _, y = context_of(device, engine, 8)
    context = engine.create_execution_context()
    own = context.temporary_allocator = Own()
    x = on_device(device, X)
    assert context.execute_v2([x.pointer, y.pointer]) and sum(own.out.values()) >= 2 * 32
    np.testing.assert_array_equal(y.numpy(), chained(X))
    context.temporary_allocator = None
    assert not own.out and context.execute_v2([x.pointer, y.pointer])


def weighted(streaming: bool) -> tuple[Any, Any]:
    """Return a plan with two constants of 1024 and 256 bytes."""
    net = Steps()
    x, at = net.input("x", "f32[256]"), net.arena("a", "f32[256]")
    large = net.constant("large", np.full(256, 3, np.float32))
    small = net.constant("small", np.full(64, 4, np.float32))
    part = net.view("part", at, 0, "f32[64]")
    net.kernel("add", [x, large], [at], [256])
    net.kernel("add", [part, small], [net.output("y", "f32[64]")], [64])
    plan = plan_of(net.section())
    note = metadata.encode(
        metadata.EngineMetadata(
            tensors=metadata.of_plan(plan).tensors,
            profiles=(metadata.ProfileInfo(),),
            weight_streaming=streaming,
        )
    )
    return Reporter(Messages()), type(plan)(**{**vars(plan), "notes": ((metadata.NOTE, note),)})


def test_weights_beyond_the_budget_stay_on_the_host(device: Any) -> None:
    reporter, plan = weighted(streaming=True)
    engine = deserialize_plan(plan, reporter)
    assert engine is not None and engine.streamable_weights_size == 1280
    assert engine.weight_streaming_budget_v2 == 1280, "all weights fit"
    x, y = on_device(device, np.ones(256, np.float32)), on_device(device, np.zeros(64, np.float32))
    context = engine.create_execution_context()
    all_of_them = device.used_bytes
    for budget, saved in ((0, 1280), (256, 1024), (1024, 256), (1279, 256), (5000, 0)):
        engine.weight_streaming_budget_v2 = budget
        assert engine.weight_streaming_budget_v2 == min(budget, 1280)
        y_now = on_device(device, np.zeros(64, np.float32))
        for _ in range(3):
            assert context.execute_v2([x.pointer, y_now.pointer])
            np.testing.assert_array_equal(y_now.numpy(), np.full(64, 8))
        del y_now
        assert engine._engine._loaded.resources.constant_bytes == 1280 - saved
    assert device.used_bytes >= all_of_them
    assert engine.get_weight_streaming_automatic_budget() == 1280
    engine.weight_streaming_budget = -1
    assert engine.weight_streaming_budget == 0 and y.nbytes
    engine.weight_streaming_budget = -2
    assert "the weight streaming budget -2 is negative" in reporter.logger.errors[-1]  # type: ignore[attr-defined]
    engine.weight_streaming_budget_v2 = -5
    assert "is negative" in reporter.logger.errors[-1]  # type: ignore[attr-defined]
    assert engine.weight_streaming_budget_v2 == 1280
    for wrong in (-2, 1.5, "all"):
        with pytest.raises(InputError, match="bytes of weights cannot stay on the device"):
            engine._engine.stream_weights(wrong)


def test_weights_that_find_no_room_stay_on_the_host(device: Any) -> None:
    device.total_bytes = (256 << 20) + 1100
    reporter, plan = weighted(streaming=True)
    engine = deserialize_plan(plan, reporter)
    assert engine is not None and engine.weight_streaming_budget_v2 == 1100
    assert engine._engine._loaded.resources.constant_bytes == 1024


def test_an_engine_without_streaming_keeps_its_weights(device: Any) -> None:
    reporter, plan = weighted(streaming=False)
    engine = deserialize_plan(plan, reporter)
    assert engine is not None and engine.streamable_weights_size == 0
    engine.weight_streaming_budget_v2 = 0
    assert "without WEIGHT_STREAMING" in reporter.logger.errors[-1]  # type: ignore[attr-defined]
    assert engine._engine._loaded.resources.constant_bytes == 1280
