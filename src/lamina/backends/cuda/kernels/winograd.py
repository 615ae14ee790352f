"""Winograd's minimal filtering, channels last: three kernels with memory between.

Tiles of M x M results take tiles of N x N pixels, each turned into as many points; at every point
the channels are one matrix product.  Filters have N - M + 1 taps along an axis; N is 4 or 6.  The
transforms are those that ``lamina.tactics.winograd`` constructs over the points 0, 1, -1 (, 2, -2)
and infinity.
"""

# ruff: noqa: RUF005  (Triton has no starred expressions)

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.epilogue import finished
from lamina.backends.cuda.kernels.matmul import tile_place


@triton.jit
def to_points(d, N: tl.constexpr):
    """Return the points of N pixels in a line."""
    if N == 4:
        return (d[2] - d[0], d[1] + d[2], d[2] - d[1], d[3] - d[1])
    else:
        even, odd = d[4] - 4 * d[2], d[3] - 4 * d[1]
        near, twice = d[4] - d[2], 2 * (d[3] - d[1])
        first = 4 * d[0] - 5 * d[2] + d[4]
        last = 4 * d[1] - 5 * d[3] + d[5]
        return (first, even + odd, even - odd, near + twice, near - twice, last)


@triton.jit
def to_results(p, M: tl.constexpr, N: tl.constexpr):
    """Return the M results of a line of N points."""
    if N == 4:
        return (p[0] + p[1] + p[2], p[1] - p[2] + p[3])
    else:
        a, b, c, d = p[1] + p[2], p[1] - p[2], p[3] + p[4], p[3] - p[4]
        if M == 2:
            return (p[0] + a + c, b + 2 * d + p[5])
        else:
            return (p[0] + a + c, b + 2 * d, a + 4 * c, b + 8 * d + p[5])


@triton.jit
def input_points(
    x, v, IN_H, IN_W, DOWN, ACROSS, TILES, CHANNELS, X_BATCH, X_ROW, X_COLUMN,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Write v [point, tile, channel].  Grid: blocks of tiles, blocks of channels."""
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    tile = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    real = (tile < TILES) & (channel < CHANNELS)
    row = tile // ACROSS % DOWN * M - PAD_H
    column = tile % ACROSS * M - PAD_W
    x += (tile // (ACROSS * DOWN)).to(tl.int64) * X_BATCH + channel
    columns = ()
    for j in tl.static_range(N):
        pixels = ()
        beside = real & (column + j >= 0) & (column + j < IN_W)
        for i in tl.static_range(N):
            inside = beside & (row + i >= 0) & (row + i < IN_H)
            place = x + (row + i) * X_ROW + (column + j) * X_COLUMN
            pixels = pixels + (tl.load(place, mask=inside, other=0),)
        columns = columns + (to_points(pixels, N),)
    v += tile.to(tl.int64) * CHANNELS + channel
    step = tl.cast(TILES, tl.int64) * CHANNELS
    for i in tl.static_range(N):
        line = ()
        for j in tl.static_range(N):
            line = line + (columns[j][i],)
        points = to_points(line, N)
        for j in tl.static_range(N):
            tl.store(v + (i * N + j) * step, points[j], mask=real)


@triton.jit
def products(
    v, u, m, TILES, FILTERS, CHANNELS, U_FILTER, M_AT,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    WHOLE_N: tl.constexpr, WHOLE_K: tl.constexpr, PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Multiply v by u [point, filter, channel] into m + M_AT [point, tile, filter].

    Grid: tiles of the product * points.
    """
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    tiles_m, tiles_n = tl.cdiv(TILES, BLOCK_M), tl.cdiv(FILTERS, BLOCK_N)
    program = tl.program_id(0)
    point = (program // (tiles_m * tiles_n)).to(tl.int64)
    tile_m, tile_n = tile_place(program % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    row_inside, column_inside = (rows < TILES)[:, None], columns < FILTERS
    left = v + (point * TILES + rows[:, None]) * CHANNELS + depth[None, :]
    right = u + (point * FILTERS + columns[None, :]) * U_FILTER + depth[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, CHANNELS, BLOCK_K):
        a_inside, b_inside = row_inside, column_inside[None, :]
        if not WHOLE_K:
            a_inside = a_inside & (depth < CHANNELS - k)[None, :]
            b_inside = b_inside & (depth < CHANNELS - k)[:, None]
        a = tl.load(left + k, mask=a_inside, other=0)
        if WHOLE_N and WHOLE_K:
            b = tl.load(right + k)
        else:
            b = tl.load(right + k, mask=b_inside, other=0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    out = m + M_AT + (point * TILES + rows[:, None]) * FILTERS + columns[None, :]
    tl.store(out, total, mask=row_inside & column_inside[None, :])


@triton.jit
def output_points(
    m, bias, residual, y, OUT_H, OUT_W, DOWN, ACROSS, TILES, FILTERS, M_AT,
    RESIDUAL_BATCH, RESIDUAL_ROW, RESIDUAL_COLUMN, Y_BATCH, Y_ROW, Y_COLUMN,
    M: tl.constexpr, N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
    RESIDUAL_SCALE: tl.constexpr, RESIDUAL_ZERO: tl.constexpr,
    Y_SCALE: tl.constexpr, Y_ZERO: tl.constexpr,
    ROUND_SCALE: tl.constexpr, ROUND_ZERO: tl.constexpr, ROUND_SIGNED: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Turn the products back, add bias and residual, activate.  Grid as for ``input_points``."""
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    tile = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    filters = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = (tile < TILES)[:, None] & (filters < FILTERS)[None, :]
    m += M_AT + tile.to(tl.int64)[:, None] * FILTERS + filters[None, :]
    step = tl.cast(TILES, tl.int64) * FILTERS
    columns = ()
    for j in tl.static_range(N):
        points = ()
        for i in tl.static_range(N):
            points = points + (tl.load(m + (i * N + j) * step, mask=real, other=0),)
        columns = columns + (to_results(points, M, N),)
    added = None
    if bias is not None:
        added = tl.load(bias + filters, mask=filters < FILTERS, other=0)
    image = (tile // (ACROSS * DOWN)).to(tl.int64)
    row, column = tile // ACROSS % DOWN * M, tile % ACROSS * M
    for i in tl.static_range(M):
        line = ()
        for j in tl.static_range(N):
            line = line + (columns[j][i],)
        results = to_results(line, M, N)
        for j in tl.static_range(M):
            inside = real & ((row + i < OUT_H) & (column + j < OUT_W))[:, None]
            rest = None
            if residual is not None:
                rest = residual + image * RESIDUAL_BATCH
                rest = rest + (row + i) * RESIDUAL_ROW + (column + j) * RESIDUAL_COLUMN
            total = finished(
                results[j], added, None, rest, y.dtype.element_ty, filters, inside,
                1, 1, RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
                ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA,
            )  # fmt: skip
            out = y + image * Y_BATCH + (row + i) * Y_ROW + (column + j) * Y_COLUMN
            tl.store(out[:, None] + filters[None, :], total, mask=inside)
