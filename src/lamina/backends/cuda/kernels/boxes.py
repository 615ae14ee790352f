"""Contractions whose operands the copy engine (TMA) brings in; programs work off many tiles.

For compute capability 9.0 and later.  Operands are tensor maps; coordinates outside of one read as
zeros, which is what padding means.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.epilogue import finish, real_sums
from lamina.backends.cuda.kernels.matmul import tile_place, turned

_UP = tl.constexpr(1 << 10)
"""Added to coordinates, which padding makes negative, while they are divided."""


@triton.jit
def matmul_boxes(
    a, b, factors, shift, bias, residual, y, M, N, K, RESIDUAL_ROW, Y_ROW,
    BACKWARDS,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    RESIDUAL_SCALE: tl.constexpr, RESIDUAL_ZERO: tl.constexpr,
    Y_SCALE: tl.constexpr, Y_ZERO: tl.constexpr,
    ROUND_SCALE: tl.constexpr, ROUND_ZERO: tl.constexpr, ROUND_SIGNED: tl.constexpr,
    HALVES: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute every tile of a product; b is [N, K].  Grid: any number of programs.

    They begin with the last tile where ``BACKWARDS`` is 1.
    """
    kind: tl.constexpr = tl.float32 if factors is None else tl.int32
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    steps = tl.cdiv(K, BLOCK_K)
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        tile = turned(tile, tiles_m * tiles_n, BACKWARDS)
        tile_m, tile_n = tile_place(tile, tiles_m, tiles_n, GROUP)
        total = tl.zeros((BLOCK_M, BLOCK_N), kind)
        for step in range(steps):
            left = a.load([tile_m * BLOCK_M, step * BLOCK_K])
            right = b.load([tile_n * BLOCK_N, step * BLOCK_K])
            total = tl.dot(left, right.T, total, out_dtype=kind)
        rows = (tile_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
        columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
        added = None
        if bias is not None:
            added = tl.load(bias + columns, mask=columns < N, other=0)
        rest = None
        if residual is not None:
            rest = residual + tile_n * BLOCK_N + rows * RESIDUAL_ROW
        total = real_sums(total, factors, shift, columns, columns < N)
        finish(
            total, added, None, rest, y + tile_n * BLOCK_N + rows * Y_ROW, rows < M,
            N - tile_n * BLOCK_N, 1, 1, 1,
            RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
            ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA, HALVES,
        )  # fmt: skip


@triton.jit
def box_place(
    tile, IMAGES, OUT_H, OUT_W, FILTERS, BOX_N: tl.constexpr, BOX_H: tl.constexpr,
    BOX_W: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Return the first image, row, column and filter of a tile."""
    across, down = tl.cdiv(OUT_W, BOX_W), tl.cdiv(OUT_H, BOX_H)
    tiles_m, tiles_n = tl.cdiv(IMAGES, BOX_N) * across * down, tl.cdiv(FILTERS, BLOCK_N)
    tile_m, tile_n = tile_place(tile, tiles_m, tiles_n, GROUP)
    first_n = tile_m // (across * down) * BOX_N
    return first_n, tile_m // across % down * BOX_H, tile_m % across * BOX_W, tile_n * BLOCK_N


@triton.jit
def convolution_boxes(
    x, w, factors, shift, bias, residual, y,
    IMAGES, OUT_H, OUT_W, CHANNELS, FILTERS, X_COLUMN, W_TAP,
    RESIDUAL_FIRST, RESIDUAL_BATCH, RESIDUAL_ROW, RESIDUAL_COLUMN,
    Y_FIRST, Y_BATCH, Y_ROW, Y_COLUMN, BACKWARDS,
    TAPS_H: tl.constexpr, TAPS_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    RESIDUAL_SCALE: tl.constexpr, RESIDUAL_ZERO: tl.constexpr,
    Y_SCALE: tl.constexpr, Y_ZERO: tl.constexpr,
    ROUND_SCALE: tl.constexpr, ROUND_ZERO: tl.constexpr, ROUND_SIGNED: tl.constexpr,
    HALVES: tl.constexpr, FLIPPED: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute every tile of a convolution of images, channels last.  Grid: any number of programs.

    The pixels of a tile are a box of ``BOX_N`` images, ``BOX_H`` rows and ``BOX_W`` columns.  With
    strides, which must divide the sizes of the image, rows and columns fall into classes of equal
    remainder: a window meets one class of each at a tap, and in it neighbours are neighbours.
    Channels must be a multiple of ``BLOCK_K``.  ``FLIPPED`` computes filters times pixels: the
    compiler lets matrix units read a box from shared memory as it is only as their right operand.
    With ``BACKWARDS`` 1 programs begin with the last tile.
    """
    BLOCK_M: tl.constexpr = BOX_N * BOX_H * BOX_W
    kind: tl.constexpr = tl.float32 if factors is None else tl.int32
    tiles = tl.cdiv(IMAGES, BOX_N) * tl.cdiv(OUT_H, BOX_H) * tl.cdiv(OUT_W, BOX_W)
    tiles *= tl.cdiv(FILTERS, BLOCK_N)
    chunks = CHANNELS // BLOCK_K
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        first_n, first_h, first_w, filter = box_place(
            turned(tile, tiles, BACKWARDS), IMAGES, OUT_H, OUT_W, FILTERS,
            BOX_N, BOX_H, BOX_W, BLOCK_N, GROUP,
        )  # fmt: skip
        total = tl.zeros((BLOCK_N if FLIPPED else BLOCK_M, BLOCK_M if FLIPPED else BLOCK_N), kind)
        for step in range(TAPS_H * TAPS_W * chunks):
            tap, c = step // chunks, step % chunks * BLOCK_K
            h = tap // TAPS_W * DILATION_H - PAD_H + _UP * STRIDE_H
            v = tap % TAPS_W * DILATION_W - PAD_W + _UP * STRIDE_W
            at_h, at_w = first_h + h // STRIDE_H - _UP, first_w + v // STRIDE_W - _UP
            box = x.load([first_n, at_h, h % STRIDE_H, at_w, v % STRIDE_W * X_COLUMN + c])
            taken = w.load([filter, tap * W_TAP + c])
            seen = box.reshape(BLOCK_M, BLOCK_K)
            if FLIPPED:
                total = tl.dot(taken, seen.T, total, out_dtype=kind)
            else:
                total = tl.dot(seen, taken.T, total, out_dtype=kind)
        if FLIPPED:
            total = total.T
        number = tl.arange(0, BLOCK_M)
        n = first_n + number // (BOX_H * BOX_W)
        row, column = first_h + number // BOX_W % BOX_H, first_w + number % BOX_W
        real = (n < IMAGES) & (row < OUT_H) & (column < OUT_W)
        n = n.to(tl.int64)
        filters = filter + tl.arange(0, BLOCK_N)
        added = None
        if bias is not None:
            added = tl.load(bias + filters, mask=filters < FILTERS, other=0)
        rest = None
        if residual is not None:
            rest = residual + RESIDUAL_FIRST + filter
            rest = rest + n * RESIDUAL_BATCH + row * RESIDUAL_ROW + column * RESIDUAL_COLUMN
        out = y + Y_FIRST + filter + n * Y_BATCH + row * Y_ROW + column * Y_COLUMN
        total = real_sums(total, factors, shift, filters, filters < FILTERS)
        finish(
            total, added, None, rest, out, real, FILTERS - filter, 1, 1, 1,
            RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
            ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA, HALVES,
        )  # fmt: skip
