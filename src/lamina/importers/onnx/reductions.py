"""Reductions, running sums and the largest elements."""

from __future__ import annotations

from lamina import ops
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Importer, Table
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import ArgReduceKind, CumulativeKind, ReduceKind

table = Table()

_REDUCE = {
    "ReduceL1": ReduceKind.L1,
    "ReduceL2": ReduceKind.L2,
    "ReduceLogSum": ReduceKind.LOG_SUM,
    "ReduceLogSumExp": ReduceKind.LOG_SUM_EXP,
    "ReduceMax": ReduceKind.MAX,
    "ReduceMean": ReduceKind.MEAN,
    "ReduceMin": ReduceKind.MIN,
    "ReduceProd": ReduceKind.PROD,
    "ReduceSum": ReduceKind.SUM,
    "ReduceSumSquare": ReduceKind.SUM_SQUARE,
}


def _reduce(kind: ReduceKind) -> Importer:
    def importer(n: OnnxNode, x: Value, axes: Value | None = None) -> Value:
        rank = x.tensor.rank
        chosen = n.axes(rank, axes)
        if not chosen:
            chosen = () if n.flag("noop_with_empty_axes") else tuple(range(rank))
        y = x if x.tensor.dtype is not DType.BOOL else n.cast(x, DType.U8)
        y = n.reduce(kind, y, tuple(sorted(chosen)), keepdims=n.flag("keepdims", True))
        return n.cast(y, x.tensor.dtype)

    return importer


def _arg_reduce(kind: ArgReduceKind) -> Importer:
    def importer(n: OnnxNode, x: Value) -> Value:
        op = ops.ArgReduce(
            kind=kind,
            axis=n.axis(x, default=0),
            keepdims=n.flag("keepdims", True),
            select_last=n.flag("select_last_index"),
        )
        return n.emit(op, x)

    return importer


def _cumulative(kind: CumulativeKind) -> Importer:
    def importer(n: OnnxNode, x: Value, axis: Value) -> Value:
        chosen = n.wrap(int(n.required(axis, "the axis").item()), x.tensor.rank)
        op = ops.Cumulative(
            kind=kind, axis=chosen, exclusive=n.flag("exclusive"), reverse=n.flag("reverse")
        )
        return n.emit(op, x)

    return importer


for _name, _kind in _REDUCE.items():
    table.op(_name)(_reduce(_kind))
table.op("ArgMax")(_arg_reduce(ArgReduceKind.ARGMAX))
table.op("ArgMin")(_arg_reduce(ArgReduceKind.ARGMIN))
table.op("CumSum")(_cumulative(CumulativeKind.SUM))
table.op("CumProd")(_cumulative(CumulativeKind.PROD))


@table.op("TopK")
def top_k_attribute(n: OnnxNode, x: Value) -> tuple[Value, ...]:
    """Import TopK before opset 10, with k as an attribute."""
    return n.emit_all(ops.TopK(k=n.integer("k"), axis=n.axis(x, default=-1)), x)


@table.op("TopK", since=10)
def top_k(n: OnnxNode, x: Value, k: Value) -> tuple[Value, ...]:
    """Import TopK."""
    op = ops.TopK(
        k=n.dim(k),
        axis=n.axis(x, default=-1),
        largest=n.flag("largest", True),
        sorted=n.flag("sorted", True),
    )
    return n.emit_all(op, x)
