"""The type in which references compute: f16 and bf16 are widened to f32 and rounded once."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from lamina.ir.graph import Array

_HALVES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def widen(x: Array) -> Array:
    """Return f16 and bf16 as f32 and everything else unchanged."""
    return x.astype(np.float32) if x.dtype in _HALVES else x


def narrow(x: Any, dtype: np.dtype[Any]) -> Array:
    """Round to ``dtype``; overflow gives infinity and no warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(x).astype(dtype, copy=False)
