"""Operators that read images at positions that data decides."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops.accumulate import narrow, widen
from lamina.ops.check import floating, has_dtype, rank_is, same_dtype, same_size, shape_is
from lamina.ops.interpolation import cubic_kernel
from lamina.ops.kinds import GridPadding, InterpolationMode, RoiCoordinateMode, RoiMode

Scalar = np.floating[Any]


@operator
class GridSample(Op):
    """Interpolate ``x`` [N, C, *spatial] at the positions ``grid`` [N, *out, spatial axes].

    A position lists the last spatial axis first; -1 and 1 are the two ends of an axis: the centers
    of its outermost elements with ``align_corners``, their outer edges without.
    """

    mode: InterpolationMode = InterpolationMode.LINEAR
    padding_mode: GridPadding = GridPadding.ZEROS
    align_corners: bool = False

    def infer(self, x: TensorType, grid: TensorType) -> TensorType:
        floating("grid", grid)
        if x.rank not in (3, 4, 5):
            raise TypeMismatch(f"x must have 3 to 5 dimensions, got {x.rank} ({x})")
        rank_is("grid", grid, x.rank)
        same_size("the batch of x", x.shape[0], "that of grid", grid.shape[0])
        same_size("the last axis of grid", grid.shape[-1], "the spatial rank of x", x.rank - 2)
        return x.with_shape((*x.shape[:2], *grid.shape[1:-1]))

    def reference(self, x: Array, grid: Array) -> Array:
        sizes = x.shape[2:]
        wide = widen(x)
        axes = [
            self._taps(widen(grid)[..., len(sizes) - 1 - axis], size)
            for axis, size in enumerate(sizes)
        ]
        batch = np.arange(x.shape[0]).reshape((-1,) + (1,) * len(sizes))
        channels_last = np.moveaxis(wide, 1, -1)
        y = np.zeros((*grid.shape[:-1], x.shape[1]), wide.dtype)
        for taps in itertools.product(*axes):
            weight = math.prod(w for _, w in taps)
            picked = channels_last[(batch, *(element for element, _ in taps))]
            y += picked * np.asarray(weight)[..., None].astype(wide.dtype)
        return narrow(np.moveaxis(y, -1, 1), x.dtype)

    def _taps(self, place: Array, size: int) -> list[tuple[Array, Array]]:
        """Return the elements of one axis that a position reads, each with its weight."""
        if self.align_corners:
            position, low, high = (place + 1) / 2 * (size - 1), 0.0, size - 1.0
        else:
            position, low, high = ((place + 1) * size - 1) / 2, -0.5, size - 0.5
        nearest = self.mode is InterpolationMode.NEAREST
        position = np.rint(position) if nearest else position
        if self.padding_mode is GridPadding.BORDER:
            outside = (position < low) | (position > high)
            position = np.where(outside, position.clip(0, size - 1), position)
        elif self.padding_mode is GridPadding.REFLECTION:
            position = reflected(position, low, high)
        first = np.trunc(position) if nearest else np.floor(position)
        taps = []
        for step in {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}[self.mode]:
            distance = np.abs(first + step - position)
            if nearest:
                weight = np.ones_like(position)
            elif self.mode is InterpolationMode.LINEAR:
                weight = 1 - distance
            else:
                weight = cubic_kernel(distance, -0.75)
            element = first + step
            if self.padding_mode is GridPadding.ZEROS:
                weight = np.where((element >= 0) & (element < size), weight, 0)
            elif self.padding_mode is GridPadding.REFLECTION:
                element = np.trunc(reflected(element, low, high))
            taps.append((element.clip(0, size - 1).astype(np.int64), weight))
        return taps


@operator
class RoiAlign(Op):
    """Pool regions of ``x`` [N, C, H, W] to a fixed size by bilinear samples.

    ``rois`` [R, 4] are (x1, y1, x2, y2) in units of ``1 / spatial_scale`` elements,
    ``batch_indices`` [R] name the image of each.  A ``sampling_ratio`` of zero takes as many
    samples per bin and axis as the bin is long, rounded up.
    """

    output_height: int = 1
    output_width: int = 1
    sampling_ratio: int = 0
    spatial_scale: float = 1.0
    mode: RoiMode = RoiMode.AVG
    coordinate_mode: RoiCoordinateMode = RoiCoordinateMode.HALF_PIXEL

    def infer(self, x: TensorType, rois: TensorType, batch_indices: TensorType) -> TensorType:
        floating("x", x)
        rank_is("x", x, 4)
        rank_is("rois", rois, 2)
        same_dtype("x", x, "rois", rois)
        same_size("the last axis of rois", rois.shape[1], "the expected size", 4)
        has_dtype("batch_indices", batch_indices, DType.I32, DType.I64)
        shape_is("batch_indices", batch_indices, rois.shape[:1])
        return x.with_shape((rois.shape[0], x.shape[1], self.output_height, self.output_width))

    def reference(self, x: Array, rois: Array, batch_indices: Array) -> Array:
        wide = widen(x)
        shape = (len(rois), x.shape[1], self.output_height, self.output_width)
        y = np.zeros(shape, wide.dtype)
        half_pixel = self.coordinate_mode is RoiCoordinateMode.HALF_PIXEL
        # Regions stay in their own precision: how many samples a bin has depends on the rounding.
        corners = widen(rois) * wide.dtype.type(self.spatial_scale) - (0.5 if half_pixel else 0)
        for r, (x1, y1, x2, y2) in enumerate(corners):
            # Without the half pixel shift, malformed regions are made one element long.
            least = wide.dtype.type(-math.inf if half_pixel else 1)
            rows = self._axis(y1, max(y2 - y1, least), self.output_height, x.shape[2])
            columns = self._axis(x1, max(x2 - x1, least), self.output_width, x.shape[3])
            y[r] = self._pool(wide[int(batch_indices[r])], rows, columns)
        return narrow(y, x.dtype)

    def _axis(self, start: Scalar, length: Scalar, bins: int, size: int) -> _Samples:
        """Return the samples of one axis, [bins, samples per bin]."""
        step = length / bins
        count = self.sampling_ratio if self.sampling_ratio > 0 else max(math.ceil(step), 0)
        within = (np.arange(count, dtype=step.dtype) + 0.5) * step / max(count, 1)
        place = start + np.arange(bins, dtype=step.dtype)[:, None] * step + within
        inside = (place >= -1) & (place <= size)
        low = place.clip(0, size - 1).astype(np.int64)
        high = np.minimum(low + 1, size - 1)
        high_weight = place.clip(0, size - 1) - low
        return _Samples((low, high), ((1 - high_weight) * inside, high_weight * inside))

    def _pool(self, image: Array, rows: _Samples, columns: _Samples) -> Array:
        """Pool [C, H, W] to [C, output height, output width]."""
        corners = []
        for (row, a), (column, b) in itertools.product(rows.taps(), columns.taps()):
            # [C, bins, samples, bins, samples]
            values = image[:, row[:, :, None, None], column[None, None]]
            corners.append(values * (a[:, :, None, None] * b[None, None]).astype(image.dtype))
        if corners[0].size == 0:
            return np.zeros((image.shape[0], len(rows.element[0]), len(columns.element[0])))
        if self.mode is RoiMode.MAX:
            # ONNX takes the largest weighted corner, not the largest interpolated value.
            return np.asarray(np.maximum.reduce(corners).max(axis=(2, 4)))
        return np.asarray(sum(corners).mean(axis=(2, 4)))


@dataclass(frozen=True)
class _Samples:
    """The lower and upper neighbour of each sample on one axis, and their weights."""

    element: tuple[Array, Array]
    weight: tuple[Array, Array]

    def taps(self) -> list[tuple[Array, Array]]:
        """Return (elements, weights) of the lower and of the upper neighbours."""
        return list(zip(self.element, self.weight, strict=True))


def reflected(position: Array, low: float, high: float) -> Array:
    """Fold positions back at ``low`` and ``high`` until they lie between them."""
    span = high - low
    if span <= 0:
        return np.full_like(position, low)
    turn = np.mod(position - low, 2 * span)
    folded = low + np.where(turn > span, 2 * span - turn, turn)
    return np.where((position < low) | (position > high), folded, position)
