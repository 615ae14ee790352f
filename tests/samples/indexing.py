"""Samples of the operators that read at places which another operand names."""

from __future__ import annotations

import numpy as np

from lamina import ops
from lamina.ir.dims import sym
from tests.samples.sample import OnnxForm, integers, normal, sample

_count = sym("count")
_X = normal(4, 5, 3)
_BITS = integers(3, 4, low=0, high=1).astype(np.bool_)

SAMPLES = {
    ops.Gather: [
        sample(
            ops.Gather(axis=1),
            _X,
            integers(2, 4, low=-5, high=4),
            onnx=OnnxForm("Gather", {"axis": 1}),
        ),
        sample(ops.Gather(axis=0), normal(6), np.int64(-2), expected=normal(6)[4]),
        sample(ops.Gather(axis=2), _X, integers(0, dtype=np.int32, low=0, high=0)),
    ],
    ops.GatherElements: [
        sample(
            ops.GatherElements(axis=a),
            _X,
            integers(4, 5, 3, low=-3, high=2),
            onnx=OnnxForm("GatherElements", {"axis": a}),
        )
        for a in range(3)
    ]
    + [
        sample(
            ops.GatherElements(axis=1),
            np.arange(12, dtype=np.float32).reshape(3, 4),
            np.array([[3, 0, -1, 1, 1]], np.int32),
            expected=np.float32([[3, 0, 3, 1, 1]]),
        )
    ],
    ops.GatherNd: [
        sample(
            ops.GatherNd(),
            _X,
            integers(2, 2, low=-4, high=3),
            onnx=OnnxForm("GatherND"),
            symbolic=False,
        ),
        sample(
            ops.GatherNd(),
            _X,
            integers(6, 3, low=-3, high=2),
            onnx=OnnxForm("GatherND"),
            symbolic=False,
        ),
        sample(
            ops.GatherNd(batch_dims=1),
            _X,
            integers(4, 2, 1, low=0, high=4),
            onnx=OnnxForm("GatherND", {"batch_dims": 1}),
        ),
        sample(
            ops.GatherNd(batch_dims=2),
            normal(2, 3, 4, 2),
            integers(2, 3, 5, 1, low=0, high=3),
            onnx=OnnxForm("GatherND", {"batch_dims": 2}),
        ),
    ],
    ops.OneHot: [
        sample(
            ops.OneHot(axis=a, depth=4),
            np.array([[0, 3, -1], [4, -5, 2]], np.int64),
            np.float32([-1, 2]),
            label=f"axis {a}",
            onnx=OnnxForm("OneHot", {"axis": a}, (0, np.array(4), 1)) if a < 1 else None,
        )
        for a in range(3)
    ]
    + [
        sample(
            ops.OneHot(axis=1, depth=3),
            np.float32([1, 7]),
            np.array([0, 1], np.int32),
            expected=[[0, 1, 0], [0, 0, 0]],
        )
    ],
    ops.NonZero: [
        sample(ops.NonZero(count=_count), _BITS, onnx=OnnxForm("NonZero")),
        sample(ops.NonZero(count=_count), np.float32([[0, 2], [-1, 0]]), expected=[[0, 1], [1, 0]]),
        sample(ops.NonZero(count=_count), np.float32(3), expected=np.zeros((0, 1))),
    ],
    ops.ReverseSequence: [
        sample(
            ops.ReverseSequence(batch_axis=b, time_axis=1 - b),
            normal(4, 4, 2),
            np.array([4, 1, 3, 0]),
            onnx=OnnxForm("ReverseSequence", {"batch_axis": b, "time_axis": 1 - b}),
        )
        for b in range(2)
    ]
    + [
        sample(
            ops.ReverseSequence(batch_axis=2, time_axis=0),
            np.arange(6, dtype=np.float32).reshape(3, 1, 2),
            np.array([2, 3], np.int32),
            expected=np.float32([2, 5, 0, 3, 4, 1]).reshape(3, 1, 2),
        )
    ],
}
