"""Layers that join elements along axes."""

from __future__ import annotations

from collections.abc import Sequence

from lamina import ops
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, CumulativeKind, ReduceKind
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import CumulativeOperation, DataType, ReduceOperation, TopKOperation
from lamina.tensorrt.foundation.dtype import to_ir
from lamina.tensorrt.lowering.axes import at, default_axis, in_mask, one_in_mask
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.setting import OptionalSetting, Setting, set_quietly
from lamina.tensorrt.network.tensor import ITensor

KINDS = {
    "SUM": ReduceKind.SUM,
    "PROD": ReduceKind.PROD,
    "MAX": ReduceKind.MAX,
    "MIN": ReduceKind.MIN,
    "AVG": ReduceKind.MEAN,
}


class IReduceLayer(ILayer):
    """Sum, product, maximum, minimum or mean along the axes of a bit mask."""

    _kind = "REDUCE"
    op = Setting(ReduceOperation, "SUM", "What is computed.")
    axes = Setting(int, 0, "Bit mask of the axes.")
    keep_dims = Setting(bool, False, "Whether the axes stay, with size one.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        axes = in_mask(e, self.axes, x)
        if self.op.name == "NONE":
            return (x,)
        return (e.reduce(KINDS[self.op.name], x, axes, keepdims=self.keep_dims),)


class ISoftMaxLayer(ILayer):
    """Softmax along one axis."""

    _kind = "SOFTMAX"
    axes = OptionalSetting(int, None, "Bit mask of the axis; the third from the end by default.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        axis = default_axis(e, x) if self.axes is None else one_in_mask(e, self.axes, x)
        return (e.emit(ops.Softmax(axis=axis), x),)


class IRaggedSoftMaxLayer(ILayer):
    """Softmax over the first ``bounds`` elements of each row, zeros after them."""

    _kind = "RAGGED_SOFTMAX"

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, bounds = inputs
        assert x is not None and bounds is not None
        last = x.tensor.rank - 1
        zero, one = e.constant(0, DType.I64), e.constant(1, DType.I64)
        column = e.emit(ops.Range(length=x.tensor.shape[last]), zero, one)
        limit = e.cast(bounds, DType.I64)
        if limit.tensor.rank < x.tensor.rank:
            limit = e.unsqueeze(limit, (limit.tensor.rank,))
        inside = e.binary(BinaryKind.LESS, column, limit)
        masked = e.emit(
            ops.Select(), inside, x, e.like(-1e30 if x.tensor.dtype is DType.F32 else -6e4, x)
        )
        y = e.emit(ops.Softmax(axis=last), masked)
        return (e.emit(ops.Select(), inside, y, e.like(0, y)),)


class ITopKLayer(ILayer):
    """The k largest or smallest elements along an axis, and where they are.

    Input 1 gives k as a tensor.
    """

    _kind = "TOPK"
    _results = 2
    _shape_operands = frozenset({1})
    op = Setting(TopKOperation, "MAX", "Largest or smallest.")
    k = Setting(int, 1, "How many.")
    axes = Setting(int, 1, "Bit mask of the axis.")
    indices_type = Setting(DataType, "INT32", "Type of the indices.")
    _indices_type = indices_type

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, k = (*inputs, None)[:2]
        assert x is not None
        op = ops.TopK(
            k=self.k if k is None else e.dim(k),
            axis=one_in_mask(e, self.axes, x),
            largest=self.op.name == "MAX",
        )
        values, indices = e.emit_all(op, x)
        return values, e.cast(indices, to_ir(self._indices_type))


class ICumulativeLayer(ILayer):
    """A running sum along an axis, which is a constant tensor."""

    _kind = "CUMULATIVE"
    op = Setting(CumulativeOperation, "SUM", "What is computed.")
    exclusive = Setting(bool, False, "Whether an element counts for itself not.")
    reverse = Setting(bool, False, "Whether the sum runs from the end.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, axis = inputs
        assert x is not None and axis is not None
        op = ops.Cumulative(
            kind=CumulativeKind.SUM,
            axis=at(e, int(e.required(axis, "the axis").item()), x),
            exclusive=self.exclusive,
            reverse=self.reverse,
        )
        return (e.emit(op, x),)


class ReductionAdditions(Additions):
    """``add_*`` of the layers of this module."""

    @checked
    def add_reduce(
        self, input: ITensor, op: ReduceOperation, axes: int, keep_dims: bool
    ) -> IReduceLayer:
        """Add a reduction."""
        layer = self._add(IReduceLayer(self._state, [input]))
        set_quietly(layer, op=op, axes=axes, keep_dims=keep_dims)
        return layer

    @checked
    def add_softmax(self, input: ITensor) -> ISoftMaxLayer:
        """Add a softmax."""
        return self._add(ISoftMaxLayer(self._state, [input]))

    @checked
    def add_ragged_softmax(self, input: ITensor, bounds: ITensor) -> IRaggedSoftMaxLayer:
        """Add a softmax over sequences of different lengths."""
        return self._add(IRaggedSoftMaxLayer(self._state, [input, bounds]))

    @checked
    def add_topk(
        self,
        input: ITensor,
        op: TopKOperation,
        k: int,
        axes: int,
        indices_type: DataType | None = None,
    ) -> ITopKLayer:
        """Add a choice of the largest or smallest elements."""
        layer = self._add(ITopKLayer(self._state, [input]))
        set_quietly(layer, op=op, k=k, axes=axes)
        if indices_type is not None:
            set_quietly(layer, indices_type=indices_type)
        return layer

    @checked
    def add_cumulative(
        self, input: ITensor, axis: ITensor, op: CumulativeOperation, exclusive: bool, reverse: bool
    ) -> ICumulativeLayer:
        """Add a running sum."""
        layer = self._add(ICumulativeLayer(self._state, [input, axis]))
        set_quietly(layer, op=op, exclusive=exclusive, reverse=reverse)
        return layer


__all__ = [
    "ICumulativeLayer",
    "IRaggedSoftMaxLayer",
    "IReduceLayer",
    "ISoftMaxLayer",
    "ITopKLayer",
]
