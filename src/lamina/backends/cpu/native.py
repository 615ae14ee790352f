"""The tables that the native step loop reads: their layout, and building them with NumPy.

Everything is 64-bit words.  A *context* has the words named by :class:`Word`; a *record* is five
words ``(kind, a, b, c, d)``:

======== ================== =============== ================ ==================
kind     a                  b               c                d
======== ================== =============== ================ ==================
SERIAL   function           arguments       parameters       –
TEAM     function           arguments       parameters       number of threads
LIBRARY  primitive          stream          argument count   argument table
POINT    address of a slot  pointer index   byte offset      –
HANDLE   library memory     pointer index   byte offset      –
ALONE    primitive          stream          argument count   argument table
======== ================== =============== ================ ==================

ALONE is LIBRARY on one thread, for work that is done before a second thread would wake.

POINT and HANDLE put ``pointers[b] + c`` where a later step finds it: this is how the caller's own
arrays are read and written without a copy.
"""

from __future__ import annotations

from enum import IntEnum
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lamina.errors import DeviceError

Words = npt.NDArray[np.int64]


class Word(IntEnum):
    """Position of each word of a context."""

    PARALLEL = 0
    """``GOMP_parallel``, or 0: teams then run in the pool."""
    THREAD_NUMBER = 1
    TEAM_SIZE = 2
    SET_THREADS = 3
    EXECUTE = 4
    """``dnnl_primitive_execute``."""
    SET_HANDLE = 5
    """``dnnl_memory_set_data_handle``."""
    POINTERS = 6
    RECORDS = 7
    COUNT = 8
    THREADS = 9
    TIMES = 10
    """Receives a cycle count before each record and after the last (timed runs only)."""
    POOL = 11
    """Our own threads, or 0: without ``PARALLEL`` a team is then its first member alone."""


class PoolWord(IntEnum):
    """Position of each word of a pool of threads, those that threads wait for in cache lines."""

    GENERATION = 0
    PENDING = 8
    SLEEPING = 16
    LOCK = 24
    RECORD = 32
    SIZE = 33
    MEMBERS = 34
    CLOSED = 35


class Kind(IntEnum):
    """What a record does."""

    SERIAL = 0
    TEAM = 1
    LIBRARY = 2
    POINT = 3
    HANDLE = 4
    ALONE = 5


CONTEXT_WORDS: Final = len(Word)
RECORD_WORDS: Final = 5

RUN: Final = "lamina_run"
RUN_TIMED: Final = "lamina_run_timed"
"""Functions ``int64 (context*)``: 0, or ``(record + 1) << 32 | status`` of the step that failed."""
POOL_MEMBER: Final = "lamina_pool_member"
"""The function ``void (pool*, int64)`` that each thread of a pool runs."""


def address(array: npt.NDArray[np.generic]) -> int:
    """Return where the first byte of an array is."""
    result: int = array.__array_interface__["data"][0]
    return result


def aligned_bytes(size: int) -> npt.NDArray[np.uint8]:
    """Return uninitialized bytes that begin at a cache line; DeviceError when there are too few."""
    try:
        raw = np.empty(size + 64, np.uint8)
    except (MemoryError, OverflowError, ValueError) as e:
        raise DeviceError(
            f"{size} bytes of memory are not available", hint="use smaller shapes or fewer contexts"
        ) from e
    begin = -address(raw) % 64
    return raw[begin : begin + size]


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array of zeros that begins at a cache line."""
    item = np.dtype(dtype).itemsize
    raw = np.zeros(prod(shape) * item + 64, np.uint8)
    begin = -address(raw) % 64
    return raw[begin : begin + prod(shape) * item].view(dtype).reshape(shape)
