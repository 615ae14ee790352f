"""Memory for new constants."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections import deque
from collections.abc import Hashable, Mapping
from contextlib import suppress
from typing import Final, TypeVar

import numpy as np

from lamina.errors import DeviceError
from lamina.ir.recipe import Array

_ALIGNMENT: Final = 64
_PAGE: Final = 2 << 20
"""Bytes of a large page."""
_KEPT: Final = 4
"""Pieces of memory that are kept for refits: two for all weights, two for some of them."""

K = TypeVar("K", bound=Hashable)


class _Pieces:
    """Pieces of memory that nothing uses any more.

    The system may take their pages when it needs them; those that it leaves need not be cleared
    and entered in page tables again, which takes about as long as the copies of a refit.
    """

    def __init__(self) -> None:
        # No lock: memory is given back by the garbage collector too, at any point of any thread.
        self._free: deque[mmap.mmap] = deque(maxlen=_KEPT)

    def take(self, size: int) -> mmap.mmap:
        """Return memory of so many bytes, whatever they are; raises DeviceError for none."""
        size = -(-size // _PAGE) * _PAGE if size >= _PAGE else size
        for _ in range(len(self._free)):
            with suppress(IndexError):  # another thread took the last one
                memory = self._free.popleft()
                if len(memory) == size:
                    return memory
                self._free.append(memory)
        try:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as e:
            raise DeviceError(f"{size} bytes of memory for new constants are not available") from e
        with suppress(AttributeError, OSError):  # a system without large pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        return memory

    def give_back(self, memory: mmap.mmap) -> None:
        """Keep memory for the next refit, as long as the system does not need it."""
        if len(memory) < _PAGE:
            return
        try:
            memory.madvise(mmap.MADV_FREE)
        except (AttributeError, OSError):
            return  # it would stay this process's own
        self._free.append(memory)


_PIECES: Final = _Pieces()


def total_of(sizes: Mapping[K, int]) -> int:
    """Return the bytes of one piece of memory with room for everything."""
    return sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes.values())


def places(sizes: Mapping[K, int], whole: Array | None = None) -> dict[K, Array]:
    """Return room of so many bytes for each key, all in one piece of memory.

    Each place begins at a cache line; what is in it is undefined.  The piece is ``whole`` if that
    is given; otherwise its pages are large, because entering small ones in the page tables takes
    longer than the copies.
    """
    total = total_of(sizes)
    if not total:
        return {key: np.empty(0, np.uint8) for key in sizes}
    if whole is None:
        memory = _PIECES.take(total)
        block = (ctypes.c_uint8 * total).from_buffer(memory)
        weakref.finalize(block, _PIECES.give_back, memory).atexit = False
        whole = np.frombuffer(memoryview(block), np.uint8)
    found, at = {}, 0
    for key, size in sizes.items():
        found[key] = whole[at : at + size]
        at += -(-size // _ALIGNMENT) * _ALIGNMENT
    return found
