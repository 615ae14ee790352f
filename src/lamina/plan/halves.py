"""Constants whose bytes are f32 numbers that f16 holds exactly, stored in half the space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lamina.ir.weight import Weight

_WORTHWHILE_BYTES = 1024

Array = npt.NDArray[Any]
Astype = Callable[[Array, np.dtype[Any]], Array]
"""Converts to another element type as ``astype`` does, bit by bit."""


def astype(a: Array, dtype: np.dtype[Any]) -> Array:
    """Convert with NumPy."""
    with np.errstate(all="ignore"):
        return a.astype(dtype)


def halve(
    blobs: Sequence[Weight], astype: Astype = astype
) -> tuple[tuple[Weight, ...], tuple[int, ...]]:
    """Return the blobs with some of them as f16, and the numbers of those.

    Nothing is lost: a blob is taken only when :func:`restore` gives back its bytes.
    """
    stored, numbers = [], []
    for number, blob in enumerate(blobs):
        half = _half(blob.contents, astype)
        stored.append(blob if half is None else Weight(half, blob.name, blob.recipe))
        if half is not None:
            numbers.append(number)
    return tuple(stored), tuple(numbers)


def restore(half: Array, astype: Astype = astype) -> Array:
    """Return the f32 numbers that a halved blob stands for."""
    return astype(half, np.dtype(np.float32))


def _half(array: Array, astype: Astype) -> Array | None:
    if array.nbytes < _WORTHWHILE_BYTES or array.nbytes % 4 or array.dtype not in _TYPES:
        return None
    numbers = np.ascontiguousarray(array).reshape(-1).view(np.float32)
    half = astype(numbers, np.dtype(np.float16))
    same = np.array_equal(restore(half, astype).view(np.uint32), numbers.view(np.uint32))
    return half if same else None


_TYPES = (np.dtype(np.uint8), np.dtype(np.float32))
