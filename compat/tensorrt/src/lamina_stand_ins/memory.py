"""Memory of a device that is the host."""

from __future__ import annotations

import ctypes
import os
import threading

_ALIGN_BYTES = 256
_libc = ctypes.CDLL(None)
_libc.posix_memalign.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]

_lock = threading.Lock()
_sizes: dict[int, int] = {}


def allocate(size_bytes: int) -> int:
    """Return the address of new memory, 0 for no bytes; raises MemoryError."""
    if size_bytes <= 0:
        return 0
    pointer = ctypes.c_void_p()
    if _libc.posix_memalign(ctypes.byref(pointer), _ALIGN_BYTES, size_bytes) or not pointer.value:
        raise MemoryError(f"there are no {size_bytes} bytes")
    with _lock:
        _sizes[pointer.value] = size_bytes
    return pointer.value


def release(address: int) -> bool:
    """Give memory back; returns whether it was allocated here (nothing at address 0 is too)."""
    if address == 0:
        return True
    with _lock:
        known = _sizes.pop(address, None) is not None
    if known:
        _libc.free(address)
    return known


def copy(destination: int, source: int, size_bytes: int) -> None:
    """Copy bytes."""
    if size_bytes:
        ctypes.memmove(destination, source, size_bytes)


def fill(address: int, byte: int, size_bytes: int) -> None:
    """Set bytes."""
    if size_bytes:
        ctypes.memset(address, byte & 0xFF, size_bytes)


def info() -> tuple[int, int]:
    """Return free and total bytes of the machine."""
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page
