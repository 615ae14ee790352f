"""Samples of the operators that write updates into a copy."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from lamina import ops
from lamina.ops import ScatterReduction
from tests.samples.sample import OnnxForm, integers, normal, sample

_X = normal(4, 5)
_PLACES = np.array([[1, 0, 2, 3, 1], [3, 2, 0, -3, 2]])
_ROWS = np.array([[2], [0], [-1]])


def _elements(reduction, dtype=np.float32):
    attributes = {"axis": 0, "reduction": reduction.value}
    return sample(
        ops.ScatterElements(axis=0, reduction=reduction),
        _X.astype(dtype),
        _PLACES,
        normal(2, 5, seed=1, dtype=dtype),
        onnx=OnnxForm("ScatterElements", attributes) if dtype is np.float32 else None,
    )


def _nd(reduction, indices, *updates):
    return sample(
        ops.ScatterNd(reduction=reduction),
        _X,
        indices,
        normal(*updates, seed=1),
        symbolic=indices.shape[-1] == 1,
        onnx=OnnxForm("ScatterND", {"reduction": reduction.value}),
    )


SAMPLES = {
    ops.ScatterElements: [
        *(_elements(r) for r in ScatterReduction),
        _elements(ScatterReduction.ADD, ml_dtypes.bfloat16),
        _elements(ScatterReduction.MAX, np.float16),
        sample(
            ops.ScatterElements(axis=1, reduction=ScatterReduction.ADD),
            np.array([[1, 2, 3]], np.int32),
            np.array([[1, 1]], np.int32),
            np.array([[10, 100]], np.int32),
            expected=[[1, 112, 3]],
        ),
    ],
    ops.ScatterNd: [
        *(_nd(r, _ROWS, 3, 5) for r in ScatterReduction),
        _nd(ScatterReduction.NONE, np.array([[1, 2], [3, -1]]), 2),
        _nd(ScatterReduction.MUL, integers(3, 2, 1, low=-4, high=3, seed=2), 3, 2, 5),
        sample(
            ops.ScatterNd(reduction=ScatterReduction.ADD),
            np.float32([1, 2, 3]),
            np.array([[1], [1]]),
            np.float32([10, 100]),
            expected=np.float32([1, 112, 3]),
        ),
    ],
}
