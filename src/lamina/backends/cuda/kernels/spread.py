"""Transposed convolutions whose windows do not overlap: every pixel spreads over its own window.

Each result then is one product of a pixel with the filters of one tap, so that the whole is one
matrix product: rows are pixels of the image, columns are taps and, inside, filters.  What a tile
has of each tap is stored by itself; programs that run at the same time take the same pixels.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.convolution import pixel_offset
from lamina.backends.cuda.kernels.epilogue import finish, prefetch
from lamina.backends.cuda.kernels.matmul import tile_place
from lamina.backends.cuda.kernels.rounding import dot


@triton.jit
def _store_spread(
    total, bias, y, rows, PIXELS, column, IN_D, IN_H, IN_W, FILTERS,
    Y_FIRST, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr, WIDE: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    """Finish a tile of sums and store it where the taps of its columns put its pixels."""
    if total.shape[1] > FILTERS:
        half: tl.constexpr = total.shape[1] // 2
        left, right = total.reshape(total.shape[0], 2, half).permute(0, 2, 1).split()
        _store_spread(
            left, bias, y, rows, PIXELS, column, IN_D, IN_H, IN_W, FILTERS,
            Y_FIRST, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN,
            TAPS_D, TAPS_H, TAPS_W, WIDE, KIND, ALPHA, BETA, False,
        )  # fmt: skip
        _store_spread(
            right, bias, y, rows, PIXELS, column + half, IN_D, IN_H, IN_W, FILTERS,
            Y_FIRST, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN,
            TAPS_D, TAPS_H, TAPS_W, WIDE, KIND, ALPHA, BETA, False,
        )  # fmt: skip
    else:
        _store_tap(
            total, bias, y, rows, PIXELS, column, IN_D, IN_H, IN_W, FILTERS,
            Y_FIRST, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN,
            TAPS_D, TAPS_H, TAPS_W, WIDE, KIND, ALPHA, BETA, HALVES,
        )  # fmt: skip


@triton.jit
def _store_tap(
    total, bias, y, rows, PIXELS, column, IN_D, IN_H, IN_W, FILTERS,
    Y_FIRST, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr, WIDE: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    """Finish and store sums whose columns lie in one tap."""
    tap, filter = column // FILTERS, column % FILTERS
    d, h, w = tap // (TAPS_H * TAPS_W), tap // TAPS_W % TAPS_H, tap % TAPS_W
    out = y + Y_FIRST + filter + d * Y_DEPTH + h * Y_ROW + w * Y_COLUMN + pixel_offset(
        rows, IN_D, IN_H, IN_W, Y_BATCH, TAPS_D * Y_DEPTH, TAPS_H * Y_ROW, TAPS_W * Y_COLUMN,
        False, WIDE,
    )  # fmt: skip
    added = None
    if bias is not None:
        added = tl.load(bias + filter + tl.arange(0, total.shape[1]))
    finish(
        total, added, None, None, out, rows < PIXELS, total.shape[1], 1, 1, 1,
        None, None, None, None, None, None, False, KIND, ALPHA, BETA, HALVES,
    )  # fmt: skip


@triton.jit
def spread(
    x, w, bias, y, PIXELS, IN_D, IN_H, IN_W, CHANNELS, FILTERS, X_PIXEL, W_FILTER,
    Y_FIRST, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    WHOLE_M: tl.constexpr, WHOLE_K: tl.constexpr, WIDE: tl.constexpr, HALVES: tl.constexpr,
    PRECISION: tl.constexpr, PREFETCH: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute a tile of pixels times taps and filters.  Grid: tiles.

    w is [taps, filters, channels]; of ``BLOCK_N`` and ``FILTERS`` one divides the other.
    """
    tiles_m, tiles_n = tl.cdiv(PIXELS, BLOCK_M), TAPS_D * TAPS_H * TAPS_W * FILTERS // BLOCK_N
    tile_m, tile_n = tile_place(tl.program_id(0), tiles_m, tiles_n, GROUP)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    if PREFETCH:
        prefetch(w + columns * W_FILTER, W_FILTER * (w.dtype.element_ty.primitive_bitwidth // 8))
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    places = rows.to(tl.int64) if WIDE else rows
    left_block = x + places[:, None] * X_PIXEL + depth[None, :]
    right_block = w + columns[None, :] * W_FILTER + depth[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, CHANNELS, BLOCK_K):
        if WHOLE_M and WHOLE_K:
            left = tl.load(left_block + k)
        else:
            inside = (rows < PIXELS)[:, None] & (depth < CHANNELS - k)[None, :]
            left = tl.load(left_block + k, mask=inside, other=0)
        if WHOLE_K:
            right = tl.load(right_block + k)
        else:
            right = tl.load(right_block + k, mask=(depth < CHANNELS - k)[:, None], other=0)
        total = dot(left, right, total, PRECISION)
    _store_spread(
        total, bias, y, rows, PIXELS, tile_n * BLOCK_N, IN_D, IN_H, IN_W, FILTERS,
        Y_FIRST, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN,
        TAPS_D, TAPS_H, TAPS_W, WIDE, KIND, ALPHA, BETA, HALVES,
    )  # fmt: skip


@triton.jit
def spread_boxes(
    x, w, bias, y, PIXELS, IN_D, IN_H, IN_W, CHANNELS, FILTERS,
    Y_FIRST, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    WIDE: tl.constexpr, HALVES: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute what ``spread`` does; the copy engine brings operands.  Grid: any number."""
    taps: tl.constexpr = TAPS_D * TAPS_H * TAPS_W
    tiles_m, tiles_n = tl.cdiv(PIXELS, BLOCK_M), taps * FILTERS // BLOCK_N
    steps = tl.cdiv(CHANNELS, BLOCK_K)
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        tile_m, tile_n = tile_place(tile, tiles_m, tiles_n, GROUP)
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for step in range(steps):
            left = x.load([tile_m * BLOCK_M, step * BLOCK_K])
            right = w.load([tile_n * BLOCK_N, step * BLOCK_K])
            total = tl.dot(left, right.T, total)
        _store_spread(
            total, bias, y, tile_m * BLOCK_M + tl.arange(0, BLOCK_M), PIXELS, tile_n * BLOCK_N,
            IN_D, IN_H, IN_W, FILTERS, Y_FIRST, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN,
            TAPS_D, TAPS_H, TAPS_W, WIDE, KIND, ALPHA, BETA, HALVES,
        )  # fmt: skip
