"""Loop-nest rule of Resize: separable interpolation with tables of elements and weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product as every

import numpy as np

from lamina.codegen.indexing import AxisIndex, Position
from lamina.codegen.lowering import Lowering, Rule
from lamina.codegen.nest import Refusal
from lamina.codegen.resize_positions import computed_position, linear_taps, nearest_element
from lamina.codegen.rules_reduce import unary
from lamina.codegen.scalar import integer_range
from lamina.ir.dims import Dim, is_static
from lamina.ir.graph import Node, Op
from lamina.ir.types import DType
from lamina.ops.interpolation import interpolation_matrix, nearest_elements, source_positions
from lamina.ops.kinds import BinaryKind, CoordinateMode, InterpolationMode, UnaryKind
from lamina.ops.resize import Resize

_MOST_TAPS = 64
_PROBES = (4, 5, 7)


@dataclass(frozen=True)
class Taps:
    """Per output element of one axis, the input elements and their weights: [taps][outputs]."""

    elements: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]


def resize(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Read the nearest element, or add weighted elements."""
    op = node.op
    assert isinstance(op, Resize)
    if op.coordinate_mode is CoordinateMode.TF_CROP_AND_RESIZE:
        raise Refusal("the region of interest is data")
    x = node.inputs[0]
    shape = x.tensor.shape
    axes = [a for a, d in enumerate(shape) if not _is_unchanged(op, a, d)]
    if op.mode is InterpolationMode.NEAREST:
        inner = tuple(
            _nearest(low, op, a, shape[a], index) if a in axes else index
            for a, index in enumerate(position)
        )
        return low.evaluate(x, inner)
    return _weighted(low, node, op, axes, position)


def _is_unchanged(op: Resize, axis: int, size: Dim) -> bool:
    return op.sizes[axis] == size and (not op.scales or op.scales[axis] == 1)


def _positions(op: Resize, axis: int, size: int, new_size: int) -> np.ndarray:
    scale = op.scales[axis] if op.scales else None
    return source_positions(op.coordinate_mode, size, new_size, scale, (0.0, 1.0))


def _nearest(low: Lowering, op: Resize, axis: int, size: Dim, index: AxisIndex) -> AxisIndex:
    new_size = op.sizes[axis]
    factor = _whole_factor(op, axis, size, new_size)
    if factor is not None:
        return low.split(index, factor, new_size)[0]
    if not (is_static(size) and is_static(new_size)):
        place = computed_position(low, op, axis, size, new_size, index)
        return AxisIndex.value(nearest_element(low, op.nearest_mode, place, size))
    n, m = int(size), int(new_size)  # type: ignore[arg-type]
    elements = nearest_elements(_positions(op, axis, n, m), n, op.nearest_mode)
    return AxisIndex.value(low.table(DType.I32, elements.tolist(), index))


def _whole_factor(op: Resize, axis: int, size: Dim, new_size: Dim) -> int | None:
    """Return k when output element i reads input element i // k, for every size."""
    for factor in (2, 3, 4, 8):
        if new_size != size * factor:
            continue
        sizes = (int(size),) if is_static(size) else _PROBES  # type: ignore[arg-type]
        if all(
            np.array_equal(
                nearest_elements(_positions(op, axis, n, n * factor), n, op.nearest_mode),
                np.arange(n * factor) // factor,
            )
            for n in sizes
        ):
            return factor
    return None


def _taps(op: Resize, axis: int, size: int, new_size: int) -> Taps:
    scale = op.scales[axis] if op.scales and op.scales[axis] else new_size / size
    matrix = interpolation_matrix(
        _positions(op, axis, size, new_size),
        size,
        op.mode,
        stretch=max(1.0, 1 / scale) if op.antialias else 1.0,
        cubic_coeff_a=op.cubic_coeff_a,
        exclude_outside=op.exclude_outside,
    )
    count = int((matrix != 0).sum(axis=1).max())
    chosen = np.argsort(matrix == 0, axis=1, kind="stable")[:, :count]
    weights = np.take_along_axis(matrix, chosen, 1)
    elements = np.where(weights != 0, chosen, chosen[:, :1])
    return Taps(tuple(map(tuple, elements.T.tolist())), tuple(map(tuple, weights.T.tolist())))


def _weighted(low: Lowering, node: Node, op: Resize, axes: list[int], position: Position) -> int:
    x = node.inputs[0]
    dtype = DType.F64 if x.tensor.dtype is DType.F64 else DType.F32
    taps = [_axis_taps(low, op, a, x.tensor.shape[a], position[a], dtype) for a in axes]
    if math.prod(map(len, taps)) > _MOST_TAPS:
        raise Refusal("more interpolation taps than one expression holds")
    total = None
    for chosen in every(*taps):
        inner, weight = list(position), None
        for axis, (element, factor) in zip(axes, chosen, strict=True):
            inner[axis] = AxisIndex.value(element)
            weight = factor if weight is None else low.binary(BinaryKind.MUL, weight, factor)
        value = low.cast(low.evaluate(x, tuple(inner)), dtype)
        if weight is not None:
            value = low.binary(BinaryKind.MUL, value, weight)
        total = value if total is None else low.binary(BinaryKind.ADD, total, value)
    assert total is not None
    return _rounded(low, total, x.tensor.dtype)


def _axis_taps(
    low: Lowering, op: Resize, axis: int, size: Dim, index: AxisIndex, dtype: DType
) -> list[tuple[int, int]]:
    """Return (element, weight) of each tap along an axis, from tables when sizes are known."""
    new_size = op.sizes[axis]
    if is_static(size) and is_static(new_size):
        table = _taps(op, axis, int(size), int(new_size))  # type: ignore[arg-type]
        return [
            (low.table(DType.I32, elements, index), low.table(dtype, weights, index))
            for elements, weights in zip(table.elements, table.weights, strict=True)
        ]
    if op.mode is not InterpolationMode.LINEAR or op.antialias or op.exclude_outside:
        raise Refusal("cubic or antialiased interpolation along a symbolic size")
    place = computed_position(low, op, axis, size, new_size, index)
    return linear_taps(low, place, size, dtype)


def _rounded(low: Lowering, value: int, dtype: DType) -> int:
    if not dtype.is_integer:
        return low.cast(value, dtype)
    smallest, largest = (low.number(value, float(v)) for v in integer_range(dtype))
    whole = unary(low, UnaryKind.ROUND, value)
    clamped = low.binary(BinaryKind.MIN, low.binary(BinaryKind.MAX, whole, smallest), largest)
    return low.cast(clamped, dtype)


RULES: dict[type[Op], Rule] = {Resize: resize}
"""Rules of this file."""
