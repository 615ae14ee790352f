"""Samples of lamina.ops.quantize."""

from __future__ import annotations

import numpy as np

from lamina.ir.types import DType
from lamina.ops import Dequantize, Quantize
from tests.samples.sample import OnnxForm, integers, normal, sample

_X = normal(4, 6, scale=20)
_SCALE = np.float32(0.25)
_PER_ROW = np.float32([0.1, 0.2, 0.3, 0.4])
_BLOCKS = np.abs(normal(2, 6, seed=1)) + 0.1
_STORED = [d for d in DType if d.bits < 8 and d.is_integer] + [
    DType.I8,
    DType.U8,
    DType.I16,
    DType.U16,
]
_FLOATS = [DType.F8E4M3, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.F4E2M1]


def _zero(dtype, *shape):
    high = 1 if dtype.is_integer else 0
    return integers(*shape, low=high, high=high, seed=5).astype(np.int8).astype(dtype.numpy)


def _quantize(dtype):
    return sample(
        Quantize(dtype=dtype),
        _X,
        _SCALE,
        _zero(dtype),
        onnx=OnnxForm("QuantizeLinear") if dtype.bits >= 4 else None,
    )


def _dequantize(dtype):
    x = integers(4, 6, low=0, high=1).astype(np.int8).astype(dtype.numpy)
    onnx = OnnxForm("DequantizeLinear") if dtype.bits >= 4 else None
    return sample(Dequantize(dtype=DType.F32), x, _SCALE, _zero(dtype), onnx=onnx)


_U8 = DType.U8
SAMPLES = {
    Quantize: [
        *map(_quantize, [*_STORED, *_FLOATS]),
        sample(
            Quantize(dtype=DType.I8),
            np.float32([0.5, 1.5, 2.5, -0.5, 500, -500, 127.4]),
            np.float32(1),
            expected=[0, 2, 2, 0, 127, -128, 127],
        ),
        sample(
            Quantize(dtype=_U8),
            np.float32([-3, 0.6]),
            np.float32(0.5),
            np.uint8(4),
            expected=[0, 5],
        ),
        sample(
            Quantize(dtype=DType.I8, axis=0),
            _X,
            _PER_ROW,
            np.int8([0, 3, -3, 7]),
            onnx=OnnxForm("QuantizeLinear", {"axis": 0}),
        ),
        sample(
            Quantize(dtype=DType.I8, axis=0, block_size=2),
            _X,
            _BLOCKS,
            symbolic=False,
            onnx=OnnxForm(
                "QuantizeLinear", {"axis": 0, "block_size": 2}, (0, 1, np.zeros((2, 6), np.int8))
            ),
        ),
        sample(
            Quantize(dtype=DType.F8E4M3, saturate=False),
            np.float32([1e6]),
            np.float32(1),
            expected=[np.nan],
        ),
        sample(Quantize(dtype=DType.I8), normal(5, dtype=np.float16, scale=30), np.float16(0.3)),
        sample(
            Quantize(dtype=DType.I8), integers(5, low=-900, high=900, dtype=np.int32), np.float32(3)
        ),
    ],
    Dequantize: [
        *map(_dequantize, [*_STORED, *_FLOATS]),
        sample(
            Dequantize(dtype=DType.F32, axis=0),
            integers(4, 6, dtype=np.int8),
            _PER_ROW,
            np.int8([0, 3, -3, 7]),
            onnx=OnnxForm("DequantizeLinear", {"axis": 0}),
        ),
        sample(
            Dequantize(dtype=DType.F32, axis=0, block_size=2),
            integers(4, 6, dtype=np.int8),
            _BLOCKS,
            symbolic=False,
            onnx=OnnxForm("DequantizeLinear", {"axis": 0, "block_size": 2}),
        ),
        sample(
            Dequantize(dtype=DType.F32),
            np.int32([1 << 20, -5]),
            np.float32(0.5),
            expected=[1 << 19, -2.5],
        ),
        sample(
            Dequantize(dtype=DType.F16),
            np.int8([5, -5]),
            np.float16(0.5),
            np.int8(1),
            expected=[2, -3],
        ),
        sample(
            Dequantize(dtype=DType.F32),
            np.uint8([0, 255]),
            np.float32(1),
            np.uint8(128),
            expected=[-128, 127],
        ),
    ],
}
