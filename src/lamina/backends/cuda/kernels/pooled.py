"""Convolutions of images with a few channels whose results only a maximum over windows reads.

Rows of the product are columns of the pooled result.  Windows advance by two columns: the same
neighbours of the image meet the filters twice, shifted, and give both results of the convolution
that are new to a window; the one that it shares with its neighbour comes from the next row.  So
each load brings several neighbours, and no result of the convolution leaves the chip.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.epilogue import activate

_LOWEST = tl.constexpr(float("-inf"))
"""What results that do not exist count as."""


@triton.jit
def _existing(total, columns, row, CONV_H, CONV_W):
    """Replace what lies outside of the convolution's result."""
    inside = (columns >= 0) & (columns < CONV_W) & (row >= 0) & (row < CONV_H)
    return tl.where(inside[:, None], total, _LOWEST)


@triton.jit
def pooled(
    x, w, bias, y, IN_H, IN_W, CONV_H, CONV_W, OUT_H, OUT_W, FILTERS,
    X_BATCH, X_CHANNEL, X_ROW, Y_BATCH, Y_ROW, Y_COLUMN,
    CHANNELS: tl.constexpr, TAPS_H: tl.constexpr, STRIDE_H: tl.constexpr, PAD_H: tl.constexpr,
    POOL_STRIDE_H: tl.constexpr, POOL_PAD_H: tl.constexpr, POOL_PAD_W: tl.constexpr,
    SHARED_H: tl.constexpr, SHARED_W: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr,
    PARTS: tl.constexpr, VECTOR: tl.constexpr, VECTORS: tl.constexpr, FIRST: tl.constexpr,
    STEP: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute ``ROWS`` rows of windows.  Grid: images, in them strips of rows and columns; filters.

    The depth of the product has ``PARTS`` loads of ``VECTOR`` neighbours: channels, in them rows
    of the filter, in them ``VECTORS`` of columns.  Those of window q begin ``FIRST + STEP * q``.
    ``SHARED_*``: windows overlap by one.  w is [filters in blocks: 2 * BLOCK_N, depth].  The
    activation must not change the order of numbers.
    """
    width: tl.constexpr = BLOCK_Q - 1 if SHARED_W else BLOCK_Q
    depth: tl.constexpr = PARTS * VECTOR
    strips, bands = tl.cdiv(OUT_W, width), tl.cdiv(OUT_H, ROWS)
    q_first = tl.program_id(0) % strips * width
    p_first = tl.program_id(0) // strips % bands * ROWS
    number = (tl.program_id(0) // (strips * bands)).to(tl.int64)
    columns = q_first + tl.arange(0, BLOCK_Q)
    first_column = 2 * columns - POOL_PAD_W
    filters = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.arange(0, PARTS)
    channel, tap = part // (TAPS_H * VECTORS), part // VECTORS % TAPS_H
    # Neighbouring threads take neighbouring windows, whose loads join.
    source_column = (
        FIRST + STEP * columns[None, :, None]
        + (part % VECTORS * VECTOR)[:, None, None] + tl.arange(0, VECTOR)[None, None, :]
    )  # fmt: skip
    exists = (channel < CHANNELS)[:, None, None]
    exists = exists & (source_column >= 0) & (source_column < IN_W)
    source_row = tap[:, None, None]
    offset = (channel * X_CHANNEL + tap * X_ROW)[:, None, None] + source_column
    block = w + tl.program_id(1) * (2 * BLOCK_N * depth) + tl.arange(0, depth)[:, None]
    block += tl.arange(0, BLOCK_N)[None, :] * depth
    even_filters, odd_filters = tl.load(block), tl.load(block + BLOCK_N * depth)
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    added = tl.zeros((BLOCK_N,), tl.float32)
    if bias is not None:
        added = tl.load(bias + filters, mask=filters < FILTERS, other=0).to(tl.float32)
    image = x + number * X_BATCH
    out = y + number * Y_BATCH + filters[None, :] + columns[:, None] * Y_COLUMN
    stored = (columns < tl.minimum(OUT_W, q_first + width))[:, None] & (filters < FILTERS)[None, :]
    following = tl.minimum(tl.arange(0, BLOCK_Q) + 1, BLOCK_Q - 1)
    following = tl.broadcast_to(following[:, None], (BLOCK_Q, BLOCK_N))

    best_even = tl.full((BLOCK_Q, BLOCK_N), _LOWEST, tl.float32)
    best_odd = tl.full((BLOCK_Q, BLOCK_N), _LOWEST, tl.float32)
    ending: tl.constexpr = 0 if SHARED_H else POOL_STRIDE_H - 1
    count = tl.minimum(ROWS, OUT_H - p_first) * POOL_STRIDE_H
    if SHARED_H:
        count += 1
    for step in range(count):
        row = p_first * POOL_STRIDE_H - POOL_PAD_H + step
        source = row * STRIDE_H - PAD_H
        inside = exists & (source + source_row >= 0) & (source + source_row < IN_H)
        pixels = tl.load(image + source * X_ROW + offset, mask=inside, other=0)
        pixels = pixels.permute(1, 0, 2).reshape(BLOCK_Q, depth)
        even = _existing(tl.dot(pixels, even_filters), first_column, row, CONV_H, CONV_W)
        odd = _existing(tl.dot(pixels, odd_filters), first_column + 1, row, CONV_H, CONV_W)
        best_even, best_odd = tl.maximum(best_even, even), tl.maximum(best_odd, odd)
        if step % POOL_STRIDE_H == ending:
            if not SHARED_H or step > 0:
                left = activate(best_even + added[None, :], KIND, ALPHA, BETA)
                left = left.to(y.dtype.element_ty)
                right = activate(best_odd + added[None, :], KIND, ALPHA, BETA)
                result = tl.maximum(left, right.to(y.dtype.element_ty))
                if SHARED_W:
                    result = tl.maximum(result, tl.gather(left, following, 0))
                p = p_first + (step // POOL_STRIDE_H - 1 if SHARED_H else step // POOL_STRIDE_H)
                tl.store(out + p * Y_ROW, result, mask=stored)
            if SHARED_H:
                best_even, best_odd = even, odd
            else:
                best_even = tl.full((BLOCK_Q, BLOCK_N), _LOWEST, tl.float32)
                best_odd = tl.full((BLOCK_Q, BLOCK_N), _LOWEST, tl.float32)
