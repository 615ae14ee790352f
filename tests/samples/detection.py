"""Samples of the operators of object detection."""

from __future__ import annotations

import numpy as np

from lamina import ops
from lamina.ir.dims import sym
from tests.samples.sample import OnnxForm, sample

_count = sym("count")


def _nms(center: bool, most: int, iou: float, score: float, seed: int):
    rng = np.random.default_rng(seed)
    boxes = rng.random((2, 12, 4)).astype(np.float32)
    scores = rng.random((2, 3, 12)).astype(np.float32).round(1)
    return sample(
        ops.Nms(count=_count, center_point_box=center),
        boxes,
        scores,
        np.array([most]),
        np.array([iou], np.float32),
        np.array([score], np.float32),
        onnx=OnnxForm("NonMaxSuppression", {"center_point_box": int(center)}),
    )


_BOXES = np.float32([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [1, 1.1, 0, 0.1], [0, 10, 1, 11]]])

SAMPLES = {
    ops.Nms: [
        _nms(False, 5, 0.3, 0.2, 0),
        _nms(True, 12, 0.2, 0.5, 1),
        _nms(False, 0, 0.5, 0.0, 2),
        sample(
            ops.Nms(count=_count),
            _BOXES,
            np.float32([[[0.9, 0.75, 0.95, 0.5]]]),
            np.int64(3),
            np.float32(0.5),
            np.float32(-np.inf),
            expected=[[0, 0, 2], [0, 0, 3]],
        ),
    ]
}
