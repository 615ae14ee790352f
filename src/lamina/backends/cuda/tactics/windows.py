"""Convolutions as the kernels see them: three spatial axes, strides of memory, constant filters.

A transposed convolution is several ordinary ones: the results whose place leaves one remainder
when divided by the strides are a convolution with the taps that reach them, flipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product as cartesian
from typing import Final

import numpy as np

from lamina.codegen.layout import Layout
from lamina.ir.blocks import blocked
from lamina.ir.dims import Dim, always_le, ceildiv, is_static
from lamina.ir.graph import Array
from lamina.ir.types import DType, TensorType
from lamina.ops import Convolution, Deconvolution, QuantizedConvolution
from lamina.tactics.candidate import Role

AXES: Final = 3
_OUTSIDE: Final = 1 << 20
"""Padding in front that puts every window outside of the image."""

Op = Convolution | Deconvolution | QuantizedConvolution
Three = tuple[int, int, int]
Sizes = tuple[Dim, Dim, Dim]


@dataclass(frozen=True, kw_only=True)
class Image:
    """Where the numbers of an operand lie: first element, strides of axes, all in elements."""

    role: Role
    dtype: DType
    first: Dim = 0
    batch: Dim
    channel: Dim
    spatial: Sizes

    def is_run(self, images: Dim, sizes: Sizes) -> bool:
        """Whether pixels follow each other at equal distances, through all images."""
        step = self.spatial[-1]
        for size, stride in zip(
            (images, *sizes)[::-1], (self.batch, *self.spatial)[::-1], strict=True
        ):
            if size != 1 and stride != step:
                return False
            step = step * size
        return True


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Which pixels meet which taps; ``channels`` and ``filters`` are those of one group."""

    images: Dim
    groups: int
    channels: int
    filters: int
    inner: Sizes
    outer: Sizes
    taps: Three
    strides: Three
    dilations: Three
    pads: Three
    first: Three = (0, 0, 0)
    """Place of the first result, and"""
    every: Three = (1, 1, 1)
    """distance of the results in the whole of which they are a part."""

    @property
    def pixels(self) -> Dim:
        """Number of results of each filter."""
        d, h, w = self.outer
        return self.images * d * h * w

    @property
    def tap_count(self) -> int:
        """Number of taps of a filter."""
        return self.taps[0] * self.taps[1] * self.taps[2]

    @property
    def is_padded(self) -> bool:
        """Whether a window may reach outside of the image."""
        rows = zip(
            self.inner, self.outer, self.taps, self.strides, self.dilations, self.pads, strict=True
        )
        return not all(
            pad <= 0 and always_le((out - 1) * stride + (taps - 1) * dilation - pad, size - 1)
            for size, out, taps, stride, dilation, pad in rows
        )

    @property
    def is_pointwise(self) -> bool:
        """Whether each result needs the pixel at its own place only."""
        unit = (1, 1, 1)
        return (
            self.taps == unit
            and self.strides == unit
            and self.pads == (0, 0, 0)
            and self.inner == self.outer
            and self.every == unit
        )

    @property
    def reads_one_pixel(self) -> bool:
        """Whether each result needs one pixel, at its own place times the strides."""
        return self.taps == (1, 1, 1) and self.pads == (0, 0, 0) and self.every == (1, 1, 1)

    def part(self, image: Image) -> Image:
        """Return where these results lie in an operand that holds all."""
        first = image.first
        for place, stride in zip(self.first, image.spatial, strict=True):
            first = first + stride * place
        spatial = tuple(s * e for s, e in zip(image.spatial, self.every, strict=True))
        return replace(image, first=first, spatial=spatial)  # type: ignore[arg-type]


def image(type: TensorType, layout: Layout, role: Role) -> Image:
    """Return where an operand [N, C, *spatial] lies, with axes of size 1 in front."""
    batch, channel, *spatial = layout.strides
    missing = (0,) * (AXES - len(spatial))
    return Image(
        role=role,
        dtype=type.dtype,
        batch=batch,
        channel=channel,
        spatial=(*missing, *spatial),  # type: ignore[arg-type]
    )


def windows(op: Op, x: TensorType, w: TensorType, y: TensorType) -> Windows:
    """Return the windows of a convolution, or of a transposed one as if it were not."""
    rank = x.rank - 2
    transposed = isinstance(op, Deconvolution)
    filters, channels = w.shape[:2]
    each = int(filters) // op.groups  # type: ignore[arg-type]
    if transposed:
        each, channels = int(channels), each  # type: ignore[arg-type]
    return Windows(
        images=x.shape[0],
        groups=op.groups,
        channels=int(channels),  # type: ignore[arg-type]
        filters=each,
        inner=_lifted(x.shape[2:], rank, 1),  # type: ignore[arg-type]
        outer=_lifted(y.shape[2:], rank, 1),  # type: ignore[arg-type]
        taps=_lifted(w.shape[2:], rank, 1),  # type: ignore[arg-type]
        strides=_lifted(op.strides, rank, 1),  # type: ignore[arg-type]
        dilations=_lifted(op.dilations, rank, 1),  # type: ignore[arg-type]
        pads=_lifted(op.pads_begin, rank, 0),  # type: ignore[arg-type]
    )


def parts(op: Op, whole: Windows) -> Iterator[tuple[Windows, tuple[slice, slice, slice]]]:
    """Yield ordinary convolutions that make up one, each with the taps of the filter that it uses.

    For the results at ``first + every * q`` of an axis, tap t reaches the input
    ``q + (first + pad - dilation * t) / stride`` where that is whole.
    """
    if not isinstance(op, Deconvolution):
        yield whole, (slice(None), slice(None), slice(None))
        return
    axes = [
        list(_axis_parts(*row))
        for row in zip(
            whole.outer, whole.taps, whole.strides, whole.dilations, whole.pads, strict=True
        )
    ]
    for chosen in cartesian(*axes):
        taps, dilations, pads, outer, first, slices = zip(*chosen, strict=True)
        yield (
            replace(
                whole,
                outer=outer,
                taps=taps,
                strides=(1, 1, 1),
                dilations=dilations,
                pads=pads,
                first=first,
                every=whole.strides,
            ),
            slices,
        )


def _axis_parts(
    out: Dim, taps: int, stride: int, dilation: int, pad: int
) -> Iterator[tuple[int, int, int, Dim, int, slice]]:
    """Yield (taps, dilation, pad, results, first result, taps used in flipped order)."""
    for first in range(stride):
        if is_static(out) and first >= int(out):  # type: ignore[arg-type]
            continue
        used = [t for t in range(taps) if (first + pad - dilation * t) % stride == 0]
        count = ceildiv(out - first, stride)
        if not used:
            yield 1, 1, _OUTSIDE, count, first, slice(0, 0)
            continue
        step = used[1] - used[0] if len(used) > 1 else 1
        last = used[-1]
        nearest = (first + pad - dilation * last) // stride
        stop = used[0] - step
        picked = slice(last, None if stop < 0 else stop, -step)
        apart = dilation * step // stride if len(used) > 1 else 1
        yield len(used), apart, -nearest, count, first, picked


def filters_of(op: Op, w: Array, groups: int) -> Array:
    """Return filters as [groups * filters, channels of a group, taps on three axes]."""
    if isinstance(op, Deconvolution):
        channels, each, *taps = w.shape
        w = w.reshape(groups, channels // groups, each, *taps).swapaxes(1, 2)
        w = w.reshape(groups * each, channels // groups, *taps)
    missing = (1,) * (AXES - (w.ndim - 2))
    return w.reshape(*w.shape[:2], *missing, *w.shape[2:])


def packed_filters(
    w: Array, taps: tuple[slice, slice, slice], count: int, channels: int, stride: int
) -> Array:
    """Return chosen taps as [filters, stride]: taps outside, ``channels`` inside, zeros after.

    Where no tap is chosen there are ``count`` taps of zeros.
    """
    chosen = w[:, :, taps[0], taps[1], taps[2]]
    filters = w.shape[0]
    if not chosen.size:
        return np.zeros((filters, stride), w.dtype)
    taps_inside = chosen.reshape(*chosen.shape[:2], -1)
    padded = blocked(taps_inside, ((), (), ()), (0, 2, 1), (filters, channels, count))
    return blocked(padded.reshape(filters, -1), ((), ()), (0, 1), (filters, stride))


def _lifted(sizes: Sequence[Dim], rank: int, fill: int) -> tuple[Dim, ...]:
    return (*(fill,) * (AXES - rank), *sizes)
