"""Operators that make numbers instead of moving them."""

from __future__ import annotations

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops.check import rank_is, same_dtype
from lamina.ops.kinds import RandomKind


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


@operator
class Random(Op):
    """Random numbers; the same numbers each time when there is a seed.

    A normal distribution has mean ``low_or_mean`` and standard deviation ``high_or_scale``; a
    uniform one lies in ``low_or_mean <= y < high_or_scale``.
    """

    kind: RandomKind
    shape: tuple[Dim, ...]
    dtype: DType = DType.F32
    low_or_mean: float = 0.0
    high_or_scale: float = 1.0
    seed: int | None = None

    @property
    def pure(self) -> bool:
        """Random numbers are never computed at build time."""
        return False

    def infer(self) -> TensorType:
        if not self.dtype.is_float:
            raise TypeMismatch(f"random numbers must be floats, got {self.dtype}")
        return TensorType(self.dtype, self.shape)

    def reference(self) -> Array:
        generator = np.random.default_rng(self.seed)
        shape = tuple(int(d) for d in self.shape)  # type: ignore[arg-type]
        if self.kind is RandomKind.NORMAL:
            y = generator.normal(self.low_or_mean, self.high_or_scale, shape)
        else:
            y = generator.uniform(self.low_or_mean, self.high_or_scale, shape)
        return np.asarray(y).astype(self.dtype.numpy)
