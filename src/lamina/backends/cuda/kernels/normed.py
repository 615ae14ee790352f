"""Products that take the layer norm of their rows, or of their residual, into their epilogue.

With scale g and shift s of a layer norm, mean m and deviation d of a row, ``LayerNorm(x) @ w =
(x @ (g w) - m sum(g w)) / d + s @ w``, where the sum runs along the depth: the product reads rows
as they are.  Mean and deviation come from sums of the rows' numbers and of their squares, in
groups of columns, that the kernel which made the rows stored beside them.  So no kernel has to
read whole rows between two products.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lamina.backends.cuda.kernels.epilogue import (
    activate_half,
    hand_in,
    is_last,
    joined,
    shares,
    wait,
)
from lamina.backends.cuda.kernels.matmul import load_block, tile_place
from lamina.backends.cuda.kernels.rounding import dot
from lamina.backends.cuda.kernels.uneven import ask_for_columns


@triton.jit
def _vector(first, columns, inside):
    """Return the numbers of some columns in f32; where there is no vector, anything."""
    numbers = inside
    if first is not None:
        numbers = tl.load(first + columns, mask=inside, other=0).to(tl.float32)
    return numbers


@triton.jit
def _groups(sums, squares, rows, inside, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """Return the sums of the groups of some rows and of their squares, if there are such."""
    first, second = inside, inside
    if sums is not None:
        groups = tl.arange(0, WIDTH)
        at = rows[:, None] * GROUPS + groups[None, :]
        present = inside[:, None] & (groups < GROUPS)[None, :]
        first = tl.load(sums + at, mask=present, other=0)
        second = tl.load(squares + at, mask=present, other=0)
    return first, second


@triton.jit
def _moments(groups, SIZE, EPSILON: tl.constexpr):
    """Return mean and inverse deviation of rows of ``SIZE`` numbers, by the sums of groups."""
    mean, inverse = groups
    if EPSILON is not None:
        mean = tl.sum(groups[0], 1) / SIZE
        variance = tl.maximum(tl.sum(groups[1], 1) / SIZE - mean * mean, 0.0)
        inverse = tl.rsqrt(variance + EPSILON)
    return mean, inverse


@triton.jit
def _columns(
    w, factors, bias, scale, shift, first, left, W_COLUMN, SIZE: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """Return which of ``SIZE`` columns from ``first`` on there are, and their block and vectors."""
    at = tl.arange(0, SIZE)
    inside = at < left
    block = w + first.to(tl.int64) * W_COLUMN + at[None, :] * W_COLUMN
    block += tl.arange(0, BLOCK_K)[:, None]
    at += first
    return (
        block, inside, _vector(factors, at, inside), _vector(bias, at, inside),
        _vector(scale, at, inside), _vector(shift, at, inside),
    )  # fmt: skip


@triton.jit
def _finish(
    total, part, row, row_inside, moments, rest, rest_moments, y, y_sums, y_squares, FIRST,
    RESIDUAL_ROW, Y_ROW, N: tl.constexpr,
    SUMMED: tl.constexpr, KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    NORMED: tl.constexpr, ADDED: tl.constexpr, R_NORMED: tl.constexpr, SCALED: tl.constexpr,
    SHIFTED: tl.constexpr,
):  # fmt: skip
    """Store the columns of a tile from ``FIRST`` on, and the sums of groups of ``SUMMED``."""
    COLUMNS: tl.constexpr = total.shape[1]
    columns = FIRST + tl.arange(0, COLUMNS)
    inside = row_inside[:, None] & part[1][None, :]
    if NORMED:
        total = (total - moments[0][:, None] * part[2][None, :]) * moments[1][:, None]
    if ADDED:
        total += part[3][None, :]
    if rest is not None:
        more = tl.load(rest + row[:, None] * RESIDUAL_ROW + columns[None, :], mask=inside, other=0)
        more = more.to(tl.float32)
        if R_NORMED:
            more = (more - rest_moments[0][:, None]) * rest_moments[1][:, None]
        if SCALED:
            more *= part[4][None, :]
        if SHIFTED:
            more += part[5][None, :]
        total += more
    result = activate_half(total, KIND, ALPHA, BETA).to(y.dtype.element_ty)
    tl.store(y + row[:, None] * Y_ROW + columns[None, :], result, mask=inside)
    if y_sums is not None:
        # What is stored is summed, not what it was before it was rounded.
        numbers = result.to(tl.float32).reshape(total.shape[0], COLUMNS // SUMMED, SUMMED)
        groups = FIRST // SUMMED + tl.arange(0, COLUMNS // SUMMED)
        at = row[:, None] * (N // SUMMED) + groups[None, :]
        inside = row_inside[:, None] & (groups < N // SUMMED)[None, :]
        tl.store(y_sums + at, tl.sum(numbers, 2), mask=inside)
        tl.store(y_squares + at, tl.sum(numbers * numbers, 2), mask=inside)


@triton.jit
def normed(
    x, x_sums, x_squares, w, factors, bias, residual, r_sums, r_squares, r_scale, r_shift,
    y, y_sums, y_squares, partial, counters, M, N: tl.constexpr, K: tl.constexpr,
    X_ROW, W_COLUMN, RESIDUAL_ROW, Y_ROW,
    EPSILON: tl.constexpr, X_GROUPS: tl.constexpr, X_WIDTH: tl.constexpr,
    R_EPSILON: tl.constexpr, R_GROUPS: tl.constexpr, R_WIDTH: tl.constexpr, SUMMED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, MORE_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SPLIT: tl.constexpr, GROUP: tl.constexpr, WHOLE_M: tl.constexpr, WHOLE_N: tl.constexpr,
    PRECISION: tl.constexpr, PREFETCH: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute a tile of ``BLOCK_N`` and ``MORE_N`` columns.  Grid: tiles, ``SPLIT``.

    ``w`` is [N, K]; ``BLOCK_K`` divides K, ``WHOLE_*``: no tile reaches beyond rows or columns.
    Rows of x that have ``x_sums`` and ``x_squares`` [M, X_GROUPS] are normalized: w has the scale
    in it, ``bias`` [N] the product of the shift, and ``factors`` [N] are sums of w along K.  A
    residual with ``r_sums`` is normalized too, with ``r_scale`` and ``r_shift`` [N].  ``y_sums``
    and ``y_squares`` [M, N / SUMMED] get the sums of groups of columns.  All may be None.
    """
    WIDE: tl.constexpr = BLOCK_N + MORE_N
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, WIDE)
    program, piece = tl.program_id(0), tl.program_id(1)
    tile_m, tile_n = tile_place(program, tiles_m, tiles_n, GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    row_inside, row = row < M, row.to(tl.int64)
    column, pieces = tile_n * WIDE, shares(SPLIT)
    steps = K // BLOCK_K
    first, last = steps * piece // pieces, steps * (piece + 1) // pieces
    if PREFETCH:
        at, there = w + column.to(tl.int64) * W_COLUMN, N - column
        ask_for_columns(
            at, tl.arange(0, BLOCK_N), there, first, last, tile_m, tiles_m, W_COLUMN, BLOCK_K
        )
        if MORE_N > 0:
            ask_for_columns(
                at, BLOCK_N + tl.arange(0, MORE_N), there, first, last, tile_m, tiles_m, W_COLUMN,
                BLOCK_K,
            )  # fmt: skip
    x_block = x + row[:, None] * X_ROW + tl.arange(0, BLOCK_K)[None, :]
    part = _columns(
        w, factors, bias, r_scale, r_shift, column, N - column, W_COLUMN, BLOCK_N, BLOCK_K
    )
    if MORE_N > 0:
        other = _columns(
            w, factors, bias, r_scale, r_shift, column + BLOCK_N, N - column - BLOCK_N, W_COLUMN,
            MORE_N, BLOCK_K,
        )  # fmt: skip
    if DEPENDENT:
        wait()
    # Asked for here, used behind the products: the sums come while these are computed.
    groups = _groups(x_sums, x_squares, row, row_inside, X_GROUPS, X_WIDTH)
    rest_groups = _groups(r_sums, r_squares, row, row_inside, R_GROUPS, R_WIDTH)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if MORE_N > 0:
        more = tl.zeros((BLOCK_M, MORE_N), tl.float32)
    for step in range(first, last):
        k = step * BLOCK_K
        left = load_block(x_block + k, row_inside[:, None], WHOLE_M)
        total = dot(left, load_block(part[0] + k, part[1][None, :], WHOLE_N), total, PRECISION)
        if MORE_N > 0:
            right = load_block(other[0] + k, other[1][None, :], WHOLE_N)
            more = dot(left, right, more, PRECISION)
    if SPLIT != 1:
        if MORE_N > 0:
            others = partial + (tl.num_programs(0) * pieces).to(tl.int64) * (BLOCK_M * BLOCK_N)
            hand_in(more, others, program, piece, SPLIT, BLOCK_M, MORE_N)
        if not is_last(total, partial, counters, program, piece, SPLIT, BLOCK_M, BLOCK_N):
            return
        total = joined(total, partial, program, SPLIT, BLOCK_M, BLOCK_N)
        if MORE_N > 0:
            more = joined(more, others, program, SPLIT, BLOCK_M, MORE_N)
    moments = _moments(groups, K, EPSILON)
    rest_moments = _moments(rest_groups, N, R_EPSILON)
    _finish(
        total, part, row, row_inside, moments, residual, rest_moments, y, y_sums, y_squares, column,
        RESIDUAL_ROW, Y_ROW, N, SUMMED, KIND, ALPHA, BETA, EPSILON is not None, bias is not None,
        R_EPSILON is not None, r_scale is not None, r_shift is not None,
    )  # fmt: skip
    if MORE_N > 0:
        _finish(
            more, other, row, row_inside, moments, residual, rest_moments, y, y_sums, y_squares,
            column + BLOCK_N, RESIDUAL_ROW, Y_ROW, N, SUMMED, KIND, ALPHA, BETA,
            EPSILON is not None, bias is not None, R_EPSILON is not None, r_scale is not None,
            r_shift is not None,
        )  # fmt: skip
