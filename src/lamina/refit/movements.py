"""Finds the steps of recipes that only convert, scale and move one large array.

Such steps are not run one by one: the shapes that they give the array become views of it, and what
they do to its numbers becomes a chain, for which plans hold kernels (:mod:`lamina.ir.movement`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np

from lamina.ir.movement import TYPES, Course, Measure, Movement, simplified
from lamina.ir.recipe import FUNCTIONS, SOURCE, Array
from lamina.plan.recipes import Recipes, Step

LARGE_ELEMENTS: Final = 1 << 13
"""Elements of a weight from which on kernels pay; smaller ones are left to NumPy."""

_VIEWS: Final = frozenset(
    ("broadcast_to", "expand_dims", "flip", "getitem", "moveaxis", "squeeze", "swapaxes",
     "transpose")
)  # fmt: skip
"""Functions whose result is a view of their first operand."""

_SAME_BYTES: Final = frozenset(("ravel", "reshape", "view"))
"""Functions whose result has the bytes of their operand."""


@dataclass(frozen=True, eq=False)
class Template:
    """The movement that steps come to, whatever the weights are.

    The factors are the numbers ``picked`` among the results of the step ``factor``.
    """

    source: str
    factor: int | None
    picked: Array | None
    course: Course
    matrix: Array | None = None
    zeros: tuple[int, ...] = ()
    """Steps whose results have to be zero for this to hold."""

    def filled(self, base: Array, value: Callable[[int], Array]) -> Movement:
        """Return the movement for a weight; ``value`` returns the results of steps."""
        factors = None
        if self.factor is not None:
            factors = value(self.factor).reshape(-1)[self.picked]
        return Movement(self.course, base, factors, self.matrix)


class Sought(Enum):
    """What somebody looks for in large numbers."""

    LARGEST = "largest magnitude"
    HALVES = "whether f16 holds all"
    MAX = "max"
    MIN = "min"
    SUMS = "sums"


@dataclass(frozen=True, eq=False)
class Look:
    """A step that looks at large numbers, which are those of ``template``, perhaps ``rounded``.

    MAX and MIN are the largest and the smallest one of all elements and zero; SUMS are along all
    axes but the first.
    """

    template: Template
    rounded: bool
    sought: Sought
    dtype: np.dtype[Any]
    """The type of the numbers."""

    def found(self, measure: Measure) -> Array:
        """Return what it finds."""
        seen = measure.rounded() if self.rounded else measure
        return np.asarray(seen.fits_half if self.sought is Sought.HALVES else seen.largest)

    def limit(self, base: Array) -> Array:
        """Return the limit that it finds."""
        limit = base.max(initial=0) if self.sought is Sought.MAX else base.min(initial=0)
        return np.asarray(limit, self.dtype)


_ROUNDING: Final = ">float16>float32"
_WIDE: Final = ">int32"
"""Ends the chain of 8-bit integers that are computed with."""


@dataclass(frozen=True, eq=False)
class _Lazy:
    """Elements of a weight in some order, and what happens to each of them.

    ``base`` stands for the weight with elements of one byte, and ``view`` has those that are meant,
    in their order; ``shape`` is what they are seen as, and ``dtype`` their type by then.
    ``picked`` has the numbers of their factors in the shape of ``view``.
    """

    source: str
    base: Array
    view: Array
    shape: tuple[int, ...]
    chain: str
    dtype: np.dtype[Any]
    factor: int | None = None
    picked: Array | None = None
    zeros: tuple[int, ...] = ()

    def converted(self, dtype: np.dtype[Any]) -> _Lazy | None:
        """Return the elements as another type."""
        if dtype == self.dtype:
            return self
        if self.dtype == np.int8 and dtype in (np.int32, np.int64):
            return replace(self, chain=f"{self.chain}{_WIDE}", dtype=dtype)
        if self.chain.endswith(_WIDE) and dtype == np.int8:
            # These numbers have not changed.
            return replace(self, chain=self.chain.removesuffix(_WIDE), dtype=dtype)
        if dtype.name not in TYPES or self.dtype.name not in TYPES:
            return None
        return replace(self, chain=f"{self.chain}>{dtype.name}", dtype=dtype)

    def seen(self, function: Callable[[Array], Array | None]) -> _Lazy | None:
        """Return the elements as a view of them that a function returns."""
        if self.view.shape != self.shape:
            return None
        view = function(self.view)
        picked = None if self.picked is None else function(self.picked)
        if view is None or (picked is None) != (self.picked is None):
            return None
        return replace(self, view=view, shape=view.shape, picked=picked)

    def scaled(self, step: int, factors: Array) -> _Lazy | None:
        """Return the elements, each multiplied by a number that a step results in."""
        fits = self.dtype == factors.dtype == np.float32 and self.factor is None
        if not fits or self.view.shape != self.shape:
            return None
        if np.broadcast_shapes(factors.shape, self.shape) != self.shape:
            return None
        numbers = np.arange(factors.size).reshape(factors.shape)
        picked = np.broadcast_to(numbers, self.shape)
        return replace(self, chain=f"{self.chain}*", factor=step, picked=picked)

    def shifted(self, step: int, zeros: Array) -> _Lazy | None:
        """Return the elements minus what a step results in, as long as that is zero."""
        fits = self.dtype == zeros.dtype and self.chain.endswith(_WIDE)
        if not fits or np.broadcast_shapes(zeros.shape, self.shape) != self.shape:
            return None
        return replace(self, zeros=(*self.zeros, step))

    def reshaped(self, shape: tuple[int, ...]) -> _Lazy:
        """Return the elements in the same order, seen as another shape."""
        return self.seen(lambda a: _reshaped(a, shape)) or replace(self, shape=shape)

    def template(self, blocks: Any = None, order: Any = None, padded: Any = None) -> Template:
        """Return how these elements come into the order that :func:`.blocked` gives them."""
        view, axes = self.view, self.view.ndim
        picked, steps = (None, (0,) * axes) if self.picked is None else _distinct(self.picked)
        course = Course(
            simplified(self.chain, self.dtype),
            _address(view) - _address(self.base),
            view.shape,
            view.strides,
            steps,
            blocks or ((),) * axes,
            tuple(range(axes)) if order is None else order,
            view.shape if padded is None else padded,
        )
        return Template(self.source, self.factor, picked, course, zeros=self.zeros)


class Movements:
    """What steps of recipes come to.

    ``largest`` has for each step the elements of the largest weight behind it.  ``value`` returns
    the result of a step, ``arguments`` what it is called with besides the results of others.
    """

    def __init__(
        self,
        recipes: Recipes,
        largest: Sequence[int],
        value: Callable[[int], Array],
        arguments: Callable[[Step], list[Any]],
    ) -> None:
        self._recipes, self._steps, self._largest = recipes, recipes.steps, largest
        self._value, self._arguments = value, arguments

    def is_large(self, number: int) -> bool:
        """Whether a step depends on a weight for which kernels pay."""
        return self._largest[number] >= LARGE_ELEMENTS

    def bytes_of(self, number: int) -> tuple[Template, ...]:
        """Return how the bytes of a step's result come about; nothing where more happens."""
        while (step := self._steps[number]).function in _SAME_BYTES:
            number = step.operands[0]
        if step.function != "blocked":
            template = self.elements_of(number)
        elif (product := self._steps[step.operands[0]]).function == "matmul":
            template = self._transformed(step, product)
        else:
            return self._blocked_bytes(step)
        return () if template is None or template.course.chain.endswith(_WIDE) else (template,)

    def _blocked_bytes(self, step: Step) -> tuple[Template, ...]:
        """Return how the bytes that :func:`.blocked` gives come about."""
        _, blocks, order, padded, dtype = self._arguments(step)
        lazies, axis = self._joined(step.operands[0])
        found = [lazy.converted(dtype) for lazy in lazies]
        if None in found or not found:
            return ()
        templates, before = [], 0
        whole = _joined_shape([lazy.shape for lazy in lazies], axis)
        for lazy in found:
            assert lazy is not None
            if len(found) == 1 and _keeps_order(blocks, order) and padded == lazy.shape:
                return (lazy.template(),)
            if lazy.view.shape != lazy.shape or before % prod(blocks[axis]):
                return ()
            template = lazy.template(blocks, order, padded)
            if len(found) > 1:
                course = replace(template.course, whole=whole, joined=axis, before=before)
                template = replace(template, course=course)
            templates.append(template)
            before += lazy.shape[axis]
        return tuple(templates)

    def _joined(self, number: int) -> tuple[list[_Lazy], int]:
        """Return what lies one behind the other along an axis; nothing where more happens."""
        step = self._steps[number]
        if step.function == "concatenate":
            return self._operands(step)
        if step.function not in ("transpose", "astype") or step.keywords:
            lazy = self._lazy(number)
            return ([] if lazy is None else [lazy]), 0
        lazies, axis = self._joined(step.operands[0])
        other: Any = self._arguments(step)[1] if len(step.arguments) > 1 else None
        if step.function == "astype":
            found = [lazy.converted(other) for lazy in lazies]
        else:
            found = [lazy.seen(lambda a: a.transpose(other)) for lazy in lazies]
            if lazies:
                axes = len(lazies[0].shape)
                axis = (tuple(range(axes))[::-1] if other is None else other).index(axis)
        kept = [lazy for lazy in found if lazy is not None]
        return (kept if len(kept) == len(lazies) else []), axis

    def _operands(self, step: Step) -> tuple[list[_Lazy], int]:
        """Return the arrays that a step joins, and the axis along which it does."""
        listed = step.arguments[0][1:] if isinstance(step.arguments[0], list) else []
        axis = self._arguments(step)[1] if len(step.arguments) > 1 else 0
        axis = step.keywords.get("axis", axis)
        if not listed or not all(_is_step(form) for form in listed):
            return [], 0
        found = [self._lazy(form[1]) for form in listed]
        kept = [lazy for lazy in found if lazy is not None]
        whole = len(kept) == len(found) and len({(x.dtype, len(x.shape)) for x in kept}) == 1
        return (kept, axis % len(kept[0].shape)) if whole else ([], 0)

    def _transformed(self, step: Step, product: Step) -> Template | None:
        """Return what filters become that are multiplied by a matrix and moved."""
        _, blocks, order, padded, dtype = self._arguments(step)
        matrix = self._arguments(product)[-1]
        wide = self._steps[product.operands[0]]
        if wide.function != "astype" or self._arguments(wide)[1] != np.float64:
            return None
        template = self.elements_of(wide.operands[0])
        if template is None or not isinstance(matrix, np.ndarray) or dtype != np.float32:
            return None
        course = template.course
        filters, *others = course.shape
        fits = course.is_dense and len(others) == 2 and matrix.shape[:1] == (others[-1],)
        if not fits or course.chain not in ("4", "float32*") or matrix.dtype != np.float64:
            return None
        channels, taps = others
        shape = (filters, channels, matrix.shape[1])
        if any(blocks) or order != (2, 0, 1) or (padded[0], padded[2]) != (filters, shape[2]):
            return None
        star = "" if template.factor is None else "*"
        course = replace(
            course,
            chain=f"float32{star}@{taps}",
            shape=shape,
            steps=(channels * taps, taps, 0),
            order=order,
            padded=padded,
        )
        return replace(template, course=course, matrix=np.ascontiguousarray(matrix))

    def elements_of(self, number: int) -> Template | None:
        """Return how the elements of a step's result come about, in their order."""
        lazy = self._lazy(number)
        return None if lazy is None else lazy.template()

    def look_of(self, number: int) -> Look | None:
        """Return what a step looks for in large numbers; None for any other step."""
        step = self._steps[number]
        if step.function in ("max", "min") and step.keywords == {"initial": 0}:
            return self._limit_of(step)
        if step.function == "sum":
            return self._sums_of(step)
        operand, sought = self._largest_of(number), Sought.LARGEST
        if operand is None:
            operand, sought = self._halved(number), Sought.HALVES
        template = None if operand is None else self.elements_of(operand)
        return (
            None
            if template is None
            else Look(*before_rounding(template), sought, np.dtype(np.float32))
        )

    def _limit_of(self, step: Step) -> Look | None:
        """Return how a step finds the largest or smallest of 8-bit integers and zero."""
        lazy = self._lazy(step.operands[0]) if len(step.arguments) == 1 else None
        if lazy is None or not lazy.chain.endswith(_WIDE) or lazy.view.size != lazy.base.size:
            return None
        return Look(lazy.template(), False, Sought(step.function), lazy.dtype)

    def _sums_of(self, step: Step) -> Look | None:
        """Return how a step adds 8-bit integers along all axes but one."""
        lazy = self._lazy(step.operands[0]) if len(step.arguments) == 1 else None
        axes = step.keywords.get("axis")
        if lazy is None or not lazy.chain.endswith(_WIDE) or len(step.keywords) != 1:
            return None
        kept = set(range(len(lazy.shape))) - set(axes if isinstance(axes, tuple) else ())
        if len(kept) != 1 or lazy.view.shape != lazy.shape:
            return None
        (axis,) = kept
        others = [a for a in range(len(lazy.shape)) if a != axis]
        rows = lazy.seen(lambda a: a.transpose(axis, *sorted(others, key=lambda i: -a.strides[i])))
        return None if rows is None else Look(rows.template(), False, Sought.SUMS, rows.dtype)

    def _largest_of(self, number: int) -> int | None:
        """Return the step of which a step takes the largest magnitude."""
        step = self._steps[number]
        if step.function != "max" or len(step.arguments) != 1 or step.keywords:
            return None
        magnitudes = self._steps[step.operands[0]]
        return magnitudes.operands[0] if magnitudes.function == "absolute" else None

    def _halved(self, number: int) -> int | None:
        """Return the step of which a step asks whether f16 holds all of its numbers."""
        step = self._steps[number]
        if step.function != "all" or len(step.arguments) != 1 or step.keywords:
            return None
        compared = self._steps[step.operands[0]]
        if compared.function != "equal" or len(compared.operands) != 2:
            return None
        wide, number = compared.operands
        for dtype in (np.float32, np.float16):
            converted = self._steps[wide]
            if converted.function != "astype" or self._arguments(converted)[1] != dtype:
                return None
            (wide,) = converted.operands
        return number if wide == number else None

    def _lazy(self, number: int) -> _Lazy | None:
        if not self.is_large(number):
            return None
        step = self._steps[number]
        if step.function == SOURCE:
            source = self._recipes.sources[step.arguments[0]]
            # Memory that is never touched: only addresses count.
            view = np.empty(source.shape, np.uint8)
            dtype = np.dtype(source.dtype)
            return _Lazy(source.name, view, view, view.shape, source.dtype, dtype)
        if step.keywords:
            return None
        if step.function in ("multiply", "subtract"):
            return self._with_small(step)
        if step.function == "blocked":
            return self._transposed(step)
        lazy = self._lazy(step.operands[0]) if len(step.operands) == 1 else None
        return None if lazy is None else self._applied(step, lazy)

    def _applied(self, step: Step, lazy: _Lazy) -> _Lazy | None:
        name, others = step.function, self._arguments(step)[1:]
        if name == "astype":
            return lazy.converted(others[0])
        if name == "reshape":
            shape = others[0] if isinstance(others[0], tuple) else (others[0],)
            if -1 in shape:
                shape = tuple(prod(lazy.shape) // -prod(shape) if n == -1 else n for n in shape)
            return lazy.reshaped(shape) if prod(shape) == prod(lazy.shape) else None
        if name == "ravel":
            return lazy.reshaped((prod(lazy.shape),))
        if name not in _VIEWS:
            return None

        def viewed(a: Array) -> Array | None:
            result: Array = FUNCTIONS[name](a, *others)
            return result if np.may_share_memory(result, a) else None

        return lazy.seen(viewed)

    def _with_small(self, step: Step) -> _Lazy | None:
        """Return a large array times a small one, or minus zeros."""
        large = [n for n in step.operands if self.is_large(n)]
        small = [n for n in step.operands if n not in large]
        if len(large) != 1 or len(small) != 1 or len(step.arguments) != 2:
            return None
        lazy = self._lazy(large[0])
        if lazy is None:
            return None
        if step.function == "multiply":
            return lazy.scaled(small[0], self._value(small[0]))
        if step.arguments[0] != ["$", large[0]]:
            return None
        return lazy.shifted(small[0], self._value(small[0]))

    def _blocked(self, step: Step) -> tuple[_Lazy | None, Any, Any, Any]:
        _, blocks, order, padded, dtype = self._arguments(step)
        lazy = self._lazy(step.operands[0])
        return None if lazy is None else lazy.converted(dtype), blocks, order, padded

    def _transposed(self, step: Step) -> _Lazy | None:
        """Return what :func:`.blocked` gives where nothing is padded."""
        lazy, blocks, order, padded = self._blocked(step)
        if lazy is None or padded != lazy.shape:
            return None
        if _keeps_order(blocks, order):
            return lazy
        sizes = [(n // prod(b), *b) for n, b in zip(padded, blocks, strict=True)]
        parts = tuple(chain.from_iterable(sizes))

        def moved(a: Array) -> Array | None:
            split = _reshaped(a, parts)
            return None if split is None else split.transpose(order)

        return lazy.seen(moved)


@lru_cache(maxsize=1024)
def before_rounding(template: Template) -> tuple[Template, bool]:
    """Return the numbers that become f16 and f32 again in the end, and whether they do."""
    course, chain = template.course, template.course.chain
    if not chain.endswith(_ROUNDING):
        return template, False
    return replace(template, course=replace(course, chain=chain.removesuffix(_ROUNDING))), True


def _is_step(form: Any) -> bool:
    return isinstance(form, list) and form[0] == "$"


def _joined_shape(shapes: Sequence[tuple[int, ...]], axis: int) -> tuple[int, ...]:
    """Return the shape of arrays that lie one behind the other along an axis."""
    return tuple(sum(s[i] for s in shapes) if i == axis else n for i, n in enumerate(shapes[0]))


def _keeps_order(blocks: tuple[tuple[int, ...], ...], order: tuple[int, ...]) -> bool:
    return not any(blocks) and order == tuple(range(len(order)))


def _reshaped(a: Array, shape: tuple[int, ...]) -> Array | None:
    """Return a view of another shape, None where strides allow none."""
    try:
        result: Array = np.reshape(a, shape, copy=False)
    except ValueError:
        return None
    except TypeError:  # NumPy before 2.1
        result = a.reshape(shape)
    return result if np.may_share_memory(result, a) else None


def _distinct(picked: Array) -> tuple[Array, tuple[int, ...]]:
    """Return the numbers of a broadcast array once, and its steps among them."""
    dense = np.ascontiguousarray(picked[tuple(slice(None) if s else 0 for s in picked.strides)])
    steps = iter(dense.strides)
    factor_steps = (next(steps) // dense.itemsize if s else 0 for s in picked.strides)
    return dense.reshape(-1), tuple(factor_steps)


def _address(array: Array) -> int:
    result: int = array.__array_interface__["data"][0]
    return result
