"""Functions that join two partial results of a fold, and what they start from."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.codegen import scalar
from lamina.codegen.nest import Fold, Scan
from lamina.codegen.triton.scalar_triton import literal, register_type
from lamina.ir.types import DType

_VALUE_KIND = {"argmax": "max", "argmin": "min"}
_BEYOND = {False: (1 << 31) - 1, True: -1}
"""The index that loses against every other, for the first and for the last extreme element."""

_EXPRESSIONS = {
    "sum": "a + b",
    "prod": "a * b",
    "max": "tl.maximum(a, b)",
    "min": "tl.minimum(a, b)",
    "top": "tl.maximum(a, b)",
    "max_float": "tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)",
    "min_float": "tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)",
}
_PAIR = '''
@triton.jit
def _{name}(v, i, w, j):
    """Choose the more extreme value; NaN beats numbers, indices break ties."""
    better = (w {better} v) | ((w != w) & (v == v))
    tie = (v == w) | ((v != v) & (w != w))
    wins = better | (tie & (j {earlier} i))
    return tl.where(wins, w, v), tl.where(wins, j, i)
'''


@dataclass(frozen=True)
class Joining:
    """How the values of one fold or scan are joined; ``dtype`` is that of the values."""

    fold: Fold | Scan
    dtype: DType

    @property
    def is_pair(self) -> bool:
        """Whether an index runs along with the value."""
        return self.fold.kind in _VALUE_KIND

    @property
    def working(self) -> DType:
        """Return the type that is joined: narrow integers and bool become 32 bits."""
        if self.dtype is DType.BOOL:
            return DType.I32
        if self.dtype.is_integer and self.dtype.bits < 32:
            return DType.I32 if self.dtype.is_signed else DType.U32
        return self.dtype

    @property
    def _kind(self) -> str:
        kind = _VALUE_KIND.get(self.fold.kind, self.fold.kind)
        if self.dtype is DType.BOOL:
            return {"sum": "max", "prod": "min"}.get(kind, kind)
        return kind

    @property
    def function(self) -> str:
        """Return the name of the joining function."""
        if self.is_pair:
            last = isinstance(self.fold, Fold) and self.fold.last
            return f"_{self.fold.kind}{'_last' if last else ''}"
        suffix = "_float" if self.dtype.is_float and self._kind in ("max", "min") else ""
        return f"_{self._kind}{suffix}"

    @property
    def helper(self) -> str:
        """Return the text of the joining function."""
        name = self.function[1:]
        if self.is_pair:
            better = ">" if self.fold.kind == "argmax" else "<"
            earlier = ">" if name.endswith("_last") else "<"
            return _PAIR.format(name=name, better=better, earlier=earlier)
        return f"\n@triton.jit\ndef _{name}(a, b):\n    return {_EXPRESSIONS[name]}\n"

    def identities(self) -> tuple[str, ...]:
        """Return what joins without effect: a value, or a value and an index."""
        number = scalar.fold_identity(_VALUE_KIND.get(self.fold.kind, self._kind), self.dtype)
        value = literal(self.working, number)
        if not self.is_pair:
            return (value,)
        last = isinstance(self.fold, Fold) and self.fold.last
        return (value, literal(DType.I32, _BEYOND[last]))

    @property
    def types(self) -> tuple[str, ...]:
        """Return the Triton types of what is joined."""
        value = register_type(self.working)
        return (value, "tl.int32") if self.is_pair else (value,)

    def widened(self, value: str) -> str:
        """Return a value in the type that is joined."""
        return value if self.working is self.dtype else f"({value}).to({self.types[0]})"

    def narrowed(self, value: str) -> str:
        """Return a joined value in the type of the fold."""
        if self.working is self.dtype or self.is_pair:
            return value
        if self.dtype is DType.BOOL:
            return f"{value} != 0"
        return f"({value}).to({register_type(self.dtype)})"
