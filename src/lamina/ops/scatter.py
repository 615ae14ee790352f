"""Operators that write updates into a copy of their first operand."""

from __future__ import annotations

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops.check import axis_in, has_dtype, rank_is, same_dtype, same_size
from lamina.ops.indexing import check_elements, element_places, index_depth, nd_places
from lamina.ops.kinds import ScatterReduction


@operator
class ScatterElements(Op):
    """Write ``updates[i, j, …]`` to the place that ``indices[i, j, …]`` names along ``axis``.

    Without a reduction the last of several writes to one place stays.
    """

    axis: int = 0
    reduction: ScatterReduction = ScatterReduction.NONE

    def infer(self, x: TensorType, indices: TensorType, updates: TensorType) -> TensorType:
        axis_in(self.axis, x)
        has_dtype("indices", indices, DType.I32, DType.I64)
        rank_is("indices", indices, x.rank)
        check_elements(self.axis, x, indices)
        _check_updates(x, updates, indices.with_dtype(x.dtype))
        return x

    def reference(self, x: Array, indices: Array, updates: Array) -> Array:
        places = np.broadcast_arrays(*element_places(x.shape, indices, self.axis))
        return _scatter(x, tuple(places), updates, self.reduction)


@operator
class ScatterNd(Op):
    """Write slices of ``updates`` to the places that the last axis of ``indices`` addresses."""

    reduction: ScatterReduction = ScatterReduction.NONE

    def infer(self, x: TensorType, indices: TensorType, updates: TensorType) -> TensorType:
        has_dtype("indices", indices, DType.I32, DType.I64)
        depth = index_depth(indices)
        if depth > x.rank:
            raise TypeMismatch(f"an index has {depth} entries but x has rank {x.rank}")
        _check_updates(x, updates, x.with_shape((*indices.shape[:-1], *x.shape[depth:])))
        return x

    def reference(self, x: Array, indices: Array, updates: Array) -> Array:
        return _scatter(x, nd_places(x.shape, indices, 0), updates, self.reduction)


def _check_updates(x: TensorType, updates: TensorType, expected: TensorType) -> None:
    same_dtype("x", x, "updates", updates)
    rank_is("updates", updates, expected.rank)
    for axis, (a, b) in enumerate(zip(updates.shape, expected.shape, strict=True)):
        same_size(f"axis {axis} of updates", a, "what x and indices need", b)


_UFUNCS = {
    ScatterReduction.ADD: np.add,
    ScatterReduction.MUL: np.multiply,
    ScatterReduction.MAX: np.maximum,
    ScatterReduction.MIN: np.minimum,
}


def _scatter(
    x: Array, places: tuple[Array, ...], updates: Array, reduction: ScatterReduction
) -> Array:
    y = x.copy()
    if reduction is ScatterReduction.NONE:
        y[places] = updates
    else:
        _UFUNCS[reduction].at(y, places, updates)
    return y
