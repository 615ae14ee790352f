"""The one table of scalar operations, written over an abstract emitter.

Each entry builds an expression from :class:`Term` values, so that every printer of kernels (LLVM,
Triton) shares one definition of each function.  An emitter supplies the primitives; the dtype of
a term is its meaning: f16 and bf16 terms are held in f32 registers and rounded when they are
stored or cast, as the references of the operators do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from lamina.codegen.scalar_random import drawn
from lamina.codegen.scalar_term import Emitter as Emitter
from lamina.codegen.scalar_term import Number as Number
from lamina.codegen.scalar_term import Term as Term
from lamina.ir.graph import Op
from lamina.ir.types import DType
from lamina.ops.cast import Cast
from lamina.ops.elementwise import Activation, Binary, Select, Unary
from lamina.ops.kinds import ActivationKind, BinaryKind, UnaryKind
from lamina.ops.random import Random, RandomKey

V = TypeVar("V")


def _sign(x: Term[V]) -> Term[V]:
    positive = (x > 0).where(1, 0, x)
    if not x.dtype.is_signed:
        return positive
    signed = (x < 0).where(-1, positive, x)
    return x.call("isnan").where(x, signed, x) if x.dtype.is_float else signed


def _primitive(name: str) -> Callable[[Term[V]], Term[V]]:
    return lambda x: x.call(name)


UNARY: dict[UnaryKind, Callable[[Term[V]], Term[V]]] = {
    UnaryKind.ABS: lambda x: x.call("abs") if x.dtype.is_signed else x,
    UnaryKind.SIGN: _sign,
    UnaryKind.RSQRT: lambda x: 1 / x.call("sqrt"),
    UnaryKind.RECIPROCAL: lambda x: 1 / x,
    UnaryKind.LOGICAL_NOT: _primitive("not"),
    UnaryKind.BITWISE_NOT: _primitive("not"),
    **{
        kind: _primitive(kind.value)
        for kind in UnaryKind
        if kind.value not in ("abs", "sign", "rsqrt", "reciprocal", "logical_not", "bitwise_not")
    },
}
"""What each ``Unary`` kind computes."""


def _softplus(x: Term[V]) -> Term[V]:
    # max(x, 0) + log(1 + e^-|x|) neither overflows nor loses the small values.
    return x.with_("max", 0) + (-x.call("abs")).call("exp").call("log1p")


def _gelu(x: Term[V]) -> Term[V]:
    half = x * 0.5
    return half.fma((x * math.sqrt(0.5)).call("erf"), half)


def _gelu_tanh(x: Term[V]) -> Term[V]:
    # 0.5 x (1 + tanh u) = x * sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3)
    scale = 2 * math.sqrt(2 / math.pi)
    inner = x * (x * x).fma(0.044715 * scale, scale)
    return x * inner.call("sigmoid")


def _exp_minus_one_below(x: Term[V], scaled: Term[V], factor: float, above: Term[V]) -> Term[V]:
    return (x > 0).where(above, scaled.call("expm1") * factor, x)


def _hard_sigmoid(x: Term[V], alpha: float, beta: float) -> Term[V]:
    return _clip(x * alpha + beta, 0.0, 1.0)


def _clip(x: Term[V], low: float, high: float) -> Term[V]:
    if x.dtype.is_float:
        bounded = x if low == -math.inf else x.with_("max", low)
        return bounded if high == math.inf else bounded.with_("min", high)
    smallest, largest = integer_range(x.dtype)
    bounded = x if low <= smallest else x.with_("max", min(math.ceil(low), largest))
    return bounded if high >= largest else bounded.with_("min", max(math.floor(high), smallest))


def _shrink(x: Term[V], lambd: float, bias: float) -> Term[V]:
    return (x < -lambd).where(x + bias, (x > lambd).where(x - bias, 0, x), x)


ACTIVATION: dict[ActivationKind, Callable[[Term[V], float, float], Term[V]]] = {
    ActivationKind.RELU: lambda x, a, b: x.with_("max", 0),
    ActivationKind.SIGMOID: lambda x, a, b: x.call("sigmoid"),
    ActivationKind.TANH: lambda x, a, b: x.call("tanh"),
    ActivationKind.SOFTPLUS: lambda x, a, b: _softplus(x),
    ActivationKind.SOFTSIGN: lambda x, a, b: x / (1 + x.call("abs")),
    ActivationKind.GELU: lambda x, a, b: _gelu(x),
    ActivationKind.GELU_TANH: lambda x, a, b: _gelu_tanh(x),
    ActivationKind.SILU: lambda x, a, b: x * (x if a == 1 else x * a).call("sigmoid"),
    ActivationKind.HARD_SWISH: lambda x, a, b: x * _hard_sigmoid(x, 1 / 6, 0.5),
    ActivationKind.MISH: lambda x, a, b: x * _softplus(x).call("tanh"),
    ActivationKind.ELU: lambda x, a, b: _exp_minus_one_below(x, x, a, x),
    ActivationKind.SELU: lambda x, a, b: _exp_minus_one_below(x, x, a, x) * b,
    ActivationKind.CELU: lambda x, a, b: _exp_minus_one_below(x, x * (1 / a), a, x),
    ActivationKind.LEAKY_RELU: lambda x, a, b: (x < 0).where(x * a, x, x),
    ActivationKind.HARD_SIGMOID: _hard_sigmoid,
    ActivationKind.THRESHOLDED_RELU: lambda x, a, b: (x > a).where(x, 0, x),
    ActivationKind.CLIP: _clip,
    ActivationKind.SCALED_TANH: lambda x, a, b: (x * b).call("tanh") * a,
    ActivationKind.SHRINK: _shrink,
}
"""What each ``Activation`` kind computes of x, alpha and beta."""


def _modulo(a: Term[V], b: Term[V]) -> Term[V]:
    """Return the remainder with the sign of the divisor."""
    rest = a.with_("rem", b)
    if not a.dtype.is_signed:
        return rest
    wrong = (rest < 0).with_("xor", b < 0).with_("and", rest.compare("ne", 0))
    fixed = wrong.where(rest + b, rest, rest)
    if not a.dtype.is_float:
        return fixed
    return rest.compare("eq", 0).where(rest.with_("copysign", b), fixed, rest)


def _power(a: Term[V], b: Term[V]) -> Term[V]:
    if a.dtype.is_float and b.number is not None:
        if b.number in (1, 2, 3):
            return a if b.number == 1 else a * a if b.number == 2 else a * a * a
        if b.number == -1:
            return 1 / a
    if b.dtype is not a.dtype:
        if not a.dtype.is_float and b.dtype.is_float:
            return a.cast(DType.F64).with_("pow", b.cast(DType.F64)).cast(a.dtype)
        b = b.cast(a.dtype)
    return a.with_("pow", b)


def _plain(name: str) -> Callable[[Term[V], Term[V]], Term[V]]:
    return lambda a, b: a.with_(name, b)


def _comparison(name: str) -> Callable[[Term[V], Term[V]], Term[V]]:
    return lambda a, b: a.compare(name, b)


BINARY: dict[BinaryKind, Callable[[Term[V], Term[V]], Term[V]]] = {
    BinaryKind.ADD: _plain("add"),
    BinaryKind.SUB: _plain("sub"),
    BinaryKind.MUL: _plain("mul"),
    BinaryKind.DIV: _plain("div"),
    BinaryKind.POW: _power,
    BinaryKind.MIN: _plain("min"),
    BinaryKind.MAX: _plain("max"),
    BinaryKind.MOD: _modulo,
    BinaryKind.FMOD: _plain("rem"),
    BinaryKind.EQUAL: _comparison("eq"),
    BinaryKind.LESS: _comparison("lt"),
    BinaryKind.LESS_EQUAL: _comparison("le"),
    BinaryKind.GREATER: _comparison("gt"),
    BinaryKind.GREATER_EQUAL: _comparison("ge"),
    BinaryKind.LOGICAL_AND: _plain("and"),
    BinaryKind.LOGICAL_OR: _plain("or"),
    BinaryKind.LOGICAL_XOR: _plain("xor"),
    BinaryKind.BITWISE_AND: _plain("and"),
    BinaryKind.BITWISE_OR: _plain("or"),
    BinaryKind.BITWISE_XOR: _plain("xor"),
    BinaryKind.SHIFT_LEFT: _plain("shl"),
    BinaryKind.SHIFT_RIGHT: _plain("shr"),
    BinaryKind.PRELU: lambda x, slope: (x < 0).where(x * slope, x, x),
}
"""What each ``Binary`` kind computes."""

FOLD_PRIMITIVES = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "top": "top"}
"""The primitive that joins two partial results of each fold; ``top`` is max that skips NaN."""

SCALAR_DTYPES = frozenset(
    {
        DType.F64, DType.F32, DType.F16, DType.BF16, DType.BOOL, DType.I8, DType.U8, DType.I16,
        DType.U16, DType.I32, DType.U32, DType.I64, DType.U64,
    }
)  # fmt: skip
"""Element types that scalar operations are defined on."""


def integer_range(dtype: DType) -> tuple[int, int]:
    """Return the smallest and the largest value of an integer type."""
    if dtype.is_signed:
        return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1
    return 0, (1 << dtype.bits) - 1


def fold_identity(kind: str, dtype: DType) -> Number:
    """Return the value that leaves every other unchanged under a fold (sum, prod, max, min)."""
    if kind in ("sum", "prod"):
        return int(kind == "prod")
    if dtype is DType.BOOL:
        return kind == "min"
    if dtype.is_float:
        return math.inf if kind == "min" else -math.inf
    return integer_range(dtype)[kind == "min"]


def apply(op: Op, operands: tuple[Term[V], ...]) -> Term[V]:
    """Build the expression of one element of an operator; KeyError when the table has none."""
    if isinstance(op, Unary):
        return UNARY[op.kind](*operands)
    if isinstance(op, Activation):
        return ACTIVATION[op.kind](operands[0], op.alpha, op.beta)
    if isinstance(op, Binary):
        return BINARY[op.kind](*operands)
    if isinstance(op, Select):
        return operands[0].where(operands[1], operands[2], operands[1])
    if isinstance(op, Cast):
        return operands[0].cast(op.dtype)
    if isinstance(op, Random):
        return drawn(op, operands[0], operands[1] if len(operands) > 1 else None)
    if isinstance(op, RandomKey):
        return operands[0].call("clock").with_("xor", op.salt)
    raise KeyError(op.name)
