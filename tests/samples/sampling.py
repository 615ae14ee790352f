"""Samples of GridSample and RoiAlign."""

from __future__ import annotations

import itertools

import numpy as np

from lamina import ops
from lamina.ops import GridPadding, InterpolationMode, RoiCoordinateMode, RoiMode
from tests.samples.sample import OnnxForm, normal, sample


def _grid(mode, padding, align, x, grid):
    return sample(
        ops.GridSample(mode=mode, padding_mode=padding, align_corners=align),
        x,
        grid,
        onnx=OnnxForm(
            "GridSample",
            {"mode": mode.value, "padding_mode": padding.value, "align_corners": int(align)},
        ),
    )


def _roi(mode, coordinates, ratio, dtype=np.float32):
    rois = np.array([[0.5, 1, 7.3, 6], [-3, -2, 4, 12], [5, 5, 5, 5.2], [3, 1, 30, 9]], dtype)
    return sample(
        ops.RoiAlign(
            output_height=2,
            output_width=3,
            sampling_ratio=ratio,
            spatial_scale=0.8,
            mode=mode,
            coordinate_mode=coordinates,
        ),
        np.abs(normal(2, 3, 9, 8, dtype=dtype))
        if mode is RoiMode.MAX
        else normal(2, 3, 9, 8, dtype=dtype),
        rois,
        np.array([0, 1, 1, 0]),
        onnx=None
        if dtype is np.float16
        else OnnxForm(
            "RoiAlign",
            {
                "output_height": 2,
                "output_width": 3,
                "sampling_ratio": ratio,
                "spatial_scale": 0.8,
                "mode": mode.value,
                "coordinate_transformation_mode": coordinates.value,
            },
            opset=16,
        ),
    )


_COMBINATIONS = list(itertools.product(InterpolationMode, GridPadding, (False, True)))

SAMPLES = {
    ops.GridSample: [
        *(_grid(*c, normal(2, 2, 4, 3), normal(2, 2, 5, 2, seed=1)) for c in _COMBINATIONS),
        *(_grid(*c, normal(1, 1, 2, 4, 3), normal(1, 2, 1, 3, 3, seed=2)) for c in _COMBINATIONS),
        sample(
            ops.GridSample(align_corners=True),
            normal(1, 2, 3, 3, dtype=np.float16),
            normal(1, 2, 2, 2, dtype=np.float32),
        ),
        sample(
            ops.GridSample(
                mode=InterpolationMode.NEAREST, padding_mode=GridPadding.BORDER, align_corners=True
            ),
            np.float32([[[1, 2, 3]]]),
            np.float32([[[-9], [0], [1]]]),
            expected=np.float32([[[1, 2, 3]]]),
        ),
    ],
    ops.RoiAlign: [
        *(_roi(m, c, r) for m in RoiMode for c in RoiCoordinateMode for r in (0, 2)),
        _roi(RoiMode.AVG, RoiCoordinateMode.HALF_PIXEL, 2, np.float16),
    ],
}
