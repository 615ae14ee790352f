"""Activation functions, softmax and its relatives."""

from __future__ import annotations

import numpy as np

from lamina import ops
from lamina.importers.onnx.elementwise import aligned
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Importer, Table
from lamina.ir.dims import product
from lamina.ir.graph import Op, Value
from lamina.ir.types import DType
from lamina.ops.kinds import ActivationKind, ArgReduceKind, BinaryKind

table = Table()

_EXACT_BOUND = 2**53
"""Integers up to this size are exact as floats."""

_PLAIN = {
    "Relu": ActivationKind.RELU,
    "Sigmoid": ActivationKind.SIGMOID,
    "Tanh": ActivationKind.TANH,
    "Softplus": ActivationKind.SOFTPLUS,
    "Softsign": ActivationKind.SOFTSIGN,
    "HardSwish": ActivationKind.HARD_SWISH,
    "Mish": ActivationKind.MISH,
}
_PARAMETRIC: dict[str, tuple[ActivationKind, tuple[tuple[str, float], ...]]] = {
    "Elu": (ActivationKind.ELU, (("alpha", 1.0),)),
    "Celu": (ActivationKind.CELU, (("alpha", 1.0),)),
    "LeakyRelu": (ActivationKind.LEAKY_RELU, (("alpha", 0.01),)),
    "ThresholdedRelu": (ActivationKind.THRESHOLDED_RELU, (("alpha", 1.0),)),
    "Swish": (ActivationKind.SILU, (("alpha", 1.0),)),
    "HardSigmoid": (ActivationKind.HARD_SIGMOID, (("alpha", 0.2), ("beta", 0.5))),
    "ScaledTanh": (ActivationKind.SCALED_TANH, (("alpha", 1.0), ("beta", 1.0))),
    "Selu": (
        ActivationKind.SELU,
        (("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875)),
    ),
}


def _plain(kind: ActivationKind) -> Importer:
    def importer(n: OnnxNode, x: Value) -> Value:
        return n.emit(ops.Activation(kind=kind), x)

    return importer


def _parametric(kind: ActivationKind, parameters: tuple[tuple[str, float], ...]) -> Importer:
    def importer(n: OnnxNode, x: Value) -> Value:
        alpha, beta, *_ = *(n.number(name, default) for name, default in parameters), 0.0
        return n.emit(ops.Activation(kind=kind, alpha=alpha, beta=beta), x)

    return importer


for _name, _kind in _PLAIN.items():
    table.op(_name)(_plain(_kind))
for _name, (_kind, _parameters) in _PARAMETRIC.items():
    table.op(_name)(_parametric(_kind, _parameters))


@table.op("Gelu")
def gelu(n: OnnxNode, x: Value) -> Value:
    """Import Gelu in its exact or its tanh form."""
    exact = n.choice("approximate", "none", "tanh") == "none"
    return n.emit(
        ops.Activation(kind=ActivationKind.GELU if exact else ActivationKind.GELU_TANH), x
    )


@table.op("Shrink")
def shrink(n: OnnxNode, x: Value) -> Value:
    """Import Shrink; integers are computed as f32."""
    op = ops.Activation(
        kind=ActivationKind.SHRINK, alpha=n.number("lambd", 0.5), beta=n.number("bias", 0.0)
    )
    if x.tensor.dtype.is_float:
        return n.emit(op, x)
    return n.cast(n.emit(op, n.cast(x, DType.F32)), x.tensor.dtype)


@table.op("ParametricSoftplus")
def parametric_softplus(n: OnnxNode, x: Value) -> Value:
    """Import ParametricSoftplus, ``alpha * softplus(beta * x)``."""
    scaled = n.binary(BinaryKind.MUL, x, n.like(n.number("beta", 1.0), x))
    y = n.emit(ops.Activation(kind=ActivationKind.SOFTPLUS), scaled)
    return n.binary(BinaryKind.MUL, y, n.like(n.number("alpha", 1.0), x))


@table.op("PRelu")
def prelu(n: OnnxNode, x: Value, slope: Value) -> Value:
    """Import PRelu; before opset 7 the slope holds one number per channel."""
    if n.opset < 7 and slope.tensor.rank == 1 and x.tensor.rank > 2:
        slope = n.reshape(slope, (*slope.tensor.shape, *(1 for _ in x.tensor.shape[2:])))
    return n.binary(BinaryKind.PRELU, x, aligned(n, x, slope))


@table.op("Clip")
def clip_attributes(n: OnnxNode, x: Value) -> Value:
    """Import Clip of opset 6 to 10, with the bounds in attributes."""
    low, high = n.number("min", -np.inf), n.number("max", np.inf)
    return n.emit(ops.Activation(kind=ActivationKind.CLIP, alpha=low, beta=high), x)


@table.op("Clip", since=11)
def clip(n: OnnxNode, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    """Import Clip; bounds that are not constants become comparisons."""
    bounds = [_bound(n, low, -np.inf), _bound(n, high, np.inf)]
    if None not in bounds:
        alpha, beta = (float(b) for b in bounds if b is not None)
        return n.emit(ops.Activation(kind=ActivationKind.CLIP, alpha=alpha, beta=beta), x)
    if low is not None:
        x = n.binary(BinaryKind.MAX, x, low)
    return x if high is None else n.binary(BinaryKind.MIN, x, high)


def _bound(n: OnnxNode, v: Value | None, default: float) -> float | None:
    """Return a bound as a number, None when it is not known or not exact as a float."""
    if v is None:
        return default
    known = n.known(v)
    if known is None or known.size != 1:
        return None
    exact = v.tensor.dtype.is_float or abs(int(known.item())) <= _EXACT_BOUND
    return float(known.item()) if exact else None


@table.op("Softmax")
def softmax_flattened(n: OnnxNode, x: Value) -> Value:
    """Import Softmax before opset 13: over everything from ``axis`` on."""
    return _flattened(n, x, ops.Softmax(axis=1))


@table.op("Softmax", since=13)
def softmax(n: OnnxNode, x: Value) -> Value:
    """Import Softmax along one axis."""
    return n.emit(ops.Softmax(axis=n.axis(x, default=-1)), x)


@table.op("LogSoftmax")
def log_softmax_flattened(n: OnnxNode, x: Value) -> Value:
    """Import LogSoftmax before opset 13: over everything from ``axis`` on."""
    return _flattened(n, x, ops.Softmax(axis=1, log=True))


@table.op("LogSoftmax", since=13)
def log_softmax(n: OnnxNode, x: Value) -> Value:
    """Import LogSoftmax along one axis."""
    return n.emit(ops.Softmax(axis=n.axis(x, default=-1), log=True), x)


def _flattened(n: OnnxNode, x: Value, op: ops.Softmax) -> Value:
    axis, shape = n.axis(x, default=1), x.tensor.shape
    if axis == len(shape) - 1:
        return n.emit(ops.Softmax(axis=axis, log=op.log), x)
    flat = n.reshape(x, (product(shape[:axis]), product(shape[axis:])))
    return n.reshape(n.emit(op, flat), shape)


@table.op("Hardmax")
def hardmax_flattened(n: OnnxNode, x: Value) -> Value:
    """Import Hardmax before opset 13: over everything from ``axis`` on."""
    axis, shape = n.axis(x, default=1), x.tensor.shape
    flat = n.reshape(x, (product(shape[:axis]), product(shape[axis:])))
    return n.reshape(_one_hot_of_largest(n, flat, 1), shape)


@table.op("Hardmax", since=13)
def hardmax(n: OnnxNode, x: Value) -> Value:
    """Import Hardmax along one axis."""
    return _one_hot_of_largest(n, x, n.axis(x, default=-1))


def _one_hot_of_largest(n: OnnxNode, x: Value, axis: int) -> Value:
    largest: Op = ops.ArgReduce(kind=ArgReduceKind.ARGMAX, axis=axis, keepdims=False)
    indices = n.emit(largest, x)
    depth = x.tensor.shape[axis]
    return n.emit(ops.OneHot(axis=axis, depth=depth), indices, n.constant([0, 1], x.tensor.dtype))


@table.op("ImageScaler")
def image_scaler(n: OnnxNode, x: Value) -> Value:
    """Import ImageScaler, ``x * scale + bias`` with a bias per channel."""
    scaled = n.binary(BinaryKind.MUL, x, n.like(n.number("scale", 1.0), x))
    bias = n.constant(n.numbers("bias", ()), x.tensor.dtype)
    spatial = (1 for _ in x.tensor.shape[2:])
    return n.binary(BinaryKind.ADD, scaled, n.reshape(bias, (*bias.tensor.shape, *spatial)))
