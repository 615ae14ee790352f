"""Conditions that must hold while a network runs."""

from __future__ import annotations

from lamina.errors import ExecutionError
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops.check import has_dtype


@operator
class Assertion(Op):
    """Return ``x`` when every element of ``condition`` is true; else fail with ``message``.

    What must not be used unless the condition holds goes through ``x``, so that an assertion is
    evaluated because its result is.
    """

    message: str

    def infer(self, x: TensorType, condition: TensorType) -> TensorType:
        has_dtype("condition", condition, DType.BOOL)
        return x

    def reference(self, x: Array, condition: Array) -> Array:
        if not condition.all():
            raise ExecutionError(f"the assertion does not hold: {self.message}")
        return x
