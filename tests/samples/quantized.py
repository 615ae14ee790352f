"""Samples of lamina.ops.quantized."""

from __future__ import annotations

import numpy as np

from lamina.ir.types import DType
from lamina.ops import (
    ActivationKind,
    Epilogue,
    QuantizedConvolution,
    QuantizedMatmul,
    Scaling,
)
from tests.samples.sample import OnnxForm, integers, normal, sample

_RELU = Epilogue(ActivationKind.RELU)
_X, _R, _Y = Scaling(0.03125, 117), Scaling(0.0625, 3), Scaling(0.25, 99)
_WINDOW = {"strides": (1, 2), "dilations": (1, 1), "pads_begin": (1, 0), "pads_end": (1, 1)}


def _u8(*shape, seed=0):
    return integers(*shape, low=0, high=255, seed=seed, dtype=np.uint8)


def _i8(*shape, seed=0):
    return integers(*shape, low=-127, high=127, seed=seed, dtype=np.int8)


def _scales(n):
    return np.linspace(0.01, 0.03, n, dtype=np.float32)


SAMPLES = {
    QuantizedConvolution: [
        sample(
            QuantizedConvolution(**_WINDOW, x_scaling=_X),
            _u8(2, 3, 6, 7),
            _i8(4, 3, 3, 3, seed=1),
            _scales(4),
        ),
        sample(
            QuantizedConvolution(
                **_WINDOW,
                groups=2,
                x_scaling=_X,
                residual_scaling=_R,
                activation=_RELU,
                dtype=DType.U8,
                y_scaling=_Y,
            ),
            _u8(1, 4, 6, 8),
            _i8(6, 2, 3, 2, seed=1),
            _scales(6),
            normal(6, seed=2),
            _u8(1, 6, 6, 4, seed=3),
        ),
        sample(
            QuantizedConvolution(
                strides=(1,),
                dilations=(1,),
                pads_begin=(0,),
                pads_end=(0,),
                x_scaling=Scaling(1.0, 2),
                dtype=DType.I8,
                y_scaling=Scaling(2.0, -1),
            ),
            np.uint8([[[5, 1], [0, 255]]]),
            np.int8([[[2], [1]]]),
            np.float32([0.5]),
            np.float32([3]),
            expected=[[[1, 63]]],
        ),
    ],
    QuantizedMatmul: [
        sample(
            QuantizedMatmul(x_scaling=_X, dtype=DType.U8, y_scaling=Scaling(0.125, 128)),
            _u8(2, 5, 8),
            _i8(8, 3, seed=1),
            _scales(3),
            onnx=OnnxForm(
                "QLinearMatMul",
                inputs=(
                    0,
                    np.float32([0.03125]),
                    np.uint8([117]),
                    1,
                    2,
                    np.int8([0, 0, 0]),
                    np.float32([0.125]),
                    np.uint8([128]),
                ),
            ),
        ),
        sample(
            QuantizedMatmul(x_scaling=Scaling(0.5, -7), activation=_RELU),
            _i8(5, 8),
            _i8(8, 4, seed=1),
            _scales(4),
            normal(4, seed=2),
            normal(5, 4, seed=3, scale=20),
        ),
    ],
}
