"""Layers that read or write at places that another tensor names."""

from __future__ import annotations

from collections.abc import Sequence

from lamina import ops
from lamina.errors import GraphError
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import DataType, GatherMode, ScatterMode
from lamina.tensorrt.foundation.dtype import to_ir
from lamina.tensorrt.lowering.axes import at
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.setting import Setting, set_quietly
from lamina.tensorrt.network.tensor import ITensor


class IGatherLayer(ILayer):
    """Slices along an axis (DEFAULT), elements (ELEMENT), or slices by coordinates (ND)."""

    _kind = "GATHER"
    axis = Setting(int, 0, "Axis that is indexed (DEFAULT and ELEMENT).")
    num_elementwise_dims = Setting(int, 0, "Leading axes that both operands share.")
    mode = Setting(GatherMode, "DEFAULT", "Which gather.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, indices = inputs
        assert x is not None and indices is not None
        shared = self.num_elementwise_dims + (1 if e.implicit_batch else 0)
        if self.mode.name == "ND":
            return (e.emit(ops.GatherNd(batch_dims=shared), x, indices),)
        axis = at(e, self.axis, x)
        if self.mode.name == "ELEMENT":
            return (e.emit(ops.GatherElements(axis=axis), x, indices),)
        if not self.num_elementwise_dims:
            shared = 1 if e.implicit_batch and indices.tensor.rank and _has_batch(e, indices) else 0
        if not shared:
            return (e.gather(x, indices, axis),)
        return (_batched(e, x, indices, axis, shared),)


def _has_batch(e: LayerEmitter, indices: Value) -> bool:
    return indices.tensor.shape[:1] == (e.walk.batch,)


def _batched(e: LayerEmitter, x: Value, indices: Value, axis: int, shared: int) -> Value:
    """Gather along an axis with indices of its own for each item of the leading axes."""
    if axis < shared:
        raise GraphError(f"axis {axis} is one of the {shared} shared axes")
    rank = x.tensor.rank
    front = (*range(shared), axis, *(a for a in range(shared, rank) if a != axis))
    places = e.unsqueeze(indices, (indices.tensor.rank,))
    y = e.emit(ops.GatherNd(batch_dims=shared), e.transpose(x, front), places)
    new = indices.tensor.rank - shared
    between = axis - shared
    order = (
        *range(shared),
        *range(shared + new, shared + new + between),
        *range(shared, shared + new),
        *range(shared + new + between, y.tensor.rank),
    )
    return e.transpose(y, order)


class IScatterLayer(ILayer):
    """A copy of the data with updates at places that indices name."""

    _kind = "SCATTER"
    axis = Setting(int, 0, "Axis that is indexed (ELEMENT).")
    mode = Setting(ScatterMode, "ELEMENT", "Which scatter.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        data, indices, updates = inputs
        assert data is not None and indices is not None and updates is not None
        if self.mode.name == "ND":
            return (e.emit(ops.ScatterNd(), data, indices, updates),)
        op = ops.ScatterElements(axis=at(e, self.axis, data))
        return (e.emit(op, data, indices, updates),)


class IOneHotLayer(ILayer):
    """``values[1]`` where the new axis equals the index, ``values[0]`` elsewhere."""

    _kind = "ONE_HOT"
    _shape_operands = frozenset({2})
    axis = Setting(int, -1, "Place of the new axis.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        indices, values, depth = inputs
        assert indices is not None and values is not None and depth is not None
        rank = indices.tensor.rank + 1
        op = ops.OneHot(axis=self.axis % rank, depth=e.dim(depth))
        return (e.emit(op, indices, values),)


class INonZeroLayer(ILayer):
    """Coordinates of the elements that are not zero, one row per axis."""

    _kind = "NON_ZERO"
    indices_type = Setting(DataType, "INT32", "Type of the coordinates.")
    _indices_type = indices_type

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        found = e.emit(ops.NonZero(count=e.count("nonzero")), x)
        return (e.cast(found, to_ir(self._indices_type)),)


class IReverseSequenceLayer(ILayer):
    """The first elements of each sequence in reverse."""

    _kind = "REVERSE_SEQUENCE"
    batch_axis = Setting(int, 1, "Axis of the sequences.")
    sequence_axis = Setting(int, 0, "Axis of time.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, lengths = inputs
        assert x is not None and lengths is not None
        op = ops.ReverseSequence(
            batch_axis=at(e, self.batch_axis, x), time_axis=at(e, self.sequence_axis, x)
        )
        return (e.emit(op, x, e.cast(lengths, DType.I64)),)


class IndexingAdditions(Additions):
    """``add_*`` of the layers of this module."""

    @checked
    def add_gather(self, input: ITensor, indices: ITensor, axis: int) -> IGatherLayer:
        """Add a gather of slices along an axis."""
        layer = self._add(IGatherLayer(self._state, [input, indices]))
        set_quietly(layer, axis=axis)
        return layer

    @checked
    def add_gather_v2(self, input: ITensor, indices: ITensor, mode: GatherMode) -> IGatherLayer:
        """Add a gather of any mode."""
        layer = self._add(IGatherLayer(self._state, [input, indices]))
        set_quietly(layer, mode=mode)
        return layer

    @checked
    def add_scatter(
        self, data: ITensor, indices: ITensor, updates: ITensor, mode: ScatterMode
    ) -> IScatterLayer:
        """Add a scatter."""
        layer = self._add(IScatterLayer(self._state, [data, indices, updates]))
        set_quietly(layer, mode=mode)
        return layer

    @checked
    def add_one_hot(
        self, indices: ITensor, values: ITensor, depth: ITensor, axis: int
    ) -> IOneHotLayer:
        """Add a one-hot encoding."""
        layer = self._add(IOneHotLayer(self._state, [indices, values, depth]))
        set_quietly(layer, axis=axis)
        return layer

    @checked
    def add_non_zero(self, input: ITensor, indices_type: DataType | None = None) -> INonZeroLayer:
        """Add the coordinates of elements that are not zero."""
        layer = self._add(INonZeroLayer(self._state, [input]))
        if indices_type is not None:
            set_quietly(layer, indices_type=indices_type)
        return layer

    @checked
    def add_reverse_sequence(self, input: ITensor, sequence_lens: ITensor) -> IReverseSequenceLayer:
        """Add a reversal of sequences."""
        return self._add(IReverseSequenceLayer(self._state, [input, sequence_lens]))


__all__ = [
    "IGatherLayer",
    "INonZeroLayer",
    "IOneHotLayer",
    "IReverseSequenceLayer",
    "IScatterLayer",
]
