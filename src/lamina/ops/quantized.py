"""Contractions of 8-bit integers: what is left of Dequantize, contraction, epilogue, Quantize."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops import check
from lamina.ops.contraction import Convolution, Matmul
from lamina.ops.convolve import add_channel_bias, convolve
from lamina.ops.functions import activate
from lamina.ops.kinds import Epilogue, Scaling

EIGHT_BIT = (DType.I8, DType.U8)


@operator
class QuantizedConvolution(Op):
    """``quantize(activation(conv(x, w) + bias + residual))`` on 8-bit x and w.

    x and w stand for ``x_scaling`` of x and ``w_scale * w``; x is [N, C, *spatial] of u8 or i8, w
    is i8 [M, C / groups, *kernel], w_scale and bias are f32 [M].  residual has the shape of the
    result and is f32, or 8-bit with ``residual_scaling``.  Padding stands for the number 0.  The
    result is f32, or 8-bit with ``y_scaling``: divided by the scale, rounded half to even,
    saturated.  With ``rounding`` the biased sum is first rounded to what the 8-bit type
    ``rounding_dtype`` holds at that scale, as a Quantize and a Dequantize in a row do.
    """

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    groups: int = 1
    x_scaling: Scaling
    residual_scaling: Scaling | None = None
    activation: Epilogue | None = None
    dtype: DType = DType.F32
    y_scaling: Scaling | None = None
    rounding: Scaling | None = None
    rounding_dtype: DType = DType.F32

    def infer(
        self,
        x: TensorType,
        w: TensorType,
        w_scale: TensorType,
        bias: TensorType | None = None,
        residual: TensorType | None = None,
    ) -> TensorType:
        """Return [N, M, *windows] of the type ``dtype``."""
        real = Convolution(
            strides=self.strides,
            dilations=self.dilations,
            pads_begin=self.pads_begin,
            pads_end=self.pads_end,
            groups=self.groups,
        )
        result = real.infer(x.with_dtype(DType.F32), w.with_dtype(DType.F32), bias)
        _check_quantized(self, result, x, w, w_scale, residual)
        check.shape_is("w_scale", w_scale, (w.shape[0],))
        return result.with_dtype(self.dtype)

    def reference(
        self,
        x: Array,
        w: Array,
        w_scale: Array,
        bias: Array | None = None,
        residual: Array | None = None,
    ) -> Array:
        """Sum over the taps in f32, scale the sums, apply the epilogue, quantize."""
        sums = convolve(
            self.x_scaling.shifted(x),
            w.astype(np.float32),
            self.strides,
            self.dilations,
            self.pads_begin,
            self.pads_end,
            self.groups,
        )
        factors = (w_scale * np.float32(self.x_scaling.scale)).reshape(-1, *[1] * (x.ndim - 2))
        return _finish(self, add_channel_bias(sums * factors, bias), residual)


@operator
class QuantizedMatmul(Op):
    """``quantize(activation(a @ b + bias + residual))`` on 8-bit a and b.

    a is [*batch, M, K] of u8 or i8, b is i8 [K, N], b_scale is f32 [N], bias and residual broadcast
    to the result; the rest is as in QuantizedConvolution.
    """

    x_scaling: Scaling
    residual_scaling: Scaling | None = None
    activation: Epilogue | None = None
    dtype: DType = DType.F32
    y_scaling: Scaling | None = None
    rounding: Scaling | None = None
    rounding_dtype: DType = DType.F32

    def infer(
        self,
        a: TensorType,
        b: TensorType,
        b_scale: TensorType,
        bias: TensorType | None = None,
        residual: TensorType | None = None,
    ) -> TensorType:
        """Return [*batch, M, N] of the type ``dtype``."""
        check.rank_is("b", b, 2)
        result = Matmul().infer(a.with_dtype(DType.F32), b.with_dtype(DType.F32), bias)
        _check_quantized(self, result, a, b, b_scale, residual)
        check.shape_is("b_scale", b_scale, (b.shape[1],))
        return result.with_dtype(self.dtype)

    def reference(
        self,
        a: Array,
        b: Array,
        b_scale: Array,
        bias: Array | None = None,
        residual: Array | None = None,
    ) -> Array:
        """Multiply in f32, scale the sums, apply the epilogue, quantize."""
        sums = np.matmul(self.x_scaling.shifted(a), b.astype(np.float32))
        y = sums * (b_scale * np.float32(self.x_scaling.scale))
        return _finish(self, y if bias is None else y + bias, residual)


Quantized = QuantizedConvolution | QuantizedMatmul


def quantized(x: Array, scaling: Scaling, dtype: DType) -> Array:
    """Return ``x`` divided by the scale, rounded half to even, shifted and saturated."""
    info = ml_dtypes.iinfo(dtype.numpy)
    whole = np.rint(x / np.float32(scaling.scale)) + np.float32(scaling.zero_point)
    return np.clip(np.nan_to_num(whole), info.min, info.max).astype(dtype.numpy)


def _finish(op: Quantized, y: Array, residual: Array | None) -> Array:
    if op.rounding is not None:
        y = op.rounding.real(quantized(y, op.rounding, op.rounding_dtype))
    if residual is not None:
        given = op.residual_scaling
        y = y + (residual if given is None else given.real(residual))
    if op.activation is not None:
        y = activate(op.activation, y)
    y = y.astype(np.float32, copy=False)
    return y if op.y_scaling is None else quantized(y, op.y_scaling, op.dtype)


def _check_quantized(
    op: Quantized,
    result: TensorType,
    x: TensorType,
    w: TensorType,
    scale: TensorType,
    residual: TensorType | None,
) -> None:
    first, second, third = op.operands[:3]
    check.has_dtype(first, x, *EIGHT_BIT)
    check.has_dtype(second, w, DType.I8)
    check.has_dtype(third, scale, DType.F32)
    if (op.y_scaling is None) != (op.dtype is DType.F32):
        raise TypeMismatch(f"the result is {op.dtype} but y_scaling is {op.y_scaling}")
    if (op.rounding is None) != (op.rounding_dtype is DType.F32):
        raise TypeMismatch(f"the sum is rounded to {op.rounding_dtype} with {op.rounding}")
    check.has_dtype("the rounded sum", result.with_dtype(op.rounding_dtype), DType.F32, *EIGHT_BIT)
    check.has_dtype("the result", result.with_dtype(op.dtype), DType.F32, *EIGHT_BIT)
    if residual is not None:
        allowed = (DType.F32,) if op.residual_scaling is None else EIGHT_BIT
        check.has_dtype("residual", residual, *allowed)
        check.broadcasts_to("residual", residual, result.shape)
        if isinstance(op, QuantizedConvolution):
            check.shape_is("residual", residual, result.shape)
