"""Activation functions on registers, applied before a kernel stores its result."""

from __future__ import annotations

import math
from collections.abc import Callable

from lamina.backends.cpu.kernels.convolution import Epilogue
from lamina.codegen.llvm import vector_math
from lamina.codegen.llvm.builder import Builder, Value

_Function = Callable[[Builder, Value, float, float], Value]


def _clip(k: Builder, x: Value, low: float, high: float) -> Value:
    bounded = k.max(low, x) if low > -math.inf else x
    return k.min(high, bounded) if high < math.inf else bounded


def _hard_sigmoid(k: Builder, x: Value, alpha: float, beta: float) -> Value:
    return _clip(k, k.fma(x, alpha, k.const(x.type, beta)), 0.0, 1.0)


def _gelu(k: Builder, x: Value, _alpha: float, _beta: float) -> Value:
    half = x * 0.5
    return k.fma(half, vector_math.erf(k, x * math.sqrt(0.5)), half)


def _gelu_tanh(k: Builder, x: Value, _alpha: float, _beta: float) -> Value:
    half = x * 0.5
    inner = x * k.fma(x * x, math.sqrt(2 / math.pi) * 0.044715, math.sqrt(2 / math.pi))
    return k.fma(half, vector_math.tanh(k, inner), half)


def _elu(k: Builder, x: Value, alpha: float, _beta: float) -> Value:
    return k.select(x < 0.0, (vector_math.exp(k, x) - 1.0) * alpha, x)


def _silu(k: Builder, x: Value, alpha: float, _beta: float) -> Value:
    return x * vector_math.sigmoid(k, x * alpha)


_FUNCTIONS: dict[str, _Function] = {
    "relu": lambda k, x, a, b: k.max(0.0, x),
    "clip": _clip,
    "leaky_relu": lambda k, x, a, b: k.select(x < 0.0, x * a, x),
    "sigmoid": lambda k, x, a, b: vector_math.sigmoid(k, x),
    "tanh": lambda k, x, a, b: vector_math.tanh(k, x),
    "silu": _silu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda k, x, a, b: x * _hard_sigmoid(k, x, 1 / 6, 0.5),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "elu": _elu,
}

SUPPORTED = frozenset(_FUNCTIONS)
"""The activation kinds that kernels can apply."""


def apply(k: Builder, x: Value, activation: Epilogue | None) -> Value:
    """Return activation(x), or x when there is none; NaN stays NaN."""
    if activation is None:
        return x
    return _FUNCTIONS[activation.kind](k, x, activation.alpha, activation.beta)
