"""Gathering, scattering and selecting by index."""

from __future__ import annotations

from lamina import ops
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Table
from lamina.ir.dims import product
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, ScatterReduction

table = Table()


@table.op("Gather")
def gather(n: OnnxNode, x: Value, indices: Value) -> Value:
    """Import Gather."""
    return n.emit(ops.Gather(axis=n.axis(x, default=0)), x, indices)


@table.op("GatherElements")
def gather_elements(n: OnnxNode, x: Value, indices: Value) -> Value:
    """Import GatherElements."""
    return n.emit(ops.GatherElements(axis=n.axis(x, default=0)), x, indices)


@table.op("GatherND")
def gather_nd(n: OnnxNode, x: Value, indices: Value) -> Value:
    """Import GatherND."""
    return n.emit(ops.GatherNd(batch_dims=n.integer("batch_dims", 0)), x, indices)


@table.op("Scatter", "ScatterElements")
def scatter_elements(n: OnnxNode, x: Value, indices: Value, updates: Value) -> Value:
    """Import ScatterElements and its older name Scatter."""
    op = ops.ScatterElements(axis=n.axis(x, default=0), reduction=_reduction(n))
    return n.emit(op, x, indices, updates)


@table.op("ScatterND")
def scatter_nd(n: OnnxNode, x: Value, indices: Value, updates: Value) -> Value:
    """Import ScatterND."""
    return n.emit(ops.ScatterNd(reduction=_reduction(n)), x, indices, updates)


def _reduction(n: OnnxNode) -> ScatterReduction:
    return ScatterReduction(n.choice("reduction", "none", "add", "mul", "max", "min"))


@table.op("TensorScatter")
def tensor_scatter(
    n: OnnxNode, cache: Value, update: Value, write_indices: Value | None = None
) -> Value:
    """Import TensorScatter: rows of ``update`` go to consecutive places of each batch entry."""
    rank = cache.tensor.rank
    axis = n.axis(cache, default=-2)
    shape = update.tensor.shape
    places = n.emit(
        ops.Range(length=shape[axis]), n.constant(0, DType.I64), n.constant(1, DType.I64)
    )
    places = n.reshape(places, tuple(shape[axis] if a == axis else 1 for a in range(rank)))
    if write_indices is not None:
        first = n.reshape(write_indices, (shape[0], *(1 for _ in range(rank - 1))))
        places = n.binary(BinaryKind.ADD, places, n.cast(first, DType.I64))
    if n.choice("mode", "linear", "circular") == "circular":
        size = n.reshape(n.shape_of(cache, axis, axis + 1), ())
        places = n.binary(BinaryKind.MOD, places, size)
    return n.emit(ops.ScatterElements(axis=axis), cache, n.expand(places, shape), update)


@table.op("OneHot")
def one_hot(n: OnnxNode, indices: Value, depth: Value, values: Value) -> Value:
    """Import OneHot."""
    rank = indices.tensor.rank + 1
    axis = n.wrap(n.integer("axis", -1), rank)
    op = ops.OneHot(axis=axis, depth=n.dim(n.cast(depth, DType.I64)))
    return n.emit(op, n.cast(indices, DType.I64), values)


@table.op("NonZero")
def non_zero(n: OnnxNode, x: Value) -> Value:
    """Import NonZero; the data decide how many columns the result has."""
    return n.emit(ops.NonZero(count=n.count("nonzero")), x)


@table.op("Compress")
def compress(n: OnnxNode, x: Value, condition: Value) -> Value:
    """Import Compress: gather where the condition holds."""
    if not n.has("axis"):
        x = n.reshape(x, (product(x.tensor.shape),))
    axis = n.axis(x, default=0)
    count = n.count("compress")
    places = n.emit(ops.NonZero(count=count), condition)
    return n.emit(ops.Gather(axis=axis), x, n.reshape(places, places.tensor.shape[1:]))


@table.op("ReverseSequence")
def reverse_sequence(n: OnnxNode, x: Value, sequence_lengths: Value) -> Value:
    """Import ReverseSequence."""
    op = ops.ReverseSequence(
        batch_axis=n.axis(x, "batch_axis", 1), time_axis=n.axis(x, "time_axis", 0)
    )
    return n.emit(op, x, sequence_lengths)
