"""Samples of lamina.ops.pool."""

from __future__ import annotations

import numpy as np

from lamina.ops import MaxPoolIndices, Pool, PoolKind
from tests.samples.sample import OnnxForm, integers, normal, sample

_ONNX = {PoolKind.MAX: "MaxPool", PoolKind.AVERAGE: "AveragePool", PoolKind.LP: "LpPool"}


def _pool(kind, x, kernel, stride=1, dilation=1, begin=0, end=0, ceil=False, outputs=1, **more):
    rank = len(kernel)
    spread = [(v,) * rank if isinstance(v, int) else v for v in (stride, dilation, begin, end)]
    strides, dilations, pads_begin, pads_end = spread
    window = {
        "kernel": kernel,
        "strides": strides,
        "dilations": dilations,
        "pads_begin": pads_begin,
        "pads_end": pads_end,
        "ceil_mode": ceil,
    }
    op = MaxPoolIndices(**window, **more) if outputs == 2 else Pool(kind=kind, **window, **more)
    attributes = {
        "kernel_shape": kernel,
        "strides": strides,
        "dilations": dilations,
        "pads": (*pads_begin, *pads_end),
        "ceil_mode": int(ceil),
    }
    attributes |= {k: int(v) for k, v in more.items()}
    return sample(op, x, onnx=OnnxForm(_ONNX[kind], attributes, outputs=outputs, runtime=True))


_IMAGE = normal(2, 3, 8, 7)
_GEOMETRIES = [
    {"kernel": (2, 2), "stride": 2},
    {"kernel": (3, 3), "stride": 2, "begin": 1, "end": 1},
    {"kernel": (3, 2), "stride": (2, 1), "begin": (0, 1), "end": (1, 0)},
    {"kernel": (2, 3), "dilation": 2, "begin": 1, "end": 1},
    {"kernel": (3, 3), "stride": 2, "begin": 1, "end": 1, "ceil": True},
    {"kernel": (2, 2), "stride": 3, "ceil": True},
]
SAMPLES = {
    Pool: [
        *(_pool(k, _IMAGE, **g) for k in PoolKind for g in _GEOMETRIES),
        *(_pool(PoolKind.AVERAGE, _IMAGE, **g, count_include_pad=True) for g in _GEOMETRIES[1:]),
        _pool(PoolKind.LP, _IMAGE, (2, 2), p=3),
        _pool(PoolKind.MAX, normal(2, 3, 9), (3,), 2),
        _pool(PoolKind.AVERAGE, normal(1, 2, 4, 5, 6), (2, 2, 3), 1, begin=1, end=1),
        sample(_pool(PoolKind.MAX, _IMAGE, (2, 2), 2).op, integers(1, 1, 4, 4, dtype=np.int8)),
        sample(_pool(PoolKind.AVERAGE, _IMAGE, (2, 2), 2).op, normal(1, 1, 4, 4, dtype=np.float16)),
        sample(
            _pool(PoolKind.MAX, _IMAGE, (1, 2)).op,
            np.float32([[[[1, np.nan, 2]]]]),
            expected=[[[[np.nan, np.nan]]]],
        ),
    ],
    MaxPoolIndices: [
        *(_pool(PoolKind.MAX, _IMAGE, **g, outputs=2) for g in _GEOMETRIES),
        _pool(PoolKind.MAX, _IMAGE, (3, 3), 2, begin=1, end=1, outputs=2, storage_order=1),
        _pool(PoolKind.MAX, normal(1, 2, 4, 5, 6), (2, 2, 3), outputs=2),
    ],
}
