"""Convolutions that feed each other or one sum, in one kernel: sums stay on the chip.

``paired`` adds the products of two images to one sum.  ``chained`` multiplies the tile that a first
convolution gives by the filters of pointwise ones, up to twice.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.convolution import (
    ask_for_filters,
    pixel_offset,
    pixel_place,
    summed,
    window_rows,
)
from lamina.backends.cuda.kernels.epilogue import (
    activate,
    finish,
    is_last,
    joined,
    shares,
)
from lamina.backends.cuda.kernels.matmul import load_block, tile_place, turned
from lamina.backends.cuda.kernels.rounding import dot


@triton.jit
def _both_summed(
    total, x, w, z, v, pixels, PIXELS, filters, FILTERS, first, last, steps,
    OUT_D, OUT_H, OUT_W, X_BATCH, X_DEPTH, X_ROW, X_COLUMN, W_FILTER,
    Z_BATCH, Z_DEPTH, Z_ROW, Z_COLUMN, V_FILTER,
    STRIDE_D: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    Z_STRIDE_D: tl.constexpr, Z_STRIDE_H: tl.constexpr, Z_STRIDE_W: tl.constexpr,
    BLOCK_K: tl.constexpr, WHOLE_N: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the products of two pointwise convolutions in one loop, whose loads never run dry."""
    depth = tl.arange(0, BLOCK_K)
    image, d, h, c = pixel_place(pixels, OUT_D, OUT_H, OUT_W)
    if WIDE:
        image = image.to(tl.int64)
    x_rows = x + image * X_BATCH + d * STRIDE_D * X_DEPTH + h * STRIDE_H * X_ROW
    x_rows += c * STRIDE_W * X_COLUMN
    z_rows = z + image * Z_BATCH + d * Z_STRIDE_D * Z_DEPTH + h * Z_STRIDE_H * Z_ROW
    z_rows += c * Z_STRIDE_W * Z_COLUMN
    inside, filter_inside = pixels < PIXELS, filters < FILTERS
    for step in range(first, last):
        mine = step < steps
        k = tl.where(mine, step, step - steps) * BLOCK_K + depth
        rows = tl.where(mine, x_rows, z_rows)
        columns = tl.where(mine, w + filters * W_FILTER, v + filters * V_FILTER)
        left = tl.load(rows[:, None] + k[None, :], mask=inside[:, None], other=0)
        block = columns[None, :] + k[:, None]
        if WHOLE_N:
            right = tl.load(block)
        else:
            right = tl.load(block, mask=filter_inside[None, :], other=0)
        total = dot(left, right, total, PRECISION)
    return total


@triton.jit
def paired(
    x, w, z, v, bias, other_bias, y, partial, counters, PIXELS, FILTERS,
    OUT_D, OUT_H, OUT_W, IN_D, IN_H, IN_W, CHANNELS, X_BATCH, X_DEPTH, X_ROW, X_COLUMN,
    W_FILTER, W_TAP, Z_IN_D, Z_IN_H, Z_IN_W, Z_CHANNELS, Z_BATCH, Z_DEPTH, Z_ROW, Z_COLUMN,
    V_FILTER, V_TAP, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN, BACKWARDS,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    STRIDE_D: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_D: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    PAD_D: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    Z_TAPS_D: tl.constexpr, Z_TAPS_H: tl.constexpr, Z_TAPS_W: tl.constexpr,
    Z_STRIDE_D: tl.constexpr, Z_STRIDE_H: tl.constexpr, Z_STRIDE_W: tl.constexpr,
    Z_DILATION_D: tl.constexpr, Z_DILATION_H: tl.constexpr, Z_DILATION_W: tl.constexpr,
    Z_PAD_D: tl.constexpr, Z_PAD_H: tl.constexpr, Z_PAD_W: tl.constexpr,
    PADDED: tl.constexpr, Z_PADDED: tl.constexpr, WHOLE_K: tl.constexpr, Z_WHOLE_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr,
    GROUP: tl.constexpr, WHOLE_N: tl.constexpr, DEEP: tl.constexpr, Y_DENSE: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr, HALVES: tl.constexpr, MERGED: tl.constexpr,
    PREFETCH: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute ``activation(conv(x, w) + conv(z, v) + biases)``.  Grid: tiles, ``SPLIT``.

    The steps of the second sum follow those of the first; pieces cut the whole row of steps.
    ``MERGED``: both read one pixel for each result, and ``BLOCK_K`` divides their channels.  With
    ``BACKWARDS`` 1 the first program computes the last tile.
    """
    tiles_m, tiles_n = tl.cdiv(PIXELS, BLOCK_M), tl.cdiv(FILTERS, BLOCK_N)
    program, piece = tl.program_id(0), tl.program_id(1)
    place = turned(program, tiles_m * tiles_n, BACKWARDS)
    tile_m, tile_n = tile_place(place, tiles_m, tiles_n, GROUP)
    filters = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    pixels = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    filter_inside = filters < FILTERS
    steps = TAPS_D * TAPS_H * TAPS_W * tl.cdiv(CHANNELS, BLOCK_K)
    z_steps = Z_TAPS_D * Z_TAPS_H * Z_TAPS_W * tl.cdiv(Z_CHANNELS, BLOCK_K)
    pieces = shares(SPLIT)
    first = (steps + z_steps) * piece // pieces
    last = (steps + z_steps) * (piece + 1) // pieces
    if PREFETCH:
        chunks, z_chunks = tl.cdiv(CHANNELS, BLOCK_K), tl.cdiv(Z_CHANNELS, BLOCK_K)
        end, begin = tl.minimum(last, steps), tl.maximum(first - steps, 0)
        if end > first:
            ask_for_filters(
                w, filters, FILTERS, first, end, tile_m, tiles_m, chunks, W_FILTER, W_TAP, BLOCK_K
            )
        if last > steps:
            ask_for_filters(
                v, filters, FILTERS, begin, last - steps, tile_m, tiles_m,
                z_chunks, V_FILTER, V_TAP, BLOCK_K,
            )  # fmt: skip
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    added = None
    if bias is not None:
        added = tl.load(bias + filters, mask=filter_inside, other=0).to(tl.float32)
    if other_bias is not None:
        more = tl.load(other_bias + filters, mask=filter_inside, other=0).to(tl.float32)
        added = more if added is None else added + more
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if MERGED:
        total = _both_summed(
            total, x, w, z, v, pixels, PIXELS, filters, FILTERS, first, last, steps,
            OUT_D, OUT_H, OUT_W, X_BATCH, X_DEPTH, X_ROW, X_COLUMN, W_FILTER,
            Z_BATCH, Z_DEPTH, Z_ROW, Z_COLUMN, V_FILTER,
            STRIDE_D, STRIDE_H, STRIDE_W, Z_STRIDE_D, Z_STRIDE_H, Z_STRIDE_W,
            BLOCK_K, WHOLE_N, WIDE, PRECISION,
        )  # fmt: skip
    else:
        windows = window_rows(
            x, pixels, OUT_D, OUT_H, OUT_W, X_BATCH, X_DEPTH, X_ROW, X_COLUMN,
            STRIDE_D, STRIDE_H, STRIDE_W, PAD_D, PAD_H, PAD_W, WIDE,
        )  # fmt: skip
        total = summed(
            total, windows, w, pixels, PIXELS, filters, FILTERS, first, tl.minimum(last, steps),
            IN_D, IN_H, IN_W, CHANNELS, X_DEPTH, X_ROW, X_COLUMN, W_FILTER, W_TAP, 1,
            TAPS_H, TAPS_W, DILATION_D, DILATION_H, DILATION_W,
            BLOCK_K, WHOLE_N, WHOLE_K, PADDED, DEEP, 0, PRECISION,
        )  # fmt: skip
        windows = window_rows(
            z, pixels, OUT_D, OUT_H, OUT_W, Z_BATCH, Z_DEPTH, Z_ROW, Z_COLUMN,
            Z_STRIDE_D, Z_STRIDE_H, Z_STRIDE_W, Z_PAD_D, Z_PAD_H, Z_PAD_W, WIDE,
        )  # fmt: skip
        total = summed(
            total, windows, v, pixels, PIXELS, filters, FILTERS,
            tl.maximum(first - steps, 0), last - steps,
            Z_IN_D, Z_IN_H, Z_IN_W, Z_CHANNELS, Z_DEPTH, Z_ROW, Z_COLUMN, V_FILTER, V_TAP, 1,
            Z_TAPS_H, Z_TAPS_W, Z_DILATION_D, Z_DILATION_H, Z_DILATION_W,
            BLOCK_K, WHOLE_N, Z_WHOLE_K, Z_PADDED, DEEP, 0, PRECISION,
        )  # fmt: skip
    if SPLIT != 1:
        if not is_last(total, partial, counters, program, piece, SPLIT, BLOCK_M, BLOCK_N):
            return
        total = joined(total, partial, program, SPLIT, BLOCK_M, BLOCK_N)
    out = y + tile_n * BLOCK_N + pixel_offset(
        pixels, OUT_D, OUT_H, OUT_W, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN, Y_DENSE, WIDE
    )  # fmt: skip
    finish(
        total, added, None, None, out, pixels < PIXELS, FILTERS - tile_n * BLOCK_N, 1, 1, 1,
        None, None, None, None, None, None, False, KIND, ALPHA, BETA, HALVES,
    )  # fmt: skip


@triton.jit
def _pixel_block(
    x, pixels, PIXELS, OUT_D, OUT_H, OUT_W, CHANNELS, BATCH, DEPTH, ROW, COLUMN,
    STRIDE_D: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    SIZE: tl.constexpr, WHOLE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Load all channels of the pixels that a pointwise convolution reads."""
    image, d, h, v = pixel_place(pixels, OUT_D, OUT_H, OUT_W)
    if WIDE:
        image = image.to(tl.int64)
    rows = image * BATCH + d * STRIDE_D * DEPTH + h * STRIDE_H * ROW + v * STRIDE_W * COLUMN
    channels = tl.arange(0, SIZE)
    inside = (pixels < PIXELS)[:, None] & (channels < CHANNELS)[None, :]
    return load_block(x + rows[:, None] + channels[None, :], inside, WHOLE)


@triton.jit
def _front(
    x, w, bias, pixels, PIXELS, OUT_D, OUT_H, OUT_W, IN_D, IN_H, IN_W, CHANNELS,
    X_BATCH, X_DEPTH, X_ROW, X_COLUMN, W_FILTER, W_TAP, FILTERS,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    STRIDE_D: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_D: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    PAD_D: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr, PADDED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, SIZE: tl.constexpr,
    DEEP: tl.constexpr, WIDE: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
):  # fmt: skip
    """Return the first convolution of a tile, rounded, its ``FILTERS`` padded to ``SIZE``."""
    filters = tl.arange(0, SIZE)
    total = tl.zeros((BLOCK_M, SIZE), tl.float32)
    windows = window_rows(
        x, pixels, OUT_D, OUT_H, OUT_W, X_BATCH, X_DEPTH, X_ROW, X_COLUMN,
        STRIDE_D, STRIDE_H, STRIDE_W, PAD_D, PAD_H, PAD_W, WIDE,
    )  # fmt: skip
    total = summed(
        total, windows, w, pixels, PIXELS, filters, FILTERS,
        0, TAPS_D * TAPS_H * TAPS_W * tl.cdiv(CHANNELS, BLOCK_K),
        IN_D, IN_H, IN_W, CHANNELS, X_DEPTH, X_ROW, X_COLUMN, W_FILTER, W_TAP, 1,
        TAPS_H, TAPS_W, DILATION_D, DILATION_H, DILATION_W,
        BLOCK_K, SIZE == FILTERS, CHANNELS % BLOCK_K == 0, PADDED, DEEP, 0, "ieee",
    )  # fmt: skip
    if bias is not None:
        total += tl.load(bias + filters, mask=filters < FILTERS, other=0)[None, :]
    total = activate(total, KIND, ALPHA, BETA)
    # Columns that pad the depth meet filters of zeros, but must be finite.
    return tl.where((filters < FILTERS)[None, :], total, 0.0).to(x.dtype.element_ty)


@triton.jit
def _middle(
    left, filters, other, more, pixels, inside, columns, bias, other_bias, residual, y,
    OUT_D, OUT_H, OUT_W, FILTERS, RESIDUAL_BATCH, RESIDUAL_DEPTH, RESIDUAL_ROW, RESIDUAL_COLUMN,
    Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN,
    WHOLE_M: tl.constexpr, WHOLE_N: tl.constexpr, WIDE: tl.constexpr, DENSE: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
):  # fmt: skip
    """Return some columns of the middle, rounded; store them in y unless that is None."""
    column_inside = columns < FILTERS
    middle = tl.dot(left, filters)
    if other is not None:
        middle = tl.dot(other, more, middle)
    if bias is not None:
        middle += tl.load(bias + columns, mask=column_inside, other=0)[None, :]
    if other_bias is not None:
        middle += tl.load(other_bias + columns, mask=column_inside, other=0)[None, :]
    kept = inside[:, None] & column_inside[None, :]
    if residual is not None:
        rows = residual + pixel_offset(
            pixels, OUT_D, OUT_H, OUT_W,
            RESIDUAL_BATCH, RESIDUAL_DEPTH, RESIDUAL_ROW, RESIDUAL_COLUMN, DENSE, WIDE,
        )  # fmt: skip
        middle += load_block(rows[:, None] + columns[None, :], kept, WHOLE_M and WHOLE_N)
    middle = activate(middle, KIND, ALPHA, BETA).to(left.dtype)
    if y is not None:
        rows = y + pixel_offset(
            pixels, OUT_D, OUT_H, OUT_W, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN, DENSE, WIDE
        )  # fmt: skip
        tl.store(rows[:, None] + columns[None, :], middle, mask=kept)
    if not WHOLE_N:
        middle = tl.where(column_inside[None, :], middle, 0.0)
    return middle


@triton.jit
def _block(
    w, columns, COLUMNS, DEPTH, STRIDE, SIZE: tl.constexpr, WHOLE: tl.constexpr
):  # fmt: skip
    """Load the filters of some columns, all ``DEPTH`` channels of them padded to ``SIZE``."""
    depth = tl.arange(0, SIZE)
    inside = (depth < DEPTH)[:, None] & (columns < COLUMNS)[None, :]
    block = w + depth[:, None] + columns[None, :] * STRIDE
    return load_block(block, inside, WHOLE and SIZE == DEPTH)


@triton.jit
def _back_block(
    back, columns, FILTERS, BACK_FILTERS, BACK_FILTER, SIZE: tl.constexpr, WHOLE: tl.constexpr
):  # fmt: skip
    """Load the filters that sum over some columns of the middle."""
    out = tl.arange(0, SIZE)
    block = back + columns[:, None] + out[None, :] * BACK_FILTER
    here = (columns < FILTERS)[:, None] & (out < BACK_FILTERS)[None, :]
    return load_block(block, here, WHOLE and SIZE == BACK_FILTERS)


@triton.jit
def _store_last(
    result, bias, last, pixels, inside, OUT_D, OUT_H, OUT_W, FILTERS,
    BATCH, DEPTH, ROW, COLUMN, WIDE: tl.constexpr, DENSE: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
):  # fmt: skip
    """Store the result of the last convolution of a tile."""
    added = None
    if bias is not None:
        columns = tl.arange(0, result.shape[1])
        added = tl.load(bias + columns, mask=columns < FILTERS, other=0)
    out = last + pixel_offset(
        pixels, OUT_D, OUT_H, OUT_W, BATCH, DEPTH, ROW, COLUMN, DENSE, WIDE
    )  # fmt: skip
    finish(
        result, added, None, None, out, inside, FILTERS, 1, 1, 1, None, None, None, None,
        None, None, False, KIND, ALPHA, BETA, False,
    )  # fmt: skip


@triton.jit
def chained(
    x, front, front_bias, w, bias, z, v, other_bias, residual, y, back, back_bias, last,
    PIXELS, OUT_D, OUT_H, OUT_W, IN_D, IN_H, IN_W, CHANNELS,
    X_BATCH, X_DEPTH, X_ROW, X_COLUMN, FRONT_FILTER, FRONT_TAP, DEPTH, W_FILTER,
    Z_CHANNELS, Z_BATCH, Z_DEPTH, Z_ROW, Z_COLUMN, V_FILTER, FILTERS,
    RESIDUAL_BATCH, RESIDUAL_DEPTH, RESIDUAL_ROW, RESIDUAL_COLUMN,
    Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN, BACK_FILTERS, BACK_FILTER,
    LAST_BATCH, LAST_DEPTH, LAST_ROW, LAST_COLUMN, BACKWARDS,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    STRIDE_D: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_D: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    PAD_D: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr, PADDED: tl.constexpr,
    Z_STRIDE_D: tl.constexpr, Z_STRIDE_H: tl.constexpr, Z_STRIDE_W: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    FRONT_N: tl.constexpr, Z_SIZE: tl.constexpr, BACK_N: tl.constexpr, STAGES: tl.constexpr,
    WHOLE_M: tl.constexpr, DEEP: tl.constexpr, WIDE: tl.constexpr, DENSE: tl.constexpr,
    FRONT_KIND: tl.constexpr, FRONT_ALPHA: tl.constexpr, FRONT_BETA: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    BACK_KIND: tl.constexpr, BACK_ALPHA: tl.constexpr, BACK_BETA: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute a tile of pixels through up to three convolutions.  Grid: tiles.

    ``front`` filters (None: x is read as it is) give ``FRONT_N`` >= ``DEPTH`` channels; the middle
    is ``activation(w @ those + v @ z + biases + residual)``, in parts of ``BLOCK_N`` of its
    ``FILTERS``, stored in y unless that is None; back filters (None: none) sum over the parts and
    are stored in ``last``.  Every stage rounds what the next one reads, as a stored result would.
    ``DENSE``: pixels of residual and results lie one after another.  With ``BACKWARDS`` 1 the first
    program computes the last tile.
    """
    whole_n: tl.constexpr = FILTERS % BLOCK_N == 0
    tile = turned(tl.program_id(0), tl.cdiv(PIXELS, BLOCK_M), BACKWARDS)
    pixels = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = pixels < PIXELS
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    if front is None:
        left = _pixel_block(
            x, pixels, PIXELS, OUT_D, OUT_H, OUT_W, DEPTH, X_BATCH, X_DEPTH, X_ROW, X_COLUMN,
            1, 1, 1, FRONT_N, WHOLE_M and FRONT_N == DEPTH, WIDE,
        )  # fmt: skip
    else:
        left = _front(
            x, front, front_bias, pixels, PIXELS, OUT_D, OUT_H, OUT_W, IN_D, IN_H, IN_W, CHANNELS,
            X_BATCH, X_DEPTH, X_ROW, X_COLUMN, FRONT_FILTER, FRONT_TAP, DEPTH,
            TAPS_D, TAPS_H, TAPS_W, STRIDE_D, STRIDE_H, STRIDE_W, DILATION_D, DILATION_H,
            DILATION_W, PAD_D, PAD_H, PAD_W, PADDED, BLOCK_M, BLOCK_K, FRONT_N, DEEP, WIDE,
            FRONT_KIND, FRONT_ALPHA, FRONT_BETA,
        )  # fmt: skip
    other = None
    if z is not None:
        other = _pixel_block(
            z, pixels, PIXELS, OUT_D, OUT_H, OUT_W, Z_CHANNELS, Z_BATCH, Z_DEPTH, Z_ROW, Z_COLUMN,
            Z_STRIDE_D, Z_STRIDE_H, Z_STRIDE_W, Z_SIZE, WHOLE_M and Z_SIZE == Z_CHANNELS, WIDE,
        )  # fmt: skip
    result = tl.zeros((BLOCK_M, BACK_N), tl.float32)
    for part in tl.range(0, tl.cdiv(FILTERS, BLOCK_N), num_stages=STAGES):
        columns = part * BLOCK_N + tl.arange(0, BLOCK_N)
        filters = _block(w, columns, FILTERS, DEPTH, W_FILTER, FRONT_N, whole_n)
        more = None
        if v is not None:
            more = _block(v, columns, FILTERS, Z_CHANNELS, V_FILTER, Z_SIZE, whole_n)
        middle = _middle(
            left, filters, other, more, pixels, inside, columns, bias, other_bias, residual, y,
            OUT_D, OUT_H, OUT_W, FILTERS, RESIDUAL_BATCH, RESIDUAL_DEPTH, RESIDUAL_ROW,
            RESIDUAL_COLUMN, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN, WHOLE_M, whole_n, WIDE, DENSE,
            KIND, ALPHA, BETA,
        )  # fmt: skip
        if back is not None:
            block = _back_block(back, columns, FILTERS, BACK_FILTERS, BACK_FILTER, BACK_N, whole_n)
            result = tl.dot(middle, block, result)
    if back is not None:
        _store_last(
            result, back_bias, last, pixels, inside, OUT_D, OUT_H, OUT_W, BACK_FILTERS,
            LAST_BATCH, LAST_DEPTH, LAST_ROW, LAST_COLUMN, WIDE, DENSE,
            BACK_KIND, BACK_ALPHA, BACK_BETA,
        )  # fmt: skip


@triton.jit
def chained_tiles(
    x, w, bias, z, v, other_bias, residual, y, back, back_bias, last,
    PIXELS, OUT_D, OUT_H, OUT_W, X_BATCH, X_DEPTH, X_ROW, X_COLUMN, DEPTH, W_FILTER,
    Z_CHANNELS, Z_BATCH, Z_DEPTH, Z_ROW, Z_COLUMN, V_FILTER, FILTERS,
    RESIDUAL_BATCH, RESIDUAL_DEPTH, RESIDUAL_ROW, RESIDUAL_COLUMN,
    Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN,
    BACK_FILTERS, BACK_FILTER, LAST_BATCH, LAST_DEPTH, LAST_ROW, LAST_COLUMN, BACKWARDS,
    Z_STRIDE_D: tl.constexpr, Z_STRIDE_H: tl.constexpr, Z_STRIDE_W: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, FRONT_N: tl.constexpr, Z_SIZE: tl.constexpr,
    BACK_N: tl.constexpr, STAGES: tl.constexpr,
    WHOLE_M: tl.constexpr, WIDE: tl.constexpr, DENSE: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    BACK_KIND: tl.constexpr, BACK_ALPHA: tl.constexpr, BACK_BETA: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute what ``chained`` does without front filters; ``BLOCK_N`` >= ``FILTERS``.

    Programs keep all filters and go on from tile to tile.  Grid: as many as run at once.
    """
    columns = tl.arange(0, BLOCK_N)
    whole_n: tl.constexpr = FILTERS == BLOCK_N
    filters = _block(w, columns, FILTERS, DEPTH, W_FILTER, FRONT_N, whole_n)
    more = None
    if v is not None:
        more = _block(v, columns, FILTERS, Z_CHANNELS, V_FILTER, Z_SIZE, whole_n)
    if back is not None:
        block = _back_block(back, columns, FILTERS, BACK_FILTERS, BACK_FILTER, BACK_N, whole_n)
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    tiles, programs = tl.cdiv(PIXELS, BLOCK_M), tl.num_programs(0)
    for tile in tl.range(tl.program_id(0), tiles, programs, num_stages=STAGES):
        pixels = turned(tile, tiles, BACKWARDS) * BLOCK_M + tl.arange(0, BLOCK_M)
        inside = pixels < PIXELS
        left = _pixel_block(
            x, pixels, PIXELS, OUT_D, OUT_H, OUT_W, DEPTH, X_BATCH, X_DEPTH, X_ROW, X_COLUMN,
            1, 1, 1, FRONT_N, WHOLE_M and FRONT_N == DEPTH, WIDE,
        )  # fmt: skip
        other = None
        if z is not None:
            other = _pixel_block(
                z, pixels, PIXELS, OUT_D, OUT_H, OUT_W, Z_CHANNELS,
                Z_BATCH, Z_DEPTH, Z_ROW, Z_COLUMN, Z_STRIDE_D, Z_STRIDE_H, Z_STRIDE_W,
                Z_SIZE, WHOLE_M and Z_SIZE == Z_CHANNELS, WIDE,
            )  # fmt: skip
        middle = _middle(
            left, filters, other, more, pixels, inside, columns, bias, other_bias, residual, y,
            OUT_D, OUT_H, OUT_W, FILTERS, RESIDUAL_BATCH, RESIDUAL_DEPTH, RESIDUAL_ROW,
            RESIDUAL_COLUMN, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN, WHOLE_M, whole_n, WIDE, DENSE,
            KIND, ALPHA, BETA,
        )  # fmt: skip
        if back is not None:
            _store_last(
                tl.dot(middle, block), back_bias, last, pixels, inside, OUT_D, OUT_H, OUT_W,
                BACK_FILTERS, LAST_BATCH, LAST_DEPTH, LAST_ROW, LAST_COLUMN, WIDE, DENSE,
                BACK_KIND, BACK_ALPHA, BACK_BETA,
            )  # fmt: skip
