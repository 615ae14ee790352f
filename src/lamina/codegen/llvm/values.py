"""SSA values with Python operators, and the text emitter that all builder parts share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lamina.codegen.llvm import irtypes
from lamina.codegen.llvm.irtypes import Type

if TYPE_CHECKING:
    from lamina.codegen.llvm.module import Module


class Operators(Protocol):
    """The arithmetic that a value's operators ask its builder for."""

    def binary(self, kind: str, left: Operand, right: Operand) -> Value: ...

    def compare(self, kind: str, left: Operand, right: Operand) -> Value: ...

    def offset(self, pointer: Value, nbytes: Operand) -> Value: ...


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One typed SSA value or constant of a function being built.

    ``+ - * /`` work on integers, floats and vectors alike; ``//`` and ``%`` divide non-negative
    integers; a pointer plus an integer moves by that many bytes; comparisons are signed, ordered.
    A Python number on either side takes the value's type.
    """

    builder: Operators
    type: Type
    text: str

    def __str__(self) -> str:
        return f"{self.type} {self.text}"

    def __add__(self, other: Operand) -> Value:
        if self.type.kind == "ptr" and not self.type.lanes:
            return self.builder.offset(self, other)
        return self.builder.binary("add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return self.builder.binary("add", self, other)

    def __sub__(self, other: Operand) -> Value:
        return self.builder.binary("sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.builder.binary("sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return self.builder.binary("mul", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return self.builder.binary("mul", self, other)

    def __truediv__(self, other: Operand) -> Value:
        return self.builder.binary("div", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self.builder.binary("div", other, self)

    def __floordiv__(self, other: Operand) -> Value:
        return self.builder.binary("udiv", self, other)

    def __rfloordiv__(self, other: Operand) -> Value:
        return self.builder.binary("udiv", other, self)

    def __mod__(self, other: Operand) -> Value:
        return self.builder.binary("urem", self, other)

    def __rmod__(self, other: Operand) -> Value:
        return self.builder.binary("urem", other, self)

    def __and__(self, other: Operand) -> Value:
        return self.builder.binary("and", self, other)

    def __or__(self, other: Operand) -> Value:
        return self.builder.binary("or", self, other)

    def __xor__(self, other: Operand) -> Value:
        return self.builder.binary("xor", self, other)

    def __lshift__(self, other: Operand) -> Value:
        return self.builder.binary("shl", self, other)

    def __rshift__(self, other: Operand) -> Value:
        return self.builder.binary("lshr", self, other)

    def __neg__(self) -> Value:
        return self.builder.binary("sub", -0.0 if self.type.is_float else 0, self)

    def __lt__(self, other: Operand) -> Value:
        return self.builder.compare("lt", self, other)

    def __le__(self, other: Operand) -> Value:
        return self.builder.compare("le", self, other)

    def __gt__(self, other: Operand) -> Value:
        return self.builder.compare("gt", self, other)

    def __ge__(self, other: Operand) -> Value:
        return self.builder.compare("ge", self, other)


Operand = Value | int | float
"""A value, or a Python number that takes the type of the value beside it."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function that can be called: its name, result type and parameter types."""

    name: str
    result: Type
    parameters: tuple[Type, ...]


class Emitter:
    """The text of one function: lines of the current block, entry allocations, fresh names."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.isa = module.isa
        self.lines: list[str] = []
        self.entry: list[str] = []
        self.block = "entry"
        self._names = 0

    def fresh(self, stem: str = "v") -> str:
        """Return a name that the function does not use yet, without its sigil."""
        self._names += 1
        return f"{stem}{self._names}"

    def emit(self, type_: Type, instruction: str) -> Value:
        """Append ``%name = instruction`` to the current block and return the value."""
        name = "%" + self.fresh()
        self.lines.append(f"  {name} = {instruction}")
        return self.value(type_, name)

    def emit_void(self, instruction: str) -> None:
        """Append an instruction without a result to the current block."""
        self.lines.append(f"  {instruction}")

    def value(self, type_: Type, text: str) -> Value:
        """Wrap existing text as a value of this function."""
        return Value(self, type_, text)  # type: ignore[arg-type]  # subclasses add the operators

    def const(self, type_: Type, number: float) -> Value:
        """Return a constant of the type (repeated in each lane of a vector)."""
        return self.value(type_, type_.constant(number))

    def coerce(self, operand: Operand, type_: Type) -> Value:
        """Return the operand as a value of the type; scalars are broadcast to a vector type."""
        if not isinstance(operand, Value):
            return self.const(type_, operand)
        if operand.type == type_:
            return operand
        if type_.lanes and operand.type == type_.scalar:
            return self.broadcast(operand, type_.lanes)
        raise TypeError(f"expected {type_}, got {operand.type}")

    def broadcast(self, value: Value, lanes: int) -> Value:
        """Repeat a scalar in each lane of a vector."""
        type_ = value.type.vector(lanes)
        if not type_.lanes:
            return value
        first = self.emit(type_, f"insertelement {type_} poison, {value}, i64 0")
        mask = irtypes.I32.vector(lanes)
        return self.emit(type_, f"shufflevector {first}, {type_} poison, {mask} zeroinitializer")

    def unify(self, left: Operand, right: Operand) -> tuple[Value, Value]:
        """Return both operands with one type: the vector's, or that of the operand that has one."""
        typed = [x.type for x in (left, right) if isinstance(x, Value)]
        if not typed:
            raise TypeError("at least one operand must be a value")
        type_ = max(typed, key=lambda t: t.lanes)
        return self.coerce(left, type_), self.coerce(right, type_)
