"""Loop-nest rule of GridSample: gathers at computed positions, weighted."""

from __future__ import annotations

from itertools import product as every

from lamina.codegen.indexing import AxisIndex, Position
from lamina.codegen.lowering import Lowering, Rule
from lamina.codegen.nest import Refusal
from lamina.codegen.rules_move import both
from lamina.codegen.rules_reduce import unary, wide
from lamina.ir.dims import is_static
from lamina.ir.graph import Node, Op
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, GridPadding, InterpolationMode, UnaryKind
from lamina.ops.sampling import GridSample

_STEPS = {
    InterpolationMode.NEAREST: (0,),
    InterpolationMode.LINEAR: (0, 1),
    InterpolationMode.CUBIC: (-1, 0, 1, 2),
}
_CUBIC_A = -0.75


class Arithmetic:
    """Short names for float arithmetic on instructions."""

    def __init__(self, low: Lowering) -> None:
        self.low = low

    def _pair(self, kind: BinaryKind, a: int, b: int | float) -> int:
        right = b if isinstance(b, int) else self.low.number(a, b)
        return self.low.binary(kind, a, right)

    def add(self, a: int, b: int | float) -> int:
        return self._pair(BinaryKind.ADD, a, b)

    def sub(self, a: int, b: int | float) -> int:
        return self._pair(BinaryKind.SUB, a, b)

    def mul(self, a: int, b: int | float) -> int:
        return self._pair(BinaryKind.MUL, a, b)

    def less(self, a: int, b: int | float) -> int:
        return self._pair(BinaryKind.LESS, a, b)

    def clip(self, a: int, low: float, high: float) -> int:
        return self._pair(BinaryKind.MIN, self._pair(BinaryKind.MAX, a, low), high)

    def either(self, a: int, b: int) -> int:
        return self.low.binary(BinaryKind.LOGICAL_OR, a, b)

    def outside(self, a: int, low: float, high: float) -> int:
        above = self.low.binary(BinaryKind.GREATER, a, self.low.number(a, high))
        return self.either(self.less(a, low), above)

    def reflected(self, a: int, low: float, high: float) -> int:
        """Fold positions back at the ends until they lie between them."""
        span = high - low
        if span <= 0:
            return self.low.number(a, low)
        turn = self.sub(a, low)
        whole = unary(self.low, UnaryKind.FLOOR, self.mul(turn, 1 / (2 * span)))
        turn = self.sub(turn, self.mul(whole, 2 * span))
        back = self.low.binary(BinaryKind.SUB, self.low.number(a, 2 * span), turn)
        beyond = self.low.binary(BinaryKind.GREATER, turn, self.low.number(a, span))
        folded = self.add(self.low.select(beyond, back, turn), low)
        return self.low.select(self.outside(a, low, high), folded, a)

    def truncated(self, a: int) -> int:
        """Drop the fraction."""
        negative = self.less(a, 0.0)
        ceil, floor = (unary(self.low, kind, a) for kind in (UnaryKind.CEIL, UnaryKind.FLOOR))
        return self.low.select(negative, ceil, floor)


def grid_sample(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Add the weighted elements around the position that the grid gives."""
    op = node.op
    assert isinstance(op, GridSample)
    x, grid = node.inputs
    sizes = x.tensor.shape[2:]
    if not all(is_static(s) for s in sizes):
        raise Refusal("grid sampling of a symbolic size")
    axes = []
    for axis, size in enumerate(sizes):
        at = (position[0], *position[2:], AxisIndex(len(sizes) - 1 - axis))
        place = wide(low, low.evaluate(grid, at))
        axes.append(_taps(low, op, place, int(size)))  # type: ignore[arg-type]
    total = None
    for taps in every(*axes):
        weight, inside = None, None
        for _, w, condition in taps:
            weight = w if weight is None else low.binary(BinaryKind.MUL, weight, w)
            inside = both(low, inside, condition)
        spot = (*position[:2], *(AxisIndex.value(e) for e, _, _ in taps))
        value = wide(low, low.evaluate(x, spot))
        assert weight is not None
        value = low.binary(BinaryKind.MUL, value, low.cast(weight, low.dtype(value)))
        if inside is not None:
            value = low.select(inside, value, low.number(value, 0.0))
        total = value if total is None else low.binary(BinaryKind.ADD, total, value)
    assert total is not None
    return low.cast(total, x.tensor.dtype)


def _taps(
    low: Lowering, op: GridSample, place: int, size: int
) -> list[tuple[int, int, int | None]]:
    """Return (element, weight, condition) of each tap along one axis."""
    e = Arithmetic(low)
    if op.align_corners:
        position, first_edge, last_edge = e.mul(e.add(place, 1.0), (size - 1) / 2), 0.0, size - 1.0
    else:
        position = e.mul(e.sub(e.mul(e.add(place, 1.0), float(size)), 1.0), 0.5)
        first_edge, last_edge = -0.5, size - 0.5
    nearest = op.mode is InterpolationMode.NEAREST
    if nearest:
        position = unary(low, UnaryKind.ROUND, position)
    if op.padding_mode is GridPadding.BORDER:
        beyond = e.outside(position, first_edge, last_edge)
        position = low.select(beyond, e.clip(position, 0.0, size - 1.0), position)
    elif op.padding_mode is GridPadding.REFLECTION:
        position = e.reflected(position, first_edge, last_edge)
    first = e.truncated(position) if nearest else unary(low, UnaryKind.FLOOR, position)
    taps = []
    for step in _STEPS[op.mode]:
        element = e.add(first, float(step)) if step else first
        weight = _weight(low, op.mode, e, e.sub(element, position))
        condition = None
        if op.padding_mode is GridPadding.ZEROS:
            out = e.outside(element, 0.0, size - 1.0)
            condition = low.binary(BinaryKind.EQUAL, out, low.constant(DType.BOOL, False))
        elif op.padding_mode is GridPadding.REFLECTION:
            element = e.truncated(e.reflected(element, first_edge, last_edge))
        taps.append((_bounded(low, e, element, size), weight, condition))
    return taps


def _weight(low: Lowering, mode: InterpolationMode, e: Arithmetic, difference: int) -> int:
    if mode is InterpolationMode.NEAREST:
        return low.number(difference, 1.0)
    d = unary(low, UnaryKind.ABS, difference)
    if mode is InterpolationMode.LINEAR:
        return low.binary(BinaryKind.SUB, low.number(d, 1.0), d)
    a = _CUBIC_A
    near = e.add(e.mul(e.mul(e.sub(e.mul(d, a + 2), a + 3), d), d), 1.0)
    far = e.sub(e.mul(e.add(e.mul(e.sub(e.mul(d, a), 5 * a), d), 8 * a), d), 4 * a)
    inner = low.binary(BinaryKind.LESS_EQUAL, d, low.number(d, 1.0))
    outer = low.select(e.less(d, 2.0), far, low.number(d, 0.0))
    return low.select(inner, near, outer)


def _bounded(low: Lowering, e: Arithmetic, element: int, size: int) -> int:
    """Return an element as an i32 on the axis, whatever the float was (NaN included)."""
    index = low.cast(e.clip(element, 0.0, size - 1.0), DType.I32)
    last = low.binary(BinaryKind.MIN, index, low.number(index, size - 1))
    return low.binary(BinaryKind.MAX, last, low.number(last, 0))


RULES: dict[type[Op], Rule] = {GridSample: grid_sample}
"""Rules of this file."""
