"""Pooling over windows and over whole planes."""

from __future__ import annotations

import numpy as np

from lamina import ops
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Importer, Table
from lamina.importers.onnx.windows import read_window
from lamina.ir.graph import Value
from lamina.ops.kinds import BinaryKind, PoolKind, ReduceKind, UnaryKind

table = Table()


@table.op("MaxPool")
def max_pool(n: OnnxNode, x: Value) -> tuple[Value, ...]:
    """Import MaxPool, with the places of the maxima when they are read."""
    dtype = x.tensor.dtype
    lowest = -np.inf if dtype.is_float else np.iinfo(dtype.numpy).min  # type: ignore[type-var]
    padded, window = read_window(n, x, n.integers("kernel_shape"), lowest)
    geometry = {**vars(window), "ceil_mode": n.flag("ceil_mode")}
    if not n.wants(1):
        return (n.emit(ops.Pool(kind=PoolKind.MAX, **geometry), padded),)
    if padded is not x:
        raise n.unsupported("places of maxima together with padding that depends on a symbol")
    op = ops.MaxPoolIndices(**geometry, storage_order=n.integer("storage_order", 0))
    return n.emit_all(op, x)


@table.op("AveragePool")
def average_pool(n: OnnxNode, x: Value) -> Value:
    """Import AveragePool."""
    padded, window = read_window(n, x, n.integers("kernel_shape"))
    if padded is not x:
        raise n.unsupported("an average with padding that depends on a symbol")
    op = ops.Pool(
        kind=PoolKind.AVERAGE,
        **vars(window),
        ceil_mode=n.flag("ceil_mode"),
        count_include_pad=n.flag("count_include_pad"),
    )
    return n.emit(op, x)


@table.op("LpPool")
def lp_pool(n: OnnxNode, x: Value) -> Value:
    """Import LpPool."""
    x, window = read_window(n, x, n.integers("kernel_shape"))
    p = int(n.number("p", 2.0)) if n.opset < 2 else n.integer("p", 2)
    return n.emit(ops.Pool(kind=PoolKind.LP, **vars(window), ceil_mode=n.flag("ceil_mode"), p=p), x)


def _global(kind: ReduceKind) -> Importer:
    def importer(n: OnnxNode, x: Value) -> Value:
        return n.emit(ops.Reduce(kind=kind, axes=spatial(x), keepdims=True), x)

    return importer


table.op("GlobalAveragePool")(_global(ReduceKind.MEAN))
table.op("GlobalMaxPool")(_global(ReduceKind.MAX))


def spatial(x: Value) -> tuple[int, ...]:
    """Return the axes after batch and channels."""
    return tuple(range(2, x.tensor.rank))


@table.op("GlobalLpPool")
def global_lp_pool(n: OnnxNode, x: Value) -> Value:
    """Import GlobalLpPool, the p-norm of every plane."""
    p = n.number("p", 2.0) if n.opset < 2 else float(n.integer("p", 2))
    if p in (1.0, 2.0):
        kind = ReduceKind.L1 if p == 1.0 else ReduceKind.L2
        return n.emit(ops.Reduce(kind=kind, axes=spatial(x), keepdims=True), x)
    size = n.emit(ops.Unary(kind=UnaryKind.ABS), x)
    powers = n.binary(BinaryKind.POW, size, n.like(p, x))
    total = n.emit(ops.Reduce(kind=ReduceKind.SUM, axes=spatial(x), keepdims=True), powers)
    return n.binary(BinaryKind.POW, total, n.like(1 / p, x))
