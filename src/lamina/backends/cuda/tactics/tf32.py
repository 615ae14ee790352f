"""TF32: f32 factors that count with 11 bits, rounded before matrix units would cut the rest off.

Constant weights are rounded when they are packed, the copy engine of Hopper rounds what it brings,
and kernels that load through registers round there (``kernels/rounding.py``).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from lamina.backends.cuda.target import CudaTarget
from lamina.ir.graph import Array
from lamina.ir.types import DType

TF32: Final = "tf32"
TF32_LEFT: Final = "tf32 left"
"""Only the left factor is still to be rounded."""
_SPLITTER: Final = np.float32(2**13 + 1)


def packed_factors(weights: Array, dtype: DType, target: CudaTarget) -> Array:
    """Return weights as a kernel multiplies them: rounded to 11 bits if it counts only these.

    The upper part of T. J. Dekker's split of a number in two (1971), with ties to even.
    """
    if not is_tf32(dtype, target):
        return weights
    scaled = weights * _SPLITTER
    return scaled - (scaled - weights)


def packed_precision(precision: str, *, packed: bool) -> str:
    """Return how a kernel multiplies, given whether its right factor is a packed constant."""
    return TF32_LEFT if packed and precision == TF32 else precision


def is_tf32(dtype: DType, target: CudaTarget) -> bool:
    """Whether products of numbers of this type are TF32 ones."""
    return dtype is DType.F32 and target.tf32
