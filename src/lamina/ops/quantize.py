"""Quantization: ``q = x / scale + zero_point`` in a narrow type, and back."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.dims import ceildiv
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops import check
from lamina.ops.accumulate import narrow, widen
from lamina.ops.conversion import to_float4, to_float8

_QUANTIZED = frozenset(
    {
        DType.I8, DType.U8, DType.I16, DType.U16, DType.I4, DType.U4, DType.I2, DType.U2,
        DType.F8E4M3, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.F4E2M1,
    }
)  # fmt: skip


@operator
class Quantize(Op):
    """Divide by ``scale``, round half to even, add ``zero_point`` and saturate to ``dtype``.

    ``axis`` None means one scale (a scalar) for the tensor.  With an axis the scale is 1-D with one
    entry per index or, when ``block_size`` is above zero, has the shape of x with one entry per
    block along the axis.  The division is done in the type of the scale.  ``saturate`` concerns the
    8-bit floats only.
    """

    dtype: DType
    axis: int | None = None
    block_size: int = 0
    saturate: bool = True

    def infer(
        self, x: TensorType, scale: TensorType, zero_point: TensorType | None = None
    ) -> TensorType:
        """Return the shape of x with the quantized type."""
        if x.dtype is not DType.I32:
            check.floating("x", x)
        _check_quantized("the result", self.dtype)
        check_scale(x, scale, zero_point, self.dtype, self.axis, self.block_size)
        return x.with_dtype(self.dtype)

    def reference(self, x: Array, scale: Array, zero_point: Array | None = None) -> Array:
        """Apply the rules of ONNX QuantizeLinear."""
        divisor = spread_scale(scale.astype(_wide(scale)), x.shape, self.axis, self.block_size)
        with np.errstate(all="ignore"):
            ratio = narrow(x, divisor.dtype) / divisor
        if scale.dtype != DType.F8E8M0.numpy:
            ratio = widen(narrow(ratio, scale.dtype))
        if self.dtype is DType.F4E2M1:
            return to_float4(ratio)
        if self.dtype.is_float:
            return to_float8(ratio, self.dtype, self.saturate)
        zero: Array | int = 0
        if zero_point is not None:
            offsets = zero_point.astype(np.int32)
            zero = spread_scale(offsets, x.shape, self.axis, self.block_size)
        info = ml_dtypes.iinfo(self.dtype.numpy)
        with np.errstate(all="ignore"):
            rounded = np.clip(np.rint(ratio.astype(np.float64)) + zero, info.min, info.max)
        whole = np.where(np.isnan(rounded), 0, rounded).astype(np.int32)
        return whole.astype(self.dtype.numpy)


@operator
class Dequantize(Op):
    """``(x - zero_point) * scale`` in the type ``dtype``; see Quantize for ``axis``."""

    dtype: DType
    axis: int | None = None
    block_size: int = 0

    def infer(
        self, x: TensorType, scale: TensorType, zero_point: TensorType | None = None
    ) -> TensorType:
        """Return the shape of x with the type ``dtype``."""
        if x.dtype is not DType.I32:
            _check_quantized("x", x.dtype)
        check_scale(x, scale, zero_point, x.dtype, self.axis, self.block_size)
        result = x.with_dtype(self.dtype)
        check.floating("the result", result)
        return result

    def reference(self, x: Array, scale: Array, zero_point: Array | None = None) -> Array:
        """Apply the rules of ONNX DequantizeLinear."""
        # Integers subtract exactly before the multiplication rounds.
        exact = np.int64 if x.dtype.kind in "iu" or x.dtype in _SMALL_INTEGERS else np.float32
        shifted = x.astype(np.float32).astype(exact) if exact is np.float32 else _integers(x)
        if zero_point is not None:
            zero = zero_point.astype(exact) if exact is np.float32 else _integers(zero_point)
            shifted = shifted - spread_scale(zero, x.shape, self.axis, self.block_size)
        factor = spread_scale(scale.astype(_wide(scale)), x.shape, self.axis, self.block_size)
        with np.errstate(all="ignore"):
            return narrow(shifted.astype(factor.dtype) * factor, self.dtype.numpy)


def check_scale(
    x: TensorType,
    scale: TensorType,
    zero_point: TensorType | None,
    quantized: DType,
    axis: int | None,
    block_size: int,
) -> None:
    """Check the shapes and types of scale and zero point; raises TypeMismatch."""
    if scale.dtype is not DType.F8E8M0:
        check.floating("scale", scale)
    if zero_point is not None:
        if zero_point.dtype is not quantized:
            raise TypeMismatch(f"zero_point is {zero_point.dtype}, expected {quantized}")
        check.shape_is("zero_point", zero_point, scale.shape)
    if axis is None:
        check.rank_is("scale", scale, 0)
        return
    check.axis_in(axis, x)
    if not block_size:
        check.shape_is("scale", scale, (x.shape[axis],))
        return
    blocks = tuple(ceildiv(d, block_size) if i == axis else d for i, d in enumerate(x.shape))
    check.shape_is("scale", scale, blocks)


def _check_quantized(name: str, dtype: DType) -> None:
    if dtype not in _QUANTIZED:
        raise TypeMismatch(f"{name} must have a quantized type, got {dtype}")


def spread_scale(scale: Array, shape: tuple[int, ...], axis: int | None, block_size: int) -> Array:
    """Return a scale or zero point in a shape that broadcasts to ``shape``."""
    if axis is None:
        return scale
    if block_size:
        repeated = np.repeat(scale, block_size, axis)
        return repeated[(*[slice(None)] * axis, slice(shape[axis]))]
    return scale.reshape([-1 if i == axis else 1 for i in range(len(shape))])


_SMALL_INTEGERS = tuple(d.numpy for d in (DType.I4, DType.U4, DType.I2, DType.U2))


def _integers(x: Array) -> Array:
    return x.astype(np.int8).astype(np.int64) if x.dtype in _SMALL_INTEGERS else x.astype(np.int64)


def _wide(scale: Array) -> type[np.floating[Any]]:
    return np.float64 if scale.dtype == np.float64 else np.float32
