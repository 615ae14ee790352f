"""Scales and normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamina import ops
from lamina.ir.dims import Dim
from lamina.ir.graph import Value
from lamina.ops.kinds import BinaryKind, ReduceKind, UnaryKind
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import DataType, ScaleMode
from lamina.tensorrt.foundation.weights import Weights
from lamina.tensorrt.lowering.axes import in_mask
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.linear import WeightsSetting
from lamina.tensorrt.network.setting import Setting, set_quietly
from lamina.tensorrt.network.tensor import ITensor


class IScaleLayer(ILayer):
    """``(x * scale + shift) ** power`` with one factor, one per channel, or one per element."""

    _kind = "SCALE"
    mode = Setting(ScaleMode, "UNIFORM", "Which elements share a factor.")
    shift = WeightsSetting(Weights, None, "Summands, none for zero.")
    scale = WeightsSetting(Weights, None, "Factors, none for one.")
    power = WeightsSetting(Weights, None, "Exponents, none for one.")
    channel_axis = Setting(int, 1, "Axis of the channels.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        shape = self._shape(e, x)
        for name, kind in (
            ("scale", BinaryKind.MUL),
            ("shift", BinaryKind.ADD),
            ("power", BinaryKind.POW),
        ):
            given: Weights | None = self.__dict__.get(name)
            if given is not None and given.size:
                role = {"scale": "SCALE", "shift": "SHIFT", "power": "ANY"}[name]
                factor = e.cast(e.weights(given, role, shape), x.tensor.dtype)
                x = e.binary(kind, x, factor)
        return (x,)

    def _shape(self, e: LayerEmitter, x: Value) -> tuple[int, ...]:
        rank = x.tensor.rank
        if self.mode.name == "UNIFORM":
            return (1,) * rank
        axis = self.channel_axis + (1 if e.implicit_batch else 0)
        channel = {axis} if self.mode.name == "CHANNEL" else set(range(1, rank))
        sizes = [d if a in channel else 1 for a, d in enumerate(x.tensor.shape)]
        if not all(isinstance(d, int) for d in sizes):
            raise self._fail(f"the scaled sizes of {x.tensor} are not known")
        return tuple(int(d) for d in sizes)  # type: ignore[arg-type]


class INormalizationLayer(ILayer):
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` over the axes of a bit mask.

    With groups, the channels (axis 1) of a group are normalized together with the axes.
    """

    _kind = "NORMALIZATION"
    epsilon = Setting(float, 1e-5, "What is added to the variance.")
    axes = Setting(int, 0, "Bit mask of the axes.")
    num_groups = Setting(int, 1, "Number of groups of channels.")
    compute_precision: Any = Setting(DataType, "FLOAT", "Type of the statistics; always float.")
    _v2 = False

    @property
    def is_v2(self) -> bool:
        """Whether scale and bias have one element per channel."""
        return self._v2

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, scale, bias = inputs
        assert x is not None and scale is not None and bias is not None
        axes = in_mask(e, self.axes, x)
        if self.num_groups > 1:
            return (self._grouped(e, x, scale, bias),)
        rank = x.tensor.rank
        trailing = bool(axes) and axes == tuple(range(axes[0], rank))
        inner = x.tensor.shape[axes[0] :] if trailing else ()
        if trailing and scale.tensor.shape == bias.tensor.shape == (*[1] * axes[0], *inner):
            op = ops.LayerNorm(axis=axes[0], epsilon=self.epsilon)
            return (e.emit(op, x, e.reshape(scale, inner), e.reshape(bias, inner)),)
        channels = x.tensor.shape[1:2]
        per_channel = (1, *channels, *[1] * (rank - 2))
        if axes == tuple(range(2, rank)) and rank > 2 and scale.tensor.shape == per_channel:
            norm = ops.InstanceNorm(epsilon=self.epsilon)
            return (e.emit(norm, x, e.reshape(scale, channels), e.reshape(bias, channels)),)
        y = _normalized(e, x, axes, self.epsilon)
        return (e.binary(BinaryKind.ADD, e.multiply(y, scale), bias),)

    def _grouped(self, e: LayerEmitter, x: Value, scale: Value, bias: Value) -> Value:
        channels, groups = x.tensor.shape[1], self.num_groups
        if not isinstance(channels, int) or channels % groups:
            raise self._fail(f"{groups} groups do not divide the channels of {x.tensor}")

        def per_channel(v: Value) -> Value:
            count: Dim = v.tensor.size
            flat = e.reshape(v, (count,))
            if count == channels:
                return flat
            if count != groups:
                raise self._fail(f"{v.tensor} has neither {channels} nor {groups} elements")
            rows = e.expand(e.reshape(flat, (groups, 1)), (groups, channels // groups))
            return e.reshape(rows, (channels,))

        op = ops.GroupNorm(groups=groups, epsilon=self.epsilon)
        return e.emit(op, x, per_channel(scale), per_channel(bias))


def _normalized(e: LayerEmitter, x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    mean = e.reduce(ReduceKind.MEAN, x, axes, keepdims=True)
    centred = e.binary(BinaryKind.SUB, x, mean)
    variance = e.reduce(ReduceKind.MEAN, e.multiply(centred, centred), axes, keepdims=True)
    spread = e.binary(BinaryKind.ADD, variance, e.like(epsilon, x))
    return e.binary(BinaryKind.DIV, centred, e.emit(ops.Unary(kind=UnaryKind.SQRT), spread))


class NormalizationAdditions(Additions):
    """``add_*`` of the layers of this module."""

    @checked
    def add_scale(
        self,
        input: ITensor,
        mode: ScaleMode,
        shift: Weights | None = None,
        scale: Weights | None = None,
        power: Weights | None = None,
    ) -> IScaleLayer:
        """Add a scale whose channels are the third axis from the end."""
        layer = self._add(IScaleLayer(self._state, [input]))
        set_quietly(layer, mode=mode, shift=shift, scale=scale, power=power)
        set_quietly(layer, channel_axis=0 if self._state.implicit_batch else 1)
        return layer

    @checked
    def add_scale_nd(
        self,
        input: ITensor,
        mode: ScaleMode,
        shift: Weights | None = None,
        scale: Weights | None = None,
        power: Weights | None = None,
        channel_axis: int = 1,
    ) -> IScaleLayer:
        """Add a scale with any axis of channels."""
        layer = self._add(IScaleLayer(self._state, [input]))
        set_quietly(layer, mode=mode, shift=shift, scale=scale, power=power)
        set_quietly(layer, channel_axis=channel_axis)
        return layer

    @checked
    def add_normalization(
        self, input: ITensor, scale: ITensor, bias: ITensor, axesMask: int
    ) -> INormalizationLayer:
        """Add a normalization; scale and bias broadcast to the operand."""
        layer = self._add(INormalizationLayer(self._state, [input, scale, bias]))
        set_quietly(layer, axes=axesMask)
        return layer

    @checked
    def add_normalization_v2(
        self, input: ITensor, scale: ITensor, bias: ITensor, axesMask: int
    ) -> INormalizationLayer:
        """Add a normalization whose groups have a scale and bias per channel."""
        layer = self._add(INormalizationLayer(self._state, [input, scale, bias]))
        set_quietly(layer, axes=axesMask, _v2=True)
        return layer


__all__ = ["INormalizationLayer", "IScaleLayer"]
