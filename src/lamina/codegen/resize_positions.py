"""Positions of Resize computed while running, for axes whose size is not known at build time.

The formulas are those of :mod:`lamina.ops.interpolation`, in f64.
"""

from __future__ import annotations

from lamina.codegen.indexing import AxisIndex
from lamina.codegen.lowering import Lowering
from lamina.codegen.nest import Refusal
from lamina.codegen.rules_gather import size_of
from lamina.codegen.rules_reduce import unary
from lamina.codegen.rules_sampling import Arithmetic
from lamina.ir.dims import Dim
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, CoordinateMode, NearestMode, UnaryKind
from lamina.ops.resize import Resize


def computed_position(
    low: Lowering, op: Resize, axis: int, size: Dim, new_size: Dim, index: AxisIndex
) -> int:
    """Return the input position (f64) of an output element along an axis."""
    e = Arithmetic(low)
    y = low.cast(low.index(index), DType.F64)
    length, count = (low.cast(size_of(low, d, DType.I32), DType.F64) for d in (size, new_size))
    scale = op.scales[axis] if op.scales else None
    reached = count if scale is None else e.mul(length, scale)
    if scale is None:
        ratio = low.binary(BinaryKind.DIV, count, length)
    else:
        ratio = low.constant(DType.F64, scale)

    def quotient(a: int, b: int) -> int:
        return low.binary(BinaryKind.DIV, a, b)

    center = e.sub(quotient(e.add(y, 0.5), ratio), 0.5)
    single = low.binary(BinaryKind.EQUAL, reached, low.number(reached, 1.0))
    match op.coordinate_mode:
        case CoordinateMode.HALF_PIXEL:
            return center
        case CoordinateMode.PYTORCH_HALF_PIXEL:
            return low.select(single, low.number(center, -0.5), center)
        case CoordinateMode.ASYMMETRIC:
            return quotient(y, ratio)
        case CoordinateMode.TF_HALF_PIXEL_FOR_NN:
            return quotient(e.add(y, 0.5), ratio)
        case CoordinateMode.ALIGN_CORNERS:
            steps = quotient(e.mul(y, e.sub(length, 1.0)), e.sub(reached, 1.0))
            return low.select(single, low.number(steps, 0.0), steps)
        case CoordinateMode.HALF_PIXEL_SYMMETRIC:
            rest = e.sub(low.number(length, 1.0), quotient(count, reached))
            return e.add(center, e.mul(e.mul(length, 0.5), rest))
    raise Refusal(f"positions of mode {op.coordinate_mode} along a symbolic size")


def _on_axis(low: Lowering, element: int, size: Dim) -> int:
    """Return a float element as an i32 clipped to the axis."""
    index = low.cast(element, DType.I32)
    last = low.binary(BinaryKind.SUB, size_of(low, size, DType.I32), low.number(index, 1))
    bounded = low.binary(BinaryKind.MIN, index, last)
    return low.binary(BinaryKind.MAX, bounded, low.number(index, 0))


def nearest_element(low: Lowering, mode: NearestMode, place: int, size: Dim) -> int:
    """Round a position to an element of the axis."""
    e = Arithmetic(low)
    match mode:
        case NearestMode.ROUND_PREFER_FLOOR:
            rounded = unary(low, UnaryKind.CEIL, e.sub(place, 0.5))
        case NearestMode.ROUND_PREFER_CEIL:
            rounded = unary(low, UnaryKind.FLOOR, e.add(place, 0.5))
        case NearestMode.FLOOR:
            rounded = unary(low, UnaryKind.FLOOR, place)
        case NearestMode.CEIL:
            rounded = unary(low, UnaryKind.CEIL, place)
    return _on_axis(low, rounded, size)


def linear_taps(low: Lowering, place: int, size: Dim, dtype: DType) -> list[tuple[int, int]]:
    """Return both neighbours of a position with their weights."""
    e = Arithmetic(low)
    first = unary(low, UnaryKind.FLOOR, place)
    upper = low.cast(e.sub(place, first), dtype)
    lower = low.binary(BinaryKind.SUB, low.number(upper, 1.0), upper)
    elements = (_on_axis(low, first, size), _on_axis(low, e.add(first, 1.0), size))
    return [(elements[0], lower), (elements[1], upper)]
