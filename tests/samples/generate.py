"""Samples of the operators that make numbers."""

from __future__ import annotations

import numpy as np

from lamina import ops
from lamina.ir.types import DType
from lamina.ops import RandomKind
from tests.samples.sample import OnnxForm, normal, sample


def _trilu(upper, k):
    onnx = OnnxForm("Trilu", {"upper": int(upper)}, (0, np.array(k)))
    return sample(ops.Trilu(upper=upper, k=k), normal(2, 3, 4), onnx=onnx)


SAMPLES = {
    ops.Trilu: [_trilu(u, k) for u in (True, False) for k in (0, 1, -2, 9, -9)],
    ops.Range: [
        sample(
            ops.Range(length=4),
            np.float32(2),
            np.float32(0.5),
            expected=np.float32([2, 2.5, 3, 3.5]),
        ),
        sample(ops.Range(length=3), np.int64(5), np.int64(-3), expected=[5, 2, -1]),
        sample(ops.Range(length=0), np.int32(5), np.int32(1)),
    ],
    ops.Random: [
        sample(ops.Random(kind=RandomKind.NORMAL, shape=(3, 4), seed=7)),
        sample(
            ops.Random(
                kind=RandomKind.UNIFORM,
                shape=(5,),
                dtype=DType.F16,
                low_or_mean=2.0,
                high_or_scale=3.0,
                seed=1,
            )
        ),
        sample(ops.Random(kind=RandomKind.UNIFORM, shape=(), dtype=DType.F64), np.uint64(9)),
        sample(
            ops.Random(kind=RandomKind.NORMAL, shape=(2, 3), dtype=DType.F64), np.uint64(1 << 40)
        ),
        sample(
            ops.Random(kind=RandomKind.NORMAL, shape=(7,), low_or_mean=-2.0), np.uint64(1 << 63)
        ),
    ],
    ops.RandomKey: [sample(ops.RandomKey(salt=1 << 63))],
}
