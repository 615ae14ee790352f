"""Quantization, with scales that are given or computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lamina import ops
from lamina.ir.dims import floordiv, is_static
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, ReduceKind, UnaryKind
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import DataType
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.foundation.dtype import to_ir
from lamina.tensorrt.lowering.axes import at
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.setting import OptionalSetting, Setting, set_quietly
from lamina.tensorrt.network.tensor import ITensor

_LARGEST = {DType.I8: 127.0, DType.I4: 7.0, DType.F8E4M3: 448.0, DType.F4E2M1: 6.0}


class ScaledLayer(ILayer):
    """What quantization and its inverse have in common; input 2 is a zero point."""

    axis = OptionalSetting(int, None, "Axis with one scale per index.")
    block_shape = OptionalSetting(Dims, None, "Sizes of the blocks that share a scale.")
    to_type = Setting(DataType, "INT8", "Type of the result.")
    _to_type = to_type

    def _blocks(self, e: LayerEmitter, x: Value, scale: Value) -> tuple[Value, int | None, int]:
        """Return the scale in the IR's form, the axis and the size of a block."""
        if scale.tensor.size == 1:
            return e.reshape(scale, ()), None, 0
        if scale.tensor.rank == 1:
            axis = self.axis if self.axis is not None else (0 if e.implicit_batch else 1)
            return scale, at(e, axis, x), 0
        if scale.tensor.rank != x.tensor.rank:
            raise self._fail(f"a scale {scale.tensor} for {x.tensor}")
        sizes = list(zip(x.tensor.shape, scale.tensor.shape, strict=True))
        blocked = [a for a, (d, s) in enumerate(sizes) if d != s]
        for axis in blocked[1:]:
            if sizes[axis][1] == 1:
                continue
            raise self._fail(f"blocks along several axes: a scale {scale.tensor} for {x.tensor}")
        if len(blocked) > 1:  # one scale per index of the other axis
            kept = [a for a in range(len(sizes)) if a not in blocked]
            if len(kept) == 1:
                return e.reshape(scale, (sizes[kept[0]][0],)), kept[0], 0
        if not blocked:
            return scale, x.tensor.rank - 1, 1
        axis = blocked[0]
        if not (is_static(sizes[axis][0]) and is_static(sizes[axis][1])):
            raise self._fail(f"the blocks of {x.tensor} are not known")
        return scale, axis, int(sizes[axis][0]) // int(sizes[axis][1])  # type: ignore[arg-type]

    def _target(self) -> DType:
        return to_ir(self._output_types.get(0) or self._to_type)


class IQuantizeLayer(ScaledLayer):
    """``x / scale`` rounded to a narrow type."""

    _kind = "QUANTIZE"

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, scale, zero = (*inputs, None)[:3]
        assert x is not None and scale is not None
        scale, axis, block = self._blocks(e, x, scale)
        op = ops.Quantize(dtype=self._target(), axis=axis, block_size=block)
        return (e.emit(op, x, scale, *_zero_point(e, zero, scale, self._target())),)


class IDequantizeLayer(ScaledLayer):
    """``q * scale``."""

    _kind = "DEQUANTIZE"
    to_type = Setting(DataType, "FLOAT", "Type of the result.")
    _to_type = to_type

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        q, scale, zero = (*inputs, None)[:3]
        assert q is not None and scale is not None
        scale, axis, block = self._blocks(e, q, scale)
        op = ops.Dequantize(dtype=self._target(), axis=axis, block_size=block)
        return (e.emit(op, q, scale, *_zero_point(e, zero, scale, q.tensor.dtype)),)


def _zero_point(e: LayerEmitter, zero: Value | None, scale: Value, dtype: DType) -> list[Value]:
    """Return a zero point of the form of the scale, nothing when all are zero."""
    if zero is None:
        return []
    known = e.known(zero)
    if known is not None and not np.any(known.astype(np.float32)):
        return []
    return [e.cast(e.reshape(zero, scale.tensor.shape), dtype)]


class IDynamicQuantizeLayer(ILayer):
    """Blocks divided by scales computed from their largest elements; gives both.

    The scale of a block is its largest magnitude over the largest number of the result's type,
    rounded to the scale's type (up, to a power of two, for E8M0).  Input 1 divides scales once
    more before they are rounded.
    """

    _kind = "DYNAMIC_QUANTIZE"
    _results = 2
    axis = Setting(int, -1, "Axis of the blocks.")
    block_size = Setting(int, 16, "Elements of a block.")
    block_shape = OptionalSetting(Dims, None, "Sizes of the blocks, in place of axis and size.")
    to_type = Setting(DataType, "FP4", "Type of the result.")
    scale_type = Setting(DataType, "FP8", "Type of the scales.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, second = (*inputs, None)[:2]
        assert x is not None
        types = to_ir(self.to_type), to_ir(self.scale_type)
        q, scale, _ = quantize_blocks(e, x, self._block(e, x), types, second)
        return q, scale

    def _block(self, e: LayerEmitter, x: Value) -> tuple[int, int]:
        axis, size = at(e, self.axis, x), self.block_size
        if self.block_shape is not None:
            longer = [(a, n) for a, n in enumerate(self.block_shape) if n != 1]
            if len(longer) != 1:
                raise self._fail(f"blocks of shape {self.block_shape}: one axis may exceed 1")
            axis, size = longer[0]
            if size == -1:
                axis_size = x.tensor.shape[axis]
                size = int(axis_size) if isinstance(axis_size, int) else 0
        length = x.tensor.shape[axis]
        if size < 1 or (isinstance(length, int) and length % size):
            raise self._fail(f"blocks of {size} do not divide axis {axis} of {x.tensor}")
        return axis, size


def quantize_blocks(
    e: LayerEmitter,
    x: Value,
    block: tuple[int, int],
    types: tuple[DType, DType],
    second: Value | None,
) -> tuple[Value, Value, Value]:
    """Return what :class:`IDynamicQuantizeLayer` gives, and the f32 numbers it divides by.

    ``block`` is the axis of the blocks and their elements, ``types`` those of results and scales,
    ``second`` what scales are divided by before they are rounded.
    """
    (axis, size), (target, scale_type) = block, types
    shape = x.tensor.shape
    count = floordiv(shape[axis], size)
    parts = e.reshape(x, (*shape[:axis], count, size, *shape[axis + 1 :]))
    magnitude = e.emit(ops.Unary(kind=UnaryKind.ABS), e.cast(parts, DType.F32))
    largest = e.reduce(ReduceKind.MAX, magnitude, (axis + 1,), keepdims=False)
    ratio = e.binary(BinaryKind.DIV, largest, e.like(_LARGEST[target], largest))
    if second is not None:
        ratio = e.binary(BinaryKind.DIV, ratio, e.cast(e.reshape(second, ()), DType.F32))
    scale = e.cast(ratio, scale_type)
    real = e.cast(scale, DType.F32)
    if second is not None:
        real = e.multiply(real, e.cast(e.reshape(second, ()), DType.F32))
    tiny = e.like(float(np.finfo(np.float32).tiny), real)
    divisor = e.binary(BinaryKind.MAX, real, tiny)  # an all-zero block has the scale zero
    op = ops.Quantize(dtype=target, axis=axis, block_size=size)
    return e.emit(op, e.cast(x, DType.F32), divisor), scale, divisor


class QuantizationAdditions(Additions):
    """``add_*`` of the layers of this module."""

    @checked
    def add_quantize(
        self, input: ITensor, scale: ITensor, output_type: DataType | None = None
    ) -> IQuantizeLayer:
        """Add a quantization, to INT8 by default."""
        layer = self._add(IQuantizeLayer(self._state, [input, scale]))
        if output_type is not None:
            set_quietly(layer, to_type=output_type)
        return layer

    @checked
    def add_dequantize(
        self, input: ITensor, scale: ITensor, output_type: DataType | None = None
    ) -> IDequantizeLayer:
        """Add a dequantization, to FLOAT by default."""
        layer = self._add(IDequantizeLayer(self._state, [input, scale]))
        if output_type is not None:
            set_quietly(layer, to_type=output_type)
        return layer

    @checked
    def add_dynamic_quantize(
        self,
        input: ITensor,
        axis: int,
        block_size: int,
        output_type: DataType,
        scale_type: DataType,
    ) -> IDynamicQuantizeLayer:
        """Add a quantization whose scales are computed for blocks along an axis."""
        layer = self._add(IDynamicQuantizeLayer(self._state, [input]))
        set_quietly(layer, axis=axis, block_size=block_size)
        set_quietly(layer, to_type=output_type, scale_type=scale_type)
        return layer

    @checked
    def add_dynamic_quantize_v2(
        self, input: ITensor, block_shape: Dims, output_type: DataType, scale_type: DataType
    ) -> IDynamicQuantizeLayer:
        """Add a quantization whose scales are computed for blocks of a shape."""
        layer = self._add(IDynamicQuantizeLayer(self._state, [input]))
        set_quietly(layer, block_shape=block_shape)
        set_quietly(layer, to_type=output_type, scale_type=scale_type)
        return layer


__all__ = ["IDequantizeLayer", "IDynamicQuantizeLayer", "IQuantizeLayer"]
