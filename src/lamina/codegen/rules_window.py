"""Loop-nest rules of pooling and of local response normalization."""

from __future__ import annotations

import math
from itertools import product as every

from lamina.codegen.indexing import AxisIndex, Position
from lamina.codegen.lowering import Lowering, Rule
from lamina.codegen.nest import Refusal
from lamina.codegen.rules_move import both, inside
from lamina.codegen.rules_reduce import unary, wide
from lamina.codegen.scalar import fold_identity
from lamina.ir.dims import Dim, is_static
from lamina.ir.graph import Node, Op
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, PoolKind, UnaryKind
from lamina.ops.norm import Lrn
from lamina.ops.pool import MaxPoolIndices, Pool

_MOST_UNROLLED_TAPS = 32
_BEYOND = (1 << 31) - 1


class Window:
    """The taps of a pooling window at one output position."""

    def __init__(self, low: Lowering, node: Node, position: Position) -> None:
        self.low, self.node, self.position = low, node, position
        op = node.op
        assert isinstance(op, Pool | MaxPoolIndices)
        self.op = op
        self.x = node.inputs[0]
        self.sizes = self.x.tensor.shape[2:]
        self.counts = node.outputs[0].tensor.shape[2:]

    def tap(self, axis: int, tap: AxisIndex) -> AxisIndex:
        """Return the source index of a tap along a spatial axis."""
        op = self.op
        start = self.position[2 + axis] * op.strides[axis] + -op.pads_begin[axis]
        return start + tap * op.dilations[axis]

    def beyond(self, axis: int) -> tuple[bool, bool]:
        """Tell whether taps may fall before the start and after the end of an axis."""
        op, size, count = self.op, self.sizes[axis], self.counts[axis]
        span = (op.kernel[axis] - 1) * op.dilations[axis]
        last = (count - 1) * op.strides[axis] - op.pads_begin[axis] + span
        after = not (is_static(last - size) and int(last - size) < 0)  # type: ignore[arg-type]
        if op.pads_end[axis] == 0 and not op.ceil_mode:
            after = False
        return op.pads_begin[axis] > 0, after

    def condition(self, taps: tuple[AxisIndex, ...]) -> int | None:
        """Return whether all taps lie inside the tensor; None when that is sure."""
        result = None
        for axis, tap in enumerate(taps):
            before, after = self.beyond(axis)
            if before or after:
                here = self.low.index(self.tap(axis, tap))
                bounds = (0 if before else None, self.sizes[axis] if after else None)
                result = both(self.low, result, inside(self.low, here, *bounds))
        return result

    def value(self, taps: tuple[AxisIndex, ...], outside: float) -> int:
        """Return the tap's element, or ``outside`` beyond the tensor."""
        low = self.low
        place = (*self.position[:2], *(self.tap(a, t) for a, t in enumerate(taps)))
        condition = self.condition(taps)
        if condition is None:
            return wide(low, low.evaluate(self.x, place))
        dtype = self.x.tensor.dtype
        element = low.guarded(
            condition, lambda: low.evaluate(self.x, place), low.constant(dtype, outside)
        )
        return wide(low, element)

    def loops(self) -> tuple[AxisIndex, ...]:
        """Return reduced loops over the taps, the same ones for every result of the node."""
        key = ("window", id(self.node), self.position)
        found = self.low.shared.get(key)
        if found is None:
            used = frozenset(range(len(self.low.sizes)))
            found = tuple(self.low.reduction_loops(self.op.kernel, used))
            self.low.shared[key] = found
        return found


def pool(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Join the taps of a window: few ones in one expression, many ones in reduced loops."""
    op = node.op
    assert isinstance(op, Pool)
    window = Window(low, node, position)
    outside = 0.0
    if op.kind is PoolKind.MAX:
        outside = fold_identity("max", node.inputs[0].tensor.dtype)

    def prepared(taps: tuple[AxisIndex, ...]) -> int:
        value = window.value(taps, outside)
        if op.kind is not PoolKind.LP:
            return value
        size = unary(low, UnaryKind.ABS, value)
        if op.p == 1:
            return size
        return low.binary(BinaryKind.POW, size, low.number(size, float(op.p)))

    kind = BinaryKind.MAX if op.kind is PoolKind.MAX else BinaryKind.ADD
    if math.prod(op.kernel) <= _MOST_UNROLLED_TAPS:
        total = None
        for taps in every(*(range(k) for k in op.kernel)):
            value = prepared(tuple(AxisIndex(t) for t in taps))
            total = value if total is None else low.binary(kind, total, value)
        assert total is not None
    else:
        total = low.fold("max" if op.kind is PoolKind.MAX else "sum", prepared(window.loops()))
    if op.kind is PoolKind.AVERAGE:
        total = _average(low, op, window, total)
    elif op.kind is PoolKind.LP and op.p != 1:
        total = low.binary(BinaryKind.POW, total, low.number(total, 1 / op.p))
    return low.cast(total, node.output.tensor.dtype)


def _average(low: Lowering, op: Pool, window: Window, total: int) -> int:
    """Divide by the number of taps that count, which tables give per axis."""
    constant = 1
    factors = []
    for axis, kernel in enumerate(op.kernel):
        counts = _tap_counts(op, axis, window.sizes[axis], window.counts[axis])
        if counts is None:
            if any(window.beyond(axis)):
                raise Refusal("average pooling with padding of a symbolic size")
            counts = [kernel]
        if len(set(counts)) == 1:
            constant *= counts[0]
        else:
            factors.append(low.table(DType.F32, counts, window.position[2 + axis]))
    divisor = low.number(total, float(constant))
    for factor in factors:
        divisor = low.binary(BinaryKind.MUL, divisor, low.cast(factor, low.dtype(total)))
    if not factors and constant:
        return low.binary(BinaryKind.MUL, total, low.number(total, 1 / constant))
    return low.binary(BinaryKind.DIV, total, divisor)


def _tap_counts(op: Pool, axis: int, size: Dim, count: Dim) -> list[int] | None:
    """Return how many taps of each window count; None when sizes are symbolic."""
    if not (is_static(size) and is_static(count)):
        return None
    first, last = 0, int(size)  # type: ignore[arg-type]
    if op.count_include_pad:
        first, last = -op.pads_begin[axis], last + op.pads_end[axis]
    return [
        sum(
            first <= i * op.strides[axis] - op.pads_begin[axis] + t * op.dilations[axis] < last
            for t in range(op.kernel[axis])
        )
        for i in range(int(count))  # type: ignore[arg-type]
    ]


def max_pool_indices(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Fold the maximum, or the flat index of the first maximum."""
    op = node.op
    assert isinstance(op, MaxPoolIndices)
    window = Window(low, node, position)
    taps = window.loops()
    dtype = node.inputs[0].tensor.dtype
    value = window.value(taps, fold_identity("max", dtype))
    if result == 0:
        return low.cast(low.fold("max", value), dtype)
    sizes = window.sizes
    if not all(is_static(s) for s in sizes):
        raise Refusal("indices of pooling over symbolic sizes")
    spatial = AxisIndex()
    for axis, tap in enumerate(taps):
        spatial = spatial * sizes[axis] + window.tap(axis, tap)
    flat = low.index(spatial)
    condition = window.condition(taps)
    if condition is not None:
        flat = low.select(condition, flat, low.constant(DType.I32, _BEYOND))
    best = low.fold("argmax", value, flat, dtype=DType.I32)
    if op.storage_order:
        best = _column_major(low, best, [int(s) for s in sizes])  # type: ignore[arg-type]
    area: Dim = 1
    for s in sizes:
        area = area * s
    channels = node.inputs[0].tensor.shape[1]
    plane = low.index(position[0] * channels + position[1])
    count = low.constant(DType.I64, int(area))  # type: ignore[arg-type]
    base = low.binary(BinaryKind.MUL, low.cast(plane, DType.I64), count)
    return low.binary(BinaryKind.ADD, base, low.cast(best, DType.I64))


def _column_major(low: Lowering, flat: int, sizes: list[int]) -> int:
    """Turn a row-major count into a column-major one."""
    result, stride = None, 1
    strides = []
    for s in sizes:
        strides.append(stride)
        stride *= s
    for axis in reversed(range(len(sizes))):
        size = low.number(flat, sizes[axis])
        part = low.binary(
            BinaryKind.MUL,
            low.binary(BinaryKind.FMOD, flat, size),
            low.number(flat, strides[axis]),
        )
        result = part if result is None else low.binary(BinaryKind.ADD, result, part)
        flat = low.binary(BinaryKind.DIV, flat, size)
    assert result is not None
    return result


def lrn(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Sum the squares of the neighbouring channels in one expression."""
    op = node.op
    assert isinstance(op, Lrn)
    x = node.inputs[0]
    channels = x.tensor.shape[1]
    if op.size > _MOST_UNROLLED_TAPS:
        raise Refusal(f"{op.size} neighbouring channels")
    total = None
    for i in range(op.size):
        place = position[1] + (i - (op.size - 1) // 2)
        at = (position[0], place, *position[2:])
        value = low.guarded(
            _required(inside(low, low.index(place), 0, channels)),
            lambda at=at: low.evaluate(x, at),  # type: ignore[misc]
            low.constant(x.tensor.dtype, 0.0),
        )
        value = wide(low, value)
        square = low.binary(BinaryKind.MUL, value, value)
        total = square if total is None else low.binary(BinaryKind.ADD, total, square)
    assert total is not None
    scaled = low.binary(BinaryKind.MUL, total, low.number(total, op.alpha / op.size))
    base = low.binary(BinaryKind.ADD, scaled, low.number(total, op.bias))
    here = wide(low, low.evaluate(x, position))
    return low.cast(low.binary(BinaryKind.DIV, here, _power(low, base, op.beta)), x.tensor.dtype)


def _power(low: Lowering, base: int, exponent: float) -> int:
    if exponent == 0.75:
        root = unary(low, UnaryKind.SQRT, base)
        return low.binary(BinaryKind.MUL, root, unary(low, UnaryKind.SQRT, root))
    return low.binary(BinaryKind.POW, base, low.number(base, exponent))


def _required(condition: int | None) -> int:
    assert condition is not None
    return condition


RULES: dict[type[Op], Rule] = {Pool: pool, MaxPoolIndices: max_pool_indices, Lrn: lrn}
"""Rules of this file."""
