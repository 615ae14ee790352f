"""Resizing, sampling and detection."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from lamina import ops
from lamina.errors import ImportFailed
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Table
from lamina.ir.dims import Dim, floordiv
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import (
    CoordinateMode,
    GridPadding,
    InterpolationMode,
    NearestMode,
    RoiCoordinateMode,
    RoiMode,
)

table = Table()

_INTERPOLATION = {
    "nearest": InterpolationMode.NEAREST,
    "linear": InterpolationMode.LINEAR,
    "bilinear": InterpolationMode.LINEAR,
    "cubic": InterpolationMode.CUBIC,
    "bicubic": InterpolationMode.CUBIC,
}


@table.op("Upsample")
def upsample_attribute(n: OnnxNode, x: Value) -> Value:
    """Import Upsample before opset 9, with the scales as an attribute."""
    if n.has("scales"):
        return _asymmetric(n, x, n.numbers("scales"))
    return _asymmetric(n, x, (1.0, 1.0, n.number("height_scale"), n.number("width_scale")))


@table.op("Upsample", since=9)
def upsample(n: OnnxNode, x: Value, scales: Value) -> Value:
    """Import Upsample."""
    return _asymmetric(n, x, _floats(n, scales))


@table.op("Resize", since=10)
def resize_scales(n: OnnxNode, x: Value, scales: Value) -> Value:
    """Import Resize of opset 10."""
    return _asymmetric(n, x, _floats(n, scales))


def _floats(n: OnnxNode, v: Value) -> tuple[float, ...]:
    return tuple(float(s) for s in n.required(v, "the scale").reshape(-1))


def _asymmetric(n: OnnxNode, x: Value, scales: tuple[float, ...]) -> Value:
    if len(scales) != x.tensor.rank:
        raise ImportFailed(f"{len(scales)} scales are given for {x.tensor}")
    op = ops.Resize(
        sizes=_scaled(x.tensor.shape, scales),
        scales=scales,
        mode=_interpolation(n, "nearest"),
        coordinate_mode=CoordinateMode.ASYMMETRIC,
        nearest_mode=NearestMode.FLOOR,
    )
    return n.emit(op, x)


def _interpolation(n: OnnxNode, default: str) -> InterpolationMode:
    return _INTERPOLATION[n.choice("mode", default, *_INTERPOLATION)]


def _scaled(shape: tuple[Dim, ...], scales: tuple[float, ...]) -> tuple[Dim, ...]:
    """Return ``floor(size * scale)`` for each axis; ONNX multiplies in f32."""
    sizes: list[Dim] = []
    for d, scale in zip(shape, scales, strict=True):
        if not math.isfinite(scale) or scale <= 0:
            raise ImportFailed(f"a scale must be positive, got {scale}")
        if isinstance(d, int):
            sizes.append(math.floor(np.float32(d) * np.float32(scale)))
        else:
            ratio = Fraction(scale).limit_denominator(1 << 20)
            sizes.append(floordiv(d * ratio.numerator, ratio.denominator))
    return tuple(sizes)


@table.op("Resize", since=11)
def resize(
    n: OnnxNode,
    x: Value,
    roi: Value | None = None,
    scales: Value | None = None,
    sizes: Value | None = None,
) -> Value:
    """Import Resize; axes that are not named keep their size."""
    rank = x.tensor.rank
    axes = n.axes(rank) or tuple(range(rank))
    coordinate = CoordinateMode(n.text("coordinate_transformation_mode", "half_pixel"))
    new, factors = _target(n, x, axes, scales, sizes)
    crop = coordinate is CoordinateMode.TF_CROP_AND_RESIZE
    op = ops.Resize(
        sizes=new,
        scales=factors,
        mode=_interpolation(n, "nearest"),
        coordinate_mode=coordinate,
        nearest_mode=NearestMode(n.text("nearest_mode", "round_prefer_floor")),
        cubic_coeff_a=n.number("cubic_coeff_a", -0.75),
        exclude_outside=n.flag("exclude_outside"),
        extrapolation_value=n.number("extrapolation_value", 0.0),
        antialias=n.flag("antialias"),
        roi_axes=axes if crop and len(axes) < rank else (),
    )
    return n.emit(op, x, roi) if crop and roi is not None else n.emit(op, x)


def _target(
    n: OnnxNode, x: Value, axes: tuple[int, ...], scales: Value | None, sizes: Value | None
) -> tuple[tuple[Dim, ...], tuple[float, ...]]:
    """Return the new sizes of all axes, and the scales when the model gives them."""
    shape = x.tensor.shape
    if scales is not None and scales.tensor.shape != (0,):
        given = dict(zip(axes, _floats(n, scales), strict=True))
        factors = tuple(given.get(a, 1.0) for a in range(len(shape)))
        return _scaled(shape, factors), factors
    if sizes is None:
        raise ImportFailed("neither scales nor sizes are given")
    wanted = dict(zip(axes, n.dims(sizes), strict=True))
    policy = n.choice("keep_aspect_ratio_policy", "stretch", "not_larger", "not_smaller")
    if policy == "stretch":
        return tuple(wanted.get(a, d) for a, d in enumerate(shape)), ()
    ratios = [_ratio(n, wanted[a], shape[a]) for a in axes]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    factors = tuple(scale if a in wanted else 1.0 for a in range(len(shape)))
    rounded = tuple(
        math.floor(int(d) * scale + 0.5) if a in wanted else d  # type: ignore[arg-type]
        for a, d in enumerate(shape)
    )
    return rounded, factors


def _ratio(n: OnnxNode, wanted: Dim, size: Dim) -> float:
    if not isinstance(wanted, int) or not isinstance(size, int):
        raise n.unsupported("keeping the aspect ratio of a size that is not known")
    return wanted / size


@table.op("GridSample")
def grid_sample(n: OnnxNode, x: Value, grid: Value) -> Value:
    """Import GridSample."""
    op = ops.GridSample(
        mode=_interpolation(n, "linear" if n.opset >= 20 else "bilinear"),
        padding_mode=GridPadding(n.choice("padding_mode", "zeros", "border", "reflection")),
        align_corners=n.flag("align_corners"),
    )
    dtype = x.tensor.dtype
    if not dtype.is_float:
        x = n.cast(x, DType.F32)
    return n.cast(n.emit(op, x, n.cast(grid, x.tensor.dtype)), dtype)


@table.op("RoiAlign")
def roi_align(n: OnnxNode, x: Value, rois: Value, batch_indices: Value) -> Value:
    """Import RoiAlign; before opset 16 coordinates are not shifted."""
    default = "half_pixel" if n.opset >= 16 else "output_half_pixel"
    op = ops.RoiAlign(
        output_height=n.integer("output_height", 1),
        output_width=n.integer("output_width", 1),
        sampling_ratio=n.integer("sampling_ratio", 0),
        spatial_scale=n.number("spatial_scale", 1.0),
        mode=RoiMode(n.choice("mode", "avg", "max")),
        coordinate_mode=RoiCoordinateMode(n.text("coordinate_transformation_mode", default)),
    )
    return n.emit(op, x, rois, batch_indices)


@table.op("NonMaxSuppression")
def non_max_suppression(
    n: OnnxNode,
    boxes: Value,
    scores: Value,
    most: Value | None = None,
    iou: Value | None = None,
    score: Value | None = None,
) -> Value:
    """Import NonMaxSuppression; the data decide how many rows the result has."""
    limits = (
        n.constant(0, DType.I64) if most is None else most,
        n.constant(0, DType.F32) if iou is None else iou,
        n.constant(-np.inf, DType.F32) if score is None else score,
    )
    op = ops.Nms(count=n.count("nms"), center_point_box=n.flag("center_point_box"))
    return n.emit(op, boxes, scores, *limits)
