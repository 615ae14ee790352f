"""Resize: interpolation along axes, with every option of ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import TensorType
from lamina.ops.check import arithmetic, entries, floating, rank_is, same_size
from lamina.ops.interpolation import interpolation_matrix, nearest_elements, source_positions
from lamina.ops.kinds import CoordinateMode, InterpolationMode, NearestMode


@operator
class Resize(Op):
    """Change the size of axes by interpolation.

    ``sizes`` has one entry per axis.  ``scales`` (output over input, one per axis) is given when
    the model gives scales, since rounding makes them differ from the quotient of the sizes; it is
    empty otherwise.  ``roi`` holds the starts and then the ends of the region that
    ``tf_crop_and_resize`` reads, relative to the input, for ``roi_axes`` (all axes when empty).
    """

    sizes: tuple[Dim, ...]
    scales: tuple[float, ...] = ()
    mode: InterpolationMode = InterpolationMode.NEAREST
    coordinate_mode: CoordinateMode = CoordinateMode.HALF_PIXEL
    nearest_mode: NearestMode = NearestMode.ROUND_PREFER_FLOOR
    cubic_coeff_a: float = -0.75
    exclude_outside: bool = False
    extrapolation_value: float = 0.0
    antialias: bool = False
    roi_axes: tuple[int, ...] = ()

    def infer(self, x: TensorType, roi: TensorType | None = None) -> TensorType:
        if self.mode is not InterpolationMode.NEAREST:
            arithmetic("x", x)
        entries("sizes", self.sizes, x.rank)
        if self.scales:
            entries("scales", self.scales, x.rank)
        if any(not s > 0 for s in self.scales):
            raise TypeMismatch(f"scales must be positive, got {self.scales}")
        if self.coordinate_mode is CoordinateMode.TF_CROP_AND_RESIZE and roi is None:
            raise TypeMismatch("tf_crop_and_resize needs a region of interest, got none")
        if roi is not None:
            floating("roi", roi)
            rank_is("roi", roi, 1)
            same_size("roi", roi.shape[0], "2 per axis", 2 * len(self.roi_axes or self.sizes))
        return x.with_shape(self.sizes)

    def reference(self, x: Array, roi: Array | None = None) -> Array:
        if 0 in self.sizes:
            return np.zeros(tuple(int(d) for d in self.sizes), x.dtype)  # type: ignore[arg-type]
        begin, end = self._region(x.ndim, roi)
        y = x if self.mode is InterpolationMode.NEAREST else x.astype(np.float64)
        outside = np.zeros((1,) * x.ndim, np.bool_)
        for axis, size in enumerate(x.shape):
            new_size = int(self.sizes[axis])  # type: ignore[arg-type]
            scale = self.scales[axis] if self.scales else None
            whole = begin[axis] == 0 and end[axis] == 1
            if new_size == size and scale in (None, 1) and whole:
                continue
            region = (begin[axis], end[axis])
            position = source_positions(self.coordinate_mode, size, new_size, scale, region)
            y = self._resize_axis(y, axis, position, scale or new_size / size)
            if self.coordinate_mode is CoordinateMode.TF_CROP_AND_RESIZE:
                along = (new_size,) + (1,) * (x.ndim - 1 - axis)
                outside = outside | ((position < 0) | (position > size - 1)).reshape(along)
        if outside.any():
            y = np.where(outside, np.asarray(self.extrapolation_value).astype(y.dtype), y)
        return _rounded(y, x.dtype)

    def _resize_axis(self, x: Array, axis: int, position: Array, scale: float) -> Array:
        size = x.shape[axis]
        if self.mode is InterpolationMode.NEAREST:
            return np.take(x, nearest_elements(position, size, self.nearest_mode), axis=axis)
        matrix = interpolation_matrix(
            position,
            size,
            self.mode,
            stretch=max(1.0, 1 / scale) if self.antialias else 1.0,
            cubic_coeff_a=self.cubic_coeff_a,
            exclude_outside=self.exclude_outside,
        )
        return np.moveaxis(np.tensordot(matrix, x, axes=(1, axis)), 0, axis)

    def _region(self, rank: int, roi: Array | None) -> tuple[list[float], list[float]]:
        """Return where the region begins and ends on each axis, relative to the input."""
        begin, end = [0.0] * rank, [1.0] * rank
        if roi is not None and self.coordinate_mode is CoordinateMode.TF_CROP_AND_RESIZE:
            axes = self.roi_axes or tuple(range(rank))
            for i, axis in enumerate(axes):
                begin[axis], end[axis] = float(roi[i]), float(roi[len(axes) + i])
        return begin, end


def _rounded(y: Array, dtype: np.dtype[Any]) -> Array:
    """Convert to the element type; integers are rounded to nearest even and saturate."""
    if y.dtype != dtype and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.clip(np.rint(y), limits.min, limits.max).astype(dtype)
    return np.ascontiguousarray(y).astype(dtype, copy=False).reshape(y.shape)
