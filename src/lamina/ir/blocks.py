"""Arrays in blocks: the one movement behind all layouts of packed weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from lamina.config import default_threads
from lamina.ir.recipe import Array, recipe_function
from lamina.ir.threads import LEAST_BYTES, MOST_THREADS, pool
from lamina.ir.traced import record

CACHE_LINE_BYTES = 64

_TILE_ROWS, _TILE_ROW_BYTES = 64, 4096
"""What is transposed at once fits into the second-level cache, and a line of the result is whole.
"""

_LEAST_ROW_BYTES = 512
"""Narrower parts of rows are slower to read, so no thread takes any."""


def blocked(
    a: Array,
    blocks: Sequence[Sequence[int]],
    order: Sequence[int],
    padded: Sequence[int] | None = None,
    dtype: npt.DTypeLike | None = None,
) -> Array:
    """Return ``a`` with every axis split into blocks, and the parts in another order.

    ``blocks`` has the sizes of the blocks of each axis, the largest first, so that an axis of
    ``n`` elements becomes the parts (number of blocks, sizes...).  ``order`` permutes the parts of
    all axes.  Axes are padded with zeros to whole blocks, or to the sizes ``padded``.  The result
    is dense and begins at a cache line.
    """
    sizes = tuple(
        -(-n // prod(block)) * prod(block) for n, block in zip(a.shape, blocks, strict=True)
    )
    arguments = (
        tuple(tuple(b) for b in blocks),
        tuple(order),
        sizes if padded is None else tuple(padded),
        np.dtype(a.dtype if dtype is None else dtype),
    )
    function = partial(_blocked, threads=min(default_threads(), MOST_THREADS))
    result: Array = record("blocked", function, a, *arguments)
    return result


@recipe_function("blocked")
def _blocked(
    a: Array,
    blocks: tuple[tuple[int, ...], ...],
    order: tuple[int, ...],
    padded: tuple[int, ...],
    dtype: np.dtype[Any],
    out: Array | None = None,
    threads: int = 1,
) -> Array:
    parts = [
        part for n, b in zip(padded, blocks, strict=True) for part in (n // max(1, prod(b)), *b)
    ]
    if padded != a.shape:
        whole = np.zeros(padded, dtype)
        _copy(whole[tuple(slice(n) for n in a.shape)], a, threads)
        a = whole
    result = cache_aligned(tuple(parts[i] for i in order), dtype, out)
    _copy(result, a.reshape(parts).transpose(order), threads)
    return result


def _copy(target: Array, source: Array, threads: int) -> None:
    """Copy elements into an array whose last axis is dense, whatever their types."""
    if source.ndim != 2 or source.strides[0] >= source.strides[1]:
        np.copyto(*_as_integers(target, source), casting="unsafe")
        return
    rows, row_bytes = len(target), len(target) * source.itemsize
    workers = min(threads, row_bytes // _LEAST_ROW_BYTES)
    if workers < 2 or target.nbytes < LEAST_BYTES:
        _copy_transposed(target, source.T)
        return
    bounds = [rows * i // workers for i in range(workers + 1)]
    shares = [slice(*pair) for pair in pairwise(bounds)]
    for done in [pool().submit(_copy_transposed, target[s], source[s].T) for s in shares]:
        done.result()


def _as_integers(target: Array, source: Array) -> tuple[Array, Array]:
    """Return both arrays, seen as fewer and larger integers where no type changes.

    What lies side by side at the end of both (a pair of bf16 for one instruction) moves at once;
    NumPy would run its innermost loop over these few.
    """
    count = source.shape[-1] if source.ndim else 0
    size = count * source.itemsize
    joined = count > 1 and source.strides[-1] == target.strides[-1] == source.itemsize
    if not joined or source.dtype != target.dtype or size not in (2, 4, 8):
        return target, source
    return target.view(f"u{size}"), source.view(f"u{size}")


def _copy_transposed(target: Array, source: Array) -> None:
    """Write the columns of ``source`` as the rows of ``target``.

    Rows whose distance is a power of two compete for the same few lines of a cache, so tiles are
    transposed in a buffer whose rows lie apart by a line more than they have.
    """
    rows, columns = source.shape
    width = max(1, _TILE_ROW_BYTES // source.itemsize)
    pitch = width + CACHE_LINE_BYTES // source.itemsize
    buffer = np.empty((_TILE_ROWS, pitch), source.dtype)
    for column in range(0, columns, width):
        for row in range(0, rows, _TILE_ROWS):
            part = source[row : row + _TILE_ROWS, column : column + width]
            tile = buffer[: part.shape[0], : part.shape[1]]
            np.copyto(tile, part)
            where = target[column : column + width, row : row + _TILE_ROWS]
            np.copyto(where, tile.T, casting="unsafe")


def cache_aligned(shape: tuple[int, ...], dtype: npt.DTypeLike, out: Array | None = None) -> Array:
    """Return an uninitialized array at the begin of a cache line, or in the bytes ``out``."""
    if out is not None:
        return out.view(dtype).reshape(shape)
    size = prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + CACHE_LINE_BYTES, np.uint8)
    begin = -raw.__array_interface__["data"][0] % CACHE_LINE_BYTES
    return raw[begin : begin + size].view(dtype).reshape(shape)
