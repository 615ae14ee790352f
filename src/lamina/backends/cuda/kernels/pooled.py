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
_BELOW = tl.constexpr(1 << 20)


@triton.jit
def _places(
    q_first, IN_W, X_CHANNEL, X_ROW,
    CHANNELS: tl.constexpr, TAPS_H: tl.constexpr, VECTORS: tl.constexpr, FIRST: tl.constexpr,
    STEP: tl.constexpr, BEGIN: tl.constexpr, PARTS: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """Return where ``PARTS`` loads of all windows lie, from number ``BEGIN`` on, and their rows.

    Offsets and rows are relative to the row of the image that the first row of the filter meets;
    what lies beside the image has a row below every image.
    """
    part = BEGIN + tl.arange(0, PARTS)
    channel, tap, vector = part // (TAPS_H * VECTORS), part // VECTORS % TAPS_H, part % VECTORS
    # Windows follow each other in memory: neighbouring threads load neighbouring numbers.
    along = tl.arange(0, BLOCK_Q * STEP)
    group = q_first + FIRST // STEP + vector[:, None] + (along // STEP)[None, :]
    exists = (channel < CHANNELS)[:, None] & (group >= 0) & (group < IN_W // STEP)
    offset = channel * X_CHANNEL + tap * X_ROW + vector * STEP + q_first * STEP + FIRST
    return offset[:, None] + along[None, :], tl.where(exists, tap[:, None], _BELOW)


@triton.jit
def _windows(
    image, source, offsets, rows, IN_H, X_ROW, STEP: tl.constexpr, BLOCK_Q: tl.constexpr
):  # fmt: skip
    """Return loads of each window: [windows, depth]."""
    inside = (source + rows).to(tl.uint32) < IN_H  # negative ones are huge
    block = tl.load(image + source * X_ROW + offsets, mask=inside, other=0)
    parts: tl.constexpr = block.shape[0]
    return block.reshape(parts, BLOCK_Q, STEP).permute(1, 0, 2).reshape(BLOCK_Q, parts * STEP)


@triton.jit
def _existing(
    total, columns, row, CONV_H, CONV_W, CUT_ROWS: tl.constexpr, CUT: tl.constexpr
):  # fmt: skip
    """Replace what lies outside of the convolution's result, if anything does."""
    if CUT_ROWS:
        columns = tl.where(row < CONV_H, columns, -1)
    if CUT_ROWS or CUT:
        total = tl.where((columns.to(tl.uint32) < CONV_W)[:, None], total, _LOWEST)
    return total


@triton.jit
def pooled(
    x, w, bias, y, IN_H, IN_W, CONV_H, CONV_W, OUT_H, OUT_W, FILTERS,
    X_BATCH, X_CHANNEL, X_ROW, Y_BATCH, Y_ROW, Y_COLUMN,
    CHANNELS: tl.constexpr, TAPS_H: tl.constexpr, STRIDE_H: tl.constexpr, PAD_H: tl.constexpr,
    POOL_STRIDE_H: tl.constexpr, POOL_PAD_H: tl.constexpr, POOL_PAD_W: tl.constexpr,
    SHARED_H: tl.constexpr, SHARED_W: tl.constexpr,
    CUT_ROWS: tl.constexpr, CUT_EVEN: tl.constexpr, CUT_ODD: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr,
    PARTS: tl.constexpr, VECTORS: tl.constexpr, FIRST: tl.constexpr, STEP: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute ``ROWS`` rows of windows.  Grid: images, in them strips of rows and columns; filters.

    The depth of the product has ``PARTS`` loads of ``STEP`` neighbours: channels, in them rows of
    the filter, in them ``VECTORS`` of columns.  Those of window q begin at column ``FIRST + STEP *
    q``, and ``STEP`` divides all strides, ``FIRST`` and the columns of the image.  ``SHARED_*``:
    windows overlap by one; ``CUT_*``: they reach below the convolution's result, or the first or
    the second of their new columns may lie beside it.  w is [filters in blocks: 2 * BLOCK_N,
    depth].  The activation must not change the order of numbers.
    """
    width: tl.constexpr = BLOCK_Q - 1 if SHARED_W else BLOCK_Q
    half: tl.constexpr = PARTS // 2
    depth: tl.constexpr = PARTS * STEP
    strips, bands = tl.cdiv(OUT_W, width), tl.cdiv(OUT_H, ROWS)
    q_first = tl.program_id(0) % strips * width
    p_first = tl.program_id(0) // strips % bands * ROWS
    number = (tl.program_id(0) // (strips * bands)).to(tl.int64)
    columns = q_first + tl.arange(0, BLOCK_Q)
    first_column = 2 * columns - POOL_PAD_W
    filters = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    # Two halves: a thread holds one of them at a time.
    offsets, rows = _places(
        q_first, IN_W, X_CHANNEL, X_ROW, CHANNELS, TAPS_H, VECTORS, FIRST, STEP, 0, half, BLOCK_Q
    )
    more_offsets, more_rows = _places(
        q_first, IN_W, X_CHANNEL, X_ROW, CHANNELS, TAPS_H, VECTORS, FIRST, STEP, half, half, BLOCK_Q
    )
    block = w + tl.program_id(1) * (2 * BLOCK_N * depth) + tl.arange(0, depth // 2)[:, None]
    block += tl.arange(0, BLOCK_N)[None, :] * depth
    even_filters, more_even = tl.load(block), tl.load(block + depth // 2)
    block += BLOCK_N * depth
    odd_filters, more_odd = tl.load(block), tl.load(block + depth // 2)
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

    element: tl.constexpr = y.dtype.element_ty
    best_even = tl.full((BLOCK_Q, BLOCK_N), _LOWEST, tl.float32).to(element)
    best_odd = tl.full((BLOCK_Q, BLOCK_N), _LOWEST, tl.float32).to(element)
    ending: tl.constexpr = 0 if SHARED_H else POOL_STRIDE_H - 1
    count = tl.minimum(ROWS, OUT_H - p_first) * POOL_STRIDE_H
    if SHARED_H:
        count += 1
    first_row = p_first * POOL_STRIDE_H - POOL_PAD_H
    for step in range(tl.maximum(-first_row, 0), count):
        row = first_row + step
        source = row * STRIDE_H - PAD_H
        pixels = _windows(image, source, offsets, rows, IN_H, X_ROW, STEP, BLOCK_Q)
        even, odd = tl.dot(pixels, even_filters), tl.dot(pixels, odd_filters)
        pixels = _windows(image, source, more_offsets, more_rows, IN_H, X_ROW, STEP, BLOCK_Q)
        even, odd = tl.dot(pixels, more_even, even), tl.dot(pixels, more_odd, odd)
        even = activate(even + added[None, :], KIND, ALPHA, BETA)
        odd = activate(odd + added[None, :], KIND, ALPHA, BETA)
        even = _existing(even, first_column, row, CONV_H, CONV_W, CUT_ROWS, CUT_EVEN).to(element)
        odd = _existing(odd, first_column + 1, row, CONV_H, CONV_W, CUT_ROWS, CUT_ODD).to(element)
        # The maximum of bf16 comes as f32.
        best_even = tl.maximum(best_even, even).to(element)
        best_odd = tl.maximum(best_odd, odd).to(element)
        if step % POOL_STRIDE_H == ending:
            if not SHARED_H or step > 0:
                result = tl.maximum(best_even, best_odd)
                if SHARED_W:
                    result = tl.maximum(result, tl.gather(best_even, following, 0))
                p = p_first + (step // POOL_STRIDE_H - 1 if SHARED_H else step // POOL_STRIDE_H)
                tl.store(out + p * Y_ROW, result, mask=stored)
            if SHARED_H:
                best_even, best_odd = even, odd
            else:
                best_even = tl.full((BLOCK_Q, BLOCK_N), _LOWEST, tl.float32).to(element)
                best_odd = tl.full((BLOCK_Q, BLOCK_N), _LOWEST, tl.float32).to(element)
