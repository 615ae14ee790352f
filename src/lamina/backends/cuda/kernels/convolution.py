"""Convolutions on the matrix units as implicit matrix products, channels last.

Rows of the product are pixels of the result, columns are filters, and the depth runs over the taps
of the filter and, inside, over channels; images have three spatial axes, of size 1 where there
are fewer.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lamina.backends.cuda.kernels.epilogue import (
    finish,
    is_last,
    joined,
    prefetch,
    real_sums,
    shares,
    signed,
    wait,
)
from lamina.backends.cuda.kernels.matmul import tile_place
from lamina.backends.cuda.kernels.rounding import dot


@triton.jit
def pixel_place(pixels, OUT_D, OUT_H, OUT_W):
    """Return image, depth, row and column of pixels that are numbered in row-major order."""
    column, rest = pixels % OUT_W, pixels // OUT_W
    row, rest = rest % OUT_H, rest // OUT_H
    return rest // OUT_D, rest % OUT_D, row, column


@triton.jit
def pixel_offset(
    pixels, OUT_D, OUT_H, OUT_W, BATCH, DEPTH, ROW, COLUMN,
    DENSE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return where pixels lie in an image with the given strides; ``DENSE``: one after another."""
    if WIDE:
        pixels = pixels.to(tl.int64)
    if DENSE:
        return pixels * COLUMN
    image, depth, row, column = pixel_place(pixels, OUT_D, OUT_H, OUT_W)
    return image * BATCH + depth * DEPTH + row * ROW + column * COLUMN


@triton.jit
def window_rows(
    x, pixels, OUT_D, OUT_H, OUT_W, X_BATCH, X_DEPTH, X_ROW, X_COLUMN,
    STRIDE_D: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_D: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return where the windows of pixels begin: pointers, and places along the three axes."""
    image, out_d, out_h, out_w = pixel_place(pixels, OUT_D, OUT_H, OUT_W)
    if WIDE:
        image = image.to(tl.int64)
    in_d, in_h, in_w = out_d * STRIDE_D - PAD_D, out_h * STRIDE_H - PAD_H, out_w * STRIDE_W - PAD_W
    rows = x + (image * X_BATCH + in_d * X_DEPTH + in_h * X_ROW + in_w * X_COLUMN)
    return rows, in_d, in_h, in_w


@triton.jit
def summed(
    total, windows, w, pixels, PIXELS, filters, FILTERS, first, last,
    IN_D, IN_H, IN_W, CHANNELS, X_DEPTH, X_ROW, X_COLUMN, W_FILTER, W_TAP, W_CHANNEL,
    TAPS_H: tl.constexpr, TAPS_W: tl.constexpr, DILATION_D: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    BLOCK_K: tl.constexpr, WHOLE_N: tl.constexpr, WHOLE_K: tl.constexpr, PADDED: tl.constexpr,
    DEEP: tl.constexpr, X_ZERO: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the products of the steps from ``first`` to before ``last``: taps, in them channels.

    ``windows`` is what :func:`window_rows` gave.
    """
    chunks, channels = tl.cdiv(CHANNELS, BLOCK_K), tl.arange(0, BLOCK_K)
    pixel_inside, filter_inside = pixels < PIXELS, filters < FILTERS
    x_rows, in_d, in_h, in_w = windows
    w_block = w + channels[:, None] * W_CHANNEL + filters[None, :] * W_FILTER
    unsigned: tl.constexpr = x_rows.dtype.element_ty == tl.uint8
    for step in range(first, last):
        tap, c = step // chunks, step % chunks * BLOCK_K
        d = tap // (TAPS_H * TAPS_W) * DILATION_D
        h = tap // TAPS_W % TAPS_H * DILATION_H
        v = tap % TAPS_W * DILATION_W
        seen = pixel_inside
        if PADDED:
            seen = seen & (in_h + h >= 0) & (in_h + h < IN_H) & (in_w + v >= 0) & (in_w + v < IN_W)
            if DEEP:
                seen = seen & (in_d + d >= 0) & (in_d + d < IN_D)
        x_block = x_rows[:, None] + (d * X_DEPTH + h * X_ROW + v * X_COLUMN + c + channels)[None, :]
        w_step = w_block + (tap * W_TAP + c * W_CHANNEL)
        if WHOLE_K:
            left = tl.load(x_block, mask=seen[:, None], other=X_ZERO)
            if WHOLE_N:
                right = tl.load(w_step)
            else:
                right = tl.load(w_step, mask=filter_inside[None, :], other=0)
        else:
            deep = channels < CHANNELS - c
            left = tl.load(x_block, mask=seen[:, None] & deep[None, :], other=X_ZERO)
            right = tl.load(w_step, mask=deep[:, None] & filter_inside[None, :], other=0)
        left = signed(left, unsigned)
        total = dot(left, right, total, PRECISION)
    return total


@triton.jit
def ask_for_filters(
    w, filters, FILTERS, first, last, tile, tiles, chunks, W_FILTER, W_TAP, BLOCK_K: tl.constexpr
):  # fmt: skip
    """Ask for what the steps from ``first`` to before ``last`` read of packed filters.

    All ``tiles`` of pixels read it; each asks for the steps that are its share.
    """
    size: tl.constexpr = w.dtype.element_ty.primitive_bitwidth // 8
    start = first + (last - first) * tile // tiles
    stop = first + (last - first) * (tile + 1) // tiles
    begin = start // chunks * W_TAP + start % chunks * BLOCK_K
    end = (stop - 1) // chunks * W_TAP + (stop - 1) % chunks * BLOCK_K + BLOCK_K
    end = tl.minimum(end, W_FILTER)
    if start < stop:
        prefetch(w + tl.minimum(filters, FILTERS - 1) * W_FILTER + begin, (end - begin) * size)


@triton.jit
def convolution(
    x, w, factors, shift, bias, residual, y, partial, counters, PIXELS,
    IN_D, IN_H, IN_W, OUT_D, OUT_H, OUT_W, CHANNELS, FILTERS,
    X_BATCH, X_DEPTH, X_ROW, X_COLUMN, W_FILTER, W_TAP, W_CHANNEL,
    RESIDUAL_FIRST, RESIDUAL_BATCH, RESIDUAL_DEPTH, RESIDUAL_ROW, RESIDUAL_COLUMN,
    Y_FIRST, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    STRIDE_D: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_D: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    PAD_D: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr,
    GROUP: tl.constexpr, WHOLE_N: tl.constexpr, WHOLE_K: tl.constexpr,
    PADDED: tl.constexpr, DEEP: tl.constexpr,
    Y_DENSE: tl.constexpr, RESIDUAL_DENSE: tl.constexpr, WIDE: tl.constexpr,
    PRECISION: tl.constexpr, PREFETCH: tl.constexpr, HALVES: tl.constexpr,
    X_ZERO: tl.constexpr, RESIDUAL_SCALE: tl.constexpr, RESIDUAL_ZERO: tl.constexpr,
    Y_SCALE: tl.constexpr, Y_ZERO: tl.constexpr,
    ROUND_SCALE: tl.constexpr, ROUND_ZERO: tl.constexpr, ROUND_SIGNED: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute a tile of pixels and filters of one group.  Grid: tiles * groups, ``SPLIT``.

    ``CHANNELS`` and ``FILTERS`` are those of one group.  ``PADDED``: windows may reach outside
    the image, where it counts as zero.  ``WIDE``: offsets need 64 bits.
    """
    tiles_m, tiles_n = tl.cdiv(PIXELS, BLOCK_M), tl.cdiv(FILTERS, BLOCK_N)
    program, piece = tl.program_id(0), tl.program_id(1)
    group = program // (tiles_m * tiles_n)
    tile_m, tile_n = tile_place(program % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP)
    filters = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    pixels = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    pixel_inside, filter_inside = pixels < PIXELS, filters < FILTERS
    chunks = tl.cdiv(CHANNELS, BLOCK_K)
    steps = TAPS_D * TAPS_H * TAPS_W * chunks
    pieces = shares(SPLIT)
    first, last = steps * piece // pieces, steps * (piece + 1) // pieces

    x += group * CHANNELS
    w += (group * FILTERS).to(tl.int64) * W_FILTER
    if PREFETCH:
        ask_for_filters(
            w, filters, FILTERS, first, last, tile_m, tiles_m, chunks, W_FILTER, W_TAP, BLOCK_K
        )
    windows = window_rows(
        x, pixels, OUT_D, OUT_H, OUT_W, X_BATCH, X_DEPTH, X_ROW, X_COLUMN,
        STRIDE_D, STRIDE_H, STRIDE_W, PAD_D, PAD_H, PAD_W, WIDE,
    )  # fmt: skip
    if DEPENDENT:
        wait()
    added = None
    if bias is not None:
        added = tl.load(bias + group * FILTERS + filters, mask=filter_inside, other=0)
    kind: tl.constexpr = tl.float32 if factors is None else tl.int32
    total = tl.zeros((BLOCK_M, BLOCK_N), kind)
    total = summed(
        total, windows, w, pixels, PIXELS, filters, FILTERS, first, last,
        IN_D, IN_H, IN_W, CHANNELS, X_DEPTH, X_ROW, X_COLUMN, W_FILTER, W_TAP, W_CHANNEL,
        TAPS_H, TAPS_W, DILATION_D, DILATION_H, DILATION_W,
        BLOCK_K, WHOLE_N, WHOLE_K, PADDED, DEEP, X_ZERO, PRECISION,
    )  # fmt: skip
    if SPLIT != 1:
        if not is_last(total, partial, counters, program, piece, SPLIT, BLOCK_M, BLOCK_N):
            return
        total = joined(total, partial, program, SPLIT, BLOCK_M, BLOCK_N)
    total = real_sums(total, factors, shift, group * FILTERS + filters, filter_inside)
    column = group * FILTERS + tile_n * BLOCK_N
    if residual is not None:
        residual = residual + RESIDUAL_FIRST + column + pixel_offset(
            pixels, OUT_D, OUT_H, OUT_W, RESIDUAL_BATCH, RESIDUAL_DEPTH, RESIDUAL_ROW,
            RESIDUAL_COLUMN, RESIDUAL_DENSE, WIDE,
        )  # fmt: skip
    out = y + Y_FIRST + column + pixel_offset(
        pixels, OUT_D, OUT_H, OUT_W, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN, Y_DENSE, WIDE
    )  # fmt: skip
    finish(
        total, added, None, residual, out, pixel_inside, FILTERS - tile_n * BLOCK_N,
        1, 1, 1,
        RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
        ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA, HALVES,
    )  # fmt: skip
