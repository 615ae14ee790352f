"""Histograms of magnitudes, and the ranges that follow from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_BINS = 2048
_LEVELS = 128
_STEP = 16
"""Distance between the thresholds that are tried, in bins."""
_KEPT = 0.9999
"""Share of elements inside the range of the legacy algorithm."""

Array = npt.NDArray[Any]


class Histogram:
    """Counts of ``|x|`` in equal bins; the width doubles when larger elements come."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.limit = 0.0
        self.counts: Array = np.zeros(_BINS, np.float64)

    def add(self, x: Array) -> None:
        """Count the finite elements of an array."""
        magnitudes = np.abs(x[np.isfinite(x)]).astype(np.float64)
        if not magnitudes.size:
            return
        top = float(magnitudes.max())
        self.largest = max(self.largest, top)
        if not self.limit:
            self.limit = top or 0.0
        if not self.limit:
            return  # only zeros so far
        while top > self.limit:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(_BINS // 2)])
            self.limit *= 2
        self.counts += np.histogram(magnitudes, _BINS, (0.0, self.limit))[0]

    def range(self, algorithm: str) -> float:
        """Return the largest magnitude that an algorithm represents, 0 for only zeros."""
        if algorithm == "MINMAX_CALIBRATION" or not self.limit:
            return self.largest
        if algorithm == "LEGACY_CALIBRATION":
            inside = np.cumsum(self.counts) / self.counts.sum()
            return self._edge(int(np.searchsorted(inside, _KEPT)) + 1)
        return self._edge(_least_divergent(self.counts))

    def _edge(self, bins: int) -> float:
        return min(bins * self.limit / _BINS, self.largest)


def _least_divergent(counts: Array) -> int:
    """Return how many bins to keep so that 128 levels resemble them most.

    Migacz, "8-bit inference with TensorRT" (2017): for each threshold, what lies beyond joins the
    last bin; the kept bins, rounded to 128 levels, are compared by Kullback-Leibler divergence.
    """
    counts = counts.copy()
    counts[0] = counts[1]  # exact zeros, as after a rectifier, say nothing about the scale
    best, kept = np.inf, _BINS
    for bins in range(_LEVELS, _BINS + 1, _STEP):
        wanted = counts[:bins].copy()
        wanted[-1] += counts[bins:].sum()
        divergence = _divergence(wanted, _rounded(counts[:bins]))
        if divergence < best:
            best, kept = divergence, bins
    return kept


def _rounded(counts: Array) -> Array:
    """Return counts after joining them to 128 levels, spread over the bins that were not empty."""
    level = np.arange(len(counts)) * _LEVELS // len(counts)
    present = (counts > 0).astype(np.float64)
    total = np.bincount(level, counts, _LEVELS)
    number = np.bincount(level, present, _LEVELS)
    share = np.divide(total, number, out=np.zeros(_LEVELS), where=number > 0)
    return np.asarray(share[level] * present)


def _divergence(p: Array, q: Array) -> float:
    if not p.sum() or not q.sum():
        return float(np.inf)
    p, q = p / p.sum(), q / q.sum()
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], 1e-9))))
