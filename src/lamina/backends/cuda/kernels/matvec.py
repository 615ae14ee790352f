"""Products of a few rows with a matrix of constants, where the time is that of reading it."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.epilogue import finish, is_last, joined, prefetch


@triton.jit
def matvec(
    a, b, bias, residual, y, partial, counters, N, K,
    A_ROW, B_COLUMN, RESIDUAL_ROW, Y_ROW,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr,
    WHOLE_N: tl.constexpr, WHOLE_K: tl.constexpr, PREFETCH: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute ``BLOCK_N`` columns of all ``ROWS`` rows (a power of two); b is [N, K], contiguous.

    The products stay in f32 and are summed along the depth once, at the end.  Grid: columns,
    ``SPLIT``.
    """
    tile, piece = tl.program_id(0), tl.program_id(1)
    columns, depth = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    left = N - tile * BLOCK_N
    b += (tile * BLOCK_N).to(tl.int64) * B_COLUMN
    steps = tl.cdiv(K, BLOCK_K)
    first, last = steps * piece // SPLIT, steps * (piece + 1) // SPLIT
    if PREFETCH:
        size: tl.constexpr = b.dtype.element_ty.primitive_bitwidth // 8
        begin, end = first * BLOCK_K, tl.minimum(last * BLOCK_K, B_COLUMN)
        prefetch(b + tl.minimum(columns, left - 1) * B_COLUMN + begin, (end - begin) * size)
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    added = None
    if bias is not None:
        added = tl.load(bias + tile * BLOCK_N + columns, mask=columns < left, other=0)
    totals = (tl.zeros((BLOCK_N, BLOCK_K), tl.float32),) * ROWS
    for step in range(first, last):
        k = step * BLOCK_K + depth
        block = b + columns[:, None] * B_COLUMN + k[None, :]
        if WHOLE_N and WHOLE_K:
            weights = tl.load(block).to(tl.float32)
        else:
            inside = (columns < left)[:, None] & (k < K)[None, :]
            weights = tl.load(block, mask=inside, other=0).to(tl.float32)
        for row in tl.static_range(ROWS):
            if WHOLE_K:
                numbers = tl.load(a + row * A_ROW + k).to(tl.float32)
            else:
                numbers = tl.load(a + row * A_ROW + k, mask=k < K, other=0).to(tl.float32)
            more = totals[row] + weights * numbers[None, :]
            totals = totals[:row] + (more,) + totals[row + 1 :]  # noqa: RUF005

    rows = tl.arange(0, ROWS)
    total = tl.zeros((ROWS, BLOCK_N), tl.float32)
    for row in tl.static_range(ROWS):
        total += tl.where(rows[:, None] == row, tl.sum(totals[row], 1)[None, :], 0.0)
    if SPLIT != 1:
        if not is_last(total, partial, counters, tile, piece, SPLIT, ROWS, BLOCK_N):
            return
        total = joined(total, partial, tile, SPLIT, ROWS, BLOCK_N)
    if residual is not None:
        residual = residual + tile * BLOCK_N + rows * RESIDUAL_ROW
    out = y + tile * BLOCK_N + rows * Y_ROW
    finish(
        total, added, None, residual, out, rows >= 0, left, 1, 1, 1,
        None, None, None, None, None, None, None, KIND, ALPHA, BETA, False,
    )  # fmt: skip
