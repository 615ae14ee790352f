"""What expressions over scalars are made of: an emitter's primitives, and terms with operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from lamina.ir.types import DType

V = TypeVar("V")
Number = float | int | bool


class Emitter(Protocol[V]):
    """The primitives that a printer supplies; ``dtype`` is that of the operands.

    ``unary``: neg abs sqrt floor ceil trunc round not isnan, and for floats exp log sin cos tan
    asin acos atan sinh cosh tanh asinh acosh atanh erf sigmoid log1p expm1; ``clock``, which gives
    the ticks of a clock whatever ``x`` is.  ``binary``: add sub
    mul div rem (integers truncate, division by zero gives 0), min max (NaN propagates), top (a max
    that gives ``b`` when either is NaN), and or xor shl shr (shifts by the width or more leave 0 or
    the sign), pow, copysign.
    ``compare``: eq ne lt le gt ge.
    """

    def constant(self, dtype: DType, number: Number) -> V: ...

    def unary(self, name: str, dtype: DType, x: V) -> V: ...

    def binary(self, name: str, dtype: DType, a: V, b: V) -> V: ...

    def compare(self, name: str, dtype: DType, a: V, b: V) -> V: ...

    def select(self, condition: V, dtype: DType, a: V, b: V) -> V: ...

    def fma(self, dtype: DType, a: V, b: V, c: V) -> V: ...

    def cast(self, x: V, source: DType, target: DType) -> V: ...


@dataclass(frozen=True, eq=False)
class Term(Generic[V]):
    """A value of an emitter with Python operators; a number beside it takes its dtype.

    ``number`` is set on constants, so that entries may simplify (``x ** 2``).
    """

    emitter: Emitter[V]
    dtype: DType
    value: V
    number: Number | None = None

    def of(self, other: Term[V] | Number) -> Term[V]:
        """Return ``other`` as a term of this term's dtype."""
        if isinstance(other, Term):
            return other
        return Term(self.emitter, self.dtype, self.emitter.constant(self.dtype, other), other)

    def call(self, name: str) -> Term[V]:
        """Apply a unary primitive."""
        dtype = DType.BOOL if name == "isnan" else self.dtype
        return Term(self.emitter, dtype, self.emitter.unary(name, self.dtype, self.value))

    def with_(self, name: str, other: Term[V] | Number) -> Term[V]:
        """Apply a binary primitive."""
        y = self.of(other)
        return Term(
            self.emitter, self.dtype, self.emitter.binary(name, self.dtype, self.value, y.value)
        )

    def compare(self, name: str, other: Term[V] | Number) -> Term[V]:
        """Compare; the result is bool."""
        y = self.of(other)
        value = self.emitter.compare(name, self.dtype, self.value, y.value)
        return Term(self.emitter, DType.BOOL, value)

    def where(self, a: Term[V] | Number, b: Term[V] | Number, like: Term[V]) -> Term[V]:
        """Choose ``a`` where this bool holds, else ``b``, as the dtype of ``like``."""
        x, y = like.of(a), like.of(b)
        value = self.emitter.select(self.value, like.dtype, x.value, y.value)
        return Term(self.emitter, like.dtype, value)

    def cast(self, dtype: DType) -> Term[V]:
        """Convert to another dtype."""
        if dtype is self.dtype:
            return self
        return Term(self.emitter, dtype, self.emitter.cast(self.value, self.dtype, dtype))

    def fma(self, factor: Term[V] | Number, addend: Term[V] | Number) -> Term[V]:
        """Return ``self * factor + addend`` rounded once."""
        b, c = self.of(factor), self.of(addend)
        value = self.emitter.fma(self.dtype, self.value, b.value, c.value)
        return Term(self.emitter, self.dtype, value)

    def __add__(self, other: Term[V] | Number) -> Term[V]:
        return self.with_("add", other)

    def __radd__(self, other: Number) -> Term[V]:
        return self.of(other) + self

    def __sub__(self, other: Term[V] | Number) -> Term[V]:
        return self.with_("sub", other)

    def __rsub__(self, other: Number) -> Term[V]:
        return self.of(other) - self

    def __mul__(self, other: Term[V] | Number) -> Term[V]:
        return self.with_("mul", other)

    def __rmul__(self, other: Number) -> Term[V]:
        return self * other

    def __truediv__(self, other: Term[V] | Number) -> Term[V]:
        return self.with_("div", other)

    def __rtruediv__(self, other: Number) -> Term[V]:
        return self.of(other) / self

    def __neg__(self) -> Term[V]:
        return self.call("neg")

    def __lt__(self, other: Term[V] | Number) -> Term[V]:
        return self.compare("lt", other)

    def __le__(self, other: Term[V] | Number) -> Term[V]:
        return self.compare("le", other)

    def __gt__(self, other: Term[V] | Number) -> Term[V]:
        return self.compare("gt", other)

    def __ge__(self, other: Term[V] | Number) -> Term[V]:
        return self.compare("ge", other)
