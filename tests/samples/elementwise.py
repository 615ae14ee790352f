"""Samples of lamina.ops.elementwise."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from lamina import ops
from lamina.ops import Activation, ActivationKind, Binary, BinaryKind, Select, Unary, UnaryKind
from tests.samples.sample import OnnxForm, integers, normal, sample

_ONNX_UNARY = {
    UnaryKind.RSQRT: None,
    UnaryKind.LOGICAL_NOT: "Not",
    UnaryKind.BITWISE_NOT: "BitwiseNot",
    UnaryKind.ISNAN: "IsNaN",
}
_UNIT = normal(3, 5, seed=1, scale=0.3).clip(-0.95, 0.95)
_POSITIVE = np.abs(normal(3, 5, seed=2)) + 0.1
_DOMAIN = {
    UnaryKind.LOG: _POSITIVE,
    UnaryKind.SQRT: _POSITIVE,
    UnaryKind.RSQRT: _POSITIVE,
    UnaryKind.ASIN: _UNIT,
    UnaryKind.ACOS: _UNIT,
    UnaryKind.ATANH: _UNIT,
    UnaryKind.ACOSH: _POSITIVE + 1,
    UnaryKind.ROUND: np.array([0.5, 1.5, 2.5, -0.5, -1.5, 2.4, -2.6], np.float32),
    UnaryKind.ISNAN: np.array([1, np.nan, np.inf], np.float32),
    UnaryKind.LOGICAL_NOT: np.array([[True, False]]),
    UnaryKind.BITWISE_NOT: integers(2, 3),
}


def _unary(kind):
    name = _ONNX_UNARY.get(kind, kind.value.capitalize())
    onnx = OnnxForm(name) if name else None
    return sample(Unary(kind=kind), _DOMAIN.get(kind, normal(3, 5, scale=2)), onnx=onnx)


_ACTIVATIONS = [
    (ActivationKind.RELU, 0, 0, OnnxForm("Relu")),
    (ActivationKind.SIGMOID, 0, 0, OnnxForm("Sigmoid")),
    (ActivationKind.TANH, 0, 0, OnnxForm("Tanh")),
    (ActivationKind.SOFTPLUS, 0, 0, OnnxForm("Softplus")),
    (ActivationKind.SOFTSIGN, 0, 0, OnnxForm("Softsign")),
    (ActivationKind.GELU, 0, 0, OnnxForm("Gelu")),
    (ActivationKind.GELU_TANH, 0, 0, OnnxForm("Gelu", {"approximate": "tanh"})),
    (ActivationKind.SILU, 1.5, 0, OnnxForm("Swish", {"alpha": 1.5}, opset=24)),
    (ActivationKind.HARD_SWISH, 0, 0, OnnxForm("HardSwish")),
    (ActivationKind.MISH, 0, 0, OnnxForm("Mish")),
    (ActivationKind.ELU, 0.7, 0, OnnxForm("Elu", {"alpha": 0.7})),
    (ActivationKind.SELU, 1.6, 1.1, OnnxForm("Selu", {"alpha": 1.6, "gamma": 1.1})),
    (ActivationKind.CELU, 0.8, 0, OnnxForm("Celu", {"alpha": 0.8})),
    (ActivationKind.LEAKY_RELU, 0.1, 0, OnnxForm("LeakyRelu", {"alpha": 0.1})),
    (ActivationKind.HARD_SIGMOID, 0.3, 0.4, OnnxForm("HardSigmoid", {"alpha": 0.3, "beta": 0.4})),
    (ActivationKind.THRESHOLDED_RELU, 0.5, 0, OnnxForm("ThresholdedRelu", {"alpha": 0.5})),
    (ActivationKind.CLIP, -0.5, 1.0, OnnxForm("Clip", {}, (0, np.float32(-0.5), np.float32(1)))),
    (ActivationKind.CLIP, 0.0, np.inf, None),
    (ActivationKind.SCALED_TANH, 1.5, 0.7, None),
    (ActivationKind.SHRINK, 0.5, 0.25, OnnxForm("Shrink", {"lambd": 0.5, "bias": 0.25})),
]
_ONNX_BINARY = {
    BinaryKind.LESS_EQUAL: "LessOrEqual",
    BinaryKind.GREATER_EQUAL: "GreaterOrEqual",
    BinaryKind.LOGICAL_AND: "And",
    BinaryKind.LOGICAL_OR: "Or",
    BinaryKind.LOGICAL_XOR: "Xor",
    BinaryKind.BITWISE_AND: "BitwiseAnd",
    BinaryKind.BITWISE_OR: "BitwiseOr",
    BinaryKind.BITWISE_XOR: "BitwiseXor",
    BinaryKind.PRELU: "PRelu",
}
_SPECIAL_BINARY = {
    BinaryKind.MOD: OnnxForm("Mod"),
    BinaryKind.FMOD: OnnxForm("Mod", {"fmod": 1}),
    BinaryKind.SHIFT_LEFT: OnnxForm("BitShift", {"direction": "LEFT"}),
    BinaryKind.SHIFT_RIGHT: OnnxForm("BitShift", {"direction": "RIGHT"}),
}


def _binary(kind):
    onnx = _SPECIAL_BINARY.get(kind, OnnxForm(_ONNX_BINARY.get(kind, kind.value.capitalize())))
    if kind.is_logical:
        a, b = integers(2, 3, low=0, high=1) > 0, integers(3, low=0, high=1, seed=3) > 0
    elif kind in (BinaryKind.SHIFT_LEFT, BinaryKind.SHIFT_RIGHT):
        a, b = integers(2, 3, low=0, dtype=np.uint32), integers(3, low=0, dtype=np.uint32)
    elif kind.is_bitwise:
        a, b = integers(2, 3), integers(3, seed=1)
    elif kind is BinaryKind.MOD:
        a, b = integers(4, 5, low=-20, high=20), np.array([3, -3, 5, -7, 2])
    elif kind is BinaryKind.POW:
        a, b = np.abs(normal(2, 1, 4)) + 0.1, normal(3, 1, seed=1)
    elif kind is BinaryKind.PRELU:
        a, b = normal(2, 3, 4), normal(3, 1, seed=1)
    else:
        a, b = normal(2, 1, 4), normal(3, 1, seed=1)
    return sample(Binary(kind=kind), a, b, onnx=onnx)


_DIV = Binary(kind=BinaryKind.DIV)
_POW = Binary(kind=BinaryKind.POW)
SAMPLES = {
    Unary: [
        *map(_unary, UnaryKind),
        sample(Unary(kind=UnaryKind.ABS), integers(4, dtype=np.int8)),
        sample(Unary(kind=UnaryKind.EXP), normal(4, dtype=ml_dtypes.bfloat16)),
        sample(Unary(kind=UnaryKind.TANH), normal(4, dtype=np.float16)),
        sample(Unary(kind=UnaryKind.ERF), normal(2, 2, dtype=np.float64)),
        sample(
            Unary(kind=UnaryKind.LOG),
            np.float32([0, -1, np.e]),
            expected=np.float32([-np.inf, np.nan, 1]),
        ),
    ],
    Activation: [
        *(
            sample(Activation(kind=k, alpha=float(a), beta=float(b)), normal(3, 7, scale=2), onnx=o)
            for k, a, b, o in _ACTIVATIONS
        ),
        sample(Activation(kind=ActivationKind.SIGMOID), np.float32([-1000, 1000]), expected=[0, 1]),
        sample(Activation(kind=ActivationKind.RELU), integers(5, dtype=np.int32)),
        sample(
            Activation(kind=ActivationKind.CLIP, alpha=-np.inf, beta=2.0),
            np.int8([-128, 1, 5]),
            expected=[-128, 1, 2],
        ),
        sample(Activation(kind=ActivationKind.GELU), normal(4, dtype=np.float16)),
    ],
    Binary: [
        *map(_binary, BinaryKind),
        sample(
            _DIV,
            np.int32([-7, 7, -7, 7, -6]),
            np.int32([2, 2, -2, -2, 3]),
            expected=[-3, 3, 3, -3, -2],
        ),
        sample(_DIV, np.uint8([7, 200]), np.uint8([2, 3]), expected=[3, 66]),
        sample(
            _DIV, np.float32([1, -1, 0]), np.float32([0, 0, 0]), expected=[np.inf, -np.inf, np.nan]
        ),
        sample(_POW, np.int32([2, 3, -2]), np.int64([3, 2, 3]), expected=[8, 9, -8]),
        sample(_POW, np.float32([2, 3]), np.int64([-1, 2]), expected=[0.5, 9]),
        sample(_POW, np.int64([4, 9]), np.float32([0.5, 0.5]), expected=[2, 3]),
        sample(_POW, np.int64([2, 1]), np.int64([-1, -1]), expected=[0, 1]),
        sample(
            Binary(kind=BinaryKind.FMOD), np.int32([-7, 7]), np.int32([3, -3]), expected=[-1, 1]
        ),
        sample(
            Binary(kind=BinaryKind.ADD),
            normal(3, dtype=ml_dtypes.bfloat16),
            normal(3, dtype=ml_dtypes.bfloat16, seed=4),
        ),
        sample(
            Binary(kind=BinaryKind.EQUAL),
            np.array(["a", "b"], object),
            np.array(["a", "c"], object),
            expected=[True, False],
        ),
        sample(
            Binary(kind=BinaryKind.MAX),
            np.float32([np.nan, 1]),
            np.float32([0, np.nan]),
            expected=[np.nan, np.nan],
        ),
    ],
    Select: [
        sample(
            Select(),
            np.array([[True], [False]]),
            normal(2, 3),
            normal(3, seed=1),
            onnx=OnnxForm("Where"),
        ),
        sample(ops.Select(), np.array(True), np.int64(3), np.int64([4, 5]), expected=[3, 3]),
    ],
}
