"""Layers on images: pooling, resizing, sampling, boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamina import ops
from lamina.ir.dims import Dim, floordiv
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops import kinds
from lamina.ops.kinds import BinaryKind, PoolKind
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import (
    InterpolationMode,
    PoolingType,
    ResizeCoordinateTransformation,
    ResizeRoundMode,
    ResizeSelector,
    SampleMode,
)
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.linear import Synonym, WindowLayer
from lamina.tensorrt.network.setting import OptionalSetting, Setting, set_quietly
from lamina.tensorrt.network.tensor import ITensor
from lamina.tensorrt.network.windows import Window, image, padded


class IPoolingLayer(WindowLayer):
    """The maximum or mean of windows, or a blend of both."""

    _kind = "POOLING"
    type = Setting(PoolingType, "MAX", "What a window computes.")
    window_size_nd = Setting(Dims, Dims(), "Sizes of the window.")
    window_size = Synonym("window_size_nd", "Sizes of the window (2-D form).")
    blend_factor = Setting(float, 0.0, "Share of the mean in MAX_AVERAGE_BLEND.")
    average_count_excludes_padding = Setting(bool, True, "Whether means leave out the padding.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        window = self._window(self.window_size_nd, None)
        x = image(e, x, len(window.kernel))
        kind = self.type.name
        if kind == "MAX":
            return (self._pool(e, x, window, PoolKind.MAX),)
        mean = self._pool(e, x, window, PoolKind.AVERAGE)
        if kind == "AVERAGE":
            return (mean,)
        largest = self._pool(e, x, window, PoolKind.MAX)
        share = self.blend_factor
        parts = e.multiply(largest, e.like(1 - share, x)), e.multiply(mean, e.like(share, x))
        return (e.binary(BinaryKind.ADD, *parts),)

    def _pool(self, e: LayerEmitter, x: Value, window: Window, kind: PoolKind) -> Value:
        lowest = -3.0e38 if x.tensor.dtype in (DType.F32, DType.BF16) else -6.0e4
        x, begin, end = padded(e, x, window, lowest if kind is PoolKind.MAX else 0.0)
        op = ops.Pool(
            kind=kind,
            kernel=window.kernel,
            strides=window.strides,
            dilations=window.dilations,
            pads_begin=begin,
            pads_end=end,
            count_include_pad=kind is PoolKind.AVERAGE and not self.average_count_excludes_padding,
        )
        return e.emit(op, x)


class ILRNLayer(ILayer):
    """Local response normalization across channels."""

    _kind = "LRN"
    window_size = Setting(int, 5, "Number of channels that are summed.")
    alpha = Setting(float, 1.0, "Factor of the sum.")
    beta = Setting(float, 0.75, "Exponent.")
    k = Setting(float, 1.0, "Offset.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        op = ops.Lrn(size=self.window_size, alpha=self.alpha, beta=self.beta, bias=self.k)
        return (e.emit(op, x),)


COORDINATES = {
    "ALIGN_CORNERS": kinds.CoordinateMode.ALIGN_CORNERS,
    "ASYMMETRIC": kinds.CoordinateMode.ASYMMETRIC,
    "HALF_PIXEL": kinds.CoordinateMode.HALF_PIXEL,
}
ROUNDING = {
    "HALF_UP": kinds.NearestMode.ROUND_PREFER_CEIL,
    "HALF_DOWN": kinds.NearestMode.ROUND_PREFER_FLOOR,
    "FLOOR": kinds.NearestMode.FLOOR,
    "CEIL": kinds.NearestMode.CEIL,
}
INTERPOLATION = {
    "NEAREST": kinds.InterpolationMode.NEAREST,
    "LINEAR": kinds.InterpolationMode.LINEAR,
    "CUBIC": kinds.InterpolationMode.CUBIC,
}


class IResizeLayer(ILayer):
    """Other sizes by interpolation; input 1 gives them as a tensor."""

    _kind = "RESIZE"
    _shape_operands = frozenset({1})
    shape = OptionalSetting(Dims, None, "Sizes of the result.")
    scales: Any = OptionalSetting(list, None, "Factor of each axis.")
    resize_mode = Setting(InterpolationMode, "NEAREST", "How values are interpolated.")
    coordinate_transformation = Setting(
        ResizeCoordinateTransformation, "ASYMMETRIC", "How coordinates are mapped."
    )
    selector_for_single_pixel = Setting(
        ResizeSelector, "FORMULA", "What an axis of size one takes."
    )
    nearest_rounding = Setting(ResizeRoundMode, "FLOOR", "How NEAREST rounds.")
    exclude_outside = Setting(bool, False, "Whether CUBIC leaves out what is outside.")
    cubic_coeff = Setting(float, -0.75, "Coefficient of CUBIC.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, given = (*inputs, None)[:2]
        assert x is not None
        sizes, scales = self._sizes(e, x, given)
        mode = self.coordinate_transformation.name
        upper = self.selector_for_single_pixel.name == "UPPER" and any(d == 1 for d in sizes)
        op = ops.Resize(
            sizes=sizes,
            scales=() if upper else scales,
            mode=INTERPOLATION[self.resize_mode.name],
            coordinate_mode=COORDINATES["ASYMMETRIC" if upper else mode],
            nearest_mode=ROUNDING[self.nearest_rounding.name],
            cubic_coeff_a=self.cubic_coeff,
            exclude_outside=self.exclude_outside,
        )
        return (e.emit(op, x),)

    def _sizes(
        self, e: LayerEmitter, x: Value, given: Value | None
    ) -> tuple[tuple[Dim, ...], tuple[float, ...]]:
        batch = x.tensor.shape[:1] if e.implicit_batch else ()
        if given is not None:
            return (*batch, *e.dims(given)), ()
        if self.shape is not None:
            return (*batch, *self.shape), ()
        if self.scales is None:
            raise self._fail("neither shape nor scales are given")
        scales = (*((1.0,) if batch else ()), *(float(s) for s in self.scales))
        if len(scales) != x.tensor.rank:
            raise self._fail(f"{len(scales)} scales for {x.tensor}")
        rows = zip(x.tensor.shape, scales, strict=True)
        return tuple(_scaled(d, s) for d, s in rows), scales


def _scaled(size: Dim, scale: float) -> Dim:
    """Return ``floor(size * scale)``."""
    numerator, denominator = scale.as_integer_ratio()
    if denominator > 1 << 20:  # a scale such as 1/3, which a float holds inexactly
        denominator = 1 << 20
        numerator = round(scale * denominator)
    return floordiv(size * numerator, denominator)


class IGridSampleLayer(ILayer):
    """Samples of images at the positions of a grid."""

    _kind = "GRID_SAMPLE"
    interpolation_mode = Setting(InterpolationMode, "LINEAR", "How values are interpolated.")
    align_corners = Setting(bool, False, "Whether -1 and 1 are the centres of the corner pixels.")
    sample_mode = Setting(SampleMode, "FILL", "What lies outside.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, grid = inputs
        assert x is not None and grid is not None
        outside = {
            "FILL": kinds.GridPadding.ZEROS,
            "CLAMP": kinds.GridPadding.BORDER,
            "REFLECT": kinds.GridPadding.REFLECTION,
        }
        if self.sample_mode.name not in outside:
            raise self._fail(f"grid sampling knows no {self.sample_mode}")
        op = ops.GridSample(
            mode=INTERPOLATION[self.interpolation_mode.name],
            padding_mode=outside[self.sample_mode.name],
            align_corners=self.align_corners,
        )
        return (e.emit(op, x, grid),)


class ImageAdditions(Additions):
    """``add_*`` of the layers of this module."""

    @checked
    def add_pooling_nd(self, input: ITensor, type: PoolingType, window_size: Dims) -> IPoolingLayer:
        """Add pooling over all axes after the second."""
        layer = self._add(IPoolingLayer(self._state, [input]))
        set_quietly(layer, type=type, window_size_nd=window_size)
        return layer

    @checked
    def add_pooling(self, input: ITensor, type: PoolingType, window_size: Dims) -> IPoolingLayer:
        """Add pooling over the last two axes."""
        layer = self._add(IPoolingLayer(self._state, [input]))
        set_quietly(layer, type=type, window_size_nd=window_size)
        return layer

    @checked
    def add_lrn(
        self, input: ITensor, window: int, alpha: float, beta: float, k: float
    ) -> ILRNLayer:
        """Add a local response normalization."""
        layer = self._add(ILRNLayer(self._state, [input]))
        set_quietly(layer, window_size=window, alpha=alpha, beta=beta, k=k)
        return layer

    @checked
    def add_resize(self, input: ITensor) -> IResizeLayer:
        """Add a resize; set its ``shape`` or ``scales``."""
        return self._add(IResizeLayer(self._state, [input]))

    @checked
    def add_grid_sample(self, input: ITensor, grid: ITensor) -> IGridSampleLayer:
        """Add sampling at the positions of a grid."""
        return self._add(IGridSampleLayer(self._state, [input, grid]))


__all__ = ["IGridSampleLayer", "ILRNLayer", "IPoolingLayer", "IResizeLayer"]
