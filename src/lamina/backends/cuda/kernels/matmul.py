"""Matrix products on the matrix units: ``activation(a @ b + bias + residual)``.

A program computes a tile of the result.  With ``SPLIT`` > 1 that many programs share a tile, each
sums a part of the depth, and the one that comes last joins the sums.
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
from lamina.backends.cuda.kernels.rounding import dot


@triton.jit
def tile_place(tile, rows, columns, GROUP: tl.constexpr):
    """Return row and column of a tile: columns of ``GROUP`` rows follow each other.

    Programs that run at the same time then share rows of a and columns of b in the L2 cache.
    """
    if GROUP == 1:
        return tile // columns, tile % columns
    group = tile // (GROUP * columns)
    height = tl.minimum(rows - group * GROUP, GROUP)
    within = tile % (GROUP * columns)
    return group * GROUP + within % height, within // height


@triton.jit
def turned(tile, tiles, BACKWARDS):
    """Return the tile that is worked off in the place of another.

    With ``BACKWARDS`` 1 it is as far from the end as that is from the start, with 0 it is the same.
    """
    return tile + BACKWARDS * (tiles - 1 - 2 * tile)


@triton.jit
def load_block(pointers, inside, WHOLE: tl.constexpr):
    """Load a block, zeros outside."""
    if WHOLE:
        return tl.load(pointers)
    return tl.load(pointers, mask=inside, other=0)


@triton.jit
def load_step(pointers, inside, deep, WHOLE: tl.constexpr, WHOLE_K: tl.constexpr):
    """Load an operand of a step: zeros beyond its rows or columns, and beyond the depth.

    Where the depth is ``WHOLE_K`` one mask serves all steps.
    """
    if WHOLE_K:
        return load_block(pointers, inside, WHOLE)
    return load_block(pointers, inside & deep, False)


@triton.jit
def matmul(
    a, b, factors, shift, bias, residual, y, partial, counters, M, N, K,
    A_ROW, A_COLUMN, B_ROW, B_COLUMN, BIAS_ROW, BIAS_COLUMN, RESIDUAL_ROW, RESIDUAL_COLUMN,
    Y_ROW, Y_COLUMN, INNER, A_OUTER, A_INNER, B_OUTER, B_INNER, BIAS_OUTER, BIAS_INNER,
    RESIDUAL_OUTER, RESIDUAL_INNER, Y_OUTER, Y_INNER,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr,
    GROUP: tl.constexpr, WHOLE_A: tl.constexpr, WHOLE_B: tl.constexpr, WHOLE_K: tl.constexpr,
    BIAS_IS_ROW: tl.constexpr, PRECISION: tl.constexpr, PREFETCH: tl.constexpr,
    RESIDUAL_SCALE: tl.constexpr, RESIDUAL_ZERO: tl.constexpr,
    Y_SCALE: tl.constexpr, Y_ZERO: tl.constexpr,
    ROUND_SCALE: tl.constexpr, ROUND_ZERO: tl.constexpr, ROUND_SIGNED: tl.constexpr,
    HALVES: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute a tile of one of the matrices.  Grid: tiles * matrices, ``SPLIT``.

    The matrices are numbered by two axes, the inner one with ``INNER`` entries; ``*_OUTER`` and
    ``*_INNER`` are the operands' strides there.  ``PREFETCH``: b is a constant whose columns are
    contiguous, ``B_COLUMN`` elements from each other.  ``WHOLE_A``, ``WHOLE_B``: no block reaches
    beyond the rows or columns, ``WHOLE_K``: none beyond the depth.
    """
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    program, piece = tl.program_id(0), tl.program_id(1)
    matrix = program // (tiles_m * tiles_n)
    tile_m, tile_n = tile_place(program % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP)
    outer, inner = (matrix // INNER).to(tl.int64), (matrix % INNER).to(tl.int64)
    row, column = (tile_m * BLOCK_M).to(tl.int64), (tile_n * BLOCK_N).to(tl.int64)
    rows, columns, depth = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    row_inside, column_inside = rows < M - tile_m * BLOCK_M, columns < N - tile_n * BLOCK_N
    steps = tl.cdiv(K, BLOCK_K)
    pieces = shares(SPLIT)
    first, last = steps * piece // pieces, steps * (piece + 1) // pieces
    a += outer * A_OUTER + inner * A_INNER + row * A_ROW
    b += outer * B_OUTER + inner * B_INNER + column * B_COLUMN
    if PREFETCH:
        # The tiles of a column of tiles ask for a part of its columns each.
        begin = (first + (last - first) * tile_m // tiles_m) * BLOCK_K
        end = (first + (last - first) * (tile_m + 1) // tiles_m) * BLOCK_K
        end = tl.minimum(end, B_COLUMN)
        size: tl.constexpr = b.dtype.element_ty.primitive_bitwidth // 8
        kept = tl.minimum(columns, N - 1 - tile_n * BLOCK_N)
        if begin < end:
            prefetch(b + kept * B_COLUMN + begin, (end - begin) * size)
    a_block = a + rows[:, None] * A_ROW + depth[None, :] * A_COLUMN
    b_block = b + depth[:, None] * B_ROW + columns[None, :] * B_COLUMN
    if DEPENDENT:
        wait()
    added = None
    if bias is not None:
        bias += outer * BIAS_OUTER + inner * BIAS_INNER + row * BIAS_ROW + column * BIAS_COLUMN
        if BIAS_IS_ROW:
            added = tl.load(bias + columns * BIAS_COLUMN, mask=column_inside, other=0)
            bias = None
        else:
            bias = bias + rows * BIAS_ROW
    if residual is not None:
        residual += outer * RESIDUAL_OUTER + inner * RESIDUAL_INNER
        residual += row * RESIDUAL_ROW + column * RESIDUAL_COLUMN
        residual = residual + rows * RESIDUAL_ROW
    unsigned: tl.constexpr = a.dtype.element_ty == tl.uint8
    kind: tl.constexpr = tl.float32 if factors is None else tl.int32
    total = tl.zeros((BLOCK_M, BLOCK_N), kind)
    for step in range(first, last):
        k = step * BLOCK_K
        left = load_step(
            a_block + k * A_COLUMN, row_inside[:, None], depth[None, :] < K - k, WHOLE_A, WHOLE_K
        )
        right = load_step(
            b_block + k * B_ROW, column_inside[None, :], depth[:, None] < K - k, WHOLE_B, WHOLE_K
        )
        left = signed(left, unsigned)
        total = dot(left, right, total, PRECISION)

    if SPLIT != 1:
        if not is_last(total, partial, counters, program, piece, SPLIT, BLOCK_M, BLOCK_N):
            return
        total = joined(total, partial, program, SPLIT, BLOCK_M, BLOCK_N)
    total = real_sums(total, factors, shift, tile_n * BLOCK_N + columns, column_inside)
    y += outer * Y_OUTER + inner * Y_INNER + row * Y_ROW + column * Y_COLUMN
    finish(
        total, added, bias, residual, y + rows * Y_ROW, row_inside, N - tile_n * BLOCK_N,
        BIAS_COLUMN, RESIDUAL_COLUMN, Y_COLUMN,
        RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
        ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA, HALVES,
    )  # fmt: skip
