"""Products whose results go through the copy engine (TMA), as their operands do.

For compute capability 9.0 and later; see :mod:`lamina.backends.cuda.kernels.boxes`.  Storing
through shared memory takes no registers for addresses, so that tiles may be large while two
programs share a multiprocessor.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.epilogue import finished, real_sums
from lamina.backends.cuda.kernels.matmul import tile_place, turned


@triton.jit
def store_boxes(
    results, row, column, element: tl.constexpr, total, added, residual, row_inside, columns_left,
    RESIDUAL_SCALE: tl.constexpr, RESIDUAL_ZERO: tl.constexpr,
    Y_SCALE: tl.constexpr, Y_ZERO: tl.constexpr,
    ROUND_SCALE: tl.constexpr, ROUND_ZERO: tl.constexpr, ROUND_SIGNED: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    PARTS: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Finish sums from column ``FIRST`` of a tile on; the copy engine stores them in ``PARTS``.

    ``results`` describes parts of results of type ``element``; the tile begins at ``row`` and
    ``column``.  For the others see :func:`lamina.backends.cuda.kernels.epilogue.finish`.
    """
    if PARTS > 1:
        rows: tl.constexpr = total.shape[0]
        half: tl.constexpr = total.shape[1] // 2
        left, right = total.reshape(rows, 2, half).permute(0, 2, 1).split()
        left_added, right_added = None, None
        if added is not None:
            left_added, right_added = added.reshape(2, half).permute(1, 0).split()
        store_boxes(
            results, row, column, element, left, left_added, residual, row_inside, columns_left,
            RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
            ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA, PARTS // 2, FIRST,
        )  # fmt: skip
        store_boxes(
            results, row, column, element, right, right_added, residual, row_inside, columns_left,
            RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
            ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA, PARTS // 2, FIRST + half,
        )  # fmt: skip
    else:
        columns = FIRST + tl.arange(0, total.shape[1])
        inside = row_inside[:, None] & (columns < columns_left)[None, :]
        total = finished(
            total, added, None, residual, element, columns, inside, 1, 1,
            RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
            ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA,
        )  # fmt: skip
        results.store([row, column + FIRST], total)


@triton.jit
def matmul_boxed(
    a, b, factors, shift, bias, residual, y, M, N, K, RESIDUAL_ROW,
    BACKWARDS,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    RESIDUAL_SCALE: tl.constexpr, RESIDUAL_ZERO: tl.constexpr,
    Y_SCALE: tl.constexpr, Y_ZERO: tl.constexpr,
    ROUND_SCALE: tl.constexpr, ROUND_ZERO: tl.constexpr, ROUND_SIGNED: tl.constexpr,
    PARTS: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute every tile of a product; b is [N, K].  Grid: any number of programs.

    A tile is stored in ``PARTS`` beside each other.  With ``BACKWARDS`` 1 programs begin with the
    last tile.
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
        row, column = tile_m * BLOCK_M, tile_n * BLOCK_N
        total = tl.zeros((BLOCK_M, BLOCK_N), kind)
        for step in range(steps):
            left = a.load([row, step * BLOCK_K])
            right = b.load([column, step * BLOCK_K])
            total = tl.dot(left, right.T, total, out_dtype=kind)
        rows = (row + tl.arange(0, BLOCK_M)).to(tl.int64)
        columns = column + tl.arange(0, BLOCK_N)
        added, rest = None, None
        if bias is not None:
            added = tl.load(bias + columns, mask=columns < N, other=0)
        if residual is not None:
            rest = residual + column + rows * RESIDUAL_ROW
        total = real_sums(total, factors, shift, columns, columns < N)
        store_boxes(
            y, row, column, y.dtype, total, added, rest, rows < M, N - column,
            RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
            ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA, PARTS, 0,
        )  # fmt: skip
