"""Random numbers, and what is decided by them."""

from __future__ import annotations

import numpy as np
import onnx

from lamina import ops
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Table
from lamina.importers.onnx.tensors import dtype_of
from lamina.ir.dims import Dim
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, CumulativeKind, RandomKind, ReduceKind, UnaryKind

table = Table()

_FLOAT, _INT32 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32


@table.op("RandomNormal")
def random_normal(n: OnnxNode) -> Value:
    """Import RandomNormal."""
    return _random(n, RandomKind.NORMAL, n.integers("shape"), dtype_of(n.integer("dtype", _FLOAT)))


@table.op("RandomUniform")
def random_uniform(n: OnnxNode) -> Value:
    """Import RandomUniform."""
    return _random(n, RandomKind.UNIFORM, n.integers("shape"), dtype_of(n.integer("dtype", _FLOAT)))


@table.op("RandomNormalLike")
def random_normal_like(n: OnnxNode, x: Value) -> Value:
    """Import RandomNormalLike."""
    return _random(n, RandomKind.NORMAL, x.tensor.shape, _dtype_like(n, x))


@table.op("RandomUniformLike")
def random_uniform_like(n: OnnxNode, x: Value) -> Value:
    """Import RandomUniformLike."""
    return _random(n, RandomKind.UNIFORM, x.tensor.shape, _dtype_like(n, x))


def _dtype_like(n: OnnxNode, x: Value) -> DType:
    return dtype_of(n.integer("dtype")) if n.has("dtype") else x.tensor.dtype


def _random(n: OnnxNode, kind: RandomKind, shape: tuple[Dim, ...], dtype: DType) -> Value:
    normal = kind is RandomKind.NORMAL
    names = ("mean", "scale") if normal else ("low", "high")
    parameters = (n.number(names[0], 0.0), n.number(names[1], 1.0))
    return n.random(kind, shape, dtype, parameters, _seed(n))


@table.op("Multinomial")
def multinomial(n: OnnxNode, x: Value) -> Value:
    """Import Multinomial: count the classes whose cumulated probability a uniform draw passes."""
    batch, classes = x.tensor.shape
    samples = n.integer("sample_size", 1)
    probabilities = n.emit(ops.Softmax(axis=1), n.cast(x, DType.F32))
    ends = n.emit(ops.Cumulative(kind=CumulativeKind.SUM, axis=1), probabilities)
    draws = n.random(RandomKind.UNIFORM, (batch, samples, 1), DType.F32, seed=_seed(n))
    passed = n.binary(BinaryKind.LESS_EQUAL, n.reshape(ends, (batch, 1, classes)), draws)
    number = n.reduce(ReduceKind.SUM, n.cast(passed, DType.I32), (2,), keepdims=False)
    last = n.binary(BinaryKind.SUB, n.cast(n.shape_of(x, 1, 2), DType.I32), n.like(1, number))
    chosen = n.binary(BinaryKind.MIN, number, last)  # the last end may round to less than 1
    return n.cast(chosen, dtype_of(n.integer("dtype", _INT32)))


def _seed(n: OnnxNode) -> int | None:
    """Return the bits of the float that ONNX takes as seed."""
    if not n.has("seed"):
        return None
    return int(np.float32(n.number("seed")).view(np.uint32))


@table.op("Dropout")
def dropout(
    n: OnnxNode, x: Value, ratio: Value | None = None, training: Value | None = None
) -> tuple[Value, ...]:
    """Import Dropout: nothing happens, but in training elements become zero at random."""
    mode = None if training is None else n.known(training)
    if training is not None and (mode is None or bool(mode.item())):
        return _dropout(n, x, ratio, training)
    if not n.wants(1):
        return (x,)
    return x, n.fill(1, DType.BOOL if n.opset >= 10 else x.tensor.dtype, x.tensor.shape)


def _dropout(n: OnnxNode, x: Value, ratio: Value | None, training: Value) -> tuple[Value, ...]:
    """Keep an element where a uniform draw is not below the ratio; a mode that is data decides."""
    dropped = n.constant(0.5, DType.F32) if ratio is None else n.cast(ratio, DType.F32)
    number = n.integer("seed") if n.has("seed") else None
    draws = n.random(RandomKind.UNIFORM, x.tensor.shape, DType.F32, seed=number)
    in_inference = n.emit(ops.Unary(kind=UnaryKind.LOGICAL_NOT), training)
    kept = n.binary(BinaryKind.LESS_EQUAL, dropped, draws)
    mask = n.binary(BinaryKind.LOGICAL_OR, kept, in_inference)
    share = n.binary(BinaryKind.SUB, n.like(1, dropped), dropped)
    scale = n.binary(BinaryKind.DIV, n.like(1, share), share)
    scale = n.cast(n.emit(ops.Select(), in_inference, n.like(1, scale), scale), x.tensor.dtype)
    return n.emit(ops.Select(), mask, n.multiply(x, scale), n.like(0, x)), mask
