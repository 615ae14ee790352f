"""Accumulators of folds: how they start, take an element, join, and end."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.codegen import scalar
from lamina.codegen.llvm.builder import I32, Builder, Value
from lamina.codegen.llvm.scalar_llvm import LlvmEmitter, register_type
from lamina.codegen.nest import Fold, Scan
from lamina.ir.types import DType

_BEYOND = {False: (1 << 31) - 1, True: -1}
"""The index that loses against every other, for the first and for the last extreme element."""


@dataclass(frozen=True)
class Accumulator:
    """Operations on the running values of one fold: one value, or a pair for argmax/argmin."""

    fold: Fold | Scan
    dtype: DType

    @property
    def is_pair(self) -> bool:
        """Whether an index runs along with the value."""
        return self.fold.kind in ("argmax", "argmin")

    @property
    def _value_kind(self) -> str:
        return {"argmax": "max", "argmin": "min"}.get(self.fold.kind, self.fold.kind)

    def start(self, k: Builder, lanes: int) -> tuple[Value, ...]:
        """Return the identity in ``lanes`` lanes."""
        type_ = register_type(self.dtype).vector(lanes)
        number = scalar.fold_identity(self._value_kind, self.dtype)
        value = k.const(type_, float(number) if type_.is_float else int(number))
        if not self.is_pair:
            return (value,)
        return (value, k.const(I32.vector(lanes), _BEYOND[self._last]))

    def take(
        self, k: Builder, state: tuple[Value, ...], args: tuple[Value, ...], mask: Value | None
    ) -> tuple[Value, ...]:
        """Add one element (or one per lane; lanes outside the mask add nothing)."""
        lanes = state[0].type.lanes or 1
        wide = tuple(k.coerce(x, s.type) for x, s in zip(args, state, strict=False))
        if mask is not None and lanes > 1:
            none = self.start(k, lanes)
            wide = tuple(k.select(mask, x, n) for x, n in zip(wide, none, strict=False))
        return self.join(k, state, wide)

    def join(self, k: Builder, a: tuple[Value, ...], b: tuple[Value, ...]) -> tuple[Value, ...]:
        """Combine two running values."""
        emitter = LlvmEmitter(k)
        if not self.is_pair:
            name = scalar.FOLD_PRIMITIVES[self.fold.kind]
            return (emitter.binary(name, self.dtype, b[0], a[0]),)
        wins = self._wins(k, emitter, a, b)
        return (k.select(wins, b[0], a[0]), k.select(wins, b[1], a[1]))

    def _wins(
        self, k: Builder, e: LlvmEmitter, a: tuple[Value, ...], b: tuple[Value, ...]
    ) -> Value:
        """Tell where ``b`` is the more extreme one; NaN beats numbers, indices break ties."""
        kind = "gt" if self.fold.kind == "argmax" else "lt"
        better = e.compare(kind, self.dtype, b[0], a[0])
        tie = k.eq(a[0], b[0])
        if self.dtype.is_float:
            nan_a, nan_b = k.is_nan(a[0]), k.is_nan(b[0])
            better = better | (nan_b & (nan_a ^ 1))
            tie = tie | (nan_a & nan_b)
        earlier = k.compare("gt" if self._last else "lt", b[1], a[1])
        return better | (tie & earlier)

    @property
    def _last(self) -> bool:
        return isinstance(self.fold, Fold) and self.fold.last

    def finish(self, k: Builder, state: tuple[Value, ...], *, across: bool) -> Value:
        """Return the result; ``across`` also joins the lanes to one scalar."""
        lanes = state[0].type.lanes
        while across and lanes > 1:
            half = lanes // 2
            low = tuple(self._half(k, x, 0, half) for x in state)
            high = tuple(self._half(k, x, half, half) for x in state)
            state, lanes = self.join(k, low, high), half
        return state[-1]

    def _half(self, k: Builder, x: Value, start: int, count: int) -> Value:
        if count == 1:
            return k.extract(x, start)
        return k.shuffle(x, None, range(start, start + count))
