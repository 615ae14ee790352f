"""Convolutions without matrix units: depthwise ones, small groups, any type of numbers."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.epilogue import finish, real_sums


@triton.jit
def direct(
    x, w, factors, shift, bias, residual, y,
    IN_D, IN_H, IN_W, OUT_D, OUT_H, OUT_W, CHANNELS, FILTERS_EACH, FILTERS,
    X_BATCH, X_CHANNEL, X_DEPTH, X_ROW, X_COLUMN, W_FILTER, W_TAP, W_CHANNEL,
    RESIDUAL_FIRST, RESIDUAL_BATCH, RESIDUAL_CHANNEL, RESIDUAL_DEPTH, RESIDUAL_ROW, RESIDUAL_COLUMN,
    Y_FIRST, Y_BATCH, Y_CHANNEL, Y_DEPTH, Y_ROW, Y_COLUMN,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    STRIDE_D: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_D: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    PAD_D: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
    PADDED: tl.constexpr, WIDE: tl.constexpr, UNROLL: tl.constexpr,
    X_ZERO: tl.constexpr, RESIDUAL_SCALE: tl.constexpr, RESIDUAL_ZERO: tl.constexpr,
    Y_SCALE: tl.constexpr, Y_ZERO: tl.constexpr,
    ROUND_SCALE: tl.constexpr, ROUND_ZERO: tl.constexpr, ROUND_SIGNED: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute ``ROWS`` x ``BLOCK_W`` pixels of ``BLOCK_C`` filters.  Grid: pixels, filters.

    ``CHANNELS`` and ``FILTERS_EACH`` are those of one group, ``FILTERS`` those of all.  A row of
    the image that is loaded once serves every row of the result whose windows hold it.
    """
    across, down = tl.cdiv(OUT_W, BLOCK_W), tl.cdiv(OUT_H, ROWS)
    program = tl.program_id(0)
    columns = program % across * BLOCK_W + tl.arange(0, BLOCK_W)
    rest = program // across
    first_row, rest = rest % down * ROWS, rest // down
    out_d, image = rest % OUT_D, rest // OUT_D
    if WIDE:
        image = image.to(tl.int64)
    filters = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = filters < FILTERS
    group = filters // FILTERS_EACH
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    added = None
    if bias is not None:
        added = tl.load(bias + filters, mask=real, other=0)

    in_d, in_h = out_d * STRIDE_D - PAD_D, first_row * STRIDE_H - PAD_H
    in_w = columns * STRIDE_W - PAD_W
    x += image * X_BATCH + in_d * X_DEPTH + in_h * X_ROW
    x_block = x + in_w[:, None] * X_COLUMN + (group * CHANNELS * X_CHANNEL)[None, :]
    ok = (columns < OUT_W)[:, None] & real[None, :]
    w_row = w + filters * W_FILTER
    sums: tl.constexpr = _sum_type(x.dtype.element_ty)
    totals = (tl.zeros((BLOCK_W, BLOCK_C), sums),) * ROWS
    totals = _summed(
        totals, x_block, w_row, ok, real, in_d, in_h, in_w, IN_D, IN_H, IN_W,
        CHANNELS, X_CHANNEL, W_CHANNEL, X_DEPTH, X_ROW, X_COLUMN, W_TAP, X_ZERO,
        TAPS_D, TAPS_H, TAPS_W, STRIDE_H, DILATION_D, DILATION_H, DILATION_W,
        ROWS, PADDED, UNROLL,
    )  # fmt: skip
    first = tl.program_id(1) * BLOCK_C
    for row in tl.static_range(ROWS):
        place = out_d * Y_DEPTH + (first_row + row) * Y_ROW + columns * Y_COLUMN
        out = y + (Y_FIRST + first * Y_CHANNEL + image * Y_BATCH + place)
        rest_row = None
        if residual is not None:
            place = out_d * RESIDUAL_DEPTH + (first_row + row) * RESIDUAL_ROW
            place += columns * RESIDUAL_COLUMN + image * RESIDUAL_BATCH
            rest_row = residual + (RESIDUAL_FIRST + first * RESIDUAL_CHANNEL + place)
        total = real_sums(totals[row], factors, shift, filters, real)
        exists = (columns < OUT_W) & (first_row + row < OUT_H)
        finish(
            total, added, None, rest_row, out, exists, FILTERS - first,
            1, RESIDUAL_CHANNEL, Y_CHANNEL,
            RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
            ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA, False,
        )  # fmt: skip


@triton.jit
def _summed(
    totals, x_block, w_row, ok, real, in_d, in_h, in_w, IN_D, IN_H, IN_W,
    CHANNELS, X_CHANNEL, W_CHANNEL, X_DEPTH, X_ROW, X_COLUMN, W_TAP, X_ZERO: tl.constexpr,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr, STRIDE_H: tl.constexpr,
    DILATION_D: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ROWS: tl.constexpr, PADDED: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Add all channels and taps to the rows of the result."""
    span: tl.constexpr = (ROWS - 1) * STRIDE_H + (TAPS_H - 1) * DILATION_H + 1
    for channel in range(CHANNELS):
        x_channel, w_channel = x_block + channel * X_CHANNEL, w_row + channel * W_CHANNEL
        if UNROLL:
            for step in tl.static_range(TAPS_D * span * TAPS_W):
                totals = _met(
                    totals, x_channel, w_channel, ok, real, in_d, in_h, in_w, IN_D, IN_H, IN_W,
                    X_DEPTH, X_ROW, X_COLUMN, W_TAP, X_ZERO, step // (span * TAPS_W),
                    step // TAPS_W % span, step % TAPS_W, TAPS_H, TAPS_W, STRIDE_H,
                    DILATION_D, DILATION_H, DILATION_W, ROWS, PADDED,
                )  # fmt: skip
        else:
            tl.static_assert(ROWS == 1, "loops over taps compute one row")
            totals = (
                _looped(
                    totals[0], x_channel, w_channel, ok, real, in_d, in_h, in_w, IN_D, IN_H, IN_W,
                    X_DEPTH, X_ROW, X_COLUMN, W_TAP, X_ZERO, TAPS_D, TAPS_H, TAPS_W,
                    DILATION_D, DILATION_H, DILATION_W, PADDED,
                ),
            )  # fmt: skip
    return totals


@triton.jit
def _met(
    totals, x, w, ok, real, in_d, in_h, in_w, IN_D, IN_H, IN_W, X_DEPTH, X_ROW, X_COLUMN, W_TAP,
    X_ZERO: tl.constexpr, D: tl.constexpr, H: tl.constexpr, V: tl.constexpr,
    TAPS_H: tl.constexpr, TAPS_W: tl.constexpr, STRIDE_H: tl.constexpr,
    DILATION_D: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ROWS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Add a row of the image, ``H`` below the first, to all rows of the result that meet it."""
    if PADDED:
        at_d, at_w = in_d + D * DILATION_D, in_w + V * DILATION_W
        ok = ok & _in_image(at_d, in_h + H, at_w, IN_D, IN_H, IN_W)[:, None]
    place = D * DILATION_D * X_DEPTH + H * X_ROW + V * DILATION_W * X_COLUMN
    sums: tl.constexpr = totals[0].dtype
    numbers = tl.load(x + place, mask=ok, other=X_ZERO).to(sums)
    for row in tl.static_range(ROWS):
        if _tap(H - row * STRIDE_H, DILATION_H, TAPS_H) >= 0:
            tap = (D * TAPS_H + _tap(H - row * STRIDE_H, DILATION_H, TAPS_H)) * TAPS_W + V
            factor = tl.load(w + tap * W_TAP, mask=real, other=0).to(sums)
            more = totals[row] + numbers * factor[None, :]
            totals = totals[:row] + (more,) + totals[row + 1 :]  # noqa: RUF005
    return totals


@triton.jit
def _looped(
    total, x, w, ok, real, in_d, in_h, in_w, IN_D, IN_H, IN_W, X_DEPTH, X_ROW, X_COLUMN, W_TAP,
    X_ZERO: tl.constexpr, TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    DILATION_D: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    PADDED: tl.constexpr,
):  # fmt: skip
    """Add all taps to one row of the result."""
    for tap in range(TAPS_D * TAPS_H * TAPS_W):
        d = tap // (TAPS_H * TAPS_W) * DILATION_D
        h, v = tap // TAPS_W % TAPS_H * DILATION_H, tap % TAPS_W * DILATION_W
        near = ok
        if PADDED:
            near = ok & _in_image(in_d + d, in_h + h, in_w + v, IN_D, IN_H, IN_W)[:, None]
        place = d * X_DEPTH + h * X_ROW + v * X_COLUMN
        numbers = tl.load(x + place, mask=near, other=X_ZERO).to(total.dtype)
        factor = tl.load(w + tap * W_TAP, mask=real, other=0).to(total.dtype)
        total += numbers * factor[None, :]
    return total


@triton.constexpr_function
def _tap(ahead, dilation, taps):
    """Return the tap that lies ``ahead`` rows behind a window's first, -1 if none does."""
    return ahead // dilation if ahead % dilation == 0 and 0 <= ahead < taps * dilation else -1


@triton.jit
def _in_image(d, h, v, IN_D, IN_H, IN_W):
    return (v >= 0) & (v < IN_W) & (h >= 0) & (h < IN_H) & (d >= 0) & (d < IN_D)


@triton.constexpr_function
def _sum_type(kind):
    """Return the type that sums of products have."""
    if kind.primitive_bitwidth >= 32:
        return kind
    return tl.int32 if kind.is_int() else tl.float32
