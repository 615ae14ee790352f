"""Loop-nest rules of reductions, softmax and normalizations."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.codegen.indexing import AxisIndex, Position
from lamina.codegen.lowering import Lowering, Rule
from lamina.codegen.nest import Refusal, Scan
from lamina.ir.dims import Dim, is_static, product
from lamina.ir.graph import Node, Op, Value
from lamina.ir.types import DType
from lamina.ops.attention import Softmax
from lamina.ops.elementwise import Unary
from lamina.ops.kinds import ArgReduceKind, BinaryKind, ReduceKind, UnaryKind
from lamina.ops.norm import GroupNorm, InstanceNorm, LayerNorm, RmsNorm
from lamina.ops.reduce import ArgReduce, Cumulative, Reduce

_HALVES = (DType.F16, DType.BF16)


def unary(low: Lowering, kind: UnaryKind, x: int) -> int:
    """Apply a unary function."""
    return low.apply(Unary(kind=kind), x)


def wide(low: Lowering, x: int) -> int:
    """Return f16 and bf16 as f32."""
    return low.cast(x, DType.F32) if low.dtype(x) in _HALVES else x


def divide_by(low: Lowering, x: int, count: Dim) -> int:
    """Divide by a number of elements, which may be symbolic."""
    dtype = low.dtype(x)
    if is_static(count):
        return low.binary(BinaryKind.DIV, x, low.constant(dtype, int(count)))  # type: ignore[arg-type]
    return low.binary(BinaryKind.DIV, x, low.cast(low.index(AxisIndex(count)), dtype))


def mean(low: Lowering, x: int, count: Dim) -> int:
    """Return the mean over the reduced loops; a static count multiplies by its reciprocal."""
    total = low.fold("sum", x)
    if low.dtype(x).is_float and is_static(count) and count != 0:
        return low.binary(BinaryKind.MUL, total, low.constant(low.dtype(x), 1 / int(count)))  # type: ignore[arg-type]
    return divide_by(low, total, count)


def reduce(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Fold over the reduced axes, with what the kind applies before and after."""
    op = node.op
    assert isinstance(op, Reduce)
    x = node.inputs[0]
    shape, dtype = x.tensor.shape, node.output.tensor.dtype
    kept = iter(position if not op.keepdims else ())
    inner: list[AxisIndex | None] = [
        None if axis in op.axes else position[axis] if op.keepdims else next(kept)
        for axis in range(len(shape))
    ]
    if not op.axes:
        return low.cast(_reduced(low, op.kind, low.evaluate(x, position), 1, False), dtype)
    used = low.loops_of(*(i for i in inner if i is not None))
    homes = [axis - len(shape) for axis in op.axes]
    loops = iter(low.reduction_loops([shape[a] for a in op.axes], used, homes))
    full = tuple(next(loops) if i is None else i for i in inner)
    count = product(shape[a] for a in op.axes)
    return low.cast(_reduced(low, op.kind, low.evaluate(x, full), count, True), dtype)


def _reduced(low: Lowering, kind: ReduceKind, x: int, count: Dim, folds: bool) -> int:
    x = wide(low, x)

    def fold(how: str, y: int) -> int:
        return low.fold(how, y) if folds else y

    if kind is ReduceKind.LOG_SUM_EXP:
        return _log_sum_exp(low, x) if folds else x
    if kind is ReduceKind.MEAN:
        return mean(low, x, count) if folds else x
    if kind in (ReduceKind.MAX, ReduceKind.MIN, ReduceKind.PROD, ReduceKind.SUM):
        return fold(kind.value, x)
    if kind is ReduceKind.LOG_SUM:
        return unary(low, UnaryKind.LOG, fold("sum", x))
    if kind is ReduceKind.L1:
        return fold("sum", unary(low, UnaryKind.ABS, x))
    squares = fold("sum", low.binary(BinaryKind.MUL, x, x))
    if kind is ReduceKind.SUM_SQUARE:
        return squares
    if low.dtype(x).is_float:
        return unary(low, UnaryKind.SQRT, squares)
    root = unary(low, UnaryKind.SQRT, low.cast(squares, DType.F64))
    return low.cast(root, low.dtype(x))


def _log_sum_exp(low: Lowering, x: int) -> int:
    top = low.fold("max", x)
    size = unary(low, UnaryKind.ABS, top)
    finite = low.binary(BinaryKind.LESS, size, low.number(size, float("inf")))
    shift = low.select(finite, top, low.number(top, 0.0))
    e = unary(low, UnaryKind.EXP, low.binary(BinaryKind.SUB, x, shift))
    return low.binary(BinaryKind.ADD, unary(low, UnaryKind.LOG, low.fold("sum", e)), shift)


def arg_reduce(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Fold (value, index) pairs."""
    op = node.op
    assert isinstance(op, ArgReduce)
    x = node.inputs[0]
    rank = x.tensor.rank
    before = position[: op.axis]
    after = position[op.axis + 1 :] if op.keepdims else position[op.axis :]
    used = low.loops_of(*before, *after)
    (loop,) = low.reduction_loops([x.tensor.shape[op.axis]], used, [op.axis - rank])
    value = wide(low, low.evaluate(x, (*before, loop, *after)))
    kind = "argmax" if op.kind is ArgReduceKind.ARGMAX else "argmin"
    found = low.fold(kind, value, low.index(loop), dtype=DType.I32, last=op.select_last)
    return low.cast(found, DType.I64)


def cumulative(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Add the running reduction along the axis' own loop."""
    op = node.op
    assert isinstance(op, Cumulative)
    x = node.inputs[0]
    index = position[op.axis]
    others = low.loops_of(*position[: op.axis], *position[op.axis + 1 :])
    if len(index.terms) != 1 or not _whole(low, index, x.tensor.shape[op.axis]):
        raise Refusal("a running reduction that is not stored from its first element on")
    if index.loops & others:
        raise Refusal("a running reduction depends on the axis that it runs along")
    low.claim(index.loops)
    if op.reverse:
        raise Refusal("a running reduction from the end")
    value = wide(low, low.evaluate(x, position))
    return low.cast(
        low.add(Scan(op.kind.value, (value,), low.dtype(value), op.exclusive)), x.tensor.dtype
    )


def row_positions(
    low: Lowering, position: Position, shape: Sequence[Dim], axes: Sequence[int]
) -> Position:
    """Return the position with the loops of ``axes`` reduced: its own loops where it has them."""
    used = low.loops_of(*(p for a, p in enumerate(position) if a not in axes))
    own = [position[a] for a in axes]
    loops_here = low.loops_of(*own, predicate=False)
    whole = all(_whole(low, p, shape[a]) for p, a in zip(own, axes, strict=True))
    if whole and not loops_here & used:
        low.claim(loops_here)
        return position
    homes = [a - len(shape) for a in axes]
    loops = iter(low.reduction_loops([shape[a] for a in axes], used, homes))
    return tuple(next(loops) if a in axes else p for a, p in enumerate(position))


def _whole(low: Lowering, index: AxisIndex, size: Dim) -> bool:
    """Tell whether an index runs once over all of its axis."""
    if size == 1:
        return True
    span = low.span(index)
    return span is not None and index.offset == 0 and span == size


def softmax(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Fold the maximum, then the sum of exponentials."""
    op = node.op
    assert isinstance(op, Softmax)
    x = node.inputs[0]
    shape = x.tensor.shape
    if shape[op.axis] == 1:
        return low.constant(x.tensor.dtype, 0.0 if op.log else 1.0)
    row = row_positions(low, position, shape, (op.axis,))
    element = wide(low, low.evaluate(x, row))
    here = element if row == position else wide(low, low.evaluate(x, position))
    # A NaN needs no care here: it makes the sum NaN, and so the whole row.
    top = low.fold("top", element)
    shifted = low.binary(BinaryKind.SUB, element, top)
    e = unary(low, UnaryKind.EXP, shifted)
    total = low.fold("sum", e)
    if here != element:
        shifted = low.binary(BinaryKind.SUB, here, top)
        e = unary(low, UnaryKind.EXP, shifted)
    if op.log:
        y = low.binary(BinaryKind.SUB, shifted, unary(low, UnaryKind.LOG, total))
    else:
        y = low.binary(BinaryKind.MUL, e, unary(low, UnaryKind.RECIPROCAL, total))
    return low.cast(y, x.tensor.dtype)


def normalize(
    low: Lowering,
    x: Value,
    position: Position,
    row: Position,
    count: Dim,
    epsilon: float,
    *,
    center: bool,
) -> int:
    """Return x with zero mean (``center``) and unit variance over the reduced loops, in f32+."""
    element = wide(low, low.evaluate(x, row))
    here = element if row == position else wide(low, low.evaluate(x, position))
    if center:
        average = mean(low, element, count)
        element, here = (low.binary(BinaryKind.SUB, v, average) for v in (element, here))
    variance = mean(low, low.binary(BinaryKind.MUL, element, element), count)
    shifted = low.binary(BinaryKind.ADD, variance, low.number(variance, epsilon))
    return low.binary(BinaryKind.MUL, here, unary(low, UnaryKind.RSQRT, shifted))


def layer_norm(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Normalize over the last axes; scale and bias broadcast to them."""
    op = node.op
    assert isinstance(op, LayerNorm | RmsNorm)
    x = node.inputs[0]
    shape = x.tensor.shape
    axes = range(op.axis, len(shape))
    row = row_positions(low, position, shape, axes)
    count = product(shape[a] for a in axes)
    center = isinstance(op, LayerNorm)
    y = normalize(low, x, position, row, count, op.epsilon, center=center)
    return _affine(low, node, y, position)


def _affine(low: Lowering, node: Node, y: int, position: Position) -> int:
    for number, kind in ((1, BinaryKind.MUL), (2, BinaryKind.ADD)):
        if number < len(node.inputs):
            operand = low.cast(low.operand_at(node, number, position), low.dtype(y))
            y = low.binary(kind, y, operand)
    return low.cast(y, node.output.tensor.dtype)


def instance_norm(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Normalize each channel over its spatial axes, or each group of channels."""
    op = node.op
    assert isinstance(op, InstanceNorm | GroupNorm)
    x = node.inputs[0]
    shape = x.tensor.shape
    if isinstance(op, InstanceNorm):
        axes = range(2, len(shape))
        row = row_positions(low, position, shape, axes)
        count = product(shape[a] for a in axes)
    else:
        row, position, count = _group_row(low, op.groups, shape, position)
    y = normalize(low, x, position, row, count, op.epsilon, center=True)
    for number, kind in ((1, BinaryKind.MUL), (2, BinaryKind.ADD)):
        operand = low.cast(low.evaluate(node.inputs[number], (position[1],)), low.dtype(y))
        y = low.binary(kind, y, operand)
    return low.cast(y, node.output.tensor.dtype)


def _group_row(
    low: Lowering, groups: int, shape: Sequence[Dim], position: Position
) -> tuple[Position, Position, Dim]:
    size = low.exact(shape[1], groups, "channels in groups")
    group, lane = low.split(position[1], size, shape[1])
    position = (position[0], group * size + lane, *position[2:])
    cut = (position[0], group, lane, *position[2:])
    sizes = (shape[0], groups, size, *shape[2:])
    row = row_positions(low, cut, sizes, range(2, len(cut)))
    joined = (row[0], group * size + row[2], *row[3:])
    return joined, position, product(sizes[2:])


RULES: dict[type[Op], Rule] = {
    Reduce: reduce,
    ArgReduce: arg_reduce,
    Cumulative: cumulative,
    Softmax: softmax,
    LayerNorm: layer_norm,
    RmsNorm: layer_norm,
    InstanceNorm: instance_norm,
    GroupNorm: instance_norm,
}
"""Rules of this file."""
