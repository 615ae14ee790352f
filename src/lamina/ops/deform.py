"""Deformable convolution."""

from __future__ import annotations

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import TensorType
from lamina.ops import check
from lamina.ops.accumulate import narrow, widen
from lamina.ops.convolve import add_channel_bias
from lamina.ops.window import window_count, window_span


@operator
class DeformConvolution(Op):
    """2-D convolution whose taps are moved by ``offset`` and weighted by ``mask``.

    x is [N, C, H, W], w is [M, C / groups, KH, KW], offset is
    [N, offset_groups * KH * KW * 2, OH, OW] holding (row, column) displacements per tap, bias is
    [M] and mask is [N, offset_groups * KH * KW, OH, OW].  Values between grid points are
    interpolated bilinearly; outside the image they are zero.
    """

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    groups: int = 1
    offset_groups: int = 1

    def infer(
        self,
        x: TensorType,
        w: TensorType,
        offset: TensorType,
        bias: TensorType | None = None,
        mask: TensorType | None = None,
    ) -> TensorType:
        """Return [N, M, OH, OW]."""
        check.floating("x", x)
        for name, operand in (("w", w), ("offset", offset), ("bias", bias), ("mask", mask)):
            if operand is not None:
                check.same_dtype(name, operand, "x", x)
        for name, operand in (("x", x), ("w", w), ("offset", offset)):
            check.rank_is(name, operand, 4)
        for name in ("strides", "dilations", "pads_begin", "pads_end"):
            check.entries(name, getattr(self, name), 2)
        channels = w.shape[1] * self.groups
        check.same_size("C", x.shape[1], "groups * the channels of w", channels)
        if self.offset_groups < 1:
            raise TypeMismatch(f"offset_groups is {self.offset_groups}, expected at least 1")
        rows, columns = (
            window_count(size, window_span(k, d), s, begin, end)
            for size, k, s, d, begin, end in zip(
                x.shape[2:],
                w.shape[2:],
                self.strides,
                self.dilations,
                self.pads_begin,
                self.pads_end,
                strict=True,
            )
        )
        taps = w.shape[2] * w.shape[3] * self.offset_groups
        check.shape_is("offset", offset, (x.shape[0], taps * 2, rows, columns))
        if bias is not None:
            check.shape_is("bias", bias, (w.shape[0],))
        if mask is not None:
            check.shape_is("mask", mask, (x.shape[0], taps, rows, columns))
        return x.with_shape((x.shape[0], w.shape[0], rows, columns))

    def reference(
        self,
        x: Array,
        w: Array,
        offset: Array,
        bias: Array | None = None,
        mask: Array | None = None,
    ) -> Array:
        """Sample the image once per tap and multiply with that tap's weights."""
        (n, c), (m, _, kh, kw), (oh, ow) = x.shape[:2], w.shape, offset.shape[2:]
        shape = (n, self.offset_groups, kh, kw, oh, ow)
        moved = widen(offset).reshape(n, self.offset_groups, kh, kw, 2, oh, ow)
        weight = np.ones(shape, np.float32) if mask is None else widen(mask).reshape(shape)
        image = widen(x).reshape(n, self.offset_groups, c // self.offset_groups, *x.shape[2:])
        kernel = widen(w).reshape(self.groups, m // self.groups, c // self.groups, kh, kw)
        y = np.zeros((n, self.groups, m // self.groups, oh * ow), image.dtype)
        for i, j in np.ndindex(kh, kw):
            row = np.arange(oh)[:, None] * self.strides[0] - self.pads_begin[0]
            column = np.arange(ow) * self.strides[1] - self.pads_begin[1]
            rows = row + i * self.dilations[0] + moved[:, :, i, j, 0]
            columns = column + j * self.dilations[1] + moved[:, :, i, j, 1]
            taken = _bilinear(image, rows, columns) * weight[:, :, None, i, j]
            y += kernel[:, :, :, i, j] @ taken.reshape(n, self.groups, c // self.groups, oh * ow)
        return narrow(add_channel_bias(y.reshape(n, m, oh, ow), bias), x.dtype)


def _bilinear(image: Array, rows: Array, columns: Array) -> Array:
    """Sample image [N, G, C, H, W] at rows, columns [N, G, OH, OW], zero outside."""
    height, width = image.shape[-2:]
    n, g = np.ogrid[: image.shape[0], : image.shape[1]]
    n, g = n[..., None, None], g[..., None, None]
    by_channel_last = np.moveaxis(image, 2, -1)
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    total = np.zeros((*rows.shape, image.shape[2]), image.dtype)
    for r in (top, top + 1):
        for c in (left, left + 1):
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            share = (1 - np.abs(rows - r)) * (1 - np.abs(columns - c)) * inside
            there = by_channel_last[n, g, np.clip(r, 0, height - 1), np.clip(c, 0, width - 1)]
            total += there * share[..., None]
    return np.moveaxis(total, -1, 2)
