"""CUDA's runtime in host memory: every function returns ``(error, results…)``.

Addresses and handles are integers, or anything that ``int`` takes.  What needs a GPU (kernels,
graphs) returns ``cudaErrorNotSupported``.
"""

from __future__ import annotations

import platform
from enum import IntEnum, IntFlag
from typing import Any

from lamina_stand_ins import handles, memory

IS_STAND_IN = True
CUDART_VERSION = 13000
cudaHostAllocDefault, cudaHostAllocPortable, cudaHostAllocMapped = 0, 1, 2
cudaStreamDefault, cudaStreamNonBlocking = 0, 1
cudaEventDefault, cudaEventBlockingSync, cudaEventDisableTiming = 0, 1, 2
cudaMemAttachGlobal, cudaMemAttachHost = 1, 2
cudaStreamLegacy, cudaStreamPerThread = 1, 2


class cudaError_t(IntEnum):
    """Errors."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInvalidMemcpyDirection = 21
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorNotSupported = 801
    cudaErrorUnknown = 999


class cudaMemcpyKind(IntEnum):
    """Directions of copies."""

    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3
    cudaMemcpyDefault = 4


class cudaStreamCaptureMode(IntEnum):
    """How strict capturing is."""

    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class cudaStreamCaptureStatus(IntEnum):
    """Whether a stream is being captured."""

    cudaStreamCaptureStatusNone = 0
    cudaStreamCaptureStatusActive = 1
    cudaStreamCaptureStatusInvalidated = 2


class cudaEventFlags(IntFlag):
    """Options of events."""

    Default = 0
    BlockingSync = 1
    DisableTiming = 2


class cudaDeviceProp:
    """What a device says about itself: this one is the CPU."""

    def __init__(self) -> None:
        _, total = memory.info()
        self.name = (platform.processor() or platform.machine()).encode()
        self.major, self.minor = 0, 0
        self.totalGlobalMem = total
        self.multiProcessorCount = 1
        self.sharedMemPerBlock = self.sharedMemPerMultiprocessor = 0
        self.l2CacheSize = self.clockRate = self.memoryClockRate = self.memoryBusWidth = 0
        self.warpSize = 1
        self.pciDomainID = self.pciBusID = self.pciDeviceID = 0
        self.integrated = self.unifiedAddressing = self.managedMemory = 1


_OK = cudaError_t.cudaSuccess
_INVALID = cudaError_t.cudaErrorInvalidValue
_HANDLE = cudaError_t.cudaErrorInvalidResourceHandle
_NO_GPU = cudaError_t.cudaErrorNotSupported
Error = cudaError_t
Status = tuple[cudaError_t]
_last = [_OK]


def _done(error: cudaError_t, *results: Any) -> Any:
    if error != _OK:
        _last[0] = error
    return (error, *results)


def _checked(good: bool, otherwise: cudaError_t) -> Any:
    return _done(_OK if good else otherwise)


def _malloc(size: int) -> Any:
    try:
        return _done(_OK, memory.allocate(int(size)))
    except MemoryError:
        return _done(cudaError_t.cudaErrorMemoryAllocation, 0)


def cudaMalloc(size: int) -> tuple[Error, int]:
    """Return new device memory."""
    return _malloc(size)


def cudaMallocAsync(size: int, stream: Any) -> tuple[Error, int]:
    """Return new device memory in the order of a stream."""
    return _malloc(size) if handles.is_stream(int(stream or 0)) else _done(_HANDLE, 0)


def cudaMallocHost(size: int) -> tuple[Error, int]:
    """Return new host memory."""
    return _malloc(size)


def cudaHostAlloc(size: int, flags: int) -> tuple[Error, int]:
    """Return new host memory."""
    return _malloc(size)


def cudaMallocManaged(size: int, flags: int) -> tuple[Error, int]:
    """Return memory of both host and device."""
    return _malloc(size)


def cudaFree(pointer: Any) -> Status:
    """Give device memory back."""
    return _checked(memory.release(int(pointer or 0)), _INVALID)


def cudaFreeAsync(pointer: Any, stream: Any) -> Status:
    """Give device memory back in the order of a stream."""
    return cudaFree(pointer)


def cudaFreeHost(pointer: Any) -> Status:
    """Give host memory back."""
    return cudaFree(pointer)


def cudaHostRegister(pointer: Any, size: int, flags: int) -> Status:
    """Accept host memory as it is."""
    return _done(_OK)


def cudaHostUnregister(pointer: Any) -> Status:
    """Accept host memory as it is."""
    return _done(_OK)


def cudaHostGetDevicePointer(pointer: Any, flags: int) -> tuple[Error, int]:
    """Return the same address."""
    return _done(_OK, int(pointer))


def cudaMemcpy(destination: Any, source: Any, count: int, kind: Any) -> Status:
    """Copy bytes."""
    to, origin = _address(destination), _address(source)
    if count and not (to and origin):
        return _done(_INVALID)
    if int(kind) not in range(5):
        return _done(cudaError_t.cudaErrorInvalidMemcpyDirection)
    memory.copy(to, origin, int(count))
    return _done(_OK)


def cudaMemcpyAsync(destination: Any, source: Any, count: int, kind: Any, stream: Any) -> Status:
    """Copy bytes in the order of a stream."""
    if not handles.is_stream(int(stream or 0)):
        return _done(_HANDLE)
    return cudaMemcpy(destination, source, count, kind)


def cudaMemset(pointer: Any, value: int, count: int) -> Status:
    """Set bytes."""
    if count and not int(pointer or 0):
        return _done(_INVALID)
    memory.fill(int(pointer), value, int(count))
    return _done(_OK)


def cudaMemsetAsync(pointer: Any, value: int, count: int, stream: Any) -> Status:
    """Set bytes in the order of a stream."""
    return cudaMemset(pointer, value, count)


def cudaMemGetInfo() -> tuple[Error, int, int]:
    """Return free and total bytes."""
    return _done(_OK, *memory.info())


def _address(x: Any) -> int:
    """Return the address of what the bindings take for one: a number or a buffer."""
    if x is None:
        return 0
    if hasattr(x, "__array_interface__"):
        found: int = x.__array_interface__["data"][0]
        return found
    return int(x)


def cudaStreamCreate() -> tuple[Error, int]:
    """Return a new stream."""
    return _done(_OK, handles.new_stream())


def cudaStreamCreateWithFlags(flags: int) -> tuple[Error, int]:
    """Return a new stream."""
    return cudaStreamCreate()


def cudaStreamCreateWithPriority(flags: int, priority: int) -> tuple[Error, int]:
    """Return a new stream."""
    return cudaStreamCreate()


def cudaStreamSynchronize(stream: Any) -> Status:
    """Wait for a stream, whose work is always done."""
    return _checked(handles.is_stream(int(stream or 0)), _HANDLE)


def cudaStreamQuery(stream: Any) -> Status:
    """Tell whether the work on a stream is done, which it is."""
    return cudaStreamSynchronize(stream)


def cudaStreamWaitEvent(stream: Any, event: Any, flags: int = 0) -> Status:
    """Let a stream wait for an event."""
    good = handles.is_stream(int(stream or 0)) and handles.is_event(int(event))
    return _checked(good, _HANDLE)


def cudaStreamDestroy(stream: Any) -> Status:
    """Give a stream back."""
    return _checked(handles.end_stream(int(stream or 0)), _HANDLE)


def cudaStreamBeginCapture(stream: Any, mode: Any) -> Status:
    """Refuse: there are no graphs on a CPU."""
    return _done(_NO_GPU)


def cudaStreamEndCapture(stream: Any) -> tuple[Error, None]:
    """Refuse: there are no graphs on a CPU."""
    return _done(_NO_GPU, None)


def cudaStreamIsCapturing(stream: Any) -> tuple[Error, cudaStreamCaptureStatus]:
    """Tell whether a stream is being captured, which it never is."""
    known = handles.is_stream(int(stream or 0))
    return _done(_OK if known else _HANDLE, cudaStreamCaptureStatus.cudaStreamCaptureStatusNone)


def cudaGraphInstantiate(graph: Any, flags: int) -> tuple[Error, None]:
    """Refuse: there are no graphs on a CPU."""
    return _done(_NO_GPU, None)


def cudaGraphInstantiateWithFlags(graph: Any, flags: int) -> tuple[Error, None]:
    """Refuse: there are no graphs on a CPU."""
    return cudaGraphInstantiate(graph, flags)


def cudaGraphUpload(executable: Any, stream: Any) -> Status:
    """Refuse: there are no graphs on a CPU."""
    return _done(_NO_GPU)


def cudaGraphLaunch(executable: Any, stream: Any) -> Status:
    """Refuse: there are no graphs on a CPU."""
    return _done(_NO_GPU)


def cudaGraphDestroy(graph: Any) -> Status:
    """Refuse: there are no graphs on a CPU."""
    return _done(_NO_GPU)


def cudaGraphExecDestroy(executable: Any) -> Status:
    """Refuse: there are no graphs on a CPU."""
    return _done(_NO_GPU)


def cudaEventCreate() -> tuple[Error, int]:
    """Return a new event."""
    return _done(_OK, handles.new_event())


def cudaEventCreateWithFlags(flags: int) -> tuple[Error, int]:
    """Return a new event."""
    return cudaEventCreate()


def cudaEventRecord(event: Any, stream: Any = 0) -> Status:
    """Let an event stand for the work on a stream so far."""
    return _checked(handles.record(int(event)), _HANDLE)


def cudaEventSynchronize(event: Any) -> Status:
    """Wait for an event, which has happened."""
    return _checked(handles.is_event(int(event)), _HANDLE)


def cudaEventQuery(event: Any) -> Status:
    """Tell whether an event has happened, which it has."""
    return cudaEventSynchronize(event)


def cudaEventElapsedTime(start: Any, end: Any) -> tuple[Error, float]:
    """Return the milliseconds between two events."""
    found = handles.milliseconds(int(start), int(end))
    return _done(_HANDLE, 0.0) if found is None else _done(_OK, found)


def cudaEventDestroy(event: Any) -> Status:
    """Give an event back."""
    return _checked(handles.end_event(int(event)), _HANDLE)


def cudaDeviceSynchronize() -> Status:
    """Wait for the device, whose work is always done."""
    return _done(_OK)


def cudaDeviceReset() -> Status:
    """Do nothing: there is no state."""
    return _done(_OK)


def cudaSetDevice(device: int) -> Status:
    """Choose a device: there is number 0."""
    return _checked(int(device) == 0, cudaError_t.cudaErrorInvalidDevice)


def cudaGetDevice() -> tuple[Error, int]:
    """Return the number of the device."""
    return _done(_OK, 0)


def cudaGetDeviceCount() -> tuple[Error, int]:
    """Return the number of devices: one stands in."""
    return _done(_OK, 1)


def cudaGetDeviceProperties(device: int) -> tuple[Error, cudaDeviceProp | None]:
    """Return what a device says about itself."""
    if int(device):
        return _done(cudaError_t.cudaErrorInvalidDevice, None)
    return _done(_OK, cudaDeviceProp())


def cudaRuntimeGetVersion() -> tuple[Error, int]:
    """Return the version of this interface."""
    return _done(_OK, CUDART_VERSION)


def cudaDriverGetVersion() -> tuple[Error, int]:
    """Return the version of the driver: there is none."""
    return _done(_OK, 0)


def cudaGetLastError() -> Status:
    """Return the last error and forget it."""
    error, _last[0] = _last[0], _OK
    return (error,)


def cudaPeekAtLastError() -> Status:
    """Return the last error."""
    return (_last[0],)


def cudaGetErrorName(error: Any) -> tuple[Error, bytes]:
    """Return the name of an error."""
    return _done(_OK, cudaError_t(int(error)).name.encode())


def cudaGetErrorString(error: Any) -> tuple[Error, bytes]:
    """Return a sentence about an error."""
    words = cudaError_t(int(error)).name.removeprefix("cuda").removeprefix("Error")
    text = "".join(f" {c.lower()}" if c.isupper() else c for c in words).strip()
    return _done(_OK, text.encode())
