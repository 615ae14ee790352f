"""Prints the scalar table as Triton expressions on blocks or scalars.

Values of a dtype live in registers as they are computed with: f16 and bf16 as f32 (rounded when
stored or cast), bool as int1, everything else as itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from lamina.codegen import scalar
from lamina.codegen.triton.text import LANGUAGE_TYPES, Text
from lamina.ir.types import DType

_HALVES = (DType.F16, DType.BF16)
_SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"}
_LOGICAL = {"add": "|", "mul": "&", "max": "|", "min": "&", "sub": "^"}
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_ROUNDING = {"round": "libdevice.rint", "trunc": "libdevice.trunc"}
_LANGUAGE = {"floor": "tl.floor", "ceil": "tl.ceil", "erf": "tl.erf"}

CLOCK: Final = "from triton.language.extra.cuda import globaltimer"

POWER: Final = '''
@triton.jit
def _power(a, b, BITS: tl.constexpr):
    """Square and multiply over the bits of the exponent; the result wraps as products do."""
    result = a * 0 + 1
    base, exponent = a + b * 0, b + a * 0
    for _ in tl.static_range(BITS):
        result = tl.where((exponent & 1) != 0, result * base, result)
        base, exponent = base * base, exponent >> 1
    return result
'''


@dataclass(frozen=True)
class Piece:
    """An expression: a name or a literal; ``number`` is set on constants."""

    text: str
    number: scalar.Number | None = None

    def __str__(self) -> str:
        return self.text


def register_type(dtype: DType) -> str:
    """Return the Triton type of one element in a register."""
    return LANGUAGE_TYPES[DType.F32 if dtype in _HALVES else dtype]


def literal(dtype: DType, number: scalar.Number) -> str:
    """Return a typed constant."""
    if dtype is DType.BOOL:
        text = str(bool(number))
    elif dtype.is_float:
        value = float(number)
        text = repr(value) if math.isfinite(value) else f'float("{value}")'
    else:
        text = str(int(number))
    return f"tl.full((), {text}, {register_type(dtype)})"


class TritonEmitter:
    """Supplies the primitives of ``scalar.Emitter``.

    With ``quick``, functions that end in a half are computed with the device's own instructions,
    whose error lies below what such a result shows.
    """

    def __init__(self, text: Text, *, quick: bool = False) -> None:
        self.text, self.quick = text, quick

    def _name(self, value: str) -> Piece:
        return Piece(self.text.name(value))

    def constant(self, dtype: DType, number: scalar.Number) -> Piece:
        """Return a scalar constant; it spreads to the lanes of what it meets."""
        return Piece(literal(dtype, number), number)

    def unary(self, name: str, dtype: DType, x: Piece) -> Piece:
        """Write one of the unary primitives."""
        if name == "clock":
            self.text.helpers.add(CLOCK)
            return self._name("globaltimer().to(tl.uint64)")
        if name == "not":
            return self._name(f"~{x}")
        if name == "neg":
            return self._name(f"-{x}")
        if name == "isnan":
            return self._name(f"{x} != {x}")
        if name == "abs":
            return self._name(f"tl.abs({x})")
        if name == "sqrt":
            return self._name(f"tl.sqrt{'' if dtype is DType.F64 else '_rn'}({x})")
        if name == "sigmoid":
            return self._sigmoid(dtype, x)
        if name == "exp" and self.quick and dtype is not DType.F64:
            return self._name(f"tl.exp({x})")
        function = _LANGUAGE.get(name) or _ROUNDING.get(name) or f"libdevice.{name}"
        return self._name(f"{function}({x})")

    def _sigmoid(self, dtype: DType, x: Piece) -> Piece:
        minus = Piece(self.text.name(f"-{x}"))
        exponential = self.unary("exp", dtype, minus)
        return self._name(f"{literal(dtype, 1)} / ({exponential} + {literal(dtype, 1)})")

    def binary(self, name: str, dtype: DType, a: Piece, b: Piece) -> Piece:
        """Write one of the binary primitives."""
        if dtype is DType.BOOL and name in _LOGICAL:
            return self._name(f"{a} {_LOGICAL[name]} {b}")
        if name in _SYMBOLS:
            return self._name(f"{a} {_SYMBOLS[name]} {b}")
        if name in ("min", "max", "top"):
            return self._extreme(name, dtype, a, b)
        if name in ("shl", "shr"):
            return self._shift(name, dtype, a, b)
        if name == "copysign":
            return self._name(f"libdevice.copysign({self._wide(a, b)}, {self._wide(b, a)})")
        if dtype.is_float:
            return self._float(name, dtype, a, b)
        if name == "pow":
            return self._power(dtype, a, b)
        return self._divide(name, dtype, a, b)

    def _wide(self, a: Piece, b: Piece) -> str:
        """Return a number as wide as what it meets in a function that does not spread it."""
        return f"({a} + {b} * 0)" if a.number is not None else str(a)

    def _float(self, name: str, dtype: DType, a: Piece, b: Piece) -> Piece:
        if name == "div":
            exact = f"tl.div_rn({a}, {b})" if dtype is not DType.F64 else f"{a} / {b}"
            return self._name(exact)
        function = {"rem": "fmod", "pow": "pow"}[name]
        return self._name(f"libdevice.{function}({self._wide(a, b)}, {self._wide(b, a)})")

    def _extreme(self, name: str, dtype: DType, a: Piece, b: Piece) -> Piece:
        function = "tl.minimum" if name == "min" else "tl.maximum"
        if dtype.is_float and name != "top":
            return self._name(f"{function}({a}, {b}, propagate_nan=tl.PropagateNan.ALL)")
        return self._name(f"{function}({a}, {b})")

    def _shift(self, name: str, dtype: DType, a: Piece, b: Piece) -> Piece:
        bits = dtype.bits
        inside = self.text.name(f"({b} >= 0) & ({b} < {bits})")
        last = literal(dtype, bits - 1)
        amount = self.text.name(f"tl.where({inside}, {b}, {last})")
        shifted = self.text.name(f"{a} {'<<' if name == 'shl' else '>>'} {amount}")
        if name == "shr" and dtype.is_signed:
            return Piece(shifted)
        return self._name(f"tl.where({inside}, {shifted}, {literal(dtype, 0)})")

    def _divide(self, name: str, dtype: DType, a: Piece, b: Piece) -> Piece:
        """Divide integers, truncating; division by zero gives 0."""
        symbol = "//" if name == "div" else "%"
        if b.number:
            return self._name(f"{a} {symbol} {b}")
        zero = self.text.name(f"{b} == 0")
        divisor = self.text.name(f"tl.where({zero}, {literal(dtype, 1)}, {b})")
        return self._name(f"tl.where({zero}, {literal(dtype, 0)}, {a} {symbol} {divisor})")

    def _power(self, dtype: DType, a: Piece, b: Piece) -> Piece:
        self.text.helpers.add(POWER)
        power = self.text.name(f"_power({a}, {b}, {dtype.bits})")
        if not dtype.is_signed:
            return Piece(power)
        # A negative exponent gives the truncated reciprocal.
        one, zero = literal(dtype, 1), literal(dtype, 0)
        unit = self.text.name(f"tl.where({a} == 1, {one}, {zero})")
        minus = self.text.name(f"tl.where(({b} & 1) == 0, {one}, {literal(dtype, -1)})")
        negative = self.text.name(f"tl.where({a} == -1, {minus}, {unit})")
        return self._name(f"tl.where({b} < 0, {negative}, {power})")

    def compare(self, name: str, dtype: DType, a: Piece, b: Piece) -> Piece:
        """Write a comparison."""
        if dtype is DType.BOOL:
            a, b = (Piece(f"({x}).to(tl.int32)") for x in (a, b))
        return self._name(f"{a} {_COMPARISONS[name]} {b}")

    def select(self, condition: Piece, dtype: DType, a: Piece, b: Piece) -> Piece:
        """Write a choice per lane."""
        return self._name(f"tl.where({condition}, {a}, {b})")

    def fma(self, dtype: DType, a: Piece, b: Piece, c: Piece) -> Piece:
        """Write a multiply-add, which the compiler fuses."""
        return self._name(f"{a} * {b} + {c}")

    def cast(self, x: Piece, source: DType, target: DType) -> Piece:
        """Convert as NumPy's astype does; integers that do not fit keep their low bits."""
        if target is DType.BOOL:
            return self._name(f"{x} != {literal(source, 0)}")
        if target in _HALVES:
            # Only the newest devices round f64 to bf16 in one step.
            start = f"({x}).to(tl.float32)" if target is DType.BF16 else f"({x})"
            return self._name(f"{start}.to({LANGUAGE_TYPES[target]}).to(tl.float32)")
        type_ = register_type(target)
        if source is DType.BOOL:
            return self._name(f"({x}).to(tl.int32).to({type_})")
        if source.is_float and target.is_integer and target is not DType.U64:
            wide = "tl.int32" if target.bits < 32 else type_ if target.is_signed else "tl.int64"
            return self._name(f"({x}).to({wide}).to({type_})")
        return self._name(f"({x}).to({type_})")
