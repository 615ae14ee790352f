"""Pooling windows."""

from __future__ import annotations

import math

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops import check
from lamina.ops.accumulate import narrow, widen
from lamina.ops.convolve import pad_spatial, tap_slices
from lamina.ops.functions import lowest
from lamina.ops.kinds import PoolKind
from lamina.ops.window import window_count, window_count_ceil, window_span


@operator
class Pool(Op):
    """Maximum, average or p-norm over windows of the spatial axes of [N, C, *spatial].

    ``ceil_mode`` also counts a last window that is cut off by the end, unless it would start in the
    end padding.  ``count_include_pad`` lets averages count the padding (not what lies beyond it).
    """

    kind: PoolKind
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = False
    p: int = 2

    def infer(self, x: TensorType) -> TensorType:
        """Return [N, C, *windows]."""
        if self.kind is PoolKind.MAX:
            check.arithmetic("x", x)
        else:
            check.floating("x", x)
        return x.with_shape(pooled_shape(self, x))

    def reference(self, x: Array) -> Array:
        """Combine the taps of the kernel one after the other, halves in f32."""
        wide = widen(x)
        if self.kind is PoolKind.MAX:
            y = _max_pool(self, wide)[0]
        elif self.kind is PoolKind.AVERAGE:
            y = _average_pool(self, wide, self.count_include_pad)
        else:
            y = _lp_pool(self, wide, self.p)
        return narrow(y, x.dtype)


@operator
class MaxPoolIndices(Op):
    """Maximum over windows, and where in the whole tensor each maximum is.

    The second result is the flat index (i64) of the first maximum in row-major order of
    [N, C, *spatial]; with ``storage_order`` 1 the spatial axes are counted column-major.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    ceil_mode: bool = False
    storage_order: int = 0

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        """Return [N, C, *windows] twice."""
        check.arithmetic("x", x)
        shape = pooled_shape(self, x)
        return x.with_shape(shape), TensorType(DType.I64, shape)

    def reference(self, x: Array) -> tuple[Array, Array]:
        """Keep the first largest tap of each window."""
        y, indices = _max_pool(self, widen(x), column_major=bool(self.storage_order))
        return narrow(y, x.dtype), indices


def pooled_shape(op: Pool | MaxPoolIndices, x: TensorType) -> tuple[Dim, ...]:
    """Return the shape of the result; raises TypeMismatch for attributes that do not fit."""
    check.rank_at_least("x", x, 3)
    for name in ("kernel", "strides", "dilations", "pads_begin", "pads_end"):
        check.entries(name, getattr(op, name), x.rank - 2)
    if any(k < 1 for k in op.kernel):
        raise TypeMismatch(f"the kernel {op.kernel} has a size below 1")
    count = window_count_ceil if op.ceil_mode else window_count
    spatial = (
        count(size, window_span(k, d), s, begin, end)
        for size, k, s, d, begin, end in zip(
            x.shape[2:],
            op.kernel,
            op.strides,
            op.dilations,
            op.pads_begin,
            op.pads_end,
            strict=True,
        )
    )
    return (*x.shape[:2], *spatial)


def _geometry(op: Pool | MaxPoolIndices, x: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the number of windows and the padding at the end that makes the last one whole."""
    counts = pooled_shape(op, TensorType(DType.F32, x.shape))[2:]
    numbers = tuple(int(c) for c in counts)  # type: ignore[arg-type]
    needed = tuple(
        max((count - 1) * s + (k - 1) * d + 1 - size - begin, end)
        for count, s, k, d, size, begin, end in zip(
            numbers,
            op.strides,
            op.kernel,
            op.dilations,
            x.shape[2:],
            op.pads_begin,
            op.pads_end,
            strict=True,
        )
    )
    return numbers, needed


def _max_pool(
    op: Pool | MaxPoolIndices, x: Array, *, column_major: bool = False
) -> tuple[Array, Array]:
    counts, end = _geometry(op, x)
    padded = pad_spatial(x, op.pads_begin, end, lowest(x.dtype))
    order = "F" if column_major else "C"
    spatial = np.arange(math.prod(x.shape[2:])).reshape(x.shape[2:], order=order)  # type: ignore[call-overload]
    planes = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    flat = planes * spatial.size + spatial
    where = pad_spatial(flat, op.pads_begin, end, -1)
    best = np.full((*x.shape[:2], *counts), lowest(x.dtype), x.dtype)
    index = np.full(best.shape, -1, np.int64)
    for tap in np.ndindex(*op.kernel):
        slices = tap_slices(tap, op.strides, op.dilations, counts)
        value, source = padded[slices], where[slices]
        # NaN wins and stays; among equal elements the first in row-major order of the window.
        better = (source >= 0) & ~np.isnan(best) & ((index < 0) | ~(value <= best))
        best = np.where(better, value, best)
        index = np.where(better, source, index)
    return best, index


def _average_pool(op: Pool, x: Array, count_padding: bool) -> Array:
    counts, end = _geometry(op, x)
    padded = pad_spatial(x, op.pads_begin, end, 0)
    real = np.ones((1, 1, *x.shape[2:]), x.dtype)
    if count_padding:
        real = pad_spatial(real, op.pads_begin, op.pads_end, 1)
        beyond = tuple(e - declared for e, declared in zip(end, op.pads_end, strict=True))
        real = pad_spatial(real, (0,) * len(end), beyond, 0)
    else:
        real = pad_spatial(real, op.pads_begin, end, 0)
    total = np.zeros((*x.shape[:2], *counts), x.dtype)
    share = np.zeros((1, 1, *counts), x.dtype)
    with np.errstate(all="ignore"):
        for tap in np.ndindex(*op.kernel):
            slices = tap_slices(tap, op.strides, op.dilations, counts)
            total += padded[slices]
            share += real[slices]
        return np.asarray(total / share)


def _lp_pool(op: Pool, x: Array, p: int) -> Array:
    counts, end = _geometry(op, x)
    padded = pad_spatial(x, op.pads_begin, end, 0)
    total = np.zeros((*x.shape[:2], *counts), x.dtype)
    with np.errstate(all="ignore"):
        for tap in np.ndindex(*op.kernel):
            slices = tap_slices(tap, op.strides, op.dilations, counts)
            total += np.abs(padded[slices]) ** p
        return np.asarray(total ** (1 / p), x.dtype)
