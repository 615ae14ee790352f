"""Convolution and its transpose as a sum over the taps of the kernel.

For every tap the elements that it touches form a strided slice, so one matrix product per tap and
group computes its share; this is the definition and yet uses a fast matrix product.
"""

from __future__ import annotations

import math

import numpy as np

from lamina.ir.graph import Array
from lamina.ops.accumulate import widen


def convolve(
    x: Array,
    w: Array,
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads_begin: tuple[int, ...],
    pads_end: tuple[int, ...],
    groups: int,
) -> Array:
    """Cross-correlate x [N, C, *spatial] with w [M, C / groups, *kernel]."""
    padded = pad_spatial(x, pads_begin, pads_end, 0)
    kernel = w.shape[2:]
    counts = tuple(
        (size - ((k - 1) * d + 1)) // s + 1
        for size, k, s, d in zip(padded.shape[2:], kernel, strides, dilations, strict=True)
    )
    n, m, inner = x.shape[0], w.shape[0], w.shape[1]
    grouped = w.reshape(groups, m // groups, inner, *kernel)
    y = np.zeros((n, groups, m // groups, math.prod(counts)), np.result_type(x, w))
    with np.errstate(all="ignore"):
        for tap in np.ndindex(*kernel):
            seen = padded[tap_slices(tap, strides, dilations, counts)]
            y += grouped[(..., *tap)] @ seen.reshape(n, groups, inner, -1)
    return y.reshape(n, m, *counts)


def deconvolve(
    x: Array,
    w: Array,
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads_begin: tuple[int, ...],
    pads_end: tuple[int, ...],
    output_padding: tuple[int, ...],
    groups: int,
) -> Array:
    """Spread x [N, C, *spatial] by w [C, M / groups, *kernel] and cut off the padding."""
    kernel, sizes = w.shape[2:], x.shape[2:]
    full = tuple(
        (size - 1) * s + (k - 1) * d + 1 + extra
        for size, k, s, d, extra in zip(
            sizes, kernel, strides, dilations, output_padding, strict=True
        )
    )
    n, c, inner = x.shape[0], w.shape[0], w.shape[1]
    grouped = np.swapaxes(w.reshape(groups, c // groups, inner, *kernel), 1, 2)
    seen = x.reshape(n, groups, c // groups, -1)
    y = np.zeros((n, groups * inner, *full), np.result_type(x, w))
    with np.errstate(all="ignore"):
        for tap in np.ndindex(*kernel):
            share = grouped[(..., *tap)] @ seen
            where = tap_slices(tap, strides, dilations, sizes)
            y[where] += share.reshape(n, groups * inner, *sizes)
    return _crop(y, pads_begin, pads_end)


def add_channel_bias(y: Array, bias: Array | None) -> Array:
    """Add bias [M] to axis 1."""
    if bias is None:
        return y
    with np.errstate(all="ignore"):
        return np.asarray(y + widen(bias).reshape(-1, *[1] * (y.ndim - 2)))


def tap_slices(
    tap: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    counts: tuple[int, ...],
) -> tuple[slice, ...]:
    """Return the slices, after two full ones, of the elements that one tap of the kernel meets."""
    return (
        slice(None),
        slice(None),
        *(
            slice(t * d, t * d + (count - 1) * s + 1, s)
            for t, d, s, count in zip(tap, dilations, strides, counts, strict=True)
        ),
    )


def pad_spatial(x: Array, begin: tuple[int, ...], end: tuple[int, ...], value: float) -> Array:
    """Surround the axes after the second with ``value``; negative amounts crop."""
    cropped = _crop(x, tuple(max(-b, 0) for b in begin), tuple(max(-e, 0) for e in end))
    grow = [(max(b, 0), max(e, 0)) for b, e in zip(begin, end, strict=True)]
    if not any(map(sum, grow)):
        return cropped
    return np.pad(cropped, [(0, 0), (0, 0), *grow], constant_values=value)


def _crop(y: Array, begin: tuple[int, ...], end: tuple[int, ...]) -> Array:
    """Cut elements off the axes after the second; negative amounts add zeros."""
    cut = tuple(
        slice(max(b, 0), size - max(e, 0))
        for b, e, size in zip(begin, end, y.shape[2:], strict=True)
    )
    grow = [(max(-b, 0), max(-e, 0)) for b, e in zip(begin, end, strict=True)]
    y = y[(slice(None), slice(None), *cut)]
    return np.pad(y, [(0, 0), (0, 0), *grow]) if any(map(sum, grow)) else y
