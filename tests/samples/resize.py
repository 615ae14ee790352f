"""Samples of Resize."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np

from lamina import ops
from lamina.ops import CoordinateMode, InterpolationMode, NearestMode
from tests.samples.sample import OnnxForm, integers, normal, sample

_FLAGS = ("exclude_outside", "antialias")


def resized(x, *, sizes=None, scales=None, roi=None, axes=None, **attributes):
    """Return a sample of Resize beside the ONNX node that means the same."""
    used = tuple(range(x.ndim)) if axes is None else axes
    onnx = {
        k: v.value if isinstance(v, str) else int(v) if k in _FLAGS else v
        for k, v in attributes.items()
    }
    if "coordinate_mode" in onnx:
        onnx["coordinate_transformation_mode"] = onnx.pop("coordinate_mode")
    if axes is not None:
        onnx["axes"] = list(axes)
    full_sizes, full_scales = list(x.shape), [1.0] * x.ndim
    for i, a in enumerate(used):
        if sizes is None:
            full_scales[a] = float(np.float32(scales[i]))
            full_sizes[a] = int(np.floor(np.float32(scales[i]) * x.shape[a]))
        else:
            full_sizes[a] = sizes[i]
    limits = (None, np.array(sizes)) if sizes is not None else (np.float32(scales),)
    return sample(
        ops.Resize(
            sizes=tuple(full_sizes),
            scales=() if sizes is not None else tuple(full_scales),
            roi_axes=axes if roi is not None and axes is not None else (),
            **attributes,
        ),
        *((x,) if roi is None else (x, np.asarray(roi, np.float32))),
        onnx=OnnxForm("Resize", onnx, (0, None if roi is None else 1, *limits)),
    )


_IMAGE = normal(1, 2, 5, 6)
_CROP = {
    "coordinate_mode": CoordinateMode.TF_CROP_AND_RESIZE,
    "extrapolation_value": 10.0,
    "axes": (2, 3),
}
_PLAIN = [
    m
    for m in CoordinateMode
    if m not in (CoordinateMode.TF_CROP_AND_RESIZE, CoordinateMode.TF_HALF_PIXEL_FOR_NN)
]

SAMPLES = {
    ops.Resize: [
        *(
            resized(_IMAGE, scales=s, coordinate_mode=c, mode=m)
            for s in ((1, 1, 2.3, 1.7), (1, 1, 0.6, 0.45))
            for c, m in itertools.product(_PLAIN, InterpolationMode)
        ),
        *(
            resized(_IMAGE, sizes=s, axes=(2, 3), coordinate_mode=c, mode=InterpolationMode.LINEAR)
            for s in ((9, 1), (3, 13))
            for c in _PLAIN
        ),
        *(
            resized(_IMAGE, scales=s, axes=(3, 2), nearest_mode=n, coordinate_mode=c)
            for s in ((2.0, 0.5), (1.5, 0.7))
            for n in NearestMode
            for c in (CoordinateMode.HALF_PIXEL, CoordinateMode.ASYMMETRIC)
        ),
        *(
            resized(_IMAGE, sizes=(3, 2), axes=(2, 3), mode=m, antialias=True, exclude_outside=e)
            for m in (InterpolationMode.LINEAR, InterpolationMode.CUBIC)
            for e in (False, True)
        ),
        resized(
            _IMAGE, scales=(1.9, 0.6), axes=(2, 3), mode=InterpolationMode.CUBIC, antialias=True
        ),
        resized(
            _IMAGE,
            scales=(1, 1, 1.45, 0.7),
            mode=InterpolationMode.CUBIC,
            exclude_outside=True,
            cubic_coeff_a=-0.5,
        ),
        *(
            resized(_IMAGE, sizes=(4, 3), roi=(0.4, -0.2, 0.9, 1.3), mode=m, **_CROP)
            for m in InterpolationMode
        ),
        resized(
            _IMAGE, sizes=(1, 1), roi=(0.4, 0.6, 0.6, 0.8), mode=InterpolationMode.LINEAR, **_CROP
        ),
        resized(normal(2, 3), scales=(2.0, 3.0)),
        resized(normal(3, 4, 2, 3), scales=(1.5, 2.0, 1.0, 0.5), mode=InterpolationMode.LINEAR),
        resized(
            integers(1, 1, 4, 4, low=0, high=255, dtype=np.uint8),
            scales=(1, 1, 1.5, 1.5),
            mode=InterpolationMode.CUBIC,
        ),
        sample(
            ops.Resize(
                sizes=(4,),
                coordinate_mode=CoordinateMode.TF_HALF_PIXEL_FOR_NN,
                nearest_mode=NearestMode.FLOOR,
            ),
            np.array([True, False]),
            expected=[True, True, False, False],
        ),
        sample(
            ops.Resize(sizes=(1, 4), mode=InterpolationMode.LINEAR),
            normal(1, 2, dtype=ml_dtypes.bfloat16),
        ),
        sample(ops.Resize(sizes=(1, 0), mode=InterpolationMode.LINEAR), normal(1, 2)),
    ]
}
