"""Addresses of device memory, on a simulated GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from lamina.backends.cuda import driver
from lamina.tensorrt import platform
from lamina.tensorrt.engine.runtime import deserialize_plan
from lamina.tensorrt.error_reporting import Reporter
from tests.backends.cuda.sections import Recorder, chain, chained, on_device, plan_of
from tests.tensorrt.running import Messages

X = np.arange(8, dtype=np.float32)


class Pool(trt.IGpuAsyncAllocator):
    """Passes requests on to a device and counts them."""

    def __init__(self, device: Any) -> None:
        trt.IGpuAsyncAllocator.__init__(self)
        self.device, self.sizes = device, dict[int, int]()

    def allocate_async(self, size: int, alignment: int, flags: int, stream: int) -> int:
        address = self.device.allocate(size, stream)
        self.sizes[address] = size
        return int(address)

    def deallocate_async(self, memory: int, stream: int) -> bool:
        self.device.free(memory, self.sizes.pop(memory), stream)
        return True


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    on = Recorder()

    def make(threads: Any = None, device: str = "", *, allocator: Any = None) -> Any:
        return driver.CudaDriver(on, allocator=allocator)

    monkeypatch.setattr(driver, "driver", make)
    monkeypatch.setattr(platform, "device", lambda: "cuda")
    return on


def loaded(n: Any, ranges: Any = (), allocator: Any = None) -> tuple[Any, Messages]:
    logger = Messages()
    engine = deserialize_plan(plan_of(chain(n), ranges), Reporter(logger), allocator)
    assert engine is not None, logger.errors
    return engine, logger


def test_runs_read_and_write_device_memory_in_place(device: Any) -> None:
    engine, logger = loaded(8)
    context = engine.create_execution_context()
    x, y = on_device(device, X), on_device(device, np.zeros(8, np.float32))
    context.set_tensor_address("x", x.pointer)
    context.set_tensor_address("y", y.pointer)
    for _ in range(3):
        assert context.execute_async_v3(0), logger.errors
        np.testing.assert_array_equal(y.numpy(), chained(X))
    assert context.execute_v2([x.pointer, y.pointer])
    other = on_device(device, X + 1)
    context.set_tensor_address("x", other.pointer)
    assert context.execute_async_v3(device.stream())
    np.testing.assert_array_equal(y.numpy(), chained(X + 1))


class Growing(trt.IOutputAllocator):
    def __init__(self, device: Any) -> None:
        trt.IOutputAllocator.__init__(self)
        self.device, self.address, self.shape = device, 0, ()

    def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
        self.address = self.device.allocate(size, 0)
        return self.address

    def notify_shape(self, tensor_name: str, shape: Any) -> None:
        self.shape = tuple(shape)


def test_an_output_allocator_gives_device_memory(device: Any) -> None:
    engine, _ = loaded("n", [("n", 1, 8, 16)])
    context, allocator = engine.create_execution_context(), Growing(device)
    assert context.set_input_shape("x", (8,)) and context.set_output_allocator("y", allocator)
    x = on_device(device, X)
    context.set_tensor_address("x", x.pointer)
    assert context.execute_async_v3(0)
    assert allocator.shape == (8,)
    found = np.zeros(8, np.float32)
    device.copy(found.ctypes.data, allocator.address, 32, 0)
    np.testing.assert_array_equal(found, chained(X))


def test_an_allocator_gives_all_memory_of_the_engine(device: Any) -> None:
    pool = Pool(device)
    engine, _ = loaded(8, allocator=pool)
    context = engine.create_execution_context()
    x, y = on_device(device, X), on_device(device, np.zeros(8, np.float32))
    assert context.execute_v2([x.pointer, y.pointer])
    assert pool.sizes and sum(pool.sizes.values()) >= 2 * 32


def test_an_event_tells_when_inputs_may_be_overwritten(device: Any) -> None:
    engine, _ = loaded(8)
    context = engine.create_execution_context()
    x, y = on_device(device, X), on_device(device, np.zeros(8, np.float32))
    context.set_tensor_address("x", x.pointer)
    context.set_tensor_address("y", y.pointer)
    event, recorded, record = 77, [], device.record

    def note(found: Any, stream: int) -> None:
        recorded.append(found) if found == event else record(found, stream)

    device.record = note
    assert context.set_input_consumed_event(event) and context.get_input_consumed_event() == event
    assert context.execute_async_v3(0) and recorded == [event]
    assert context.set_input_consumed_event(0)
    assert context.execute_async_v3(0) and recorded == [event]


def test_a_run_becomes_a_part_of_a_graph_that_the_program_records(device: Any) -> None:
    engine, logger = loaded(8)
    context = engine.create_execution_context()
    x, y = on_device(device, X), on_device(device, np.zeros(8, np.float32))
    context.set_tensor_address("x", x.pointer)
    context.set_tensor_address("y", y.pointer)
    stream = device.stream()
    device.capturing.add(stream)
    assert not context.execute_async_v3(stream) and "have not run yet" in logger.errors[-1]
    device.capturing.clear()
    for _ in range(3):
        assert context.execute_async_v3(stream)
    device.capturing.add(stream)
    device.copy(y.pointer, x.pointer, 32, stream)
    device.calls.clear()
    assert context.execute_async_v3(stream), logger.errors
    assert not device.calls, "launches, and nothing that could not be recorded"
    np.testing.assert_array_equal(y.numpy(), chained(X))
    device.capturing.clear()
    assert context.execute_async_v3(stream) and device.calls["launch_graph"] == 1


def test_an_address_of_host_memory_is_refused_before_it_is_read(device: Any) -> None:
    engine, logger = loaded(8)
    context = engine.create_execution_context()
    x, y = np.zeros(8, np.float32), on_device(device, np.zeros(8, np.float32))
    context.set_tensor_address("x", x.ctypes.data)
    context.set_tensor_address("y", y.pointer)
    assert not context.execute_async_v3(0)
    assert "cannot reach the address" in logger.errors[-1] and "'x'" in logger.errors[-1]
    good = on_device(device, X)
    context.set_tensor_address("x", good.pointer)
    assert context.execute_async_v3(0), logger.errors
    np.testing.assert_array_equal(y.numpy(), chained(X))


def test_debug_sync_waits_after_each_layer(device: Any) -> None:
    engine, logger = loaded(8)
    context = engine.create_execution_context()
    x, y = on_device(device, X), on_device(device, np.zeros(8, np.float32))
    context.set_tensor_address("x", x.pointer)
    context.set_tensor_address("y", y.pointer)
    for _ in range(3):
        assert context.execute_async_v3(0)
    assert context.debug_sync is False
    context.debug_sync = True
    device.calls.clear()
    assert context.execute_async_v3(0), logger.errors
    assert device.calls["synchronize"] == 3 and not device.calls["launch_graph"]
    context.debug_sync = False
    device.calls.clear()
    assert context.execute_async_v3(0)
    assert device.calls["launch_graph"] == 1 and not device.calls["synchronize"]
