"""A depthwise convolution and the pointwise ones behind it, whose sums stay on the chip."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.clamped import activated
from lamina.backends.cuda.kernels.depthwise import add_row, load_row
from lamina.backends.cuda.kernels.few_taps import joined_vectors


@triton.jit
def separable(
    x, front, front_bias, w, bias, residual, y, back, back_bias, last,
    IMAGES, IN_D, IN_H, IN_W, OUT_D, OUT_H, OUT_W, CHANNELS,
    X_BATCH, X_DEPTH, X_ROW, X_COLUMN, FRONT_TAP, FILTERS, W_FILTER,
    RESIDUAL_BATCH, RESIDUAL_DEPTH, RESIDUAL_ROW, RESIDUAL_COLUMN,
    Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN, BACK_FILTERS, BACK_FILTER,
    LAST_BATCH, LAST_DEPTH, LAST_ROW, LAST_COLUMN,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    STRIDE_D: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_D: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    PAD_D: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr, BACK_N: tl.constexpr,
    PADDED: tl.constexpr, WHOLE: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr,
    FRONT_KIND: tl.constexpr, FRONT_ALPHA: tl.constexpr, FRONT_BETA: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    BACK_KIND: tl.constexpr, BACK_ALPHA: tl.constexpr, BACK_BETA: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute ``BLOCK_M`` blocks of ``ROWS`` x ``COLUMNS`` pixels.  Grid: blocks / ``BLOCK_M``.

    The pointwise filters ``w`` sum over the channels in steps of ``BLOCK_K``; their ``FILTERS`` <=
    ``BLOCK_N`` results are stored in y unless that is None, and ``back`` (None: there is none)
    computes ``last`` of them, in parts of ``BACK_N``.  Every stage rounds what the next one reads,
    as a stored result would.  ``PADDED`` and ``WHOLE`` as in ``depthwise``; ``DENSE``: blocks
    divide the result, and the pixels of residual and results lie one after another.

    More steps in flight, through shared memory, made it slower by a third on an H200.
    """
    size: tl.constexpr = BLOCK_M * ROWS * COLUMNS
    column, row, depth, image, real = _place(
        tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), IMAGES, OUT_D, OUT_H, OUT_W,
        ROWS, COLUMNS, WIDE,
    )  # fmt: skip
    in_d, in_h, in_w = (
        depth * STRIDE_D - PAD_D, row * STRIDE_H - PAD_H, column * STRIDE_W - PAD_W
    )  # fmt: skip
    place = image * X_BATCH + in_d * X_DEPTH + in_h * X_ROW + in_w * X_COLUMN
    channels, filters = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_N)
    x_block = x + place[:, None] + channels[None, :]
    # Every thread has the filters of its own channels: a tile of pointers asks for no exchange.
    taps = tl.broadcast_to((front + channels)[None, :], (BLOCK_M, BLOCK_K))
    biases = None
    if front_bias is not None:
        biases = tl.broadcast_to((front_bias + channels)[None, :], (BLOCK_M, BLOCK_K))
    w_block = w + channels[:, None] + filters[None, :] * W_FILTER
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    total = tl.zeros((size, BLOCK_N), tl.float32)
    for first in tl.range(0, CHANNELS, BLOCK_K, num_stages=1):
        deep = None if CHANNELS % BLOCK_K == 0 else (channels < CHANNELS - first)[None, :]
        left = _depthwise(
            x_block + first, taps + first, None if biases is None else biases + first, FRONT_TAP,
            real, deep, in_d, in_h, in_w, IN_D, IN_H, IN_W, X_DEPTH, X_ROW, X_COLUMN,
            TAPS_D, TAPS_H, TAPS_W, STRIDE_H, STRIDE_W, DILATION_D, DILATION_H, DILATION_W,
            ROWS, COLUMNS, PADDED, WHOLE, FRONT_KIND, FRONT_ALPHA, FRONT_BETA,
        )  # fmt: skip
        kept = (filters < FILTERS)[None, :]
        if deep is not None:
            kept = kept & (channels < CHANNELS - first)[:, None]
        total = tl.dot(left, tl.load(w_block + first, mask=kept, other=0), total)

    block = tl.program_id(0) * BLOCK_M + tl.arange(0, size) // (ROWS * COLUMNS)
    inner = tl.arange(0, size) % (ROWS * COLUMNS)
    if DENSE:
        pixel = block // tl.cdiv(OUT_W, COLUMNS) * (ROWS * OUT_W) + inner // COLUMNS * OUT_W
        column = pixel + block % tl.cdiv(OUT_W, COLUMNS) * COLUMNS + inner % COLUMNS
        real = column < IMAGES * OUT_D * OUT_H * OUT_W
        row, depth, image = 0, 0, 0
        if WIDE:
            column = column.to(tl.int64)
    else:
        column, row, depth, image, real = _place(
            block, IMAGES, OUT_D, OUT_H, OUT_W, ROWS, COLUMNS, WIDE
        )  # fmt: skip
        column, row = column + inner % COLUMNS, row + inner // COLUMNS
        real = real & (row < OUT_H) & (column < OUT_W)
    if residual is not None:
        residual += image * RESIDUAL_BATCH + depth * RESIDUAL_DEPTH + row * RESIDUAL_ROW
        residual += column * RESIDUAL_COLUMN
    if y is not None:
        y += image * Y_BATCH + depth * Y_DEPTH + row * Y_ROW + column * Y_COLUMN
    middle = _middle(
        total, bias, residual, y, x.dtype.element_ty, real, filters, FILTERS, KIND, ALPHA, BETA
    )  # fmt: skip
    if back is not None:
        last += image * LAST_BATCH + depth * LAST_DEPTH + row * LAST_ROW + column * LAST_COLUMN
        for part in tl.range(0, tl.cdiv(BACK_FILTERS, BACK_N), num_stages=1):
            _store_part(
                middle, back, back_bias, last, part, real, filters, FILTERS, BACK_FILTERS,
                BACK_FILTER, BACK_N, BACK_KIND, BACK_ALPHA, BACK_BETA,
            )  # fmt: skip


@triton.jit
def _place(
    block, IMAGES, OUT_D, OUT_H, OUT_W,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return column, row, depth and image of blocks of pixels, and whether they exist."""
    across, down = tl.cdiv(OUT_W, COLUMNS), tl.cdiv(OUT_H, ROWS)
    column, rest = block % across * COLUMNS, block // across
    row, rest = rest % down * ROWS, rest // down
    depth, image = rest % OUT_D, rest // OUT_D
    real = image < IMAGES
    if WIDE:
        image = image.to(tl.int64)
    return column, row, depth, image, real


@triton.jit
def _depthwise(
    x, front, bias, FRONT_TAP, real, deep, in_d, in_h, in_w, IN_D, IN_H, IN_W,
    X_DEPTH, X_ROW, X_COLUMN,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_D: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr, WHOLE: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
):  # fmt: skip
    """Return the depthwise convolution of some channels, rounded: blocks, in them pixels."""
    factors = ()
    for tap in tl.static_range(TAPS_D * TAPS_H * TAPS_W):
        factor = tl.load(front + tap * FRONT_TAP, mask=deep, other=None if deep is None else 0)
        factors = factors + (factor.to(tl.float32),)  # noqa: RUF005
    start = tl.zeros(x.shape, tl.float32)
    if bias is not None:
        start = tl.load(bias, mask=deep, other=None if deep is None else 0).to(tl.float32)
    totals = (start,) * (ROWS * COLUMNS)
    span: tl.constexpr = (ROWS - 1) * STRIDE_H + (TAPS_H - 1) * DILATION_H + 1
    for step in tl.static_range(TAPS_D * span):
        pixels = load_row(
            x, real, deep, in_d, in_h, in_w, IN_D, IN_H, IN_W, X_DEPTH, X_ROW, X_COLUMN,
            step // span, step % span, TAPS_D, TAPS_H, TAPS_W, STRIDE_H, STRIDE_W,
            DILATION_D, DILATION_H, DILATION_W, ROWS, COLUMNS, PADDED, WHOLE,
        )  # fmt: skip
        totals = add_row(
            totals, pixels, factors, front, FRONT_TAP, step // span, step % span,
            TAPS_H, TAPS_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, ROWS, COLUMNS, True,
        )  # fmt: skip
    tiles = ()
    for i in tl.static_range(ROWS * COLUMNS):
        tile = activated(totals[i], x.dtype.element_ty, KIND, ALPHA, BETA)
        tiles = tiles + (tile,)  # noqa: RUF005
    blocks: tl.constexpr = x.shape[0]
    depth: tl.constexpr = x.shape[1]
    # The pixels of a block are in the registers of one thread, and so are its rows of the result.
    tile = joined_vectors(tiles).reshape(blocks, depth, ROWS * COLUMNS)
    return tile.permute(0, 2, 1).reshape(blocks * ROWS * COLUMNS, depth)


@triton.jit
def _middle(
    total, bias, residual, y, element: tl.constexpr, inside, filters, FILTERS,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
):  # fmt: skip
    """Return sums finished and rounded; store them in y unless that is None."""
    kept = inside[:, None] & (filters < FILTERS)[None, :]
    if bias is not None:
        total += tl.load(bias + filters, mask=filters < FILTERS, other=0)[None, :]
    if residual is not None:
        total += tl.load(residual[:, None] + filters[None, :], mask=kept, other=0)
    total = activated(total, element, KIND, ALPHA, BETA)
    if y is not None:
        tl.store(y[:, None] + filters[None, :], total, mask=kept)
    # Filters that pad the depth of the next product meet zeros, but must be finite.
    return tl.where((filters < FILTERS)[None, :], total, 0.0)


@triton.jit
def _store_part(
    middle, back, bias, last, part, inside, filters, FILTERS, BACK_FILTERS, BACK_FILTER,
    SIZE: tl.constexpr, KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
):  # fmt: skip
    """Store ``SIZE`` filters of the last convolution."""
    columns = part * SIZE + tl.arange(0, SIZE)
    here = (filters < FILTERS)[:, None] & (columns < BACK_FILTERS)[None, :]
    right = back + filters[:, None] + columns[None, :] * BACK_FILTER
    total = tl.dot(middle, tl.load(right, mask=here, other=0))
    if bias is not None:
        total += tl.load(bias + columns, mask=columns < BACK_FILTERS, other=0)[None, :]
    total = activated(total, middle.dtype, KIND, ALPHA, BETA)
    kept = inside[:, None] & (columns < BACK_FILTERS)[None, :]
    tl.store(last[:, None] + columns[None, :], total, mask=kept)
