"""Loop-nest rules of operators that only move elements: they change the position."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.codegen.indexing import AxisIndex, Position, broadcast
from lamina.codegen.layout import Layout
from lamina.codegen.lowering import Lowering, Rule
from lamina.codegen.nest import Refusal
from lamina.ir.dims import Dim, dim_max, is_static
from lamina.ir.graph import Node, Op
from lamina.ir.types import DType
from lamina.ops.cast import Bitcast
from lamina.ops.elementwise import Unary
from lamina.ops.generate import Range, Trilu
from lamina.ops.kinds import BinaryKind, PadMode, UnaryKind
from lamina.ops.movement import Concat, Expand, Pad, Reshape, Slice, Tile, Transpose

_LONGEST_TABLE = 1 << 16


def reshape(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Count the elements before the position and find the same count in the operand's shape."""
    x = node.inputs[0]
    source, target = x.tensor.shape, node.output.tensor.shape
    whole = AxisIndex()
    for stride, index in zip(Layout.dense(target).strides, position, strict=True):
        whole = whole + index * stride
    if (direct := low.flat_load(x, whole)) is not None:
        return direct
    front = 0
    while front < min(len(source), len(target)) and source[front] == target[front]:
        front += 1
    back = 0
    while back < min(len(source), len(target)) - front and source[-1 - back] == target[-1 - back]:
        back += 1
    stop = len(target) - back
    linear = AxisIndex()
    middle = target[front:stop]
    for stride, index in zip(Layout.dense(middle).strides, position[front:stop], strict=True):
        linear = linear + index * stride
    inner = unravel(low, linear, source[front : len(source) - back])
    return low.evaluate(x, (*position[:front], *inner, *position[stop:]))


def unravel(low: Lowering, linear: AxisIndex, shape: Sequence[Dim]) -> Position:
    """Return the position in a shape whose row-major count of elements is ``linear``."""
    total: Dim = 1
    for d in shape:
        total = total * d
    result = []
    for stride in Layout.dense(shape).strides:
        high, linear = low.split(linear, stride, total)
        result.append(high)
        total = stride
    return tuple(result)


def transpose(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Permute the indices."""
    op = node.op
    assert isinstance(op, Transpose)
    inner = [AxisIndex()] * len(position)
    for index, axis in zip(position, op.perm, strict=True):
        inner[axis] = index
    return low.evaluate(node.inputs[0], tuple(inner))


def expand(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Read axes of size one at 0."""
    x = node.inputs[0]
    return low.evaluate(x, broadcast(position, x.tensor.shape, node.output.tensor.shape))


def slice_(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Scale and shift the indices."""
    op = node.op
    assert isinstance(op, Slice)
    inner = tuple(
        index * step + start
        for index, start, step in zip(position, op.starts, op.steps, strict=True)
    )
    shape = node.inputs[0].tensor.shape
    if any(d == 1 and i != AxisIndex() for d, i in zip(shape, inner, strict=True)):
        inner = tuple(AxisIndex() if d == 1 else i for d, i in zip(shape, inner, strict=True))
    return low.evaluate(node.inputs[0], inner)


def tile(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Take the indices modulo the sizes of the operand."""
    x = node.inputs[0]
    inner = []
    for index, d, total in zip(position, x.tensor.shape, node.output.tensor.shape, strict=True):
        inner.append(low.split(index, d, total)[1] if d != total else index)
    return low.evaluate(x, tuple(inner))


def concat(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Choose the operand by the index along the axis."""
    op = node.op
    assert isinstance(op, Concat)
    axis = op.axis
    starts: list[Dim] = [0]
    for x in node.inputs:
        starts.append(starts[-1] + x.tensor.shape[axis])

    def part(number: int) -> int:
        shifted = position[axis] + starts[number] * -1
        x = node.inputs[number]
        if x.tensor.shape[axis] == 1:
            shifted = AxisIndex()
        return low.evaluate(x, (*position[:axis], shifted, *position[axis + 1 :]))

    index = low.index(position[axis])
    value = in_range(low, index, starts[-2], None, lambda: part(len(starts) - 2), None)
    for number in reversed(range(len(starts) - 2)):
        lower = starts[number] if number else None
        value = in_range(low, index, lower, starts[number + 1], lambda n=number: part(n), value)
    return value


def in_range(
    low: Lowering,
    index: int,
    first: Dim | None,
    last: Dim | None,
    value: object,
    other: int | None,
) -> int:
    """Return ``value()`` where first <= index < last, reading nothing elsewhere, else ``other``."""
    condition = inside(low, index, first, last)
    assert callable(value) and condition is not None
    if other is None:
        # The last choice: elsewhere whatever the masked load gives is never used.
        saved = low.predicate
        low.predicate = both(low, saved, condition)
        try:
            found: int = value()
        finally:
            low.predicate = saved
        return found
    return low.guarded(condition, value, other)


def both(low: Lowering, a: int | None, b: int | None) -> int | None:
    """Return the conjunction of two conditions; None is always true."""
    if a is None or b is None:
        return b if a is None else a
    return low.binary(BinaryKind.LOGICAL_AND, a, b)


def inside(low: Lowering, index: int, first: Dim | None, last: Dim | None) -> int | None:
    """Return the condition ``first <= index < last``; None leaves a side open."""
    condition = None
    if first is not None:
        bound = low.index(AxisIndex(first)) if not is_static(first) else _number(low, first)
        condition = low.binary(BinaryKind.GREATER_EQUAL, index, bound)
    if last is not None:
        bound = low.index(AxisIndex(last)) if not is_static(last) else _number(low, last)
        condition = both(low, condition, low.binary(BinaryKind.LESS, index, bound))
    return condition


def _number(low: Lowering, value: Dim) -> int:
    return low.constant(DType.I32, int(value))  # type: ignore[arg-type]


def pad(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Shift the indices; outside, take the value or the place that the mode says."""
    op = node.op
    assert isinstance(op, Pad)
    x = node.inputs[0]
    inner, condition = [], None
    axes = zip(position, x.tensor.shape, op.pads_begin, op.pads_end, strict=True)
    for index, size, begin, end in axes:
        if begin == 0 and end == 0:
            inner.append(index)
        elif op.mode is PadMode.CONSTANT:
            inner.append(index + begin * -1)
            first = None if is_static(begin) and int(begin) <= 0 else 0  # type: ignore[arg-type]
            last = None if is_static(end) and int(end) <= 0 else size  # type: ignore[arg-type]
            here = low.index(inner[-1])
            condition = both(low, condition, inside(low, here, first, last))
        else:
            inner.append(AxisIndex.value(_border(low, op.mode, index, size, begin, end)))
    if condition is None:
        return low.evaluate(x, tuple(inner))
    if len(node.inputs) > 1:
        value = node.inputs[1]
        other = low.evaluate(value, (AxisIndex(),) * value.tensor.rank)
    else:
        other = low.constant(x.tensor.dtype, 0)
    return low.guarded(condition, lambda: low.evaluate(x, tuple(inner)), other)


def _border(low: Lowering, mode: PadMode, index: AxisIndex, size: Dim, begin: Dim, end: Dim) -> int:
    """Return the source index along a padded axis, from a table where the size is known."""
    if not (is_static(begin) and is_static(end)):
        raise Refusal(f"padding of mode {mode} by a symbolic amount")
    if not is_static(size):
        return _computed_border(low, mode, index, size, (int(begin), int(end)))  # type: ignore[arg-type]
    n, before, after = int(size), int(begin), int(end)  # type: ignore[arg-type]
    skipped, kept = max(-before, 0), n - max(-before, 0) - max(-after, 0)
    before, after = max(before, 0), max(after, 0)
    if kept + before + after > _LONGEST_TABLE:
        raise Refusal(f"a padded axis of {kept + before + after} elements")
    places = [_source(mode, i, kept) + skipped for i in range(-before, kept + after)]
    return low.table(DType.I32, places, index)


def _computed_border(
    low: Lowering, mode: PadMode, index: AxisIndex, size: Dim, pads: tuple[int, int]
) -> int:
    """Return the source index along a padded axis of symbolic size."""
    skipped = max(-pads[0], 0)
    kept = size - skipped - max(-pads[1], 0)
    place = low.index(index + -max(pads[0], 0))
    last = low.index(AxisIndex(kept + -1))
    zero = low.number(place, 0)
    if mode is PadMode.EDGE:
        source = low.binary(BinaryKind.MAX, low.binary(BinaryKind.MIN, place, last), zero)
    elif mode is PadMode.WRAP:
        source = low.binary(BinaryKind.MOD, place, low.index(AxisIndex(kept)))
    else:
        period = low.index(AxisIndex(dim_max(kept * 2 + -2, 1)))
        turn = low.binary(BinaryKind.MOD, low.binary(BinaryKind.ADD, place, last), period)
        distance = low.binary(BinaryKind.SUB, turn, last)
        source = low.apply(Unary(kind=UnaryKind.ABS), distance)
    return low.binary(BinaryKind.ADD, source, low.number(source, skipped))


def _source(mode: PadMode, i: int, n: int) -> int:
    if mode is PadMode.EDGE:
        return min(max(i, 0), n - 1)
    if mode is PadMode.WRAP:
        return i % n
    period = max(2 * (n - 1), 1)
    return abs((i + n - 1) % period - (n - 1)) if n > 1 else 0


def trilu(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Keep where the difference of the last two indices is on the right side of ``k``."""
    op = node.op
    assert isinstance(op, Trilu)
    difference = low.index(position[-1] + position[-2] * -1)
    bound = low.index(AxisIndex(op.k))
    kind = BinaryKind.GREATER_EQUAL if op.upper else BinaryKind.LESS_EQUAL
    x = node.inputs[0]
    keep = low.binary(kind, difference, bound)
    return low.select(keep, low.evaluate(x, position), low.constant(x.tensor.dtype, 0))


def range_(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Compute start + index * delta."""
    start, delta = (low.evaluate(v, ()) for v in node.inputs)
    dtype = node.output.tensor.dtype
    wide = DType.F32 if dtype in (DType.F16, DType.BF16) else dtype
    index = low.cast(low.index(position[0]), wide)
    scaled = low.binary(BinaryKind.MUL, index, low.cast(delta, wide))
    return low.cast(low.binary(BinaryKind.ADD, low.cast(start, wide), scaled), dtype)


def bitcast(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Read an operand as another type of the same size."""
    op = node.op
    assert isinstance(op, Bitcast)
    found = low.typed_load(node.inputs[0], op.dtype, position)
    if found is None:
        raise Refusal("the bits of a computed value are reinterpreted")
    return found


RULES: dict[type[Op], Rule] = {
    Bitcast: bitcast,
    Reshape: reshape,
    Transpose: transpose,
    Expand: expand,
    Slice: slice_,
    Tile: tile,
    Concat: concat,
    Pad: pad,
    Trilu: trilu,
    Range: range_,
}
"""Rules of this file."""
