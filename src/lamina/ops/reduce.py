"""Reductions along axes, running reductions and selection of the largest elements."""

from __future__ import annotations

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim, is_static
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops import check
from lamina.ops.accumulate import narrow, widen
from lamina.ops.functions import reduce_function
from lamina.ops.kinds import ArgReduceKind, CumulativeKind, ReduceKind
from lamina.ops.symbolic import is_symbolic, symbolic_reduce

_FLOAT_ONLY = frozenset({ReduceKind.LOG_SUM, ReduceKind.LOG_SUM_EXP})


@operator
class Reduce(Op):
    """Join the elements along ``axes`` (sorted and non-negative; none means no reduction).

    Without axes the function still applies to each element: ``l1`` of one element is its absolute
    value.
    """

    kind: ReduceKind
    axes: tuple[int, ...]
    keepdims: bool = True

    def infer(self, x: TensorType) -> TensorType:
        """Drop the axes or, with ``keepdims``, give them size one."""
        if x.dtype is not DType.BOOL or self.kind not in (ReduceKind.MAX, ReduceKind.MIN):
            check.arithmetic("x", x)
        if self.kind in _FLOAT_ONLY:
            check.floating("x", x)
        for axis in self.axes:
            check.axis_in(axis, x)
        if list(self.axes) != sorted(set(self.axes)):
            raise TypeMismatch(f"axes {self.axes} must be sorted and distinct")
        return x.with_shape(reduced_shape(x.shape, self.axes, self.keepdims))

    def reference(self, x: Array) -> Array:
        """Reduce with NumPy, halves in f32; an empty maximum is the lowest value of the type."""
        if is_symbolic(x):
            return symbolic_reduce(self.kind, x, self.axes, self.keepdims)
        y = reduce_function(self.kind, widen(x), self.axes, self.keepdims)
        return narrow(y, x.dtype)


@operator
class ArgReduce(Op):
    """Index (i64) of the largest or smallest element along an axis."""

    kind: ArgReduceKind
    axis: int
    keepdims: bool = True
    select_last: bool = False

    def infer(self, x: TensorType) -> TensorType:
        """Drop the axis or, with ``keepdims``, give it size one."""
        check.arithmetic("x", x)
        check.axis_in(self.axis, x)
        return TensorType(DType.I64, reduced_shape(x.shape, (self.axis,), self.keepdims))

    def reference(self, x: Array) -> Array:
        """Apply argmax or argmin, from the end of the axis for ``select_last``."""
        find = np.argmax if self.kind is ArgReduceKind.ARGMAX else np.argmin
        x = widen(x)
        if not self.select_last:
            return np.asarray(find(x, axis=self.axis, keepdims=self.keepdims), np.int64)
        flipped = find(np.flip(x, self.axis), axis=self.axis, keepdims=self.keepdims)
        return np.asarray(x.shape[self.axis] - 1 - flipped, np.int64)


@operator
class Cumulative(Op):
    """Running sum or product along an axis.

    ``exclusive`` leaves out the element itself; ``reverse`` runs from the end.
    """

    kind: CumulativeKind
    axis: int
    exclusive: bool = False
    reverse: bool = False

    def infer(self, x: TensorType) -> TensorType:
        """Return the operand's type."""
        check.arithmetic("x", x)
        check.axis_in(self.axis, x)
        return x

    def reference(self, x: Array) -> Array:
        """Apply cumsum or cumprod, halves in f32."""
        add = self.kind is CumulativeKind.SUM
        source = np.flip(x, self.axis) if self.reverse else x
        wide = np.moveaxis(widen(source), self.axis, 0)
        if self.exclusive:
            first = np.full_like(wide[:1], 0 if add else 1)
            wide = np.concatenate([first, wide[:-1]])
        with np.errstate(all="ignore"):
            y = (np.cumsum if add else np.cumprod)(wide, axis=0, dtype=wide.dtype)
        y = np.moveaxis(y, 0, self.axis)
        return narrow(np.flip(y, self.axis) if self.reverse else y, x.dtype)


@operator
class TopK(Op):
    """The ``k`` largest or smallest elements along an axis and their indices (i64).

    Equal elements come in the order of their indices.  The result is in order even when ``sorted``
    is false, which only permits an implementation to leave it out.
    """

    k: Dim
    axis: int
    largest: bool = True
    sorted: bool = True

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        """Give the axis size ``k``."""
        check.arithmetic("x", x)
        check.axis_in(self.axis, x)
        size = x.shape[self.axis]
        if is_static(self.k) and is_static(size) and not 0 <= int(self.k) <= int(size):  # type: ignore[arg-type]
            raise TypeMismatch(f"k is {self.k} but axis {self.axis} has {size} elements")
        shape = tuple(self.k if i == self.axis else d for i, d in enumerate(x.shape))
        return x.with_shape(shape), TensorType(DType.I64, shape)

    def reference(self, x: Array) -> tuple[Array, Array]:
        """Sort stably and keep the first ``k``; NaN counts as larger than everything."""
        wide = widen(x)
        if self.largest:
            # Sorting the reversed axis and reversing the result keeps equal elements in order.
            order = np.flip(np.argsort(np.flip(wide, self.axis), self.axis, "stable"), self.axis)
            order = x.shape[self.axis] - 1 - order
        else:
            order = np.argsort(wide, self.axis, "stable")
        indices = np.take(order, range(int(self.k)), self.axis)  # type: ignore[arg-type]
        return np.take_along_axis(x, indices, self.axis), indices.astype(np.int64)


def reduced_shape(shape: tuple[Dim, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[Dim, ...]:
    """Return the shape after reducing ``axes``."""
    if keepdims:
        return tuple(1 if i in axes else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in axes)
