"""Samples of lamina.ops.cast."""

from __future__ import annotations

import numpy as np

from lamina.ir.types import DType
from lamina.ops import Bitcast, Cast
from lamina.ops.kinds import E8M0Rounding
from tests.samples.sample import normal, sample

_F8 = [DType.F8E4M3, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ]
_VALUES = np.float32([0.3, -1.75, 3.2, 100, -7.6])
_LARGE = {DType.F8E4M3: 448, DType.F8E4M3FNUZ: 240, DType.F8E5M2: 57344, DType.F8E5M2FNUZ: 57344}


def _overflow(dtype, saturate):
    top = _LARGE[dtype]
    lost = np.inf if dtype is DType.F8E5M2 else np.nan
    expected = [top, -top, np.nan] if saturate else [lost, -lost, np.nan]
    x = np.float32([1e6, -np.inf, np.nan])
    return sample(Cast(dtype=dtype, saturate=saturate), x, expected=expected)


def _exponent(rounding, values, expected):
    return sample(
        Cast(dtype=DType.F8E8M0, rounding=rounding), np.float32(values), expected=expected
    )


SAMPLES = {
    Cast: [
        *(sample(Cast(dtype=d), _VALUES, label="from f32") for d in DType if d is not DType.STR),
        *(_overflow(d, s) for d in _F8 for s in (True, False)),
        sample(Cast(dtype=DType.I32), np.float32([1.9, -1.9, 0.5]), expected=[1, -1, 0]),
        sample(Cast(dtype=DType.U8), np.int32([256 + 7, -1]), expected=[7, 255]),
        sample(Cast(dtype=DType.I4), np.int32([9, -9, 7]), expected=[-7, 7, 7]),
        sample(Cast(dtype=DType.U4), np.int32([18, -1]), expected=[2, 15]),
        sample(Cast(dtype=DType.U2), np.int32([5, 3]), expected=[1, 3]),
        sample(Cast(dtype=DType.F4E2M1), np.float32([2.4, -100, 0.26]), expected=[2, -6, 0.5]),
        sample(Cast(dtype=DType.BOOL), np.float32([0, -0.5, np.nan]), expected=[False, True, True]),
        sample(Cast(dtype=DType.F32), np.array([True, False]), expected=[1, 0]),
        sample(
            Cast(dtype=DType.STR),
            np.float32([1.5, np.nan]),
            expected=np.array(["1.5", "nan"], object),
        ),
        sample(Cast(dtype=DType.STR), np.int64([-3]), expected=np.array(["-3"], object)),
        sample(
            Cast(dtype=DType.F32),
            np.array(["1e-5", "-INF", "0.5"], object),
            expected=[1e-5, -np.inf, 0.5],
        ),
        sample(Cast(dtype=DType.I64), np.array(["12", "-7"], object), expected=[12, -7]),
        sample(Cast(dtype=DType.F16), np.float32([70000, 1]), expected=[np.inf, 1]),
        _exponent(E8M0Rounding.UP, [1, 1.1, 3, 4], [1, 2, 4, 4]),
        _exponent(E8M0Rounding.DOWN, [1, 1.1, 3, 4], [1, 1, 2, 4]),
        _exponent(E8M0Rounding.NEAREST, [1, 1.1, 3, 1.6], [1, 1, 4, 2]),
    ],
    Bitcast: [
        sample(Bitcast(dtype=DType.I32), normal(2, 3)),
        sample(Bitcast(dtype=DType.F32), np.int32([0x3F800000]), expected=[1.0]),
        sample(Bitcast(dtype=DType.F8E4M3), np.uint8([0x38, 0x40]), expected=[1.0, 2.0]),
    ],
}
