"""Memory for new constants."""

from __future__ import annotations

import mmap
from collections.abc import Hashable, Mapping
from typing import Final, TypeVar

import numpy as np

from lamina.errors import DeviceError
from lamina.ir.recipe import Array

_ALIGNMENT: Final = 64

K = TypeVar("K", bound=Hashable)


def places(sizes: Mapping[K, int]) -> dict[K, Array]:
    """Return room of so many bytes for each key, all in one piece of memory.

    Large pages make its first use cheap: with pages of 4 KiB, entering them in the page tables
    takes longer than the copies.  Each place begins at a cache line.
    """
    total = sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes.values())
    if not total:
        return {key: np.empty(0, np.uint8) for key in sizes}
    try:
        memory = mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as e:
        raise DeviceError(f"{total} bytes of memory for new constants are not available") from e
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    found, at = {}, 0
    for key, size in sizes.items():
        found[key] = whole[at : at + size]
        at += -(-size // _ALIGNMENT) * _ALIGNMENT
    return found
