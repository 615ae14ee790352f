"""Conversion between element types as ONNX Cast defines it."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from lamina.errors import GraphError
from lamina.ir.graph import Array
from lamina.ir.threads import cast
from lamina.ir.types import DType
from lamina.ops.kinds import E8M0Rounding
from lamina.ops.symbolic import has_symbols, is_symbolic, symbolic_cast

_EIGHT_BIT_FLOATS = frozenset({DType.F8E4M3, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ})
_NARROW_INTEGERS = {
    DType.I4: (4, True),
    DType.U4: (4, False),
    DType.I2: (2, True),
    DType.U2: (2, False),
}


def convert(
    x: Array,
    dtype: DType,
    *,
    saturate: bool = True,
    rounding: E8M0Rounding = E8M0Rounding.UP,
) -> Array:
    """Return ``x`` in another element type; raises GraphError for a symbol in a non-integer."""
    if x.dtype == object and is_symbolic(x) and dtype is not DType.STR:
        if has_symbols(x):
            return symbolic_cast(x, dtype)
        return x if dtype.is_integer else convert(x.astype(np.int64), dtype)
    if dtype is DType.STR:
        return _to_strings(x)
    if x.dtype == object or x.dtype.kind in "UST":
        return _from_strings(x, dtype)
    if x.dtype == dtype.numpy:
        return x
    with np.errstate(all="ignore"):
        return _convert_numbers(x, dtype, saturate, rounding)


def to_float8(x: Array, dtype: DType, saturate: bool) -> Array:
    """Round to an 8-bit float; too large values become its maximum when ``saturate`` is set.

    Without it they become infinity, or NaN in types that have none.  NaN stays NaN.
    """
    target: np.dtype[Any] = dtype.numpy
    wide = x.astype(np.float32) if x.dtype != np.float64 else x
    with np.errstate(all="ignore"):
        if not saturate:
            return wide.astype(target)
        top = float(ml_dtypes.finfo(target).max)
        return np.asarray(np.clip(wide, -top, top).astype(target))


def to_float4(x: Array) -> Array:
    """Round to f4e2m1, whose largest value takes everything above; NaN becomes a zero."""
    top = np.float32(6)
    return np.asarray(np.clip(x.astype(np.float32), -top, top).astype(DType.F4E2M1.numpy))


def to_power_of_two(x: Array, saturate: bool, rounding: E8M0Rounding) -> Array:
    """Round to f8e8m0: the exponent of the magnitude, NaN for what has none.

    ``up`` goes to the next power of two, ``down`` drops the mantissa and ``nearest`` takes halves
    up.  With ``saturate``, zero and values outside the range (infinity too) become the smallest or
    largest power; without it they become NaN.
    """
    x = x.astype(np.float32)
    bits = np.abs(x).view(np.uint32)
    exponent = (bits >> 23).astype(np.int32)
    mantissa = bits & np.uint32(0x7FFFFF)
    if rounding is E8M0Rounding.UP:
        # A denormal f32 has exponent field 0, which already stands for the smallest power.
        step = np.where(exponent == 0, mantissa > 0x400000, mantissa > 0)
    elif rounding is E8M0Rounding.NEAREST:
        step = np.where(exponent == 0, mantissa > 0x400000, mantissa >= 0x400000)
    else:
        step = np.zeros_like(mantissa, bool)
    result = exponent + step
    if saturate:
        result = np.minimum(result, 254)
    else:
        result = np.where((exponent == 0) & (mantissa < 0x400000), 255, np.minimum(result, 255))
    result = np.where(np.isnan(x), 255, result)
    return result.astype(np.uint8).view(DType.F8E8M0.numpy)


def _convert_numbers(x: Array, dtype: DType, saturate: bool, rounding: E8M0Rounding) -> Array:
    if x.dtype not in (np.dtype(np.float64), np.dtype(np.float32)) and x.dtype.kind not in "iubc":
        # The types of ml_dtypes convert to and from f32 exactly, but not all of them to each other.
        x = cast(x, np.float32)
    if dtype in _EIGHT_BIT_FLOATS:
        return to_float8(x, dtype, saturate)
    if dtype is DType.F4E2M1:
        return to_float4(x)
    if dtype is DType.F8E8M0:
        return to_power_of_two(x, saturate, rounding)
    if dtype in _NARROW_INTEGERS:
        return _to_narrow_integer(x, dtype)
    if dtype is DType.BOOL:
        return np.asarray(x != 0)
    if dtype.is_integer and x.dtype.kind == "f":
        return _truncate(x, dtype)
    return cast(x, dtype.numpy)


def _truncate(x: Array, dtype: DType) -> Array:
    # C leaves values out of range undefined; going through i64 keeps low bits, as x86 and NumPy do.
    if dtype is DType.U64:
        return x.astype(np.uint64)
    return x.astype(np.int64).astype(dtype.numpy)


def _to_narrow_integer(x: Array, dtype: DType) -> Array:
    bits, signed = _NARROW_INTEGERS[dtype]
    low = x.astype(np.int64) & ((1 << bits) - 1)
    if signed:
        low = np.where(low >> (bits - 1), low - (1 << bits), low)
    return low.astype(np.int8).astype(dtype.numpy)


def _to_strings(x: Array) -> Array:
    if x.dtype == object or x.dtype.kind in "UST":
        return x.astype(object)
    # bool prints as 1 and 0; NaN and infinity as NumPy prints them.
    wide = x.astype(np.int64) if x.dtype.kind == "b" else x
    result = np.empty(x.size, object)
    for i, v in enumerate(wide.reshape(-1)):
        result[i] = str(v)
    return result.reshape(x.shape)


def _from_strings(x: Array, dtype: DType) -> Array:
    texts = [t.decode() if isinstance(t, bytes) else str(t) for t in x.reshape(-1)]
    try:
        if dtype.is_integer:
            numbers = np.array([int(t) for t in texts], np.int64 if dtype.is_signed else np.uint64)
        else:
            numbers = np.array([float(t) for t in texts], np.float64)
    except (ValueError, OverflowError) as e:
        raise GraphError(f"a string cannot become {dtype}: {e}") from e
    return convert(numbers, dtype).reshape(x.shape)
