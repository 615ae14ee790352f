"""Constants, shapes and ranges."""

from __future__ import annotations

import numpy as np
import onnx

from lamina import ops
from lamina.errors import ImportFailed
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Table
from lamina.importers.onnx.tensors import dtype_of
from lamina.ir.dims import Dim, ceildiv, dim_max
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, ReduceKind, UnaryKind

table = Table()

_FLOAT = onnx.TensorProto.FLOAT


@table.op("Constant")
def constant(n: OnnxNode) -> Value:
    """Import Constant in all its forms."""
    if len(n.attributes) != 1:
        raise ImportFailed(f"a constant has one value, got {sorted(n.attributes)}")
    (form,) = n.attributes
    name = n.proto.output[0]
    if form == "value":
        return n.constant(n.tensor("value"), name=name)
    if form == "sparse_value":
        return n.constant(n.sparse_tensor("sparse_value"), name=name)
    if form in ("value_float", "value_floats"):
        value = n.number(form) if form == "value_float" else n.numbers(form)
        return n.constant(value, DType.F32, name)
    if form in ("value_int", "value_ints"):
        whole = n.integer(form) if form == "value_int" else n.integers(form)
        return n.constant(whole, DType.I64, name)
    if form in ("value_string", "value_strings"):
        text = n.text(form) if form == "value_string" else n.texts(form)
        return n.constant(np.array(text, dtype=object), name=name)
    raise ImportFailed(f"a constant cannot be given by {form!r}")


@table.op("ConstantOfShape")
def constant_of_shape(n: OnnxNode, shape: Value) -> Value:
    """Import ConstantOfShape."""
    value = n.tensor("value") if n.has("value") else np.zeros(1, np.float32)
    if value.size != 1:
        raise ImportFailed(f"value must have one element, got {value.size}")
    return n.expand(n.constant(value.reshape(())), n.dims(shape))


@table.op("Shape")
def shape(n: OnnxNode, x: Value) -> Value:
    """Import Shape."""
    end = n.integer("end") if n.has("end") else None
    return n.shape_of(x, n.integer("start", 0), end)


@table.op("Size")
def size(n: OnnxNode, x: Value) -> Value:
    """Import Size."""
    return n.reduce(ReduceKind.PROD, n.shape_of(x), (0,), keepdims=False)


@table.op("Range")
def range_(n: OnnxNode, start: Value, limit: Value, delta: Value) -> Value:
    """Import Range; the length is computed by operators when it is not known."""
    first, last, step = (n.reshape(v, ()) for v in (start, limit, delta))
    whole = start.tensor.dtype.is_integer
    length: Dim | None = None
    if whole and all(n.is_known(v) for v in (first, last, step)):
        length = _length(n.dim(first), n.dim(last), n.dim(step))
    if length is None:
        length = n.dim(_computed_length(n, first, last, step))
    return n.emit(ops.Range(length=length), first, step)


def _length(start: Dim, limit: Dim, delta: Dim) -> Dim | None:
    if not isinstance(delta, int) or delta == 0:
        return None
    distance = limit - start if delta > 0 else start - limit
    return dim_max(0, ceildiv(distance, abs(delta)))


def _computed_length(n: OnnxNode, start: Value, limit: Value, delta: Value) -> Value:
    """Emit ``max(0, ceil((limit - start) / delta))`` in f64."""
    start, limit, delta = (n.cast(v, DType.F64) for v in (start, limit, delta))
    distance = n.binary(BinaryKind.DIV, n.binary(BinaryKind.SUB, limit, start), delta)
    length = n.cast(n.emit(ops.Unary(kind=UnaryKind.CEIL), distance), DType.I64)
    return n.binary(BinaryKind.MAX, length, n.like(0, length))


@table.op("EyeLike")
def eye_like(n: OnnxNode, x: Value) -> Value:
    """Import EyeLike by comparing the numbers of rows and columns."""
    dtype = dtype_of(n.integer("dtype")) if n.has("dtype") else x.tensor.dtype
    if x.tensor.rank != 2:
        raise ImportFailed(f"an identity matrix has 2 dimensions, got {x.tensor}")
    rows, columns = x.tensor.shape
    zero, one = n.constant(0, DType.I64), n.constant(1, DType.I64)
    row = n.reshape(n.emit(ops.Range(length=rows), zero, one), (rows, 1))
    first = n.constant(-n.integer("k", 0), DType.I64)
    column = n.emit(ops.Range(length=columns), first, one)
    return n.cast(n.binary(BinaryKind.EQUAL, row, column), dtype)


@table.op("Trilu")
def trilu(n: OnnxNode, x: Value, k: Value | None = None) -> Value:
    """Import Trilu."""
    diagonal = 0 if k is None else n.dim(k)
    return n.emit(ops.Trilu(upper=n.flag("upper", True), k=diagonal), x)
