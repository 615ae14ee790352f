"""CUDA's driver in host memory: every function returns ``(error, results…)``.

Addresses and handles are integers, or anything that ``int`` takes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from lamina_stand_ins import handles, memory

IS_STAND_IN = True
CUDA_VERSION = 13000


class CUresult(IntEnum):
    """Errors."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_DEVICE = 101
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_NOT_SUPPORTED = 801


class CUstream_flags(IntEnum):
    """Options of streams."""

    CU_STREAM_DEFAULT = 0
    CU_STREAM_NON_BLOCKING = 1


class CUevent_flags(IntEnum):
    """Options of events."""

    CU_EVENT_DEFAULT = 0
    CU_EVENT_BLOCKING_SYNC = 1
    CU_EVENT_DISABLE_TIMING = 2


class CUctx_flags(IntEnum):
    """Options of contexts."""

    CU_CTX_SCHED_AUTO = 0
    CU_CTX_SCHED_SPIN = 1
    CU_CTX_SCHED_BLOCKING_SYNC = 4


class CUdevice_attribute(IntEnum):
    """Numbers that devices have."""

    CU_DEVICE_ATTRIBUTE_WARP_SIZE = 10
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class CUdeviceptr(int):
    """An address."""


class CUstream(int):
    """A stream."""


_OK = CUresult.CUDA_SUCCESS
_INVALID = CUresult.CUDA_ERROR_INVALID_VALUE
_HANDLE = CUresult.CUDA_ERROR_INVALID_HANDLE
_CONTEXT = 1
Status = tuple[CUresult]


def cuInit(flags: int) -> Status:
    """Do nothing: there is nothing to start."""
    return (_OK,)


def cuDriverGetVersion() -> tuple[CUresult, int]:
    """Return the version of the driver: there is none."""
    return (_OK, 0)


def cuDeviceGetCount() -> tuple[CUresult, int]:
    """Return the number of devices: one stands in."""
    return (_OK, 1)


def cuDeviceGet(ordinal: int) -> tuple[CUresult, int]:
    """Return a device."""
    return (_OK if ordinal == 0 else CUresult.CUDA_ERROR_INVALID_DEVICE, 0)


def cuDeviceGetName(length: int, device: Any) -> tuple[CUresult, bytes]:
    """Return the name of a device."""
    return (_OK, b"CPU"[:length])


def cuDeviceTotalMem(device: Any) -> tuple[CUresult, int]:
    """Return the bytes of a device."""
    return (_OK, memory.info()[1])


def cuDeviceGetAttribute(attribute: Any, device: Any) -> tuple[CUresult, int]:
    """Return a number that a device has."""
    ones = (
        CUdevice_attribute.CU_DEVICE_ATTRIBUTE_WARP_SIZE,
        CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
    )
    return (_OK, int(attribute in ones))


def cuCtxCreate(*arguments: Any) -> tuple[CUresult, int]:
    """Return a context."""
    return (_OK, _CONTEXT)


def cuDevicePrimaryCtxRetain(device: Any) -> tuple[CUresult, int]:
    """Return the context of a device."""
    return (_OK, _CONTEXT)


def cuDevicePrimaryCtxRelease(device: Any) -> Status:
    """Give the context of a device back."""
    return (_OK,)


def cuCtxSetCurrent(context: Any) -> Status:
    """Make a context current."""
    return (_OK,)


def cuCtxGetCurrent() -> tuple[CUresult, int]:
    """Return the current context."""
    return (_OK, _CONTEXT)


def cuCtxPushCurrent(context: Any) -> Status:
    """Make a context current."""
    return (_OK,)


def cuCtxPopCurrent() -> tuple[CUresult, int]:
    """Return the context that was current."""
    return (_OK, _CONTEXT)


def cuCtxDestroy(context: Any) -> Status:
    """Give a context back."""
    return (_OK,)


def cuCtxSynchronize() -> Status:
    """Wait for the device, whose work is always done."""
    return (_OK,)


def cuMemAlloc(size: int) -> tuple[CUresult, CUdeviceptr]:
    """Return new memory."""
    try:
        return (_OK, CUdeviceptr(memory.allocate(int(size))))
    except MemoryError:
        return (CUresult.CUDA_ERROR_OUT_OF_MEMORY, CUdeviceptr(0))


def cuMemAllocHost(size: int) -> tuple[CUresult, CUdeviceptr]:
    """Return new host memory."""
    return cuMemAlloc(size)


def cuMemAllocAsync(size: int, stream: Any) -> tuple[CUresult, CUdeviceptr]:
    """Return new memory in the order of a stream."""
    return cuMemAlloc(size)


def cuMemFree(pointer: Any) -> Status:
    """Give memory back."""
    return (_OK if memory.release(int(pointer or 0)) else _INVALID,)


def cuMemFreeHost(pointer: Any) -> Status:
    """Give host memory back."""
    return cuMemFree(pointer)


def cuMemFreeAsync(pointer: Any, stream: Any) -> Status:
    """Give memory back in the order of a stream."""
    return cuMemFree(pointer)


def cuMemGetInfo() -> tuple[CUresult, int, int]:
    """Return free and total bytes."""
    return (_OK, *memory.info())


def _copy(destination: Any, source: Any, count: int) -> Status:
    to, origin = (
        x.__array_interface__["data"][0] if hasattr(x, "__array_interface__") else int(x or 0)
        for x in (destination, source)
    )
    if count and not (to and origin):
        return (_INVALID,)
    memory.copy(to, origin, int(count))
    return (_OK,)


def cuMemcpy(destination: Any, source: Any, count: int) -> Status:
    """Copy bytes."""
    return _copy(destination, source, count)


cuMemcpyHtoD = cuMemcpyDtoH = cuMemcpyDtoD = cuMemcpy


def cuMemcpyAsync(destination: Any, source: Any, count: int, stream: Any) -> Status:
    """Copy bytes in the order of a stream."""
    return _copy(destination, source, count)


cuMemcpyHtoDAsync = cuMemcpyDtoHAsync = cuMemcpyDtoDAsync = cuMemcpyAsync


def cuMemsetD8(pointer: Any, value: int, count: int) -> Status:
    """Set bytes."""
    memory.fill(int(pointer), value, int(count))
    return (_OK,)


def cuStreamCreate(flags: Any) -> tuple[CUresult, CUstream]:
    """Return a new stream."""
    return (_OK, CUstream(handles.new_stream()))


def cuStreamSynchronize(stream: Any) -> Status:
    """Wait for a stream, whose work is always done."""
    return (_OK if handles.is_stream(int(stream or 0)) else _HANDLE,)


def cuStreamDestroy(stream: Any) -> Status:
    """Give a stream back."""
    return (_OK if handles.end_stream(int(stream or 0)) else _HANDLE,)


def cuEventCreate(flags: Any) -> tuple[CUresult, int]:
    """Return a new event."""
    return (_OK, handles.new_event())


def cuEventRecord(event: Any, stream: Any = 0) -> Status:
    """Let an event stand for the work on a stream so far."""
    return (_OK if handles.record(int(event)) else _HANDLE,)


def cuEventSynchronize(event: Any) -> Status:
    """Wait for an event, which has happened."""
    return (_OK if handles.is_event(int(event)) else _HANDLE,)


def cuEventElapsedTime(start: Any, end: Any) -> tuple[CUresult, float]:
    """Return the milliseconds between two events."""
    found = handles.milliseconds(int(start), int(end))
    return (_HANDLE, 0.0) if found is None else (_OK, found)


def cuEventDestroy(event: Any) -> Status:
    """Give an event back."""
    return (_OK if handles.end_event(int(event)) else _HANDLE,)


def cuGetErrorName(error: Any) -> tuple[CUresult, bytes]:
    """Return the name of an error."""
    return (_OK, CUresult(int(error)).name.encode())


def cuGetErrorString(error: Any) -> tuple[CUresult, bytes]:
    """Return a sentence about an error."""
    words = CUresult(int(error)).name.removeprefix("CUDA_").removeprefix("ERROR_")
    return (_OK, words.replace("_", " ").lower().encode())
