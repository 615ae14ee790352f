"""Depthwise convolutions: every channel by itself, channels last.

The kernel is in Gluon for the sake of the compiler alone: it says itself which thread holds what,
so that Triton need not find that out, which takes time that grows with the square of the loads.
The machine code is the same.
"""

from __future__ import annotations

import triton
import triton.experimental.gluon.language as gl
import triton.language as tl
from triton.experimental import gluon
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.epilogue import finished

_WARP = gl.constexpr(32)


@gluon.jit
def depthwise(
    x, w, bias, residual, y,
    IMAGES, IN_D, IN_H, IN_W, OUT_D, OUT_H, OUT_W, CHANNELS,
    X_BATCH, X_DEPTH, X_ROW, X_COLUMN, W_TAP,
    RESIDUAL_FIRST, RESIDUAL_BATCH, RESIDUAL_DEPTH, RESIDUAL_ROW, RESIDUAL_COLUMN,
    Y_FIRST, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN,
    TAPS_D: gl.constexpr, TAPS_H: gl.constexpr, TAPS_W: gl.constexpr,
    STRIDE_D: gl.constexpr, STRIDE_H: gl.constexpr, STRIDE_W: gl.constexpr,
    DILATION_D: gl.constexpr, DILATION_H: gl.constexpr, DILATION_W: gl.constexpr,
    PAD_D: gl.constexpr, PAD_H: gl.constexpr, PAD_W: gl.constexpr,
    ROWS: gl.constexpr, COLUMNS: gl.constexpr, VECTOR: gl.constexpr, THREADS: gl.constexpr,
    AHEAD: gl.constexpr, KEEP: gl.constexpr,
    PADDED: gl.constexpr, WHOLE: gl.constexpr, WIDE: gl.constexpr,
    RESIDUAL_SCALE: gl.constexpr, RESIDUAL_ZERO: gl.constexpr,
    Y_SCALE: gl.constexpr, Y_ZERO: gl.constexpr,
    ROUND_SCALE: gl.constexpr, ROUND_ZERO: gl.constexpr, ROUND_SIGNED: gl.constexpr,
    KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Compute ``ROWS`` x ``COLUMNS`` pixels of ``VECTOR`` channels in each thread.

    Grid: threads / ``THREADS``.  A thread walks down the image: each row that it loads serves all
    rows of the result whose windows hold it, and is asked for ``AHEAD`` rows before.  ``W_TAP`` is
    the distance of the taps of the filters, whose channels lie side by side; ``KEEP``: they stay
    in registers.  ``PADDED``: windows may reach outside the image.  ``WHOLE``: the blocks of all
    threads lie inside the result.
    """
    layout: gl.constexpr = gl.BlockedLayout([1, VECTOR], [_WARP, 1], [THREADS // _WARP, 1], [1, 0])
    item = gl.program_id(0) * THREADS + gl.arange(0, THREADS, gl.SliceLayout(1, layout))
    vectors = CHANNELS // VECTOR
    channel, rest = item % vectors * VECTOR, item // vectors
    across, down = gl.cdiv(OUT_W, COLUMNS), gl.cdiv(OUT_H, ROWS)
    column, rest = rest % across * COLUMNS, rest // across
    row, rest = rest % down * ROWS, rest // down
    depth, image = rest % OUT_D, rest // OUT_D
    real = image < IMAGES
    lanes = gl.arange(0, VECTOR, gl.SliceLayout(0, layout))
    filters = w + channel[:, None] + lanes[None, :]
    taps: gl.constexpr = TAPS_D * TAPS_H * TAPS_W
    factors = ()
    if KEEP:
        for tap in gl.static_range(taps):
            factors = factors + (gl.load(filters + tap * W_TAP).to(gl.float32),)  # noqa: RUF005
    start = gl.zeros((THREADS, VECTOR), gl.float32, layout)
    if bias is not None:
        start = gl.load(bias + channel[:, None] + lanes[None, :]).to(gl.float32)
    if WIDE:
        image = image.to(gl.int64)
    in_d, in_h, in_w = (
        depth * STRIDE_D - PAD_D, row * STRIDE_H - PAD_H, column * STRIDE_W - PAD_W
    )  # fmt: skip
    place = image * X_BATCH + in_d * X_DEPTH + in_h * X_ROW + in_w * X_COLUMN + channel
    x_block = x + place[:, None] + lanes[None, :]
    place = Y_FIRST + image * Y_BATCH + depth * Y_DEPTH + row * Y_ROW + column * Y_COLUMN
    out = y + (place + channel)
    rest_row = None
    if residual is not None:
        place = image * RESIDUAL_BATCH + depth * RESIDUAL_DEPTH
        place += row * RESIDUAL_ROW + column * RESIDUAL_COLUMN
        rest_row = residual + (RESIDUAL_FIRST + place + channel)
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()

    span: gl.constexpr = (ROWS - 1) * STRIDE_H + (TAPS_H - 1) * DILATION_H + 1
    coming = ()
    totals = (start,) * (ROWS * COLUMNS)
    for step in gl.static_range(TAPS_D * span + AHEAD):
        if step < TAPS_D * span:
            coming = coming + (  # noqa: RUF005
                load_row(
                    x_block, real, None, in_d, in_h, in_w, IN_D, IN_H, IN_W,
                    X_DEPTH, X_ROW, X_COLUMN, step // span, step % span, TAPS_D, TAPS_H, TAPS_W,
                    STRIDE_H, STRIDE_W, DILATION_D, DILATION_H, DILATION_W, ROWS, COLUMNS,
                    PADDED, WHOLE,
                ),
            )  # fmt: skip
        if step >= AHEAD:
            totals = add_row(
                totals, coming[0], factors, filters, W_TAP, (step - AHEAD) // span,
                (step - AHEAD) % span, TAPS_H, TAPS_W, STRIDE_H, STRIDE_W,
                DILATION_H, DILATION_W, ROWS, COLUMNS, KEEP,
            )  # fmt: skip
            coming = coming[1:]
            for i in gl.static_range(ROWS * COLUMNS):
                if step - AHEAD == _last(i // COLUMNS, TAPS_D, TAPS_H, STRIDE_H, DILATION_H, span):
                    inside = real
                    if not WHOLE:
                        inside = (
                            real & (row + i // COLUMNS < OUT_H) & (column + i % COLUMNS < OUT_W)
                        )
                    beside = None
                    if residual is not None:
                        beside = (
                            rest_row + i // COLUMNS * RESIDUAL_ROW + i % COLUMNS * RESIDUAL_COLUMN
                        )
                    total = finished(
                        totals[i], None, None, beside, y.dtype.element_ty, lanes, inside[:, None],
                        1, 1, RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
                        ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA,
                    )  # fmt: skip
                    block = out + i // COLUMNS * Y_ROW + i % COLUMNS * Y_COLUMN
                    gl.store(block[:, None] + lanes[None, :], total, mask=inside[:, None])


@triton.jit
def load_row(
    x, real, deep, in_d, in_h, in_w, IN_D, IN_H, IN_W, X_DEPTH, X_ROW, X_COLUMN,
    D: tl.constexpr, H: tl.constexpr, TAPS_D: tl.constexpr, TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_D: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Load the pixels of a row of the image that any result meets; None in place of others.

    ``deep`` says which channels exist (None: all).
    """
    seen = real
    if PADDED or not WHOLE:
        seen = seen & _inside(in_h + H, IN_H)
        if TAPS_D > 1:
            seen = seen & _inside(in_d + D * DILATION_D, IN_D)
    across: tl.constexpr = (COLUMNS - 1) * STRIDE_W + (TAPS_W - 1) * DILATION_W + 1
    pixels = ()
    for v in tl.static_range(across):
        if _meets(H, ROWS, TAPS_H, STRIDE_H, DILATION_H) and _meets(
            v, COLUMNS, TAPS_W, STRIDE_W, DILATION_W
        ):
            near = seen
            if PADDED or not WHOLE:
                near = near & _inside(in_w + v, IN_W)
            place = D * DILATION_D * X_DEPTH + H * X_ROW + v * X_COLUMN
            kept = near[:, None] if deep is None else near[:, None] & deep
            pixels = pixels + (tl.load(x + place, mask=kept, other=0),)  # noqa: RUF005
        else:
            pixels = pixels + (None,)  # noqa: RUF005
    return pixels


@triton.jit
def add_row(
    totals, pixels, factors, filters, W_TAP, D: tl.constexpr, H: tl.constexpr,
    TAPS_H: tl.constexpr, TAPS_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Add a row of the image, ``H`` below the first, to all rows of the result that meet it."""
    numbers = ()
    for v in tl.static_range(len(pixels)):
        if pixels[v] is None:
            numbers = numbers + (None,)  # noqa: RUF005
        else:
            numbers = numbers + (pixels[v].to(tl.float32),)  # noqa: RUF005
    for r in tl.static_range(ROWS):
        if tap_ahead(H - r * STRIDE_H, DILATION_H, TAPS_H) >= 0:
            totals = _summed(
                totals, numbers, factors, filters, W_TAP, r * COLUMNS,
                (D * TAPS_H + tap_ahead(H - r * STRIDE_H, DILATION_H, TAPS_H)) * TAPS_W,
                TAPS_W, STRIDE_W, DILATION_W, COLUMNS, KEEP,
            )  # fmt: skip
    return totals


@triton.jit
def _summed(
    totals, numbers, factors, filters, W_TAP, FIRST: tl.constexpr, TAP: tl.constexpr,
    TAPS_W: tl.constexpr, STRIDE_W: tl.constexpr, DILATION_W: tl.constexpr,
    COLUMNS: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Add a row of the image to the row of sums that begins at ``FIRST``, from tap ``TAP`` on."""
    if not KEEP:
        factors = ()
        for v in tl.static_range(TAPS_W):
            factor = tl.load(filters + (TAP + v) * W_TAP).to(tl.float32)
            factors = factors + (factor,)  # noqa: RUF005
    sums = ()
    for c in tl.static_range(COLUMNS):
        total = totals[FIRST + c]
        for v in tl.static_range(TAPS_W):
            total += numbers[c * STRIDE_W + v * DILATION_W] * factors[TAP * KEEP + v]
        sums = sums + (total,)  # noqa: RUF005
    return totals[:FIRST] + sums + totals[FIRST + COLUMNS :]


@triton.jit
def _inside(place, SIZE):
    """Whether places lie in an axis; negative numbers are large ones without a sign."""
    return place.to(tl.uint32, bitcast=True) < SIZE


@triton.constexpr_function
def tap_ahead(ahead, dilation, taps):
    """Return the tap that lies ``ahead`` places behind a window's first, -1 if none does."""
    return ahead // dilation if ahead % dilation == 0 and 0 <= ahead < taps * dilation else -1


@triton.constexpr_function
def _last(row, taps_d, taps_h, stride, dilation, span):
    """Return the step that completes a row of the result."""
    return (taps_d - 1) * span + (taps_h - 1) * dilation + row * stride


@triton.constexpr_function
def _meets(place, windows, taps, stride, dilation):
    """Whether any of some windows has a tap at a place."""
    return any(tap_ahead(place - i * stride, dilation, taps) >= 0 for i in range(windows))
