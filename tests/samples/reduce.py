"""Samples of lamina.ops.reduce."""

from __future__ import annotations

import numpy as np

from lamina.ops import (
    ArgReduce,
    ArgReduceKind,
    Cumulative,
    CumulativeKind,
    Reduce,
    ReduceKind,
    TopK,
)
from tests.samples.sample import OnnxForm, integers, normal, sample

_MAX = ArgReduceKind.ARGMAX
_SUM = CumulativeKind.SUM
_PROD = CumulativeKind.PROD


def _reduce(kind, axes, keepdims):
    name = "Reduce" + "".join(p.capitalize() for p in kind.value.split("_"))
    x = np.abs(normal(2, 3, 4)) if kind is ReduceKind.LOG_SUM else normal(2, 3, 4)
    onnx = OnnxForm(name, {"keepdims": int(keepdims)}, (0, np.int64(axes)))
    return sample(Reduce(kind=kind, axes=axes, keepdims=keepdims), x, onnx=onnx if axes else None)


def _cumulative(exclusive, reverse):
    op = Cumulative(kind=_SUM, axis=1, exclusive=exclusive, reverse=reverse)
    attributes = {"exclusive": int(exclusive), "reverse": int(reverse)}
    return sample(op, normal(2, 5), onnx=OnnxForm("CumSum", attributes, (0, np.int64(1))))


_TIES = np.float32([[3, 1, 3, 2], [0, 0, 5, 5]])
SAMPLES = {
    Reduce: [
        *(_reduce(k, (1,), True) for k in ReduceKind),
        *(_reduce(k, (0, 2), False) for k in ReduceKind),
        *(_reduce(k, (), True) for k in ReduceKind),
        sample(Reduce(kind=ReduceKind.MEAN, axes=(0,)), np.int32([-7, 2]), expected=[-2]),
        sample(Reduce(kind=ReduceKind.SUM, axes=(0,)), integers(5, dtype=np.int32)),
        sample(
            Reduce(kind=ReduceKind.MAX, axes=(0,)),
            np.zeros((0, 2), np.float32),
            expected=[[-np.inf, -np.inf]],
        ),
        sample(
            Reduce(kind=ReduceKind.MAX, axes=(0,)),
            np.array([[True, False]]),
            expected=[[True, False]],
        ),
        sample(
            Reduce(kind=ReduceKind.LOG_SUM_EXP, axes=(0,)),
            np.float32([1000, 1000]),
            expected=[1000 + np.log(2)],
        ),
        # 4096 ones and a small number: an f16 accumulator would stop at 2048.
        sample(Reduce(kind=ReduceKind.SUM, axes=(0,)), np.ones(4096, np.float16), expected=[4096]),
    ],
    ArgReduce: [
        sample(
            ArgReduce(kind=_MAX, axis=1),
            _TIES,
            expected=[[0], [2]],
            onnx=OnnxForm("ArgMax", {"axis": 1}),
        ),
        sample(ArgReduce(kind=_MAX, axis=1, select_last=True), _TIES, expected=[[2], [3]]),
        sample(
            ArgReduce(kind=ArgReduceKind.ARGMIN, axis=0, keepdims=False),
            normal(3, 4),
            onnx=OnnxForm("ArgMin", {"keepdims": 0}),
        ),
    ],
    Cumulative: [
        *(_cumulative(e, r) for e in (False, True) for r in (False, True)),
        sample(Cumulative(kind=_PROD, axis=0), np.int32([1, 2, 3, 4]), expected=[1, 2, 6, 24]),
        sample(
            Cumulative(kind=_PROD, axis=0, exclusive=True, reverse=True),
            np.float32([2, 3, 4]),
            expected=[12, 4, 1],
        ),
    ],
    TopK: [
        sample(TopK(k=2, axis=1), _TIES, expected=([[3, 3], [5, 5]], [[0, 2], [2, 3]])),
        sample(
            TopK(k=3, axis=1, largest=False),
            _TIES,
            expected=([[1, 2, 3], [0, 0, 5]], [[1, 3, 0], [0, 1, 2]]),
        ),
        sample(
            TopK(k=3, axis=0),
            normal(5, 4),
            onnx=OnnxForm("TopK", {"axis": 0}, (0, np.int64([3])), outputs=2),
        ),
        sample(TopK(k=1, axis=0), integers(6, dtype=np.uint8, low=0)),
    ],
}
