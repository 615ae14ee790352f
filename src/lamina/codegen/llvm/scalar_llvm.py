"""Prints the scalar table as LLVM instructions on vectors or scalars.

Values of a dtype live in registers as :func:`register_type` says: f16 and bf16 as f32 (rounded when
stored or cast), bool as i1, everything else as itself.
"""

from __future__ import annotations

from collections.abc import Callable

from lamina.codegen import scalar
from lamina.codegen.llvm import vector_math
from lamina.codegen.llvm.builder import (
    BF16,
    F16,
    F32,
    F64,
    I1,
    I8,
    I16,
    I32,
    I64,
    Builder,
    Type,
    Value,
)
from lamina.ir.types import DType

MEMORY_TYPES: dict[DType, Type] = {
    DType.F64: F64,
    DType.F32: F32,
    DType.F16: I16,
    DType.BF16: I16,
    DType.BOOL: I8,
    DType.I8: I8,
    DType.U8: I8,
    DType.I16: I16,
    DType.U16: I16,
    DType.I32: I32,
    DType.U32: I32,
    DType.I64: I64,
    DType.U64: I64,
}
"""The LLVM type of one element in memory.

Halves are moved as integers: LLVM has no masked moves of them without AVX-512.
"""

_HALVES = {DType.F16: F16, DType.BF16: BF16}
_INLINE: dict[str, Callable[[Builder, Value], Value]] = {
    "exp": vector_math.exp,
    "log": vector_math.log,
    "tanh": vector_math.tanh,
    "erf": vector_math.erf,
    "sigmoid": vector_math.sigmoid,
    "sin": vector_math.sin,
    "cos": vector_math.cos,
}
_ROUNDING = {"sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "trunc": "trunc"}
_EXPM1 = (1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040, 1 / 40320)
_LOGICAL = {"add": "or", "mul": "and", "max": "or", "min": "and", "sub": "xor"}


def register_type(dtype: DType) -> Type:
    """Return the LLVM type of one element in a register."""
    if dtype is DType.BOOL:
        return I1
    return F32 if dtype in _HALVES else MEMORY_TYPES[dtype]


def load_as(k: Builder, raw: Value, dtype: DType) -> Value:
    """Turn what was loaded from memory into a register value."""
    if dtype is DType.BOOL:
        return k.ne(raw, 0)
    return k.convert(k.bitcast(raw, _HALVES[dtype]), F32) if dtype in _HALVES else raw


def store_as(k: Builder, value: Value, dtype: DType) -> Value:
    """Turn a register value into what memory holds."""
    if dtype is DType.BOOL:
        return k.convert(value, I8, signed=False)
    return k.bitcast(narrowed(k, value, dtype), I16) if dtype in _HALVES else value


def narrowed(k: Builder, value: Value, dtype: DType) -> Value:
    """Round f32 to f16 or bf16.

    The CPU's own bf16 instruction is used where there is one; it turns denormals into zero.
    """
    lanes = value.type.lanes
    if dtype is DType.BF16 and lanes in (8, 16) and k.isa.has("avx512bf16"):
        result = BF16.vector(lanes)
        return k.intrinsic("x86.avx512bf16.cvtneps2bf16", result, value, suffix=f"{32 * lanes}")
    return k.convert(value, _HALVES[dtype])


class LlvmEmitter:
    """Supplies the primitives of ``scalar.Emitter``."""

    def __init__(self, k: Builder) -> None:
        self.k = k

    def constant(self, dtype: DType, number: scalar.Number) -> Value:
        """Return a scalar constant; it spreads to the lanes of what it meets."""
        return self.k.const(register_type(dtype), float(number) if dtype.is_float else int(number))

    def unary(self, name: str, dtype: DType, x: Value) -> Value:
        """Emit one of the unary primitives."""
        k = self.k
        if name == "clock":
            return k.clock()
        if name == "not":
            return x ^ (1 if dtype is DType.BOOL else -1)
        if name == "neg":
            return -x
        if name == "abs":
            return k.abs(x)
        if name == "isnan":
            return k.is_nan(x)
        if name == "round":
            return k.unary("roundeven", x)
        if name in _ROUNDING:
            return k.unary(name, x)
        if name in ("log1p", "expm1"):
            return self._log1p(x) if name == "log1p" else self._expm1(x)
        if x.type.bits == 32 and name in _INLINE:
            return _INLINE[name](k, x)
        if name == "sigmoid":
            return 1.0 / (per_lane(k, "exp", -x) + 1.0)
        return per_lane(k, name, x)

    def binary(self, name: str, dtype: DType, a: Value, b: Value) -> Value:
        """Emit one of the binary primitives."""
        k = self.k
        if dtype is DType.BOOL:
            return k.binary(_LOGICAL.get(name, name), a, b)
        if name in ("add", "sub", "mul") or (name == "div" and dtype.is_float):
            return k.binary(name, a, b)
        if name in ("and", "or", "xor"):
            return k.binary(name, a, b)
        if name == "top":
            return k.max(a, b)
        if name in ("min", "max"):
            return self._extreme(name, dtype, a, b)
        if name in ("shl", "shr"):
            return self._shift(name, dtype, a, b)
        if name == "copysign":
            x, y = k.unify(a, b)
            return k.intrinsic("copysign", x.type, x, y)
        if name == "rem" and dtype.is_float:
            x, y = k.unify(a, b)
            return per_lane(k, "fmod", x, y)
        if name == "pow":
            return self._power(dtype, a, b)
        quotient = divide(k, dtype, a, b)
        return quotient if name == "div" else self._remainder(a, b, quotient)

    def compare(self, name: str, dtype: DType, a: Value, b: Value) -> Value:
        """Emit a comparison."""
        unsigned = not dtype.is_signed and name not in ("eq", "ne")
        return self.k.compare(f"u{name}" if unsigned else name, a, b)

    def select(self, condition: Value, dtype: DType, a: Value, b: Value) -> Value:
        """Emit a choice per lane; a uniform condition chooses between whole vectors."""
        return self.k.select(condition, a, b)

    def fma(self, dtype: DType, a: Value, b: Value, c: Value) -> Value:
        """Emit a fused multiply-add; integers multiply and add."""
        return self.k.fma(a, b, c) if dtype.is_float else a * b + c

    def cast(self, x: Value, source: DType, target: DType) -> Value:
        """Convert as NumPy's astype does; integers that do not fit keep their low bits."""
        k, type_ = self.k, register_type(target)
        if target is DType.BOOL:
            return k.compare("ne", x, 0)
        if target in _HALVES:
            return k.convert(narrowed(k, self._to_float(x, source, F32), target), F32)
        if target.is_float:
            return self._to_float(x, source, type_)
        if not source.is_float:
            return k.convert(x, type_, signed=source.is_signed)
        if target is DType.U64:
            return k.convert(x, type_, signed=False)
        wide = I32 if target.bits < 32 else type_ if target.is_signed else I64
        return k.convert(k.convert(x, wide), type_)

    def _to_float(self, x: Value, source: DType, type_: Type) -> Value:
        return self.k.convert(x, type_, signed=source.is_signed)

    def _extreme(self, name: str, dtype: DType, a: Value, b: Value) -> Value:
        k = self.k
        if dtype.is_float:
            a, b = k.unify(a, b)
            if _is_constant(b):
                # The instruction returns its second operand when either is NaN.
                return k.max(b, a) if name == "max" else k.min(b, a)
            return k.maximum(a, b) if name == "max" else k.minimum(a, b)
        test = self.compare("gt" if name == "max" else "lt", dtype, a, b)
        return k.select(test, a, b)

    def _shift(self, name: str, dtype: DType, a: Value, b: Value) -> Value:
        k, bits = self.k, dtype.bits
        inside = k.compare("ult", b, bits)
        amount = k.select(inside, b, bits - 1)
        if name == "shr" and dtype.is_signed:
            x, y = k.unify(a, amount)
            return k.ashr(x, y)
        shifted = k.binary("shl" if name == "shl" else "lshr", a, amount)
        return k.select(inside, shifted, 0)

    def _remainder(self, a: Value, b: Value, quotient: Value) -> Value:
        rest = a - quotient * b
        x, y = self.k.unify(rest, b)
        return self.k.select(self.k.eq(y, 0), 0, x)

    def _power(self, dtype: DType, a: Value, b: Value) -> Value:
        k = self.k
        a, b = k.unify(a, b)
        if dtype.is_float:
            return vector_math.pow(k, a, b) if a.type.bits == 32 else per_lane(k, "pow", a, b)
        # Square and multiply over the bits of the exponent; the result wraps as products do.
        one = k.const(a.type, 1)
        with k.loop(0, dtype.bits, carry=[one, a, b]) as loop:
            result, base, exponent = loop.values
            odd = k.ne(exponent & 1, 0)
            loop.next(k.select(odd, result * base, result), base * base, exponent >> 1)
        power = loop.results[0]
        if not dtype.is_signed:
            return power
        # A negative exponent gives the truncated reciprocal.
        unit = k.select(k.eq(a, 1), one, 0)
        minus = k.select(k.eq(b & 1, 0), one, -1)
        return k.select(b < 0, k.select(k.eq(a, -1), minus, unit), power)

    def _log1p(self, x: Value) -> Value:
        # Kahan: the rounding error of 1 + x cancels in log(w) * x / (w - 1).
        k = self.k
        w = x + 1.0
        log = self.unary("log", DType.F32, w)
        same = k.eq(w, 1.0) | k.eq(w, float("inf"))
        return k.select(same, x, log * (x / k.select(same, 1.0, w - 1.0)))

    def _expm1(self, x: Value) -> Value:
        k = self.k
        if x.type.bits == 64:
            return per_lane(k, "expm1", x)
        small = k.fma(x * x, vector_math.polynomial(k, x, _EXPM1), x)
        large = vector_math.exp(k, x) - 1.0
        return k.select(k.unary("fabs", x) < 0.35, small, large)


def divide(k: Builder, dtype: DType, a: Value, b: Value) -> Value:
    """Divide integers, truncating; division by zero gives 0 and never traps."""
    a, b = k.unify(a, b)
    scalar_type = a.type.scalar
    zero = k.eq(b, 0)
    if dtype.bits <= 32:
        # Exact: the quotient of 32-bit integers is never closer to a larger integer than 2^-32.
        wide = F64 if dtype.bits == 32 else F32
        signed = dtype.is_signed
        divisor = k.convert(k.select(zero, 1, b), wide, signed=signed)
        real = k.convert(a, wide, signed=signed) / divisor
        whole = k.convert(real, I64 if dtype.bits == 32 else I32)
        return k.select(zero, 0, k.convert(whole, scalar_type))
    if not dtype.is_signed:
        return k.select(zero, 0, k.binary("udiv", a, k.select(zero, 1, b)))
    minus = k.eq(b, -1)  # the smallest integer divided by -1 would trap
    quotient = k.binary("div", a, k.select(zero | minus, 1, b))
    return k.select(zero, 0, k.select(minus, -a, quotient))


def per_lane(k: Builder, name: str, *operands: Value) -> Value:
    """Call the C library's function of that name for each lane (f32 takes the ``f`` variant)."""
    type_ = operands[0].type
    symbol = f"{name}f" if type_.bits == 32 else name
    function = k.module.declare(symbol, type_.scalar, tuple(x.type.scalar for x in operands))
    if not type_.lanes:
        return k.call(function, *operands)
    result = k.const(type_, 0)
    for lane in range(type_.lanes):
        value = k.call(function, *(k.extract(x, lane) for x in operands))
        result = k.insert(result, value, lane)
    return result


def _is_constant(value: Value) -> bool:
    return not value.text.startswith("%")
