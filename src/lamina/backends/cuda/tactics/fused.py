"""What a contraction does with its sums, as constants and pointers of a kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lamina.backends.cuda.request import Number
from lamina.backends.cuda.tactics.call import Call
from lamina.ir.graph import Array
from lamina.ir.traced import asarray
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.ops import Epilogue
from lamina.ops.kinds import Scaling
from lamina.ops.quantized import Quantized
from lamina.tactics.candidate import Blob, Role

_HALF_RANGE = 128


@dataclass(frozen=True, kw_only=True)
class Fused:
    """Activation; for 8-bit operands also the scalings of operands and result.

    ``factors`` and ``shift`` are vectors of the columns: a real sum is an integer sum less
    ``shift``, times ``factors``.  With ``rounding`` it is rounded to what ``rounding_dtype`` holds
    before the residual is added.
    """

    activation: Epilogue | None
    factors: Role | None = None
    shift: Role | None = None
    x_zero: int = 0
    residual: Scaling | None = None
    result: Scaling | None = None
    rounding: Scaling | None = None
    rounding_dtype: DType = DType.F32

    def vectors(self, call: Call) -> None:
        """Pass factors and shift."""
        call.pointer("factors", self.factors, DType.F32)
        call.pointer("shift", self.shift, DType.I32)

    def constants(self) -> dict[str, Number]:
        """Return the constants that the kernels of contractions have in common."""
        a, residual, result = self.activation, self.residual, self.result
        return {
            "RESIDUAL_SCALE": residual.scale if residual else None,
            "RESIDUAL_ZERO": float(residual.zero_point) if residual else None,
            "Y_SCALE": result.scale if result else None,
            "Y_ZERO": float(result.zero_point) if result else None,
            "ROUND_SCALE": self.rounding.scale if self.rounding else None,
            "ROUND_ZERO": float(self.rounding.zero_point) if self.rounding else None,
            "ROUND_SIGNED": self.rounding_dtype is DType.I8,
            "KIND": a.kind.value if a else None,
            "ALPHA": a.alpha if a else 0.0,
            "BETA": a.beta if a else 0.0,
        }


def quantized(op: Quantized, weights: Array, scale: Array, x: DType, *, matrix: bool) -> Fused:
    """Return what an 8-bit contraction does; ``weights`` are [columns, depth].

    The matrix units multiply signed numbers only: with them (``matrix``) the kernel takes 128 off
    unsigned ones, which moves the zero point.
    """
    given = op.x_scaling
    moved = given.zero_point - (_HALF_RANGE if x is DType.U8 and matrix else 0)
    factors = asarray(scale * np.float32(given.scale), np.float32)
    shift = moved * weights.astype(np.int64).reshape(weights.shape[0], -1).sum(1)
    return Fused(
        activation=op.activation,
        factors=Blob(Weight(factors)),
        shift=Blob(Weight(shift.astype(np.int32))) if moved else None,
        x_zero=given.zero_point,
        residual=op.residual_scaling,
        result=op.y_scaling,
        rounding=op.rounding,
        rounding_dtype=op.rounding_dtype,
    )
