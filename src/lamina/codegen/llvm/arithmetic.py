"""Arithmetic, comparison, conversion and lane instructions of the builder."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.codegen.llvm.irtypes import BF16, F32, I1, I16, I32, I64, Type
from lamina.codegen.llvm.values import Emitter, Operand, Value

_FLOAT_BINARY = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INT_BINARY = {"add": "add", "sub": "sub", "mul": "mul", "div": "sdiv"}
_IDENTITY = {"add": 0, "sub": 0, "mul": 1, "udiv": 1, "shl": 0, "lshr": 0, "or": 0}


class Arithmetic(Emitter):
    """Instructions that compute values from values."""

    fast = ""
    """Fast-math flags put on float instructions, such as ``"contract"``; none by default."""

    def binary(self, kind: str, left: Operand, right: Operand) -> Value:
        """Emit ``left kind right``.

        Kinds: add, sub, mul, div, udiv, urem, and, or, xor, shl, lshr, ashr.
        """
        a, b = self.unify(left, right)
        if a.type.is_float:
            flags = f" {self.fast}" if self.fast else ""
            if kind == "sub" and not isinstance(left, Value) and left == 0:
                return self.emit(a.type, f"fneg{flags} {b}")
            return self.emit(a.type, f"{_FLOAT_BINARY[kind]}{flags} {a}, {b.text}")
        if not isinstance(right, Value) and _IDENTITY.get(kind) == right:
            return a
        return self.emit(a.type, f"{_INT_BINARY.get(kind, kind)} {a}, {b.text}")

    def compare(self, kind: str, left: Operand, right: Operand) -> Value:
        """Emit a comparison (lt, le, gt, ge, eq, ne; ult, ule, ugt, uge on unsigned integers)."""
        a, b = self.unify(left, right)
        if a.type.is_float:
            code = "une" if kind == "ne" else "o" + kind
            return self.emit(I1.like(a.type), f"fcmp {code} {a}, {b.text}")
        code = kind if kind in ("eq", "ne") or kind.startswith("u") else "s" + kind
        return self.emit(I1.like(a.type), f"icmp {code} {a}, {b.text}")

    def eq(self, left: Operand, right: Operand) -> Value:
        """Tell whether both are equal (never true for NaN)."""
        return self.compare("eq", left, right)

    def ne(self, left: Operand, right: Operand) -> Value:
        """Tell whether both differ (always true for NaN)."""
        return self.compare("ne", left, right)

    def is_nan(self, value: Value) -> Value:
        """Tell where a float is not a number."""
        return self.emit(I1.like(value.type), f"fcmp uno {value}, {value.text}")

    def select(self, condition: Value, yes: Operand, no: Operand) -> Value:
        """Return ``yes`` where the condition holds, else ``no``."""
        a, b = self.unify(yes, no)
        if condition.type.lanes and not a.type.lanes:
            type_ = a.type.vector(condition.type.lanes)
            a, b = self.coerce(a, type_), self.coerce(b, type_)
        return self.emit(a.type, f"select {condition}, {a}, {b}")

    def intrinsic(self, name: str, result: Type, *operands: Value, suffix: str = "") -> Value:
        """Call ``llvm.NAME.TYPE`` (or ``llvm.NAME.suffix``) and return its result."""
        full = f"llvm.{name}.{suffix or operands[0].type.mangled}"
        self.module.declare(full, result, tuple(x.type for x in operands))
        flags = f" {self.fast}" if self.fast and result.is_float else ""
        arguments = ", ".join(str(x) for x in operands)
        return self.emit(result, f"call{flags} {result} @{full}({arguments})")

    def clock(self) -> Value:
        """Return the processor's count of cycles (I64)."""
        name = "llvm.readcyclecounter"
        self.module.declare(name, I64, ())
        return self.emit(I64, f"call {I64} @{name}()")

    def fma(self, a: Operand, b: Operand, c: Operand) -> Value:
        """Return ``a * b + c`` rounded once."""
        typed = [x.type for x in (a, b, c) if isinstance(x, Value)]
        type_ = max(typed, key=lambda t: t.lanes)
        x, y, z = (self.coerce(v, type_) for v in (a, b, c))
        return self.intrinsic("fma", type_, x, y, z)

    def max(self, a: Operand, b: Operand) -> Value:
        """Return the larger; for floats in one instruction, with ``b`` wherever either is NaN."""
        x, y = self.unify(a, b)
        return self.select(self.compare("gt", x, y), x, y)

    def min(self, a: Operand, b: Operand) -> Value:
        """Return the smaller; for floats in one instruction, with ``b`` wherever either is NaN."""
        x, y = self.unify(a, b)
        return self.select(self.compare("lt", x, y), x, y)

    def maximum(self, a: Operand, b: Operand) -> Value:
        """Return the larger, NaN where either is NaN, as NumPy does."""
        x, y = self.unify(a, b)
        return self.select(self.is_nan(x), x, self.max(x, y)) if x.type.is_float else self.max(x, y)

    def minimum(self, a: Operand, b: Operand) -> Value:
        """Return the smaller, NaN where either is NaN, as NumPy does."""
        x, y = self.unify(a, b)
        return self.select(self.is_nan(x), x, self.min(x, y)) if x.type.is_float else self.min(x, y)

    def index_min(self, a: int | Value, b: int | Value) -> int | Value:
        """Return the smaller index: a Python int when both are."""
        return min(a, b) if isinstance(a, int) and isinstance(b, int) else self.min(a, b)

    def index_max(self, a: int | Value, b: int | Value) -> int | Value:
        """Return the larger index: a Python int when both are."""
        return max(a, b) if isinstance(a, int) and isinstance(b, int) else self.max(a, b)

    def unary(self, kind: str, value: Value) -> Value:
        """Apply sqrt, fabs, floor, ceil, trunc, roundeven, or ctpop, ctlz, cttz on integers."""
        if kind in ("ctlz", "cttz"):
            return self.intrinsic(kind, value.type, value, self.const(I1, 0))
        if value.type.kind == "bfloat" or (value.type.is_float and value.type.bits == 16):
            wide = self.unary(kind, self.convert(value, F32))
            return self.convert(wide, value.type.scalar)
        return self.intrinsic(kind, value.type, value)

    def abs(self, value: Value) -> Value:
        """Return the magnitude."""
        if value.type.is_float:
            return self.unary("fabs", value)
        return self.intrinsic("abs", value.type, value, self.const(I1, 0))

    def ashr(self, value: Value, bits: Operand) -> Value:
        """Shift right and keep the sign."""
        return self.binary("ashr", value, bits)

    def bitcast(self, value: Value, scalar: Type) -> Value:
        """Reinterpret the bits of each lane as another scalar type of the same width."""
        type_ = scalar.like(value.type)
        return self.emit(type_, f"bitcast {value} to {type_}")

    def convert(
        self, value: Value, scalar: Type, *, signed: bool = True, quick: bool = False
    ) -> Value:
        """Convert lanes to another scalar type.

        Floats round to nearest even among themselves and toward zero to integers. ``signed``
        tells how integers are read and written. Booleans (i1) read as 0 and 1. ``quick`` allows
        the CPU's own instruction for f32 to bf16, which reads denormals as zero.
        """
        source, target = value.type, scalar.like(value.type)
        if source == target:
            return value
        if quick and target == BF16.vector(16) and self.isa.has("avx512bf16"):
            return self.emit(target, f"fptrunc {value} to {target}")
        if "bfloat" in (source.kind, target.kind):
            return self._convert_bf16(value, target, signed)
        if source == I1.like(source):
            signed = False
        if source.is_float and target.is_float:
            code = "fpext" if source.bits < target.bits else "fptrunc"
        elif source.is_float:
            code = "fptosi" if signed else "fptoui"
        elif target.is_float:
            code = "sitofp" if signed else "uitofp"
        elif source.bits > target.bits:
            code = "trunc"
        else:
            code = "sext" if signed else "zext"
        return self.emit(target, f"{code} {value} to {target}")

    def _convert_bf16(self, value: Value, target: Type, signed: bool) -> Value:
        """Convert through f32 with integer instructions: exact for denormals and on every CPU."""
        if value.type.kind == "bfloat":
            bits = self.convert(self.bitcast(value, I16), I32, signed=False) << 16
            return self.convert(self.bitcast(bits, F32), target.scalar, signed=signed)
        wide = self.convert(value, F32, signed=signed)
        bits = self.bitcast(wide, I32)
        rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
        quiet = (bits >> 16) | 0x40
        chosen = self.select(self.is_nan(wide), quiet, rounded)
        return self.bitcast(self.convert(chosen, I16), BF16)

    def convert_saturated(self, value: Value, scalar: Type, *, signed: bool = True) -> Value:
        """Convert floats to integers, clamped to the integer's range, NaN to 0."""
        target = scalar.like(value.type)
        name = "fptosi.sat" if signed else "fptoui.sat"
        return self.intrinsic(name, target, value, suffix=f"{target.mangled}.{value.type.mangled}")

    def iota(self, scalar: Type, lanes: int) -> Value:
        """Return the constant vector 0, 1, …, lanes - 1."""
        items = ", ".join(f"{scalar} {scalar.constant(i)}" for i in range(lanes))
        return self.value(scalar.vector(lanes), f"<{items}>")

    def lane_mask(self, count: int | Value, lanes: int) -> Value:
        """Return the mask of the first ``count`` lanes; count may be negative or too large."""
        limit = self.index_min(count, lanes)
        narrow = self.convert(limit, I32) if isinstance(limit, Value) else self.const(I32, limit)
        if limit == 1:
            # LLVM 20 turns a truncation and its masked store, where it knows that the mask is one
            # lane, into a store of the element before it was truncated.  So it must not know.
            narrow = self.emit(I32, f'call {I32} asm "", "=r,0"({narrow})')
        return self.compare("lt", self.iota(I32, lanes), narrow)

    def extract(self, vector: Value, lane: int) -> Value:
        """Return one lane of a vector."""
        return self.emit(vector.type.scalar, f"extractelement {vector}, i64 {lane}")

    def insert(self, vector: Value, scalar: Value, lane: int) -> Value:
        """Return the vector with one lane replaced."""
        return self.emit(vector.type, f"insertelement {vector}, {scalar}, i64 {lane}")

    def shuffle(self, first: Value, second: Value | None, lanes: Sequence[int]) -> Value:
        """Pick lanes out of one or two concatenated vectors of the same type."""
        mask = ", ".join(f"i32 {i}" for i in lanes)
        other = f"{first.type} poison" if second is None else str(second)
        result = first.type.scalar.vector(len(lanes))
        return self.emit(result, f"shufflevector {first}, {other}, <{len(lanes)} x i32> <{mask}>")

    def reduce(self, kind: str, vector: Value) -> Value:
        """Fold all lanes to one scalar, pairwise.

        Kinds: add, mul, max, min, maximum, minimum, and, or, xor.
        """
        width = vector.type.lanes
        while width > 1:
            half = width // 2
            low = self.shuffle(vector, None, range(half))
            high = self.shuffle(vector, None, range(half, 2 * half))
            last = self.extract(vector, width - 1) if width % 2 else None
            if half == 1:
                low, high = self.extract(vector, 0), self.extract(vector, 1)
            vector = self._fold(kind, low, high)
            if last is not None:
                return self._fold(kind, self.reduce(kind, vector), last)
            width = half
        return vector

    def _fold(self, kind: str, a: Value, b: Value) -> Value:
        if kind in ("max", "min", "maximum", "minimum"):
            result: Value = getattr(self, kind)(a, b)
            return result
        return self.binary(kind, a, b)
