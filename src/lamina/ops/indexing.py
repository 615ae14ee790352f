"""Operators that read elements at places that another operand names."""

from __future__ import annotations

import numpy as np

from lamina.errors import ExecutionError, TypeMismatch
from lamina.ir.dims import Dim, always_le, is_static, never_equal
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops.check import axis_in, has_dtype, rank_is, same_size


@operator
class Gather(Op):
    """Take slices of ``x`` along ``axis``; the shape of ``indices`` replaces that axis.

    Negative indices count from the end; the reference raises ExecutionError outside the axis.
    """

    axis: int = 0

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:
        axis_in(self.axis, x)
        has_dtype("indices", indices, DType.I32, DType.I64)
        return x.with_shape((*x.shape[: self.axis], *indices.shape, *x.shape[self.axis + 1 :]))

    def reference(self, x: Array, indices: Array) -> Array:
        return np.asarray(
            np.take(x, checked_indices(indices, x.shape[self.axis], self.axis), axis=self.axis)
        )


@operator
class GatherElements(Op):
    """``y[i, j, …] = x[…, indices[i, j, …], …]`` with the index at ``axis``."""

    axis: int = 0

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:
        axis_in(self.axis, x)
        has_dtype("indices", indices, DType.I32, DType.I64)
        rank_is("indices", indices, x.rank)
        check_elements(self.axis, x, indices)
        return x.with_shape(indices.shape)

    def reference(self, x: Array, indices: Array) -> Array:
        return x[element_places(x.shape, indices, self.axis)]


@operator
class GatherNd(Op):
    """Take the slices of ``x`` that the last axis of ``indices`` addresses.

    The first ``batch_dims`` axes of both operands run together.
    """

    batch_dims: int = 0

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:
        has_dtype("indices", indices, DType.I32, DType.I64)
        b, depth = self.batch_dims, index_depth(indices)
        if not b < min(x.rank + 1, indices.rank) or b + depth > x.rank:
            raise TypeMismatch(
                f"{b} batch axes and an index of {depth} entries do not fit x {x} "
                f"with indices {indices}"
            )
        for axis in range(b):
            same_size(f"axis {axis} of x", x.shape[axis], "of indices", indices.shape[axis])
        return x.with_shape((*indices.shape[:-1], *x.shape[b + depth :]))

    def reference(self, x: Array, indices: Array) -> Array:
        b = self.batch_dims
        places = nd_places(x.shape, indices, b)
        batch: tuple[Array, ...] = np.indices(indices.shape[:b], sparse=True)
        extra = indices.ndim - 1 - b
        lead = tuple(i.reshape(i.shape + (1,) * extra) for i in batch)
        return np.asarray(x[(*lead, *places)])


@operator
class OneHot(Op):
    """Put ``values[1]`` where the new axis equals the index and ``values[0]`` elsewhere.

    Negative indices count from ``depth``; an index outside ``-depth … depth-1`` gives no hot place.
    """

    axis: int
    depth: Dim

    def infer(self, indices: TensorType, values: TensorType) -> TensorType:
        rank_is("values", values, 1)
        if not 0 <= self.axis <= indices.rank:
            raise TypeMismatch(f"axis {self.axis} is outside the {indices.rank + 1} of the result")
        same_size("the number of values", values.shape[0], "the expected number", 2)
        if not (indices.dtype.is_integer or indices.dtype.is_float):
            raise TypeMismatch(f"indices must be numbers, got {indices}")
        shape = (*indices.shape[: self.axis], self.depth, *indices.shape[self.axis :])
        return values.with_shape(shape)

    def reference(self, indices: Array, values: Array) -> Array:
        depth = int(self.depth)  # type: ignore[arg-type]
        index = indices.astype(np.int64)
        index = np.where(index < 0, index + depth, index)
        hot = np.expand_dims(index, self.axis) == np.arange(depth).reshape(
            (-1,) + (1,) * (indices.ndim - self.axis)
        )
        return np.asarray(np.where(hot, values[1], values[0])).astype(values.dtype)


@operator
class NonZero(Op):
    """Coordinates of the elements that are not zero, in row-major order: i64 [rank, count].

    ``count`` is a symbol of its own; a scalar operand gives a result of shape [0, count].
    """

    count: Dim

    def infer(self, x: TensorType) -> TensorType:
        return TensorType(DType.I64, (x.rank, self.count))

    def reference(self, x: Array) -> Array:
        return np.ascontiguousarray(np.argwhere(x).T.astype(np.int64))


@operator
class ReverseSequence(Op):
    """Reverse the first ``sequence_lengths[b]`` elements along time for each element of a batch."""

    batch_axis: int = 1
    time_axis: int = 0

    def infer(self, x: TensorType, sequence_lengths: TensorType) -> TensorType:
        axis_in(self.batch_axis, x)
        axis_in(self.time_axis, x)
        has_dtype("sequence_lengths", sequence_lengths, DType.I32, DType.I64)
        rank_is("sequence_lengths", sequence_lengths, 1)
        if self.batch_axis == self.time_axis:
            raise TypeMismatch(f"batch and time are both axis {self.time_axis}")
        batch = x.shape[self.batch_axis]
        same_size("the batch", batch, "sequence_lengths", sequence_lengths.shape[0])
        return x

    def reference(self, x: Array, sequence_lengths: Array) -> Array:
        time = np.arange(x.shape[self.time_axis])[:, None]
        lengths = sequence_lengths.astype(np.int64)[None, :]
        source = np.where(time < lengths, lengths - 1 - time, time)
        front = np.moveaxis(x, (self.time_axis, self.batch_axis), (0, 1))
        y = front[source, np.arange(x.shape[self.batch_axis])[None, :]]
        return np.ascontiguousarray(np.moveaxis(y, (0, 1), (self.time_axis, self.batch_axis)))


def checked_indices(indices: Array, size: int, axis: int) -> Array:
    """Return indices as non-negative i64; raises ExecutionError when one is outside the axis."""
    index = indices.astype(np.int64)
    outside = (index < -size) | (index >= size)
    if outside.any():
        bad = int(index[outside].flat[0])
        raise ExecutionError(f"index {bad} is outside axis {axis} of size {size}")
    return np.where(index < 0, index + size, index)


def element_places(shape: tuple[int, ...], indices: Array, axis: int) -> tuple[Array, ...]:
    """Return NumPy indices of the elements that GatherElements and ScatterElements touch."""
    places: list[Array] = list(np.indices(indices.shape, sparse=True))
    places[axis] = checked_indices(indices, shape[axis], axis)
    return tuple(places)


def nd_places(shape: tuple[int, ...], indices: Array, first_axis: int) -> tuple[Array, ...]:
    """Split the last axis of ``indices`` into one checked index array per addressed axis."""
    return tuple(
        checked_indices(indices[..., i], shape[first_axis + i], first_axis + i)
        for i in range(indices.shape[-1])
    )


def index_depth(indices: TensorType) -> int:
    """Return the static length of the last axis of ``indices``; raises TypeMismatch without one."""
    if indices.rank == 0 or not is_static(indices.shape[-1]):
        raise TypeMismatch(f"the last axis of indices must have a known size, got {indices}")
    return int(indices.shape[-1])  # type: ignore[arg-type]


def check_elements(axis: int, x: TensorType, indices: TensorType) -> None:
    """Raise TypeMismatch when ``indices`` is larger than ``x`` on another axis than ``axis``."""
    for a, (d, n) in enumerate(zip(x.shape, indices.shape, strict=True)):
        if a != axis and never_equal(d, n) and always_le(d, n):
            raise TypeMismatch(f"axis {a} of indices is {n}, larger than the {d} of x")
