"""Operators that make numbers instead of moving them."""

from __future__ import annotations

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import TensorType
from lamina.ops.check import rank_is, same_dtype


@operator
class Trilu(Op):
    """Keep the upper (or lower) triangle of the last two axes and put zeros elsewhere.

    ``k`` moves the diagonal that is kept: up when positive, down when negative.
    """

    upper: bool = True
    k: Dim = 0

    def infer(self, x: TensorType) -> TensorType:
        if x.rank < 2:
            raise TypeMismatch(f"x must have at least 2 axes, got {x}")
        return x

    def reference(self, x: Array) -> Array:
        k = int(self.k)  # type: ignore[arg-type]
        row, column = np.arange(x.shape[-2])[:, None], np.arange(x.shape[-1])
        keep = column - row >= k if self.upper else column - row <= k
        return np.where(keep, x, np.zeros((), x.dtype))


@operator
class Range(Op):
    """``length`` numbers from ``start`` in steps of ``delta``."""

    length: Dim

    def infer(self, start: TensorType, delta: TensorType) -> TensorType:
        rank_is("start", start, 0)
        rank_is("delta", delta, 0)
        same_dtype("start", start, "delta", delta)
        return start.with_shape((self.length,))

    def reference(self, start: Array, delta: Array) -> Array:
        steps = np.arange(int(self.length)).astype(start.dtype)  # type: ignore[arg-type]
        return np.asarray(start + steps * delta)
