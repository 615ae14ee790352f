"""Samples of lamina.ops.norm."""

from __future__ import annotations

import numpy as np

from lamina.ops import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, Lrn, RmsNorm
from tests.samples.sample import OnnxForm, normal, sample

_X = normal(2, 4, 5, 3)
_C = [normal(4, seed=i) for i in (1, 2, 3)]
_V = np.abs(normal(4, seed=4)) + 0.1
_EPS = {"epsilon": 1e-3}
# Channel c sees one neighbour before and two after it: 3, 4, 4, 3 and 2 squares of 2.
_EVEN_LRN = [[[2 / (1 + 0.1 * 4 * n) ** 0.75] for n in (3, 4, 4, 3, 2)]]
SAMPLES = {
    BatchNorm: [
        sample(BatchNorm(**_EPS), _X, *_C, _V, onnx=OnnxForm("BatchNormalization", _EPS)),
        sample(BatchNorm(**_EPS), normal(3, 4), *_C, _V, onnx=OnnxForm("BatchNormalization", _EPS)),
        sample(BatchNorm(**_EPS), _X.astype(np.float16), *_C, _V),
    ],
    InstanceNorm: [
        sample(InstanceNorm(**_EPS), _X, *_C[:2], onnx=OnnxForm("InstanceNormalization", _EPS)),
        sample(InstanceNorm(**_EPS), _X.astype(np.float16), *_C[:2]),
    ],
    GroupNorm: [
        sample(
            GroupNorm(groups=2, **_EPS),
            _X,
            *_C[:2],
            onnx=OnnxForm("GroupNormalization", {"num_groups": 2, **_EPS}),
        ),
        sample(
            GroupNorm(groups=4, **_EPS),
            _X,
            *_C[:2],
            onnx=OnnxForm("GroupNormalization", {"num_groups": 4, **_EPS}),
        ),
    ],
    LayerNorm: [
        sample(
            LayerNorm(axis=3, **_EPS),
            _X,
            normal(3),
            normal(3, seed=1),
            onnx=OnnxForm("LayerNormalization", {"axis": 3, **_EPS}),
        ),
        sample(
            LayerNorm(axis=2, **_EPS),
            _X,
            normal(5, 3),
            onnx=OnnxForm("LayerNormalization", {"axis": 2, **_EPS}),
        ),
        sample(LayerNorm(axis=1, **_EPS), _X),
        sample(
            LayerNorm(axis=1, **_EPS), normal(2, 8, dtype=np.float16), normal(8, dtype=np.float16)
        ),
    ],
    RmsNorm: [
        sample(
            RmsNorm(axis=3, **_EPS),
            _X,
            normal(3),
            onnx=OnnxForm("RMSNormalization", {"axis": 3, **_EPS}),
        ),
        sample(
            RmsNorm(axis=2, **_EPS),
            _X,
            normal(5, 3),
            onnx=OnnxForm("RMSNormalization", {"axis": 2, **_EPS}),
        ),
        sample(RmsNorm(axis=1, **_EPS), _X),
    ],
    Lrn: [
        sample(
            Lrn(size=3, alpha=0.2, beta=0.6, bias=1.5),
            normal(2, 6, 4, 3),
            onnx=OnnxForm("LRN", {"size": 3, "alpha": 0.2, "beta": 0.6, "bias": 1.5}, runtime=True),
        ),
        sample(Lrn(size=4, alpha=0.4), np.full((1, 5, 1), 2.0, np.float32), expected=_EVEN_LRN),
    ],
}
