"""Constants that are one large array, converted number by number and put in another order.

Nearly all bytes of a plan's constants follow so from a weight: they are multiplied by a factor for
each filter, rounded, and laid out as kernels read them.  A :class:`Movement` says so in a form that
backends have kernels for; a plan holds these kernels, and refits call them.

What happens to each number is a *chain*: the element type, then ``*`` for a multiplication by an
f32 factor and ``>type`` for a conversion, as in ``float16>float32*>float16``.  A number that only
moves has the chain of its size in bytes, such as ``4``.  With ``@9`` in the end each 9 numbers are
multiplied by a matrix, in f64, and the sums rounded to f32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TYPES: Final[dict[str, np.dtype[Any]]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""Element types that chains convert."""

_MOVED: Final = ("4", "float32*")
_ROUNDED: Final = ("float32>bfloat16", "float32*>bfloat16")
_TRANSFORMED: Final = ("float32@9", "float32*@9")

CHAINS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "cpu": {
        "fp32": ("1", *_MOVED),
        "tf32": ("1", *_MOVED),
        "int8": ("1", *_MOVED),
        "fp16": (*_MOVED, "float16>float32", "float16>float32*>float16>float32"),
        "bf16": (*_MOVED, *_ROUNDED, "float32>bfloat16>float32", "float32*>bfloat16>float32"),
    },
    "cuda": {
        "fp32": ("1", *_MOVED, *_TRANSFORMED),
        "tf32": ("1", *_MOVED, *_TRANSFORMED),
        "int8": ("1", *_MOVED),
        "fp16": ("2", *_MOVED, "float16>float32*>float16"),
        "bf16": (*_MOVED, *_ROUNDED),
    },
}
"""What happens to the weights of a network, by its device and the precision of its build."""


@dataclass(frozen=True)
class Axis:
    """A loop of a movement: its size, and steps in elements of source, factors and result."""

    size: int
    source: int
    factor: int
    result: int


@dataclass(frozen=True)
class Piece:
    """A dense part of a movement: where it begins, in elements, and its loops.

    The loops are ordered by their steps in the result, the largest first, none of size 1.
    """

    source: int
    factor: int
    result: int
    axes: tuple[Axis, ...]

    @property
    def elements(self) -> int:
        """The number of elements."""
        return prod(axis.size for axis in self.axes)


@dataclass(frozen=True, eq=False)
class Course:
    """How a constant follows from a dense array, whatever the array holds.

    ``begin`` and ``steps`` tell where in it, in elements, is what has a place in an array of
    ``shape``, and ``factor_steps`` where its factor is.  Each axis of that is split into
    ``blocks``, padded to ``padded``, and the parts are put into ``order``; see
    :func:`lamina.ir.blocks.blocked`.
    """

    chain: str
    begin: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    factor_steps: tuple[int, ...]
    blocks: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    padded: tuple[int, ...]
    factor_begin: int = 0
    whole: tuple[int, ...] = ()
    """The shape that arrays have together, where others lie before or behind along ``joined``."""
    joined: int = 0
    before: int = 0
    """How far along that axis this one begins."""

    @property
    def is_padded(self) -> bool:
        """Whether some elements of the result come from nowhere and are zero."""
        return self.padded != (self.whole or self.shape)

    @property
    def keeps_order(self) -> bool:
        """Whether the result is what has a place in an array of ``shape``, in its order."""
        in_order = self.order == tuple(range(len(self.shape)))
        return in_order and not any(self.blocks) and not self.whole and not self.is_padded

    @property
    def is_dense(self) -> bool:
        """Whether that is a dense array from the begin, with a factor for each first index."""
        sizes = [prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        factors = self.factor_steps in ((0,) * len(sizes), (1, *[0] * (len(sizes) - 1)))
        return self.begin == 0 and list(self.steps) == sizes and factors

    @property
    def together(self) -> int:
        """How many numbers are multiplied by a matrix together; 0 for none."""
        return int(self.chain.partition("@")[2] or 0)

    @property
    def elements(self) -> int:
        """The number of elements of the result."""
        return prod(self.padded)

    @property
    def result_size(self) -> int:
        """The bytes of an element of the result."""
        return result_size(self.chain)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The parts that the result consists of, besides zeros."""
        return tuple(self._pieces()) if prod(self.shape) else ()

    def rows(self, begin: int, count: int) -> Course:
        """Return the course of some indices along the first axis, which must stay the first."""
        key = (begin, count)
        if key not in self._parts:
            self._parts[key] = replace(
                self,
                begin=self.begin + begin * self.steps[0],
                factor_begin=self.factor_begin + begin * self.factor_steps[0],
                shape=(count, *self.shape[1:]),
                padded=(count, *self.padded[1:]),
            )
        return self._parts[key]

    @cached_property
    def _parts(self) -> dict[tuple[int, int], Course]:
        return {}

    def _pieces(self) -> Iterator[Piece]:
        sizes = [
            (padded // max(1, prod(block)), *block)
            for padded, block in zip(self.padded, self.blocks, strict=True)
        ]
        steps = self._result_steps(sizes)
        begin = self.before // prod(sizes[self.joined][1:]) * steps[self.joined][0]
        along = [
            list(_parts(n, parts, source, factor, own))
            for n, parts, source, factor, own in zip(
                self.shape, sizes, self.steps, self.factor_steps, steps, strict=True
            )
        ]
        for chosen in product(*along):
            starts = [sum(of) for of in zip(*(part[0] for part in chosen), strict=True)]
            source, factor, result = starts or (0, 0, 0)
            axes = [axis for part in chosen for axis in part[1]]
            yield Piece(
                self.begin + source, self.factor_begin + factor, begin + result, merged(axes)
            )

    def _result_steps(self, sizes: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return how far apart in the result the elements of each part of each axis are."""
        flat = [size for parts in sizes for size in parts]
        steps, step = [0] * len(flat), 1
        for part in reversed(self.order):
            steps[part] = step
            step *= flat[part]
        remaining = iter(steps)
        return [[next(remaining) for _ in parts] for parts in sizes]


@dataclass(frozen=True, eq=False)
class Movement:
    """A constant to be made of ``base``, which is dense, and of ``factors``, if any."""

    course: Course
    base: Array
    factors: Array | None
    matrix: Array | None = None
    """What the numbers of a chain with ``@`` are multiplied by: [numbers, results], f64."""

    def rows(self, begin: int, count: int) -> Movement:
        """Return the movement of some indices along the first axis, where none is split."""
        return Movement(self.course.rows(begin, count), self.base, self.factors)


@dataclass(frozen=True)
class Measure:
    """What is known of f32 numbers: the largest magnitude, and whether f16 holds them exactly.

    The largest one is NaN where one of them is, and then f16 does not.
    """

    largest: np.float32
    fits_half: bool

    def rounded(self) -> Measure:
        """Return what is then known of the same numbers rounded to f16."""
        with np.errstate(all="ignore"):
            largest = np.float32(np.float16(self.largest))
        return Measure(largest, not np.isnan(largest))


MEASURED: Final[dict[str, tuple[str, ...]]] = {"fp16": ("float16>float32", "float16>float32*")}
"""Chains whose numbers builds look at, by precision, on a CPU."""


@dataclass(frozen=True)
class Conversions:
    """A chain that does more than move: types before a multiplication by a factor and behind it."""

    before: tuple[str, ...]
    multiplies: bool
    after: tuple[str, ...]

    @property
    def source(self) -> str:
        """The type of the numbers that are read."""
        return self.before[0]

    @property
    def result(self) -> str:
        """The type of the numbers that are written."""
        return (*self.before, *self.after)[-1]


def conversions(chain: str) -> Conversions | None:
    """Read a chain; None for a plain move."""
    if chain.isdecimal():
        return None
    before, star, after = chain.partition("@")[0].partition("*")
    return Conversions(tuple(before.split(">")), bool(star), tuple(after.split(">")[1:]))


def result_size(chain: str) -> int:
    """Return the bytes of a number that a chain gives."""
    converts = conversions(chain)
    return TYPES[converts.result].itemsize if converts else int(chain)


def simplified(chain: str, dtype: np.dtype[Any]) -> str:
    """Return the shortest chain with the same meaning; ``dtype`` is its last type."""
    moves = chain == _THERE_AND_BACK or not {"*", ">"}.intersection(chain)
    return str(dtype.itemsize) if moves else chain


def kernel_name(chain: str) -> str:
    """Return what the code image of a plan calls the kernel for a chain."""
    return _KERNEL + chain.replace("*", "_scaled").replace(">", "_").replace("@", "_by_")


def is_kernel_name(name: str) -> bool:
    """Whether a function of a code image is a kernel for a chain."""
    return name.startswith(_KERNEL)


_KERNEL: Final = "lamina_move_"
_THERE_AND_BACK: Final = "float16>float32>float16"
"""Every f16 number is an f32 number."""

_Part = tuple[tuple[int, int, int], list[Axis]]


def _parts(
    n: int, sizes: Sequence[int], source: int, factor: int, steps: Sequence[int]
) -> Iterator[_Part]:
    """Split ``n`` elements of an axis into parts: whole blocks, and what is left of the last one.

    Each comes with its begin in source, factors and result.
    """
    inner = prod(sizes[1:])
    whole, rest = divmod(n, inner)
    if whole:
        axes, within = [], inner
        for size, step in zip((whole, *sizes[1:]), steps, strict=True):
            axes.append(Axis(size, source * within, factor * within, step))
            following = len(axes)
            within //= sizes[following] if following < len(sizes) else 1
        yield (0, 0, 0), axes
    if rest:
        at = whole * inner
        for (s, f, r), axes in _parts(rest, sizes[1:], source, factor, steps[1:]):
            yield (at * source + s, at * factor + f, whole * steps[0] + r), axes


def merged(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """Return loops in the order of the result, with those that are one loop as one."""
    found: list[Axis] = []
    for axis in sorted(axes, key=lambda a: -a.result):
        if axis.size == 1:
            continue
        if found and _continues(found[-1], axis):
            last = found.pop()
            axis = Axis(last.size * axis.size, axis.source, axis.factor, axis.result)
        found.append(axis)
    return tuple(found)


def _continues(outer: Axis, inner: Axis) -> bool:
    n = inner.size
    return (outer.source, outer.factor, outer.result) == (
        inner.source * n,
        inner.factor * n,
        inner.result * n,
    )
