"""Operators that change the element type."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops.conversion import convert
from lamina.ops.kinds import E8M0Rounding


@operator
class Cast(Op):
    """Convert each element to another type.

    Floats become integers by dropping the fraction; integers that do not fit keep their low bits.
    ``saturate`` decides whether values beyond an 8-bit float become its largest value or infinity
    (NaN when it has none); ``rounding`` applies only to f8e8m0.
    """

    dtype: DType
    saturate: bool = True
    rounding: E8M0Rounding = E8M0Rounding.UP
    is_pointwise: ClassVar[bool] = True

    def infer(self, x: TensorType) -> TensorType:
        """Return the same shape with the new type."""
        return x.with_dtype(self.dtype)

    def reference(self, x: Array) -> Array:
        """Convert with the rules of ONNX Cast."""
        return convert(x, self.dtype, saturate=self.saturate, rounding=self.rounding)


@operator
class Bitcast(Op):
    """Reinterpret the bits of each element as another type of the same size."""

    dtype: DType

    def infer(self, x: TensorType) -> TensorType:
        """Return the same shape with the new type."""
        if x.dtype.bits != self.dtype.bits or DType.STR in (x.dtype, self.dtype):
            raise TypeMismatch(
                f"{x.dtype} has {x.dtype.bits} bits but {self.dtype} has {self.dtype.bits}"
            )
        return x.with_dtype(self.dtype)

    def reference(self, x: Array) -> Array:
        """Reinterpret a contiguous copy of the array."""
        return np.array(x, order="C").view(self.dtype.numpy)
