"""Normalization."""

from __future__ import annotations

from lamina import ops
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Table
from lamina.ir.dims import floordiv
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, ReduceKind, UnaryKind

table = Table()


@table.op("BatchNormalization")
def batch_normalization(
    n: OnnxNode, x: Value, scale: Value, bias: Value, mean: Value, variance: Value
) -> tuple[Value, ...]:
    """Import BatchNormalization with the stored, or (when training) the batch's statistics."""
    op = ops.BatchNorm(epsilon=n.number("epsilon", 1e-5))
    scale, bias = (n.cast(v, x.tensor.dtype) for v in (scale, bias))
    if not n.flag("training_mode") or n.opset < 14:
        stored = (n.cast(v, x.tensor.dtype) for v in (mean, variance))
        return (n.emit(op, x, scale, bias, *stored),)
    axes = tuple(a for a in range(x.tensor.rank) if a != 1)
    wide = n.cast(x, mean.tensor.dtype)
    batch_mean = n.reduce(ReduceKind.MEAN, wide, axes, keepdims=True)
    centered = n.binary(BinaryKind.SUB, wide, batch_mean)
    batch_variance = n.reduce(
        ReduceKind.MEAN, n.binary(BinaryKind.MUL, centered, centered), axes, keepdims=False
    )
    batch_mean = n.reshape(batch_mean, mean.tensor.shape)
    statistics = (n.cast(v, x.tensor.dtype) for v in (batch_mean, batch_variance))
    y = n.emit(op, x, scale, bias, *statistics)
    momentum = n.number("momentum", 0.9)
    running = (
        _mix(n, stored, batch, momentum)
        for stored, batch in ((mean, batch_mean), (variance, batch_variance))
    )
    return (y, *running)


def _mix(n: OnnxNode, stored: Value, batch: Value, momentum: float) -> Value:
    old = n.binary(BinaryKind.MUL, stored, n.like(momentum, stored))
    return n.binary(
        BinaryKind.ADD, old, n.binary(BinaryKind.MUL, batch, n.like(1 - momentum, batch))
    )


@table.op("InstanceNormalization")
def instance_normalization(n: OnnxNode, x: Value, scale: Value, bias: Value) -> Value:
    """Import InstanceNormalization."""
    return n.emit(ops.InstanceNorm(epsilon=n.number("epsilon", 1e-5)), x, scale, bias)


@table.op("GroupNormalization", since=18)
def group_normalization_per_group(n: OnnxNode, x: Value, scale: Value, bias: Value) -> Value:
    """Import GroupNormalization of opset 18, whose scale and bias are per group."""
    groups, channels = n.integer("num_groups"), x.tensor.shape[1]
    each = floordiv(channels, groups)
    per_channel = (
        n.reshape(n.expand(n.reshape(v, (groups, 1)), (groups, each)), (channels,))
        for v in (scale, bias)
    )
    return n.emit(ops.GroupNorm(groups=groups, epsilon=n.number("epsilon", 1e-5)), x, *per_channel)


@table.op("GroupNormalization", since=21)
def group_normalization(n: OnnxNode, x: Value, scale: Value, bias: Value) -> Value:
    """Import GroupNormalization."""
    op = ops.GroupNorm(groups=n.integer("num_groups"), epsilon=n.number("epsilon", 1e-5))
    return n.emit(op, x, scale, bias)


@table.op("LayerNormalization")
def layer_normalization(
    n: OnnxNode, x: Value, scale: Value, bias: Value | None = None
) -> tuple[Value, ...]:
    """Import LayerNormalization, with mean and deviation when they are read."""
    axis, epsilon = n.axis(x, default=-1), n.number("epsilon", 1e-5)
    affine = (scale,) if bias is None else (scale, bias)
    y = n.emit(ops.LayerNorm(axis=axis, epsilon=epsilon), x, *affine)
    if not n.wants(1) and not n.wants(2):
        return (y,)
    axes = tuple(range(axis, x.tensor.rank))
    wide = n.cast(x, DType.F32) if x.tensor.dtype is not DType.F64 else x
    mean = n.reduce(ReduceKind.MEAN, wide, axes, keepdims=True)
    centered = n.binary(BinaryKind.SUB, wide, mean)
    squares = n.binary(BinaryKind.MUL, centered, centered)
    variance = n.reduce(ReduceKind.MEAN, squares, axes, keepdims=True)
    shifted = n.binary(BinaryKind.ADD, variance, n.like(epsilon, variance))
    return y, mean, n.emit(ops.Unary(kind=UnaryKind.RSQRT), shifted)


@table.op("RMSNormalization")
def rms_normalization(n: OnnxNode, x: Value, scale: Value) -> Value:
    """Import RMSNormalization."""
    op = ops.RmsNorm(axis=n.axis(x, default=-1), epsilon=n.number("epsilon", 1e-5))
    return n.emit(op, x, scale)


@table.op("LpNormalization")
def lp_normalization(n: OnnxNode, x: Value) -> Value:
    """Import LpNormalization; a vector of norm zero stays zero."""
    kind = ReduceKind.L1 if n.integer("p", 2) == 1 else ReduceKind.L2
    norm = n.reduce(kind, x, (n.axis(x, default=-1),), keepdims=True)
    zero = n.binary(BinaryKind.EQUAL, norm, n.like(0, norm))
    divisor = n.emit(ops.Select(), zero, n.like(1, norm), norm)
    return n.binary(BinaryKind.DIV, x, divisor)


@table.op("MeanVarianceNormalization")
def mean_variance_normalization(n: OnnxNode, x: Value) -> Value:
    """Import MeanVarianceNormalization with the epsilon 1e-9 of its definition."""
    axes = n.axes(x.tensor.rank) or (0, *range(2, x.tensor.rank))
    mean = n.reduce(ReduceKind.MEAN, x, axes, keepdims=True)
    centered = n.binary(BinaryKind.SUB, x, mean)
    squares = n.binary(BinaryKind.MUL, centered, centered)
    variance = n.reduce(ReduceKind.MEAN, squares, axes, keepdims=True)
    deviation = n.emit(ops.Unary(kind=UnaryKind.SQRT), variance)
    return n.binary(BinaryKind.DIV, centered, n.binary(BinaryKind.ADD, deviation, n.like(1e-9, x)))


@table.op("LRN")
def local_response_normalization(n: OnnxNode, x: Value) -> Value:
    """Import LRN."""
    op = ops.Lrn(
        size=n.integer("size"),
        alpha=n.number("alpha", 1e-4),
        beta=n.number("beta", 0.75),
        bias=n.number("bias", 1.0),
    )
    return n.emit(op, x)
