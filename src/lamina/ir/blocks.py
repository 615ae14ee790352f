"""Arrays in blocks: the one movement behind all layouts of packed weights."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from lamina.ir.recipe import Array, recipe_function
from lamina.ir.traced import record

CACHE_LINE_BYTES = 64


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
    result: Array = record("blocked", _blocked, a, *arguments)
    return result


@recipe_function("blocked")
def _blocked(
    a: Array,
    blocks: tuple[tuple[int, ...], ...],
    order: tuple[int, ...],
    padded: tuple[int, ...],
    dtype: np.dtype[Any],
    out: Array | None = None,
) -> Array:
    parts = [
        part for n, b in zip(padded, blocks, strict=True) for part in (n // max(1, prod(b)), *b)
    ]
    if padded != a.shape:
        whole = np.zeros(padded, dtype)
        whole[tuple(slice(n) for n in a.shape)] = a
        a = whole
    result = cache_aligned(tuple(parts[i] for i in order), dtype, out)
    np.copyto(result, a.reshape(parts).transpose(order), casting="unsafe")
    return result


def cache_aligned(shape: tuple[int, ...], dtype: npt.DTypeLike, out: Array | None = None) -> Array:
    """Return an uninitialized array at the begin of a cache line, or in the bytes ``out``."""
    if out is not None:
        return out.view(dtype).reshape(shape)
    size = prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + CACHE_LINE_BYTES, np.uint8)
    begin = -raw.__array_interface__["data"][0] % CACHE_LINE_BYTES
    return raw[begin : begin + size].view(dtype).reshape(shape)
