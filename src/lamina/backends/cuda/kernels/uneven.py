"""Products with a constant matrix, whose tiles need not be a power of two wide.

A tile of 96 or 144 columns is two parts beside each other that share the rows of the first operand.
So a small product can be cut into about as many tiles as there are multiprocessors.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lamina.backends.cuda.kernels.epilogue import (
    finish,
    hand_in,
    is_last,
    joined,
    prefetch,
    shares,
    wait,
)
from lamina.backends.cuda.kernels.matmul import load_block, tile_place
from lamina.backends.cuda.kernels.rounding import dot


@triton.jit
def ask_for_columns(
    w, columns, COLUMNS_LEFT, first, last, tile, tiles, W_COLUMN, BLOCK_K: tl.constexpr
):  # fmt: skip
    """Ask for what the steps from ``first`` to before ``last`` read of columns, by a share each."""
    size: tl.constexpr = w.dtype.element_ty.primitive_bitwidth // 8
    begin = (first + (last - first) * tile // tiles) * BLOCK_K
    end = (first + (last - first) * (tile + 1) // tiles) * BLOCK_K
    if begin < end:
        at = tl.minimum(columns, COLUMNS_LEFT - 1) * W_COLUMN
        prefetch(w + at + begin, (end - begin) * size)


@triton.jit
def uneven(
    x, w, bias, residual, y, partial, counters, M, N, K,
    X_ROW, W_COLUMN, RESIDUAL_ROW, Y_ROW,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, MORE_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SPLIT: tl.constexpr, GROUP: tl.constexpr, WHOLE_M: tl.constexpr, WHOLE_N: tl.constexpr,
    PRECISION: tl.constexpr, PREFETCH: tl.constexpr, HALVES: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute a tile of ``BLOCK_N`` and ``MORE_N`` columns.  Grid: tiles, ``SPLIT``.

    ``w`` is [N, K], ``bias`` [N], and both are constants; ``BLOCK_K`` divides K.  ``WHOLE_*``: no
    tile reaches beyond the rows or columns.
    """
    columns_of_tile: tl.constexpr = BLOCK_N + MORE_N
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, columns_of_tile)
    program, piece = tl.program_id(0), tl.program_id(1)
    tile_m, tile_n = tile_place(program, tiles_m, tiles_n, GROUP)
    rows, depth = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K)
    row, column = (tile_m * BLOCK_M).to(tl.int64), (tile_n * columns_of_tile).to(tl.int64)
    row_inside, columns_left = rows < M - tile_m * BLOCK_M, N - tile_n * columns_of_tile
    columns, more_columns = tl.arange(0, BLOCK_N), BLOCK_N + tl.arange(0, MORE_N)
    steps = K // BLOCK_K
    pieces = shares(SPLIT)
    first, last = steps * piece // pieces, steps * (piece + 1) // pieces
    w += column * W_COLUMN
    if PREFETCH:
        ask_for_columns(w, columns, columns_left, first, last, tile_m, tiles_m, W_COLUMN, BLOCK_K)
        ask_for_columns(
            w, more_columns, columns_left, first, last, tile_m, tiles_m, W_COLUMN, BLOCK_K
        )
    x_block = x + row * X_ROW + rows[:, None] * X_ROW + depth[None, :]
    w_block = w + columns[None, :] * W_COLUMN + depth[:, None]
    more_block = w + more_columns[None, :] * W_COLUMN + depth[:, None]
    inside, more_inside = columns < columns_left, more_columns < columns_left
    added, more_added = None, None
    if bias is not None:
        added = tl.load(bias + column + columns, mask=inside, other=0)
        more_added = tl.load(bias + column + more_columns, mask=more_inside, other=0)
    if DEPENDENT:
        wait()
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    more = tl.zeros((BLOCK_M, MORE_N), tl.float32)
    for step in range(first, last):
        k = step * BLOCK_K
        left = load_block(x_block + k, row_inside[:, None], WHOLE_M)
        right = load_block(w_block + k, inside[None, :], WHOLE_N)
        total = dot(left, right, total, PRECISION)
        right = load_block(more_block + k, more_inside[None, :], WHOLE_N)
        more = dot(left, right, more, PRECISION)

    if SPLIT != 1:
        others = partial + (tl.num_programs(0) * pieces).to(tl.int64) * (BLOCK_M * BLOCK_N)
        hand_in(more, others, program, piece, SPLIT, BLOCK_M, MORE_N)
        if not is_last(total, partial, counters, program, piece, SPLIT, BLOCK_M, BLOCK_N):
            return
        total = joined(total, partial, program, SPLIT, BLOCK_M, BLOCK_N)
        more = joined(more, others, program, SPLIT, BLOCK_M, MORE_N)
    y_rows = y + row * Y_ROW + column + rows * Y_ROW
    more_residual = None
    if residual is not None:
        residual = residual + row * RESIDUAL_ROW + column + rows * RESIDUAL_ROW
        more_residual = residual + BLOCK_N
    finish(
        total, added, None, residual, y_rows, row_inside, columns_left, 1, 1, 1,
        None, None, None, None, None, None, None, KIND, ALPHA, BETA, HALVES,
    )  # fmt: skip
    finish(
        more, more_added, None, more_residual, y_rows + BLOCK_N, row_inside, columns_left - BLOCK_N,
        1, 1, 1, None, None, None, None, None, None, None, KIND, ALPHA, BETA, False,
    )  # fmt: skip
