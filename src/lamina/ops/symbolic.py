"""Arithmetic on object arrays of dimensions.

Exporters compute shapes with ordinary operators.  When an importer evaluates such a chain, the
arrays hold :data:`~lamina.ir.dims.Dim` objects, and the references come here.  A chain may pass
through floats (``floor(float(h) * 0.5)``); its elements are then :class:`Ratio` objects, exact
fractions of a dimension, until a rounding or a cast makes them dimensions again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from lamina.errors import GraphError
from lamina.ir import dims
from lamina.ir.dims import Dim, Expr
from lamina.ir.graph import Array
from lamina.ir.types import DType
from lamina.ops.kinds import ActivationKind, BinaryKind, ReduceKind, UnaryKind


@dataclass(frozen=True)
class Ratio:
    """``numerator / denominator`` as a float would hold it; the denominator is positive."""

    numerator: Dim
    denominator: int = 1

    def floor(self) -> Dim:
        """Round towards minus infinity."""
        return dims.floordiv(self.numerator, self.denominator)

    def ceil(self) -> Dim:
        """Round towards plus infinity."""
        return dims.ceildiv(self.numerator, self.denominator)


Element = Dim | Ratio


def is_symbolic(x: Array) -> bool:
    """Whether ``x`` is an array of dimensions or ratios, not of numbers or strings."""
    kinds = int | Expr | Ratio | np.integer
    return x.dtype == object and all(isinstance(d, kinds) for d in x.flat)


def has_symbols(x: Array) -> bool:
    """Whether any element of ``x`` is an expression or a ratio."""
    return x.dtype == object and any(isinstance(d, Expr | Ratio) for d in x.flat)


def symbolic_cast(x: Array, dtype: DType) -> Array:
    """Return dimensions as ratios for a float type and ratios, truncated, as dimensions.

    Raises GraphError for bool and when the sign of a ratio is unknown.
    """
    elements = [_element(d) for d in x.flat]
    if dtype.is_float:
        results: list[Element] = [d if isinstance(d, Ratio) else Ratio(d) for d in elements]
    elif dtype.is_integer:
        results = [_truncate(d) for d in elements]
    else:
        raise GraphError(f"a symbolic dimension cannot become {dtype}")
    return _objects(results, x.shape)


def symbolic_unary(kind: UnaryKind | ActivationKind, x: Array) -> Array:
    """Apply neg, abs, sign, relu or a rounding; raises GraphError for what cannot be decided."""
    if kind.value not in _UNARY:
        raise GraphError(f"{kind.value} of a symbolic dimension is not an integer expression")
    return _objects([_UNARY[kind.value](_element(d)) for d in x.flat], x.shape)


def symbolic_binary(kind: BinaryKind, a: Array, b: Array) -> Array:
    """Combine elements with broadcasting; raises GraphError for what cannot be decided."""
    left, right = np.broadcast_arrays(a, b)
    results = [
        _combine(kind, _element(p), _element(q)) for p, q in zip(left.flat, right.flat, strict=True)
    ]
    if kind.is_comparison:
        return np.array(results, bool).reshape(left.shape)
    return _objects(results, left.shape)


def symbolic_reduce(kind: ReduceKind, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    """Join dimensions by sum, product, maximum or minimum; raises GraphError for other kinds."""
    if kind not in _JOIN:
        raise GraphError(f"{kind.value} of symbolic dimensions is not an integer expression")
    kept = [i for i in range(x.ndim) if i not in axes]
    shape = [x.shape[i] for i in kept]
    rows = x.transpose([*kept, *axes]).reshape(math.prod(shape), -1)
    joined: list[Element] = [_JOIN[kind]([_dimension(d) for d in row]) for row in rows]
    if keepdims:
        shape = [1 if i in axes else d for i, d in enumerate(x.shape)]
    return _objects(joined, tuple(shape))


def _element(d: Any) -> Element:
    if isinstance(d, Expr | Ratio):
        return d
    if isinstance(d, int | np.integer):
        return int(d)
    number = float(d)
    if not math.isfinite(number):
        raise GraphError(f"{number} meets a symbolic dimension")
    # An f32 such as 1/3 stands for the simple fraction that it is nearest to.
    exact = Fraction(number).limit_denominator(1 << 12)
    if not math.isclose(float(exact), number, rel_tol=1e-7):
        exact = Fraction(number)
    return Ratio(exact.numerator, exact.denominator)


def _dimension(d: Any) -> Dim:
    element = _element(d)
    if isinstance(element, Ratio):
        raise GraphError(f"the fraction {element} is not a dimension")
    return element


def _objects(values: list[Element], shape: tuple[int, ...]) -> Array:
    result = np.empty(len(values), object)
    for i, v in enumerate(values):
        result[i] = v
    return result.reshape(shape)


def _truncate(d: Element) -> Dim:
    if not isinstance(d, Ratio):
        return d
    low, high = dims.bounds(d.numerator, {})
    if low >= 0 or d.denominator == 1:
        return d.floor()
    if high <= 0:
        return d.ceil()
    raise GraphError(f"the sign of {d.numerator} is not known")


def _per_dimension(function: Callable[[Dim], Dim]) -> Callable[[Element], Element]:
    """Apply to the numerator of a ratio what does not depend on a positive denominator."""

    def apply(d: Element) -> Element:
        return Ratio(function(d.numerator), d.denominator) if isinstance(d, Ratio) else function(d)

    return apply


def _rounded(d: Element) -> Element:
    if isinstance(d, Ratio) and d.denominator != 1:
        raise GraphError(f"{d.numerator} / {d.denominator} cannot be rounded to even")
    return d


def _sign(d: Dim) -> Dim:
    low, high = dims.bounds(d, {})
    if low > 0 or high < 0 or low == high:
        return (low > 0) - (high < 0)
    raise GraphError(f"the sign of the dimension {d} is not known")


def _absolute(d: Dim) -> Dim:
    low, high = dims.bounds(d, {})
    if low >= 0:
        return d
    if high <= 0:
        return -d
    raise GraphError(f"the sign of the dimension {d} is not known")


def _combine(kind: BinaryKind, a: Element, b: Element) -> Any:
    if isinstance(a, Ratio) or isinstance(b, Ratio):
        p = a if isinstance(a, Ratio) else Ratio(a)
        q = b if isinstance(b, Ratio) else Ratio(b)
        return _combine_ratios(kind, p, q)
    if kind not in _BINARY:
        raise GraphError(f"{kind.value} of symbolic dimensions is not an integer expression")
    return _BINARY[kind](a, b)


def _combine_ratios(kind: BinaryKind, p: Ratio, q: Ratio) -> Any:
    common = math.lcm(p.denominator, q.denominator)
    a = p.numerator * (common // p.denominator)
    b = q.numerator * (common // q.denominator)
    if kind is BinaryKind.MUL:
        return _reduced(p.numerator * q.numerator, p.denominator * q.denominator)
    if kind is BinaryKind.DIV:
        if isinstance(b, int) and b > 0:
            return _reduced(a, b)
        raise GraphError(f"the float quotient {a} / {b} is not a fraction of a dimension")
    if kind.is_comparison:
        return _BINARY[kind](a, b)
    if kind in (BinaryKind.ADD, BinaryKind.SUB, BinaryKind.MIN, BinaryKind.MAX):
        return _reduced(_BINARY[kind](a, b), common)
    raise GraphError(f"{kind.value} of fractions of dimensions is not a fraction")


def _reduced(numerator: Dim, denominator: int) -> Ratio:
    for divisor in (denominator, 2, 3, 5):
        while divisor > 1 and denominator % divisor == 0 and dims.divides(divisor, numerator):
            numerator, denominator = dims.floordiv(numerator, divisor), denominator // divisor
    return Ratio(numerator, denominator)


def _divide(a: Dim, b: Dim) -> Dim:
    if b == 0:
        raise GraphError(f"dimension {a} is divided by zero")
    (low, high), (divisor_low, divisor_high) = dims.bounds(a, {}), dims.bounds(b, {})
    if (low >= 0 and divisor_high < 0) or (high <= 0 and divisor_low >= 0):
        return dims.ceildiv(a, b)
    # Where the sign is unknown, as in (n - k) / s, the quotient is a size and so not negative.
    return dims.floordiv(a, b)


def _power(a: Dim, b: Dim) -> Dim:
    if isinstance(b, Expr) or b < 0:
        raise GraphError(f"{a} to the power {b} is not an integer expression")
    return dims.product([a] * b)


def _equal(a: Dim, b: Dim) -> bool:
    if dims.always_equal(a, b):
        return True
    if dims.never_equal(a, b):
        return False
    raise GraphError(f"whether {a} equals {b} depends on the symbols")


def _less(a: Dim, b: Dim) -> bool:
    low, high = dims.bounds(b - a, {})
    if low > 0:
        return True
    if high <= 0:
        return False
    raise GraphError(f"whether {a} is below {b} depends on the symbols")


_UNARY: dict[str, Callable[[Element], Element]] = {
    "neg": _per_dimension(lambda d: -d),
    "abs": _per_dimension(_absolute),
    "relu": _per_dimension(lambda d: dims.dim_max(d, 0)),
    "sign": lambda d: Ratio(_sign(d.numerator)) if isinstance(d, Ratio) else _sign(d),
    "floor": lambda d: Ratio(d.floor()) if isinstance(d, Ratio) else d,
    "ceil": lambda d: Ratio(d.ceil()) if isinstance(d, Ratio) else d,
    "round": _rounded,
}
_BINARY: dict[BinaryKind, Callable[[Dim, Dim], Any]] = {
    BinaryKind.ADD: lambda a, b: a + b,
    BinaryKind.SUB: lambda a, b: a - b,
    BinaryKind.MUL: lambda a, b: a * b,
    BinaryKind.DIV: _divide,
    BinaryKind.POW: _power,
    BinaryKind.MOD: lambda a, b: a - dims.floordiv(a, b) * b,
    BinaryKind.MIN: lambda a, b: dims.dim_min(a, b),
    BinaryKind.MAX: lambda a, b: dims.dim_max(a, b),
    BinaryKind.EQUAL: _equal,
    BinaryKind.LESS: _less,
    BinaryKind.LESS_EQUAL: lambda a, b: not _less(b, a),
    BinaryKind.GREATER: lambda a, b: _less(b, a),
    BinaryKind.GREATER_EQUAL: lambda a, b: not _less(a, b),
}
_JOIN: dict[ReduceKind, Callable[[list[Dim]], Dim]] = {
    ReduceKind.SUM: lambda ds: sum(ds, start=0),
    ReduceKind.PROD: dims.product,
    ReduceKind.MAX: lambda ds: dims.dim_max(*ds),
    ReduceKind.MIN: lambda ds: dims.dim_min(*ds),
}
