"""The NumPy meaning of unary, binary, activation and reduction functions.

Arrays arrive widened: f16 and bf16 as f32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lamina.ir.graph import Array
from lamina.ops.kinds import ActivationKind, BinaryKind, Epilogue, ReduceKind, UnaryKind

_erf_double = np.vectorize(math.erf, otypes=[np.float64])


def erf(x: Array) -> Array:
    """Return the error function, computed in double precision."""
    return np.asarray(_erf_double(x) if x.size else x, x.dtype)


def sigmoid(x: Array) -> Array:
    """Return ``1 / (1 + exp(-x))`` without overflow for large negative x."""
    with np.errstate(all="ignore"):
        e = np.exp(-np.abs(x))
        return np.asarray(np.where(x >= 0, 1, e) / (1 + e), x.dtype)


def softplus(x: Array) -> Array:
    """Return ``log(1 + exp(x))`` without overflow for large x."""
    with np.errstate(all="ignore"):
        return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), x.dtype)


def _gelu(x: Array) -> Array:
    return np.asarray(x * x.dtype.type(0.5) * (1 + erf(x * x.dtype.type(math.sqrt(0.5)))))


def _gelu_tanh(x: Array) -> Array:
    # Hendrycks and Gimpel, "Gaussian Error Linear Units", section 2.
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return np.asarray(0.5 * x * (1 + np.tanh(inner)))


_UNARY: dict[UnaryKind, Callable[[Array], Any]] = {
    UnaryKind.ABS: np.abs,
    UnaryKind.NEG: np.negative,
    UnaryKind.SIGN: np.sign,
    UnaryKind.EXP: np.exp,
    UnaryKind.LOG: np.log,
    UnaryKind.SQRT: np.sqrt,
    UnaryKind.RSQRT: lambda x: 1 / np.sqrt(x),
    UnaryKind.RECIPROCAL: lambda x: 1 / x,
    UnaryKind.SIN: np.sin,
    UnaryKind.COS: np.cos,
    UnaryKind.TAN: np.tan,
    UnaryKind.ASIN: np.arcsin,
    UnaryKind.ACOS: np.arccos,
    UnaryKind.ATAN: np.arctan,
    UnaryKind.SINH: np.sinh,
    UnaryKind.COSH: np.cosh,
    UnaryKind.TANH: np.tanh,
    UnaryKind.ASINH: np.arcsinh,
    UnaryKind.ACOSH: np.arccosh,
    UnaryKind.ATANH: np.arctanh,
    UnaryKind.ERF: erf,
    UnaryKind.FLOOR: np.floor,
    UnaryKind.CEIL: np.ceil,
    UnaryKind.ROUND: np.rint,
    UnaryKind.LOGICAL_NOT: np.logical_not,
    UnaryKind.BITWISE_NOT: np.bitwise_not,
    UnaryKind.ISNAN: np.isnan,
}

_ACTIVATION: dict[ActivationKind, Callable[[Array, float, float], Any]] = {
    ActivationKind.RELU: lambda x, a, b: np.maximum(x, 0),
    ActivationKind.SIGMOID: lambda x, a, b: sigmoid(x),
    ActivationKind.TANH: lambda x, a, b: np.tanh(x),
    ActivationKind.SOFTPLUS: lambda x, a, b: softplus(x),
    ActivationKind.SOFTSIGN: lambda x, a, b: x / (1 + np.abs(x)),
    ActivationKind.GELU: lambda x, a, b: _gelu(x),
    ActivationKind.GELU_TANH: lambda x, a, b: _gelu_tanh(x),
    ActivationKind.SILU: lambda x, a, b: x * sigmoid(x * x.dtype.type(a)),
    ActivationKind.HARD_SWISH: lambda x, a, b: x * np.clip(x / 6 + 0.5, 0, 1),
    ActivationKind.MISH: lambda x, a, b: x * np.tanh(softplus(x)),
    ActivationKind.ELU: lambda x, a, b: np.where(x > 0, x, a * np.expm1(x)),
    ActivationKind.SELU: lambda x, a, b: b * np.where(x > 0, x, a * np.expm1(x)),
    ActivationKind.CELU: lambda x, a, b: np.maximum(x, 0) + np.minimum(0, a * np.expm1(x / a)),
    ActivationKind.LEAKY_RELU: lambda x, a, b: np.where(x >= 0, x, a * x),
    ActivationKind.HARD_SIGMOID: lambda x, a, b: np.clip(a * x + b, 0, 1),
    ActivationKind.THRESHOLDED_RELU: lambda x, a, b: np.where(x > a, x, 0),
    ActivationKind.CLIP: lambda x, a, b: _clip(x, a, b),
    ActivationKind.SCALED_TANH: lambda x, a, b: a * np.tanh(b * x),
    ActivationKind.SHRINK: lambda x, a, b: np.where(x < -a, x + b, np.where(x > a, x - b, 0)),
}

_BINARY: dict[BinaryKind, Callable[[Array, Array], Any]] = {
    BinaryKind.ADD: np.add,
    BinaryKind.SUB: np.subtract,
    BinaryKind.MUL: np.multiply,
    BinaryKind.DIV: lambda a, b: _divide(a, b),
    BinaryKind.POW: lambda a, b: _power(a, b),
    BinaryKind.MIN: np.minimum,
    BinaryKind.MAX: np.maximum,
    BinaryKind.MOD: np.mod,
    BinaryKind.FMOD: np.fmod,
    BinaryKind.EQUAL: np.equal,
    BinaryKind.LESS: np.less,
    BinaryKind.LESS_EQUAL: np.less_equal,
    BinaryKind.GREATER: np.greater,
    BinaryKind.GREATER_EQUAL: np.greater_equal,
    BinaryKind.LOGICAL_AND: np.logical_and,
    BinaryKind.LOGICAL_OR: np.logical_or,
    BinaryKind.LOGICAL_XOR: np.logical_xor,
    BinaryKind.BITWISE_AND: np.bitwise_and,
    BinaryKind.BITWISE_OR: np.bitwise_or,
    BinaryKind.BITWISE_XOR: np.bitwise_xor,
    BinaryKind.SHIFT_LEFT: np.left_shift,
    BinaryKind.SHIFT_RIGHT: np.right_shift,
    BinaryKind.PRELU: lambda a, b: np.where(a >= 0, a, a * b),
}

_REDUCE: dict[ReduceKind, Callable[..., Any]] = {
    ReduceKind.SUM: np.sum,
    ReduceKind.MEAN: lambda x, **how: _mean(x, **how),
    ReduceKind.MAX: lambda x, **how: np.max(x, initial=lowest(x.dtype), **how),
    ReduceKind.MIN: lambda x, **how: np.min(x, initial=highest(x.dtype), **how),
    ReduceKind.PROD: np.prod,
    ReduceKind.L1: lambda x, **how: np.sum(np.abs(x), **how),
    ReduceKind.L2: lambda x, **how: np.sqrt(np.sum(x * x, **how)),
    ReduceKind.SUM_SQUARE: lambda x, **how: np.sum(x * x, **how),
    ReduceKind.LOG_SUM: lambda x, **how: np.log(np.sum(x, **how)),
    ReduceKind.LOG_SUM_EXP: lambda x, **how: _log_sum_exp(x, **how),
}


def unary_function(kind: UnaryKind, x: Array) -> Array:
    """Apply a unary function; domain errors give NaN or infinity and no warning."""
    with np.errstate(all="ignore"):
        return np.asarray(_UNARY[kind](x))


def binary_function(kind: BinaryKind, a: Array, b: Array) -> Array:
    """Apply a binary function; integer division by zero gives zero and no warning."""
    with np.errstate(all="ignore"):
        return np.asarray(_BINARY[kind](a, b))


def activate(epilogue: Epilogue, x: Array) -> Array:
    """Apply an activation function and keep the type."""
    with np.errstate(all="ignore"):
        y = _ACTIVATION[epilogue.kind](x, epilogue.alpha, epilogue.beta)
        return np.asarray(y, x.dtype)


def reduce_function(kind: ReduceKind, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    """Reduce along ``axes`` and keep the type."""
    accumulator: dict[str, Any] = {}
    if kind not in (ReduceKind.MAX, ReduceKind.MIN, ReduceKind.LOG_SUM_EXP):
        accumulator["dtype"] = x.dtype
    with np.errstate(all="ignore"):
        y = _REDUCE[kind](x, axis=axes, keepdims=keepdims, **accumulator)
        return np.asarray(y, x.dtype)


def lowest(dtype: np.dtype[Any]) -> Any:
    """Return the identity of max: -inf or the smallest integer."""
    if dtype.kind == "b":
        return False
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


def highest(dtype: np.dtype[Any]) -> Any:
    """Return the identity of min: inf or the largest integer."""
    if dtype.kind == "b":
        return True
    return np.iinfo(dtype).max if dtype.kind in "iu" else np.inf


def _clip(x: Array, low: float, high: float) -> Array:
    # When low > high every element becomes high, as ONNX prescribes.
    if x.dtype.kind in "iu":
        info = np.iinfo(x.dtype)
        low = math.ceil(max(low, info.min))
        high = math.floor(min(high, info.max))
    bounds = (x.dtype.type(low), x.dtype.type(high))
    return np.asarray(np.minimum(np.maximum(x, bounds[0]), bounds[1]))


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind not in "iu":
        return np.asarray(a / b)
    # Floor division rounds down; move up by one where the signs differ and something remains.
    quotient = a // b
    inexact = (quotient * b != a) & (b != 0)
    return np.asarray(quotient + (inexact & ((a < 0) != (b < 0))).astype(a.dtype))


def _power(a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu" and b.dtype.kind == "i" and np.any(b < 0):
        return np.asarray(np.power(a.astype(np.float64), b)).astype(a.dtype)
    if a.dtype.kind == "f" and b.dtype.kind in "iu":
        b = b.astype(a.dtype)
    return np.asarray(np.power(a, b)).astype(a.dtype)


def _mean(x: Array, **how: Any) -> Array:
    count = math.prod(x.shape[a] for a in how["axis"])
    total = np.asarray(np.sum(x, **how))
    return _divide(total, np.asarray(count, x.dtype))


def _log_sum_exp(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    top = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0).astype(x.dtype)
    total = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return np.asarray(total if keepdims else np.squeeze(total, axis))
