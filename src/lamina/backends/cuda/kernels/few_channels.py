"""Convolutions of images with a few channels, such as the first layer of a network.

The depth of the product runs over channels and taps together; a table says where each of its
elements lies relative to the window.  Neighbouring threads take neighbouring pixels, so that loads
from a row-major image join, whatever the channels are.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.convolution import pixel_offset, pixel_place
from lamina.backends.cuda.kernels.epilogue import finish, real_sums, signed
from lamina.backends.cuda.kernels.rounding import dot


@triton.jit
def few_channels(
    x, w, table, factors, shift, bias, residual, y, PIXELS,
    IN_D, IN_H, IN_W, OUT_D, OUT_H, OUT_W, FILTERS,
    X_BATCH, X_DEPTH, X_ROW, X_COLUMN,
    RESIDUAL_BATCH, RESIDUAL_DEPTH, RESIDUAL_ROW, RESIDUAL_COLUMN,
    Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN,
    STRIDE_D: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_D: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, DEPTH: tl.constexpr,
    WORDS: tl.constexpr, DEEP: tl.constexpr, Y_DENSE: tl.constexpr, RESIDUAL_DENSE: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr,
    X_ZERO: tl.constexpr, RESIDUAL_SCALE: tl.constexpr, RESIDUAL_ZERO: tl.constexpr,
    Y_SCALE: tl.constexpr, Y_ZERO: tl.constexpr,
    ROUND_SCALE: tl.constexpr, ROUND_ZERO: tl.constexpr, ROUND_SIGNED: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute a tile of pixels and filters.  Grid: tiles of pixels, tiles of filters.

    ``table`` holds four rows of ``DEPTH`` numbers: offset, and steps along depth, row and column
    (a large one where the depth is padding); w is [filters, DEPTH].  With ``WORDS`` the image is
    read in words of two 16-bit numbers, neighbours in a row: offsets, strides and columns count
    words, and w is [2, filters, DEPTH], for the lower and upper halves of the words.
    """
    tile_m, tile_n = tl.program_id(0), tl.program_id(1)
    pixels = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    filters = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    real = filters < FILTERS
    image, out_d, out_h, out_w = pixel_place(pixels, OUT_D, OUT_H, OUT_W)
    if WIDE:
        image = image.to(tl.int64)
    in_d, in_h, in_w = out_d * STRIDE_D - PAD_D, out_h * STRIDE_H - PAD_H, out_w * STRIDE_W - PAD_W
    place = image * X_BATCH + in_d * X_DEPTH + in_h * X_ROW + in_w * X_COLUMN
    kind: tl.constexpr = w.dtype.element_ty
    if WORDS:
        x = x.to(tl.pointer_type(tl.int32))
    added = None
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    if bias is not None:
        added = tl.load(bias + filters, mask=real, other=0)
    unsigned: tl.constexpr = x.dtype.element_ty == tl.uint8
    sums: tl.constexpr = tl.float32 if factors is None else tl.int32
    total = tl.zeros((BLOCK_M, BLOCK_N), sums)
    for step in tl.static_range(DEPTH // BLOCK_K):
        k = step * BLOCK_K + tl.arange(0, BLOCK_K)
        offset = tl.load(table + k)
        h = (in_h[None, :] + tl.load(table + 2 * DEPTH + k)[:, None]).to(tl.uint32)
        v = (in_w[None, :] + tl.load(table + 3 * DEPTH + k)[:, None]).to(tl.uint32)
        inside = (h < IN_H) & (v < IN_W) & (pixels < PIXELS)[None, :]  # negative ones are huge
        if DEEP:
            d = (in_d[None, :] + tl.load(table + DEPTH + k)[:, None]).to(tl.uint32)
            inside = inside & (d < IN_D)
        numbers = tl.load(x + place[None, :] + offset[:, None], mask=inside, other=X_ZERO)
        w_block = w + k[:, None] + filters[None, :] * DEPTH
        weights = tl.load(w_block, mask=real[None, :], other=0)
        if WORDS:
            low = (numbers & 0xFFFF).to(tl.int16).to(kind, bitcast=True)
            high = (numbers >> 16).to(tl.int16).to(kind, bitcast=True)
            total = tl.dot(low.T, weights, total)
            weights = tl.load(w_block + FILTERS * DEPTH, mask=real[None, :], other=0)
            total = tl.dot(high.T, weights, total)
        else:
            left = signed(numbers, unsigned).T
            total = dot(left, weights, total, PRECISION)

    total = real_sums(total, factors, shift, filters, real)
    if residual is not None:
        residual = residual + tile_n * BLOCK_N + pixel_offset(
            pixels, OUT_D, OUT_H, OUT_W, RESIDUAL_BATCH, RESIDUAL_DEPTH, RESIDUAL_ROW,
            RESIDUAL_COLUMN, RESIDUAL_DENSE, WIDE,
        )  # fmt: skip
    out = y + tile_n * BLOCK_N + pixel_offset(
        pixels, OUT_D, OUT_H, OUT_W, Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN, Y_DENSE, WIDE
    )  # fmt: skip
    finish(
        total, added, None, residual, out, pixels < PIXELS, FILTERS - tile_n * BLOCK_N,
        1, 1, 1, RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
        ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA, False,
    )  # fmt: skip
