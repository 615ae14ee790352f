"""RoiAlign where each region decides how many samples its bins have."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def samples(begin, end, SCALE, BINS: tl.constexpr, HALF_PIXEL: tl.constexpr):
    """Return where a region begins, the length of a bin, and its samples along one axis.

    Every step is rounded as the meaning of the operator rounds it: the number depends on it.
    """
    first = begin * SCALE
    length = end * SCALE
    if HALF_PIXEL:
        first, length = first - 0.5, length - 0.5
        length = length - first
    else:
        length = tl.maximum(length - first, 1.0)
    step = (
        tl.div_rn(length, tl.full((), BINS, tl.float32))
        if first.dtype == tl.float32
        else length / BINS
    )
    return first, step, tl.maximum(tl.ceil(step).to(tl.int32), 0)


@triton.jit
def neighbours(first, step, count, bins, number, SIZE):
    """Return both neighbours of a sample of each bin, and their weights."""
    kind: tl.constexpr = first.dtype
    within = ((number + count * 0).to(kind) + 0.5) * step / tl.maximum(count, 1).to(kind)
    place = first + bins.to(kind) * step + within
    inside = (place >= -1.0) & (place <= SIZE)
    clipped = tl.minimum(tl.maximum(place, 0.0), (SIZE - 1) * 1.0)
    low = tl.minimum(tl.maximum(clipped.to(tl.int32), 0), SIZE - 1)
    high = tl.minimum(low + 1, SIZE - 1)
    upper = clipped - low.to(kind)
    return low, high, tl.where(inside, 1.0 - upper, 0.0), tl.where(inside, upper, 0.0)


@triton.jit
def joined(value, x, weight, real, MEAN: tl.constexpr):
    """Join a weighted neighbour with what the bins hold."""
    term = tl.load(x, mask=real, other=0).to(value.dtype) * weight
    if MEAN:
        return value + term
    # The largest weighted neighbour counts, not the largest interpolated value.
    return tl.maximum(value, term, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def align(
    x, rois, images, y, IMAGES, CHANNELS, HEIGHT, WIDTH,
    OUT_H: tl.constexpr, OUT_W: tl.constexpr, SCALE: tl.constexpr, HALF_PIXEL: tl.constexpr,
    MEAN: tl.constexpr, WIDE: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Pool one region: a tile has all bins of some channels.  Grid: regions, parts of channels.

    Operands and the result are row-major; ``BINS`` is at least ``OUT_H * OUT_W``.
    """
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    kind: tl.constexpr = tl.float64 if WIDE else tl.float32
    region = tl.program_id(0).to(tl.int64)
    image = tl.load(images + region).to(tl.int64)
    image = tl.where(image < 0, image + IMAGES, image)
    image = tl.minimum(tl.maximum(image, 0), IMAGES - 1)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    bins = tl.arange(0, BINS)[None, :]
    real = (channel < CHANNELS) & (bins < OUT_H * OUT_W)
    corner = rois + region * 4
    x1, y1 = tl.load(corner).to(kind), tl.load(corner + 1).to(kind)
    x2, y2 = tl.load(corner + 2).to(kind), tl.load(corner + 3).to(kind)
    left, across, columns = samples(x1, x2, SCALE, OUT_W, HALF_PIXEL)
    top, down, rows = samples(y1, y2, SCALE, OUT_H, HALF_PIXEL)
    plane = x + (image * CHANNELS + channel) * HEIGHT * WIDTH
    value = tl.full((BLOCK, BINS), 0.0 if MEAN else float("-inf"), kind)
    for i in range(rows):
        row, next_row, a, b = neighbours(top, down, rows, bins // OUT_W, i, HEIGHT)
        for j in range(columns):
            column, next_column, c, d = neighbours(left, across, columns, bins % OUT_W, j, WIDTH)
            value = joined(value, plane + row * WIDTH + column, a * c, real, MEAN)
            value = joined(value, plane + row * WIDTH + next_column, a * d, real, MEAN)
            value = joined(value, plane + next_row * WIDTH + column, b * c, real, MEAN)
            value = joined(value, plane + next_row * WIDTH + next_column, b * d, real, MEAN)
    if MEAN:
        value = value / tl.maximum(rows * columns, 1).to(kind)
    value = tl.where(rows * columns > 0, value, 0.0)
    out = y + (region * CHANNELS + channel) * (OUT_H * OUT_W) + bins
    tl.store(out, value.to(y.dtype.element_ty), mask=real)
