"""Convolutions and matrix products: operators that multiply and sum."""

from __future__ import annotations

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim, is_static
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops import check
from lamina.ops.accumulate import narrow, widen
from lamina.ops.broadcast import broadcast_shapes
from lamina.ops.convolve import add_channel_bias, convolve, deconvolve
from lamina.ops.functions import activate
from lamina.ops.kinds import Epilogue
from lamina.ops.window import window_count, window_span


@operator
class Convolution(Op):
    """``activation(conv(x, w) + bias + residual)`` over one to three spatial axes.

    x is [N, C, *spatial], w is [M, C / groups, *kernel], bias is [M] and residual has the shape of
    the result.  With f16 or bf16 the bias may be f32.  The kernel is not flipped.
    """

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    groups: int = 1
    activation: Epilogue | None = None

    def infer(
        self,
        x: TensorType,
        w: TensorType,
        bias: TensorType | None = None,
        residual: TensorType | None = None,
    ) -> TensorType:
        """Return [N, M, *windows]."""
        _check_spatial(self, x, w)
        check.same_size("C", x.shape[1], "groups * the channels of w", w.shape[1] * self.groups)
        _check_groups("M", w.shape[0], self.groups)
        spatial = tuple(
            window_count(size, window_span(k, d), s, begin, end)
            for size, k, s, d, begin, end in zip(
                x.shape[2:],
                w.shape[2:],
                self.strides,
                self.dilations,
                self.pads_begin,
                self.pads_end,
                strict=True,
            )
        )
        result = x.with_shape((x.shape[0], w.shape[0], *spatial))
        _check_bias_residual(result, bias, residual, (w.shape[0],))
        return result

    def reference(
        self, x: Array, w: Array, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        """Sum over the taps of the kernel; everything before the last rounding is f32 or wider."""
        y = convolve(
            widen(x),
            widen(w),
            self.strides,
            self.dilations,
            self.pads_begin,
            self.pads_end,
            self.groups,
        )
        return _finish(add_channel_bias(y, bias), residual, self.activation, x.dtype)


@operator
class Deconvolution(Op):
    """``activation(deconv(x, w) + bias + residual)``: the transpose of Convolution.

    x is [N, C, *spatial], w is [C, M / groups, *kernel], bias is [M].  ``output_padding`` adds
    elements at the end of each spatial axis.
    """

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int = 1
    activation: Epilogue | None = None

    def infer(
        self,
        x: TensorType,
        w: TensorType,
        bias: TensorType | None = None,
        residual: TensorType | None = None,
    ) -> TensorType:
        """Return [N, M, *strides * (size - 1) + span + output_padding - pads]."""
        _check_spatial(self, x, w)
        check.entries("output_padding", self.output_padding, x.rank - 2)
        check.same_size("C", x.shape[1], "the first axis of w", w.shape[0])
        _check_groups("C", w.shape[0], self.groups)
        channels = w.shape[1] * self.groups
        spatial = tuple(
            (size - 1) * s + window_span(k, d) + extra - begin - end
            for size, k, s, d, begin, end, extra in zip(
                x.shape[2:],
                w.shape[2:],
                self.strides,
                self.dilations,
                self.pads_begin,
                self.pads_end,
                self.output_padding,
                strict=True,
            )
        )
        result = x.with_shape((x.shape[0], channels, *spatial))
        _check_bias_residual(result, bias, residual, (channels,))
        return result

    def reference(
        self, x: Array, w: Array, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        """Add each input element times the kernel to the result, then cut off the padding."""
        y = deconvolve(
            widen(x),
            widen(w),
            self.strides,
            self.dilations,
            self.pads_begin,
            self.pads_end,
            self.output_padding,
            self.groups,
        )
        return _finish(add_channel_bias(y, bias), residual, self.activation, x.dtype)


@operator
class Matmul(Op):
    """``activation(a @ b + bias + residual)`` over the last two axes.

    The axes before them broadcast as in numpy.matmul; bias and residual broadcast to the result.
    ``transpose_a`` and ``transpose_b`` exchange the last two axes of an operand first.
    """

    transpose_a: bool = False
    transpose_b: bool = False
    activation: Epilogue | None = None

    def infer(
        self,
        a: TensorType,
        b: TensorType,
        bias: TensorType | None = None,
        residual: TensorType | None = None,
    ) -> TensorType:
        """Return [*batch, rows of a, columns of b]."""
        check.arithmetic("a", a)
        check.same_dtype("a", a, "b", b)
        check.rank_at_least("a", a, 2)
        check.rank_at_least("b", b, 2)
        m, k = _last_two(a, self.transpose_a)
        k_b, n = _last_two(b, self.transpose_b)
        check.same_size("the number of columns of a", k, "the number of rows of b", k_b)
        batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        result = a.with_shape((*batch, m, n))
        for name, operand in (("bias", bias), ("residual", residual)):
            if operand is not None:
                _check_added(name, operand, "a", a)
                check.broadcasts_to(name, operand, result.shape)
        return result

    def reference(
        self, a: Array, b: Array, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        """Apply numpy.matmul; everything before the last rounding is f32 or wider."""
        left = np.swapaxes(a, -1, -2) if self.transpose_a else a
        right = np.swapaxes(b, -1, -2) if self.transpose_b else b
        with np.errstate(all="ignore"):
            y = np.matmul(widen(left), widen(right))
            if bias is not None:
                y = y + widen(bias)
        return _finish(y, residual, self.activation, a.dtype)


def _finish(
    y: Array, residual: Array | None, activation: Epilogue | None, dtype: np.dtype[np.generic]
) -> Array:
    with np.errstate(all="ignore"):
        if residual is not None:
            y = y + widen(residual)
    if activation is not None:
        y = activate(activation, y)
    return narrow(y, dtype)


def _last_two(x: TensorType, transpose: bool) -> tuple[Dim, Dim]:
    rows, columns = x.shape[-2:]
    return (columns, rows) if transpose else (rows, columns)


def _check_spatial(op: Convolution | Deconvolution, x: TensorType, w: TensorType) -> None:
    check.arithmetic("x", x)
    check.same_dtype("x", x, "w", w)
    check.rank_at_least("x", x, 3)
    check.rank_is("w", w, x.rank)
    for name in ("strides", "dilations", "pads_begin", "pads_end"):
        check.entries(name, getattr(op, name), x.rank - 2)


def _check_groups(name: str, channels: Dim, groups: int) -> None:
    if groups < 1 or (is_static(channels) and int(channels) % groups):  # type: ignore[arg-type]
        raise TypeMismatch(f"{name} is {channels}, which {groups} groups do not divide")


def _check_bias_residual(
    result: TensorType,
    bias: TensorType | None,
    residual: TensorType | None,
    channels: tuple[Dim, ...],
) -> None:
    if bias is not None:
        _check_added("bias", bias, "x", result)
        check.shape_is("bias", bias, channels)
    if residual is not None:
        check.same_dtype("residual", residual, "x", result)
        check.shape_is("residual", residual, result.shape)


def _check_added(name: str, operand: TensorType, other: str, x: TensorType) -> None:
    """Require the type of x; a bias may also be f32 with halves, since the sums are f32."""
    halves = (DType.F16, DType.BF16)
    if name != "bias" or operand.dtype is not DType.F32 or x.dtype not in halves:
        check.same_dtype(name, operand, other, x)
