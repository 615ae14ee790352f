"""Constant data, compared by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lamina.ir.movement import Movement
from lamina.ir.recipe import Recipe
from lamina.ir.traced import Traced, is_open, plain

Array = npt.NDArray[Any]

_INLINE_ELEMENTS: Final = 16

_GLANCE_BYTES: Final = 4096
"""Where arrays that differ almost always do so already."""

_WORTH_SHARING_BYTES: Final = 65536
"""Smaller equal constants of different origin stay apart, so that each can change by itself."""


class Weight:
    """An array that never changes; equal when type, shape and bytes are equal.

    The array may be a view into a memory-mapped file; it is read only when its values are needed.
    The digest is computed on first use and kept.  ``name`` is what the source model calls the
    weight; it takes no part in comparison.

    While a graph is compiled, weights that a refit may change have a ``recipe``.  ``array`` is then
    a :class:`.traced.Traced` array; ``contents`` is always a plain one.
    """

    __slots__ = (
        "_contents", "_digest", "_later", "dtype", "movements", "name", "recipe", "restored",
        "shape",
    )  # fmt: skip

    def __init__(
        self, array: npt.ArrayLike | Traced, name: str = "", recipe: Recipe | None = None
    ) -> None:
        if isinstance(array, Traced):
            recipe = array.recipe
        contents: npt.NDArray[Any] = np.asarray(plain(array))
        self.dtype, self.shape = contents.dtype, contents.shape
        self._contents: npt.NDArray[Any] | None = contents
        self._later: Callable[[], npt.NDArray[Any]] | None = None
        self.movements: tuple[Movement, ...] = ()
        self.restored: Array | None = None
        self.recipe = recipe
        self.name = name
        self._digest: str | None = None

    @classmethod
    def later(
        cls,
        like: Weight,
        call: Callable[[], Array],
        *,
        movements: tuple[Movement, ...] = (),
        restored: Array | None = None,
    ) -> Weight:
        """Return a weight of the type, shape and name of another, computed when it is asked for.

        ``movements`` say how a device computes it by itself; ``restored`` are the bytes that it
        stands for where it is stored in half the space.
        """
        weight = cls(np.empty(0, like.dtype), like.name)
        weight.dtype, weight.shape = like.dtype, like.shape
        weight._contents, weight._later = None, call
        weight.movements, weight.restored = movements, restored
        return weight

    @property
    def contents(self) -> npt.NDArray[Any]:
        """The array, which records nothing."""
        while (contents := self._contents) is None:
            call = self._later
            if call is not None:  # else another thread has just computed it
                self._contents = call()
                self._later, self.movements = None, ()
        return contents

    @property
    def nbytes(self) -> int:
        """The bytes of the array."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def array(self) -> npt.NDArray[Any]:
        """The array; one that records what is done with it if there is a recipe."""
        if self.recipe is None:
            return self.contents
        return Traced(self.contents, self.recipe)  # type: ignore[return-value]

    @property
    def digest(self) -> str:
        """Return 128 bits of BLAKE2b over type, shape and contents, as hexadecimal text."""
        if self._digest is None:
            array = self.contents
            h = hashlib.blake2b(f"{array.dtype}{array.shape}".encode(), digest_size=16)
            if array.dtype == object:
                h.update(repr(array.tolist()).encode())
            else:
                h.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            self._digest = h.hexdigest()
        return self._digest

    def renamed(self, name: str) -> Weight:
        """Return the same contents under another name."""
        copy = Weight(self.contents, name, self.recipe)
        copy._digest = self._digest
        return copy

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Weight):
            return NotImplemented
        a, b = self.contents, other.contents
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if self.recipe is other.recipe:
            return a is b or self.recipe is not None or self._has_bytes_of(other)
        small = a.nbytes < _WORTH_SHARING_BYTES or is_open(self.array) or is_open(other.array)
        if 1 < a.size and small:
            return False
        if not self._has_bytes_of(other):
            return False
        for weight in (self, other):
            if weight.recipe is not None:
                weight.recipe.recording.guard(weight.recipe, weight.contents)
        return True

    def _has_bytes_of(self, other: Weight) -> bool:
        """Compare contents: by digests that are known, else byte by byte, which is faster."""
        known = self._digest is not None and other._digest is not None
        a, b = self.contents, other.contents
        if known or a.dtype == object or not (a.flags.c_contiguous and b.flags.c_contiguous):
            return self.digest == other.digest
        x, y = (array.reshape(-1).view(np.uint8) for array in (a, b))
        start = slice(_GLANCE_BYTES)
        return np.array_equal(x[start], y[start]) and np.array_equal(x, y)

    def __hash__(self) -> int:
        # A sample only: hashing must not read hundreds of megabytes.
        array = self.contents
        sample = array.reshape(-1)[:8]
        known = tuple(sample.tolist()) if sample.dtype == object else sample.tobytes()
        return hash((str(array.dtype), array.shape, known))

    def __repr__(self) -> str:
        return f"Weight({self.contents.dtype}{list(self.contents.shape)})"


def weight_text(weight: Weight) -> str:
    """Return ``value=…`` for a few numbers and ``digest=…`` for many."""
    a = weight.array
    if a.size <= _INLINE_ELEMENTS and a.dtype.kind in "fiub":
        return f"value={_nested(a.tolist())}"
    return f"digest={weight.digest}"


def _nested(x: Any) -> str:
    if isinstance(x, list):
        inner = ",".join(_nested(v) for v in x)
        return f"({inner},)" if len(x) == 1 else f"({inner})"
    return str(x).lower()
