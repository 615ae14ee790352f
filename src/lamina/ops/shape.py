"""Operators between shapes and data."""

from __future__ import annotations

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.dims import is_static
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops.check import same_size


@operator
class Shape(Op):
    """The sizes of the axes ``start`` to ``end`` (exclusive), as i64."""

    start: int = 0
    end: int | None = None

    def infer(self, x: TensorType) -> TensorType:
        return TensorType(DType.I64, (len(x.shape[self.start : self.end]),))

    def reference(self, x: Array) -> Array:
        return np.array(x.shape[self.start : self.end], np.int64)


@operator
class BindDims(Op):
    """Pass an integer vector or scalar through and give its elements the names of symbols.

    ``Graph.definers`` must name the result for each symbol.
    """

    names: tuple[str, ...]

    def infer(self, x: TensorType) -> TensorType:
        if not x.dtype.is_integer or x.rank > 1:
            raise TypeMismatch(f"dimensions must be an integer vector or scalar, got {x}")
        if x.rank == 1:
            same_size("the number of symbols", len(self.names), "the size of x", x.shape[0])
        elif len(self.names) != 1:
            raise TypeMismatch(f"{len(self.names)} symbols for the scalar {x}")
        if x.rank == 1 and not is_static(x.shape[0]):
            return x.with_shape((len(self.names),))
        return x

    def reference(self, x: Array) -> Array:
        return x

    def binds(self, *inputs: Array) -> dict[str, int]:
        return {name: int(v) for name, v in zip(self.names, inputs[0].reshape(-1), strict=True)}
