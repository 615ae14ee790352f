"""Samples of lamina.ops.attention."""

from __future__ import annotations

import numpy as np

from lamina.ops import Attention, Softmax
from tests.samples.sample import OnnxForm, integers, normal, sample

_QKV = (normal(2, 4, 5, 8), normal(2, 2, 6, 8, seed=1), normal(2, 2, 6, 3, seed=2))
_MASK = integers(2, 1, 5, 6, low=0, high=2) > 0
_BIAS = normal(4, 5, 6, seed=3)


def _attention(*mask, **attributes):
    onnx = {
        k if k != "causal" else "is_causal": v if k != "causal" else int(v)
        for k, v in attributes.items()
    }
    return sample(Attention(**attributes), *_QKV, *mask, onnx=OnnxForm("Attention", onnx, opset=24))


SAMPLES = {
    Softmax: [
        sample(Softmax(axis=2), normal(2, 3, 4), onnx=OnnxForm("Softmax", {"axis": 2})),
        sample(Softmax(axis=1), normal(2, 3, 4) + 1000, onnx=OnnxForm("Softmax", {"axis": 1})),
        sample(
            Softmax(axis=0, log=True), normal(2, 3, 4), onnx=OnnxForm("LogSoftmax", {"axis": 0})
        ),
        sample(Softmax(axis=1), normal(2, 3, dtype=np.float16)),
    ],
    Attention: [
        _attention(scale=0.35),
        _attention(scale=0.35, causal=True),
        _attention(scale=0.5, softcap=2.0),
        _attention(_MASK, scale=0.35),
        _attention(_BIAS, scale=0.35, causal=True),
        sample(Attention(scale=0.3, causal=True, causal_offset=1), *_QKV),
        sample(
            Attention(scale=1.0),
            normal(1, 1, 1, 4),
            normal(1, 1, 3, 4),
            normal(1, 1, 3, 2),
            np.zeros((1, 3), bool),
            expected=[[[[0, 0]]]],
        ),
        sample(Attention(scale=0.35), *(x.astype(np.float16) for x in _QKV)),
    ],
}
