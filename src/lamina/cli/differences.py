"""How far two results are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

TOLERANCES: Final = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-1}
"""Largest relative difference by precision: generous for deep networks, tight enough for bugs."""


@dataclass(frozen=True)
class Difference:
    """The distance of an array from what was wanted.

    ``relative`` is the largest absolute error over the largest magnitude wanted; ``sqnr_db`` the
    power of the signal over that of the error, in decibels (infinite where equal).  What cannot
    be compared (another shape, a NaN on one side) is infinitely far, and ``reason`` says why.
    """

    absolute: float
    relative: float
    sqnr_db: float
    reason: str = ""

    def within(self, tolerance: float) -> bool:
        """Return whether the relative difference is at most ``tolerance``."""
        return self.relative <= tolerance


EQUAL: Final = Difference(0.0, 0.0, math.inf)


def difference(given: Any, wanted: Any) -> Difference:
    """Return how far ``given`` is from ``wanted``; lists are compared element by element."""
    if isinstance(wanted, list | tuple):
        if not isinstance(given, list | tuple) or len(given) != len(wanted):
            return _infinite("the lists have different lengths")
        return worst([difference(g, w) for g, w in zip(given, wanted, strict=True)])
    if wanted is None or given is None:
        return EQUAL if wanted is given else _infinite("one of the two is absent")
    a, b = np.asarray(given), np.asarray(wanted)
    if a.shape != b.shape:
        return _infinite(f"shape {a.shape} instead of {b.shape}")
    if b.dtype.kind in "OUS":
        return EQUAL if bool(np.all(a.astype(str) == b.astype(str))) else _infinite("texts differ")
    return _numbers(a.astype(np.float64), b.astype(np.float64))


def worst(differences: list[Difference]) -> Difference:
    """Return the largest of several differences; none count as equal."""
    return max(differences, key=lambda d: d.relative, default=EQUAL)


def _numbers(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> Difference:
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return _infinite(f"{np.isnan(a).sum()} NaN instead of {np.isnan(b).sum()}")
    same = (a == b) | np.isnan(b)
    a, b = np.where(same, 0.0, a), np.where(same & ~np.isfinite(b), 0.0, b)
    a = np.where(same, b, a)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return _infinite("infinities differ")
    error = a - b
    noise, power = float(np.sum(error**2)), float(np.sum(b**2))
    absolute = float(np.abs(error).max(initial=0.0))
    peak = float(np.abs(b).max(initial=0.0)) or 1.0
    decibels = 10 * math.log10(max(power, 1e-300) / noise) if noise else math.inf
    return Difference(absolute, absolute / peak, decibels)


def _infinite(reason: str) -> Difference:
    return Difference(math.inf, math.inf, -math.inf, reason)
