"""PyCUDA's driver module: devices, contexts, memory, streams, events.

Its context is the primary one of a GPU, which Lamina and other libraries use too.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from cuda.bindings import runtime

from lamina_stand_ins.pycuda._calls import (
    Error,
    LaunchError,
    LogicError,
    MemoryError,
    RuntimeError,
    call,
)

Array = np.ndarray[Any, Any]
_Kind = runtime.cudaMemcpyKind


class _Flags:
    """Flags that are taken and change nothing."""

    DEFAULT = SCHED_AUTO = 0
    PORTABLE = BLOCKING_SYNC = SCHED_SPIN = 1
    DEVICEMAP = DISABLE_TIMING = WRITECOMBINED = SCHED_YIELD = 2
    MAP_HOST = 8


host_alloc_flags = mem_host_register_flags = event_flags = ctx_flags = _Flags


def init(flags: int = 0) -> None:
    """Start CUDA."""
    call("cudaGetDeviceCount")


def get_version() -> tuple[int, int, int]:
    """Return the version of CUDA."""
    number = call("cudaRuntimeGetVersion")
    return (number // 1000, number % 1000 // 10, number % 10)


def get_driver_version() -> int:
    """Return the version of the driver."""
    found: int = call("cudaDriverGetVersion")
    return found


def mem_get_info() -> tuple[int, int]:
    """Return free and total bytes."""
    free, total = call("cudaMemGetInfo")
    return (free, total)


class Device:
    """A device."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._properties = call("cudaGetDeviceProperties", number)

    @staticmethod
    def count() -> int:
        """Return the number of devices."""
        found: int = call("cudaGetDeviceCount")
        return found

    def name(self) -> str:
        """Return the name."""
        name = self._properties.name
        return name.decode() if isinstance(name, bytes) else str(name)

    def compute_capability(self) -> tuple[int, int]:
        """Return the compute capability."""
        return (self._properties.major, self._properties.minor)

    def total_memory(self) -> int:
        """Return the bytes of memory."""
        return int(self._properties.totalGlobalMem)

    def pci_bus_id(self) -> str:
        """Return the place on the bus."""
        numbers = (self._properties.pciDomainID, self._properties.pciBusID)
        return "{:04X}:{:02X}:{:02X}.0".format(*numbers, self._properties.pciDeviceID)

    def make_context(self, flags: int = 0) -> Context:
        """Return a new context, which is current."""
        call("cudaSetDevice", self._number)
        return Context(self)

    def retain_primary_context(self) -> Context:
        """Return the context that others share."""
        return Context(self)


class Context:
    """A context; there is one for each device, always current."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def push(self) -> None:
        """Make this context current."""
        call("cudaSetDevice", self._device._number)

    def detach(self) -> None:
        """Give this context back."""

    @staticmethod
    def pop() -> None:
        """Make the context current that was so before."""

    @staticmethod
    def synchronize() -> None:
        """Wait for all work."""
        call("cudaDeviceSynchronize")

    @staticmethod
    def get_device() -> Device:
        """Return the device of the current context."""
        return Device(call("cudaGetDevice"))

    @staticmethod
    def get_current() -> Context:
        """Return the current context."""
        return Context(Context.get_device())


class Stream:
    """A stream."""

    def __init__(self, flags: int = 0) -> None:
        self.handle = int(call("cudaStreamCreateWithFlags", flags))
        self._end = weakref.finalize(self, call, "cudaStreamDestroy", self.handle)

    def synchronize(self) -> None:
        """Wait for the work so far."""
        call("cudaStreamSynchronize", self.handle)

    def is_done(self) -> bool:
        """Whether the work so far is done."""
        return int(runtime.cudaStreamQuery(self.handle)[0]) == 0

    def wait_for_event(self, event: Event) -> None:
        """Let later work wait for an event."""
        call("cudaStreamWaitEvent", self.handle, event.handle, 0)

    def __int__(self) -> int:
        return self.handle

    __index__ = __int__


class Event:
    """An event."""

    def __init__(self, flags: int = 0) -> None:
        self.handle = int(call("cudaEventCreateWithFlags", flags))
        self._end = weakref.finalize(self, call, "cudaEventDestroy", self.handle)

    def record(self, stream: Stream | None = None) -> Event:
        """Let it stand for the work on a stream so far."""
        call("cudaEventRecord", self.handle, _stream(stream))
        return self

    def synchronize(self) -> Event:
        """Wait until it has happened."""
        call("cudaEventSynchronize", self.handle)
        return self

    def query(self) -> bool:
        """Whether it has happened."""
        return int(runtime.cudaEventQuery(self.handle)[0]) == 0

    def time_till(self, end: Event) -> float:
        """Return the milliseconds to a later event."""
        found: float = call("cudaEventElapsedTime", self.handle, end.handle)
        return found

    def time_since(self, start: Event) -> float:
        """Return the milliseconds from an earlier event."""
        return start.time_till(self)


class PointerHolderBase:
    """What stands for an address; subclass it and define ``get_pointer``."""

    def get_pointer(self) -> int:
        """Return the address."""
        raise NotImplementedError(f"{type(self).__name__} must define get_pointer")

    def __int__(self) -> int:
        return int(self.get_pointer())

    __index__ = __int__


class DeviceAllocation:
    """Device memory, given back with the object."""

    def __init__(self, size_bytes: int) -> None:
        self._address = int(call("cudaMalloc", size_bytes))
        self.size = size_bytes
        self._end = weakref.finalize(self, call, "cudaFree", self._address)

    def free(self) -> None:
        """Give the memory back now."""
        self._end()

    def __int__(self) -> int:
        return self._address

    __index__ = __int__


class PinnedArray(np.ndarray[Any, Any]):
    """An array in page-locked memory; ``base`` owns the memory."""


def mem_alloc(bytes: int) -> DeviceAllocation:
    """Return new device memory."""
    return DeviceAllocation(int(bytes))


def mem_alloc_like(array: Array) -> DeviceAllocation:
    """Return device memory for an array."""
    return DeviceAllocation(array.nbytes)


def to_device(buffer: Any) -> DeviceAllocation:
    """Return device memory with a copy of a buffer."""
    memory = DeviceAllocation(memoryview(buffer).nbytes)
    memcpy_htod(memory, buffer)
    return memory


def from_device(devptr: Any, shape: Any, dtype: Any, order: str = "C") -> Array:
    """Return a copy of device memory as an array."""
    array = np.empty(shape, dtype, order)  # type: ignore[call-overload]
    memcpy_dtoh(array, devptr)
    return array  # type: ignore[no-any-return]


def from_device_like(devptr: Any, other: Array) -> Array:
    """Return a copy of device memory as an array like another one."""
    array = np.empty_like(other)
    memcpy_dtoh(array, devptr)
    return array


def _buffer(x: Any) -> tuple[int, int]:
    """Return address and bytes of host memory."""
    array = x if isinstance(x, np.ndarray) else np.frombuffer(x, np.uint8)
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        raise ValueError("ndarray is not contiguous")
    return array.__array_interface__["data"][0], array.nbytes


def _stream(stream: Any) -> int:
    return 0 if stream is None else int(getattr(stream, "handle", stream))


def memcpy_htod(dest: Any, src: Any) -> None:
    """Copy from the host to the device."""
    address, size = _buffer(src)
    call("cudaMemcpy", int(dest), address, size, _Kind.cudaMemcpyHostToDevice)


def memcpy_htod_async(dest: Any, src: Any, stream: Any = None) -> None:
    """Copy from the host to the device in the order of a stream."""
    address, size = _buffer(src)
    kind = _Kind.cudaMemcpyHostToDevice
    call("cudaMemcpyAsync", int(dest), address, size, kind, _stream(stream))


def memcpy_dtoh(dest: Any, src: Any) -> None:
    """Copy from the device to the host."""
    address, size = _buffer(dest)
    call("cudaMemcpy", address, int(src), size, _Kind.cudaMemcpyDeviceToHost)


def memcpy_dtoh_async(dest: Any, src: Any, stream: Any = None) -> None:
    """Copy from the device to the host in the order of a stream."""
    address, size = _buffer(dest)
    kind = _Kind.cudaMemcpyDeviceToHost
    call("cudaMemcpyAsync", address, int(src), size, kind, _stream(stream))


def memcpy_dtod(dest: Any, src: Any, size: int) -> None:
    """Copy on the device."""
    call("cudaMemcpy", int(dest), int(src), size, _Kind.cudaMemcpyDeviceToDevice)


def memcpy_dtod_async(dest: Any, src: Any, size: int, stream: Any = None) -> None:
    """Copy on the device in the order of a stream."""
    kind = _Kind.cudaMemcpyDeviceToDevice
    call("cudaMemcpyAsync", int(dest), int(src), size, kind, _stream(stream))


def memset_d8(dest: Any, data: int, count: int) -> None:
    """Set bytes."""
    call("cudaMemset", int(dest), data, count)


def memset_d8_async(dest: Any, data: int, count: int, stream: Any = None) -> None:
    """Set bytes in the order of a stream."""
    call("cudaMemsetAsync", int(dest), data, count, _stream(stream))


def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> Array:
    """Return an array in page-locked memory."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    address = int(call("cudaMallocHost", max(size, 1)))
    owner = _HostMemory(address, size)
    flat = np.asarray(owner).view(PinnedArray)
    return flat.view(kind).reshape(shape, order=order)  # type: ignore[arg-type]


class _HostMemory:
    """Page-locked memory, given back when no array uses it any more."""

    def __init__(self, address: int, size_bytes: int) -> None:
        self.__array_interface__ = {
            "data": (address, False),
            "shape": (size_bytes,),
            "typestr": "|u1",
            "version": 3,
        }
        weakref.finalize(self, call, "cudaFreeHost", address)


def pagelocked_zeros(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> Array:
    """Return an array of zeros in page-locked memory."""
    array = pagelocked_empty(shape, dtype, order, mem_flags)
    array[...] = 0
    return array


def pagelocked_empty_like(array: Array, mem_flags: int = 0) -> Array:
    """Return an array like another one in page-locked memory."""
    return pagelocked_empty(array.shape, array.dtype)


def pagelocked_zeros_like(array: Array, mem_flags: int = 0) -> Array:
    """Return an array of zeros like another one in page-locked memory."""
    return pagelocked_zeros(array.shape, array.dtype)


def register_host_memory(array: Array, flags: int = 0) -> Array:
    """Return an array, which may stay where it is."""
    return array


__all__ = [
    "Context",
    "Device",
    "DeviceAllocation",
    "Error",
    "Event",
    "LaunchError",
    "LogicError",
    "MemoryError",
    "PointerHolderBase",
    "RuntimeError",
    "Stream",
    "ctx_flags",
    "event_flags",
    "from_device",
    "from_device_like",
    "get_driver_version",
    "get_version",
    "host_alloc_flags",
    "init",
    "mem_alloc",
    "mem_alloc_like",
    "mem_get_info",
    "mem_host_register_flags",
    "memcpy_dtod",
    "memcpy_dtod_async",
    "memcpy_dtoh",
    "memcpy_dtoh_async",
    "memcpy_htod",
    "memcpy_htod_async",
    "memset_d8",
    "memset_d8_async",
    "pagelocked_empty",
    "pagelocked_empty_like",
    "pagelocked_zeros",
    "pagelocked_zeros_like",
    "register_host_memory",
    "to_device",
]
