"""Constants."""

from __future__ import annotations

from lamina.errors import TypeMismatch
from lamina.ir.graph import Array, Op, operator
from lamina.ir.traced import asarray
from lamina.ir.types import DType, TensorType
from lamina.ir.weight import Weight


@operator
class Const(Op):
    """A tensor known at build time, compared by content."""

    type: TensorType
    weight: Weight

    @staticmethod
    def of(array: Array, name: str = "") -> Const:
        """Return the constant that holds ``array`` (not copied)."""
        array = asarray(array)
        return Const(
            type=TensorType(DType.of(array.dtype), array.shape), weight=Weight(array, name)
        )

    def infer(self) -> TensorType:
        """Return the declared type after comparing it with the array."""
        array = self.weight.array
        if self.type.shape != array.shape or self.type.dtype is not DType.of(array.dtype):
            raise TypeMismatch(f"a constant of type {self.type} holds {array.dtype}{array.shape}")
        return self.type

    def reference(self) -> Array:
        """Return the array itself."""
        return self.weight.array
