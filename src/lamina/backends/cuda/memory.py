"""Memory that is given back by itself, and errors that say what it was for."""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from lamina.backends.cuda.device import Device, Handle, OutOfMemory, current
from lamina.errors import DeviceError
from lamina.runtime.driver import Allocator
from lamina.runtime.lent import LentMemory

ALIGN_BYTES: Final = 256

_PINNED_UNIT: Final = 1 << 20
_KEPT_PINNED: Final = 4
"""Blocks that are kept for refits: two for all weights, two for what goes with them."""

Bytes = npt.NDArray[np.uint8]


class Event:
    """An event of ours, given back when nobody refers to it any more."""

    def __init__(self, device: Device) -> None:
        self.handle = device.event()
        at_end(self, _give_event_back, device, self.handle)


class _Pending:
    """What a stream of ours has to wait for before memory goes, and what it keeps."""

    def __init__(self) -> None:
        self.elsewhere: Event | None = None
        self.kept: set[object] = set()


class Stream:
    """A stream of ours, destroyed when nothing needs it any more, or one of the user's.

    Memory of a stream is given back behind the work on it, and behind ``elsewhere``: the end of
    work with the same memory on a stream of the user's.
    """

    def __init__(self, device: Device, handle: int | None = None) -> None:
        self.device, self._pending = device, _Pending()
        self.handle = device.stream() if handle is None else handle
        if handle is None:
            at_end(self, _end_stream, device, self.handle, self._pending)

    def keep(self, thing: object) -> None:
        """Let something live until the work on the stream has ended, such as the code it runs."""
        self._pending.kept.add(thing)

    def behind(self, elsewhere: Event) -> None:
        """From now on wait for an event before memory is given back."""
        self._pending.elsewhere = elsewhere

    def settle(self) -> None:
        """Let later work wait for what was left elsewhere."""
        _settle(self.device, self.handle, self._pending)


class Buffer:
    """Device memory, given back in the order of its stream when nobody refers to it any more."""

    def __init__(
        self, size_bytes: int, what: str, stream: Stream, allocator: Allocator | None
    ) -> None:
        self.pointer = 0
        self.size_bytes, self.stream = size_bytes, stream
        if size_bytes:
            self.pointer = self._allocate(what, allocator)
            at_end(self, _give_back, stream, allocator, self.pointer, size_bytes)

    def _allocate(self, what: str, allocator: Allocator | None) -> int:
        device = self.stream.device
        try:
            if allocator is None:
                return device.allocate(self.size_bytes, self.stream.handle)
            return allocator.allocate(self.size_bytes, self.stream.handle)
        except (OutOfMemory, MemoryError) as e:
            free, total = device.memory_info()
            raise OutOfMemory(
                f"{device.name} has no {self.size_bytes} bytes for {what} "
                f"({free} of {total} are free)",
                hint="use smaller shapes or fewer contexts, or free other memory of the device",
            ) from e


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
        at_end(block, _free_host, device, pointer)
        return np.ctypeslib.as_array(block)


class PinnedPool:
    """Page-locked memory that is used again: to lock pages takes longer than to fill them.

    Some of what nothing uses any more is kept.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        # No lock: memory comes back from the garbage collector too, at any point of any thread.
        self._free: deque[Bytes] = deque(maxlen=_KEPT_PINNED)

    def take(self, size_bytes: int) -> Bytes:
        """Return so many bytes of page-locked memory, whatever is in them."""
        if not size_bytes:
            return np.empty(0, np.uint8)
        whole = self._block(-(-size_bytes // _PINNED_UNIT) * _PINNED_UNIT)
        block = (ctypes.c_uint8 * whole.size).from_buffer(whole.data)
        at_end(block, self._free.append, whole)
        return np.ctypeslib.as_array(block)[:size_bytes]

    def _block(self, size_bytes: int) -> Bytes:
        for _ in range(len(self._free)):
            with contextlib.suppress(IndexError):  # another thread took the last one
                block = self._free.popleft()
                if block.size == size_bytes:
                    return block
                self._free.append(block)
        return self._memory.pinned(size_bytes)


class SharedBuffer:
    """Memory that the instances of a runner take turns with; it grows to the largest of them.

    ``generation`` grows when the memory moves.
    """

    def __init__(self, memory: Memory, stream: Stream) -> None:
        self._memory, self._stream = memory, stream
        self._buffer: Buffer | None = None
        self._lent: LentMemory | None = None
        self.generation = 0

    def lend(self, memory: LentMemory | None) -> None:
        """Use the user's memory from now on, None for memory of its own."""
        if memory != self._lent:
            self._lent, self._buffer = memory, None
            self.generation += 1

    def with_memory(self, memory: Memory) -> SharedBuffer:
        """Return an empty buffer that takes its memory elsewhere."""
        other = SharedBuffer(memory, self._stream)
        other._lent, other.generation = self._lent, self.generation + 1
        return other

    def reserve(self, size_bytes: int, what: str) -> int:
        """Return the address of at least so many bytes, for work on any stream."""
        if self._lent is not None:
            return self._lent.place(size_bytes)
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


def at_end(of: object, call: Callable[..., None], *needs: object) -> None:
    """Call ``call(*needs)`` once nobody refers to ``of`` any more.

    Objects of one garbage cycle end in any order.  What a call needs is held by it, so that this
    cannot end first.  When the process exits nothing is called: the driver takes back what is left.
    """
    weakref.finalize(of, call, *needs).atexit = False


def _give_event_back(device: Device, event: Handle) -> None:
    with contextlib.suppress(DeviceError), current(device):
        device.destroy_event(event)


def _settle(device: Device, stream: int, pending: _Pending) -> None:
    if pending.elsewhere is not None:
        device.wait(stream, pending.elsewhere.handle)


def _end_stream(device: Device, stream: int, pending: _Pending) -> None:
    with contextlib.suppress(DeviceError), current(device):
        if pending.kept:
            _settle(device, stream, pending)
            device.synchronize(stream)
        device.destroy_stream(stream)


def _give_back(stream: Stream, allocator: Allocator | None, pointer: int, size_bytes: int) -> None:
    device = stream.device
    with contextlib.suppress(DeviceError), current(device):
        stream.settle()
        if allocator is None:
            device.free(pointer, size_bytes, stream.handle)
        else:
            allocator.free(pointer, size_bytes, stream.handle)


def _free_host(device: Device, pointer: int) -> None:
    with contextlib.suppress(DeviceError), current(device):
        device.free_host(pointer)


def aligned(size_bytes: int) -> int:
    """Round up to a whole unit of alignment."""
    return -(-size_bytes // ALIGN_BYTES) * ALIGN_BYTES
