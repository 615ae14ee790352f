"""Constant data, compared by content."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_GLANCE_BYTES: Final = 4096
"""Where arrays that differ almost always do so already."""


class Weight:
    """An array that never changes; equal when type, shape and bytes are equal.

    The array may be a view into a memory-mapped file; it is read only when its values are needed.
    The digest is computed on first use and kept.  ``name`` is what the source model calls the
    weight; it takes no part in comparison.
    """

    __slots__ = ("_digest", "array", "name")

    def __init__(self, array: npt.ArrayLike, name: str = "") -> None:
        self.array: npt.NDArray[Any] = np.asarray(array)
        self.name = name
        self._digest: str | None = None

    @property
    def digest(self) -> str:
        """Return 128 bits of BLAKE2b over type, shape and contents, as hexadecimal text."""
        if self._digest is None:
            h = hashlib.blake2b(f"{self.array.dtype}{self.array.shape}".encode(), digest_size=16)
            if self.array.dtype == object:
                h.update(repr(self.array.tolist()).encode())
            else:
                h.update(np.ascontiguousarray(self.array).reshape(-1).view(np.uint8).data)
            self._digest = h.hexdigest()
        return self._digest

    def renamed(self, name: str) -> Weight:
        """Return the same contents under another name."""
        copy = Weight(self.array, name)
        copy._digest = self._digest
        return copy

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Weight):
            return NotImplemented
        a, b = self.array, other.array
        return a is b or (a.dtype == b.dtype and a.shape == b.shape and self._has_bytes_of(other))

    def _has_bytes_of(self, other: Weight) -> bool:
        """Compare contents: by digests that are known, else byte by byte, which is faster."""
        known = self._digest is not None and other._digest is not None
        a, b = self.array, other.array
        if known or a.dtype == object or not (a.flags.c_contiguous and b.flags.c_contiguous):
            return self.digest == other.digest
        x, y = (array.reshape(-1).view(np.uint8) for array in (a, b))
        start = slice(_GLANCE_BYTES)
        return np.array_equal(x[start], y[start]) and np.array_equal(x, y)

    def __hash__(self) -> int:
        # A sample only: hashing must not read hundreds of megabytes.
        sample = self.array.reshape(-1)[:8]
        known = tuple(sample.tolist()) if sample.dtype == object else sample.tobytes()
        return hash((str(self.array.dtype), self.array.shape, known))

    def __repr__(self) -> str:
        return f"Weight({self.array.dtype}{list(self.array.shape)})"
