"""Samples of the operators between shapes and data."""

from __future__ import annotations

import numpy as np

from lamina import ops
from tests.samples.sample import OnnxForm, normal, sample

SAMPLES = {
    ops.Shape: [
        sample(ops.Shape(), normal(2, 3, 4), expected=[2, 3, 4]),
        sample(ops.Shape(start=-2), normal(2, 3, 4), onnx=OnnxForm("Shape", {"start": -2})),
        sample(ops.Shape(start=1, end=-1), normal(2, 3, 4), expected=[3]),
        sample(ops.Shape(), normal(), expected=np.zeros(0)),
    ],
    ops.BindDims: [
        sample(ops.BindDims(names=("d0", "d1")), np.array([4, 5]), expected=[4, 5]),
        sample(ops.BindDims(names=("d0",)), np.int32(3), expected=3),
    ],
}
