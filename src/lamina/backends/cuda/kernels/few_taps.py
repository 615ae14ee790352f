"""Convolutions of images with a few channels whose windows a thread gathers by itself."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.convolution import pixel_offset, pixel_place
from lamina.backends.cuda.kernels.epilogue import finish
from lamina.backends.cuda.kernels.rounding import dot


@triton.jit
def few_taps(
    x, w, bias, residual, y, PIXELS,
    IN_D, IN_H, IN_W, OUT_D, OUT_H, OUT_W, FILTERS,
    X_BATCH, X_CHANNEL, X_DEPTH, X_ROW, X_COLUMN,
    RESIDUAL_BATCH, RESIDUAL_DEPTH, RESIDUAL_ROW, RESIDUAL_COLUMN,
    Y_BATCH, Y_DEPTH, Y_ROW, Y_COLUMN, CHANNELS: tl.constexpr,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    STRIDE_D: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_D: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    PAD_D: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, DEPTH: tl.constexpr,
    PADDED: tl.constexpr, Y_DENSE: tl.constexpr, RESIDUAL_DENSE: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute a tile of pixels and filters.  Grid: tiles of pixels, tiles of filters.

    w is [filters, DEPTH]: channels, in them taps, then zeros.  Every thread holds the depth of its
    pixels, so that all places in a window are constants and a row of the product is stored at
    once.  ``PADDED``: windows may reach outside the image.
    """
    tile_m, tile_n = tl.program_id(0), tl.program_id(1)
    pixels = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    filters = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    real = filters < FILTERS
    image, out_d, out_h, out_w = pixel_place(pixels, OUT_D, OUT_H, OUT_W)
    if WIDE:
        image = image.to(tl.int64)
    in_d, in_h, in_w = out_d * STRIDE_D - PAD_D, out_h * STRIDE_H - PAD_H, out_w * STRIDE_W - PAD_W
    # Words in place of numbers: a reshaped operand of a product fails to compile for 10.0.
    kind: tl.constexpr = x.dtype.element_ty
    x = x.to(tl.pointer_type(tl.int16 if kind.primitive_bitwidth == 16 else tl.int32))
    x += image * X_BATCH + in_d * X_DEPTH + in_h * X_ROW + in_w * X_COLUMN
    inside = _insides(
        pixels < PIXELS, in_d, in_h, in_w, IN_D, IN_H, IN_W, TAPS_D, TAPS_H, TAPS_W,
        DILATION_D, DILATION_H, DILATION_W, PADDED,
    )  # fmt: skip
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in tl.static_range(DEPTH // BLOCK_K):
        taps = ()
        for k in tl.static_range(BLOCK_K):
            taps = taps + (  # noqa: RUF005
                _tap(
                    x, inside, X_CHANNEL, X_DEPTH, X_ROW, X_COLUMN, step * BLOCK_K + k, CHANNELS,
                    TAPS_D, TAPS_H, TAPS_W, DILATION_D, DILATION_H, DILATION_W,
                ),
            )  # fmt: skip
        left = joined_vectors(taps).reshape(BLOCK_M, BLOCK_K).to(kind, bitcast=True)
        k = step * BLOCK_K + tl.arange(0, BLOCK_K)
        right = w + k[:, None] + filters[None, :] * DEPTH
        right = tl.load(right, mask=real[None, :], other=0)
        total = dot(left, right, total, PRECISION)

    added = None
    if bias is not None:
        added = tl.load(bias + filters, mask=real, other=0)
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
        1, 1, 1, None, None, None, None, None, None, False, KIND, ALPHA, BETA, False,
    )  # fmt: skip


@triton.jit
def _insides(
    real, in_d, in_h, in_w, IN_D, IN_H, IN_W,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    DILATION_D: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    PADDED: tl.constexpr,
):  # fmt: skip
    """Return for every tap of a channel whether it meets the image; negative places are huge."""
    found = ()
    for tap in tl.static_range(TAPS_D * TAPS_H * TAPS_W):
        near = real
        if PADDED:
            h = in_h + tap // TAPS_W % TAPS_H * DILATION_H
            v = in_w + tap % TAPS_W * DILATION_W
            near = near & (h.to(tl.uint32, bitcast=True) < IN_H)
            near = near & (v.to(tl.uint32, bitcast=True) < IN_W)
            if TAPS_D > 1:
                d = in_d + tap // (TAPS_H * TAPS_W) * DILATION_D
                near = near & (d.to(tl.uint32, bitcast=True) < IN_D)
        found = found + (near,)  # noqa: RUF005
    return found


@triton.jit
def _tap(
    x, inside, X_CHANNEL, X_DEPTH, X_ROW, X_COLUMN, PLACE: tl.constexpr, CHANNELS: tl.constexpr,
    TAPS_D: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    DILATION_D: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
):  # fmt: skip
    """Return what stands at a place of the depth in the windows; zeros behind its end."""
    if CHANNELS * TAPS_D * TAPS_H * TAPS_W <= PLACE:
        return tl.zeros(x.shape, x.dtype.element_ty)
    else:
        tap: tl.constexpr = PLACE % (TAPS_D * TAPS_H * TAPS_W)
        place = PLACE // (TAPS_D * TAPS_H * TAPS_W) * X_CHANNEL
        place += tap // (TAPS_H * TAPS_W) * DILATION_D * X_DEPTH
        place += tap // TAPS_W % TAPS_H * DILATION_H * X_ROW + tap % TAPS_W * DILATION_W * X_COLUMN
        return tl.load(x + place, mask=inside[tap], other=0)


@triton.jit
def joined_vectors(vectors):
    """Return [*shape, 2, 2, ...] of a power of two of vectors or tiles, in their order."""
    if len(vectors) == 1:
        return vectors[0]
    else:
        even, odd = (), ()
        for i in tl.static_range(len(vectors) // 2):
            even = even + (vectors[2 * i],)  # noqa: RUF005
            odd = odd + (vectors[2 * i + 1],)  # noqa: RUF005
        return tl.join(joined_vectors(even), joined_vectors(odd))
