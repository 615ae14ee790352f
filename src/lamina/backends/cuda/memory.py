"""Memory that is given back by itself, and errors that say what it was for."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import weakref
from typing import Final

import numpy as np
import numpy.typing as npt

from lamina.backends.cuda.device import Device, OutOfMemory, current
from lamina.errors import DeviceError
from lamina.runtime.driver import Allocator

ALIGN_BYTES: Final = 256

Bytes = npt.NDArray[np.uint8]


class Stream:
    """A stream of ours, destroyed when nobody refers to it any more, or one of the user's."""

    def __init__(self, device: Device, handle: int | None = None) -> None:
        self.device, self._own = device, handle is None
        self.handle = device.stream() if handle is None else handle

    def __del__(self) -> None:
        if not getattr(self, "_own", False) or sys.is_finalizing() or not hasattr(self, "handle"):
            return
        with contextlib.suppress(DeviceError), current(self.device):
            self.device.destroy_stream(self.handle)


class Buffer:
    """Device memory, given back in the order of its stream when nobody refers to it any more."""

    def __init__(
        self, size_bytes: int, what: str, stream: Stream, allocator: Allocator | None
    ) -> None:
        self.pointer = 0
        self.size_bytes, self.stream, self._allocator = size_bytes, stream, allocator
        if size_bytes:
            self.pointer = self._allocate(what)

    def _allocate(self, what: str) -> int:
        device = self.stream.device
        try:
            if self._allocator is None:
                return device.allocate(self.size_bytes, self.stream.handle)
            return self._allocator.allocate(self.size_bytes, self.stream.handle)
        except (OutOfMemory, MemoryError) as e:
            free, total = device.memory_info()
            raise OutOfMemory(
                f"{device.name} has no {self.size_bytes} bytes for {what} "
                f"({free} of {total} are free)",
                hint="use smaller shapes or fewer contexts, or free other memory of the device",
            ) from e

    def __del__(self) -> None:
        if not self.pointer or sys.is_finalizing():
            return
        device, stream = self.stream.device, self.stream.handle
        with contextlib.suppress(DeviceError), current(device):
            if self._allocator is None:
                device.free(self.pointer, self.size_bytes, stream)
            else:
                self._allocator.free(self.pointer, self.size_bytes, stream)


class Memory:
    """Gives memory of one device; counts nothing and keeps nothing."""

    def __init__(self, device: Device, allocator: Allocator | None = None) -> None:
        self.device, self.allocator = device, allocator

    def buffer(self, size_bytes: int, what: str, stream: Stream) -> Buffer:
        """Return new memory; DeviceError says how much was wanted and what for."""
        return Buffer(size_bytes, what, stream, self.allocator)

    def pinned(self, size_bytes: int) -> Bytes:
        """Return page-locked host memory, which goes when no array uses it any more."""
        device = self.device
        if not size_bytes:
            return np.empty(0, np.uint8)
        try:
            pointer = device.allocate_host(size_bytes)
        except OutOfMemory as e:
            raise DeviceError(
                f"the host has no {size_bytes} bytes of page-locked memory for inputs and outputs",
                hint="pass device arrays, or raise the limit on locked memory (ulimit -l)",
            ) from e
        block = (ctypes.c_uint8 * size_bytes).from_address(pointer)
        # At exit the driver takes back what is left.
        weakref.finalize(block, _free_host, device, pointer).atexit = False
        return np.ctypeslib.as_array(block)


class SharedBuffer:
    """Memory that the instances of a runner take turns with; it grows to the largest of them.

    ``generation`` grows when the memory moves.
    """

    def __init__(self, memory: Memory, stream: Stream) -> None:
        self._memory, self._stream = memory, stream
        self._buffer: Buffer | None = None
        self.generation = 0

    def reserve(self, size_bytes: int, what: str) -> int:
        """Return the address of at least so many bytes, for work on any stream."""
        if self._buffer is None or self._buffer.size_bytes < size_bytes:
            self._buffer = None  # it goes first: there may not be room for both
            self.generation += 1
            self._buffer = self._memory.buffer(size_bytes, what, self._stream)
            self._memory.device.synchronize(self._stream.handle)
        return self._buffer.pointer

    @property
    def size_bytes(self) -> int:
        """Bytes that it holds now."""
        return 0 if self._buffer is None else self._buffer.size_bytes

    def drop(self) -> None:
        """Give the memory back."""
        self._buffer = None


class Staging:
    """A block of device memory and one of page-locked memory, for host arrays on their way."""

    def __init__(self, memory: Memory, stream: Stream) -> None:
        self._memory = memory
        self._block = SharedBuffer(memory, stream)
        self.pinned: Bytes = np.empty(0, np.uint8)

    def reserve(self, size_bytes: int) -> int:
        """Return the address of the block on the device; both have at least so many bytes."""
        pointer = self._block.reserve(size_bytes, "staging of inputs and outputs")
        if self.pinned.size < size_bytes:
            self.pinned = self._memory.pinned(size_bytes)
        return pointer

    @property
    def size_bytes(self) -> int:
        """Bytes of the block on the device."""
        return self._block.size_bytes

    def drop(self) -> None:
        """Give the memory back."""
        self._block.drop()
        self.pinned = np.empty(0, np.uint8)


def _free_host(device: Device, pointer: int) -> None:
    with contextlib.suppress(DeviceError), current(device):
        device.free_host(pointer)


def aligned(size_bytes: int) -> int:
    """Round up to a whole unit of alignment."""
    return -(-size_bytes // ALIGN_BYTES) * ALIGN_BYTES
