"""Loop-nest rules that are a last resort: contractions without a kernel of their own, and sizes.

A nest forms every sum by itself and so reads operands many times: right for small ones, odd types
and operands that data shapes, slow for all else.
"""

from __future__ import annotations

from collections.abc import Sequence

from lamina.codegen.indexing import AxisIndex, Position, broadcast
from lamina.codegen.lowering import Lowering, Rule
from lamina.codegen.nest import Refusal
from lamina.codegen.rules import RULES
from lamina.codegen.rules_move import both, inside
from lamina.codegen.rules_reduce import wide
from lamina.ir.dims import Dim, is_static
from lamina.ir.graph import Node, Op
from lamina.ir.types import DType
from lamina.ops.contraction import Convolution, Deconvolution, Matmul
from lamina.ops.elementwise import Activation
from lamina.ops.kinds import BinaryKind, Epilogue
from lamina.ops.shape import Shape


def matmul(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Fold the products of a row and a column."""
    op = node.op
    assert isinstance(op, Matmul)
    a = node.inputs[0].tensor
    batch, (row, column) = position[:-2], position[-2:]
    depth = a.shape[-2 if op.transpose_a else -1]
    (k,) = _loops(low, [depth])
    whole = node.output.tensor.shape[:-2]
    ends = (
        (k, row) if op.transpose_a else (row, k),
        (column, k) if op.transpose_b else (k, column),
    )
    factors = [
        wide(low, low.evaluate(v, (*broadcast(batch, v.tensor.shape[:-2], whole), *end)))
        for v, end in zip(node.inputs[:2], ends, strict=True)
    ]
    total = low.fold("sum", low.binary(BinaryKind.MUL, *factors))
    for number in range(2, len(node.inputs)):
        added = low.cast(wide(low, low.operand_at(node, number, position)), low.dtype(total))
        total = low.binary(BinaryKind.ADD, total, added)
    return low.cast(activated(low, total, op.activation), node.output.tensor.dtype)


def convolution(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Fold the products of filter and window; what lies outside the image counts as zero."""
    op = node.op
    assert isinstance(op, Convolution)
    x, w = node.inputs[:2]
    per_group = w.tensor.shape[1]
    loops = _loops(low, w.tensor.shape[1:])
    channel, taps = loops[0], loops[1:]
    group = _group(low, position[1], w.tensor.shape[0], op.groups)
    if group is not None:
        channel = channel + group * per_group
    image, condition = [], None
    for axis, tap in enumerate(taps):
        place = position[2 + axis] * op.strides[axis] + -op.pads_begin[axis]
        place = place + tap * op.dilations[axis]
        if op.pads_begin[axis] or op.pads_end[axis]:
            size = x.tensor.shape[2 + axis]
            condition = both(low, condition, inside(low, low.index(place), 0, size))
        image.append(place)
    return _finished(low, node, position, (channel, image), (position[1], *loops), condition)


def deconvolution(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Fold the taps whose stride leads from an element of x to this one."""
    op = node.op
    assert isinstance(op, Deconvolution)
    x, w = node.inputs[:2]
    outputs = w.tensor.shape[1]
    per_group = w.tensor.shape[0] if op.groups == 1 else _quotient(w.tensor.shape[0], op.groups)
    channel, *taps = _loops(low, (per_group, *w.tensor.shape[2:]))
    group = _group(low, position[1], outputs * op.groups, op.groups)
    column = position[1]
    if group is not None:
        channel = channel + group * per_group
        column = column + group * (outputs * -1)
    image, condition = [], None
    for axis, tap in enumerate(taps):
        place = position[2 + axis] + op.pads_begin[axis] + tap * -op.dilations[axis]
        number = low.index(place)
        step = low.number(number, op.strides[axis])
        rest = low.binary(BinaryKind.FMOD, number, step)
        hit = low.binary(BinaryKind.EQUAL, rest, low.number(number, 0))
        quotient = low.binary(BinaryKind.DIV, number, step)
        known = inside(low, quotient, None, x.tensor.shape[2 + axis])
        condition = both(
            low, condition, both(low, hit, both(low, known, inside(low, number, 0, None)))
        )
        image.append(AxisIndex.value(quotient))
    return _finished(low, node, position, (channel, image), (channel, column, *taps), condition)


def shape(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Choose a size by the place of the element."""
    op = node.op
    assert isinstance(op, Shape)
    sizes = [low.index(AxisIndex(d)) for d in node.inputs[0].tensor.shape[op.start : op.end]]
    place, value = low.index(position[0]), sizes[-1]
    for number, size in reversed(list(enumerate(sizes[:-1]))):
        here = low.binary(BinaryKind.EQUAL, place, low.number(place, number))
        value = low.select(here, size, value)
    return low.cast(value, DType.I64)


def _loops(low: Lowering, sizes: Sequence[Dim]) -> list[AxisIndex]:
    """Return reduced loops over the channels of a group and the taps."""
    return low.reduction_loops(sizes, frozenset(range(len(low.sizes))))


def _quotient(channels: Dim, groups: int) -> int:
    if not is_static(channels):
        raise Refusal("groups of a symbolic number of channels")
    return int(channels) // groups  # type: ignore[arg-type]


def _group(low: Lowering, channel: AxisIndex, channels: Dim, groups: int) -> AxisIndex | None:
    """Return the group of a channel of the result, None where there is only one."""
    if groups == 1:
        return None
    number = low.index(channel)
    size = low.number(number, _quotient(channels, groups))
    return AxisIndex.value(low.binary(BinaryKind.DIV, number, size))


def _finished(
    low: Lowering,
    node: Node,
    position: Position,
    source: tuple[AxisIndex, list[AxisIndex]],
    filters: Position,
    condition: int | None,
) -> int:
    """Fold the products and apply what comes after the sum."""
    op, (x, w) = node.op, node.inputs[:2]
    assert isinstance(op, Convolution | Deconvolution)
    place = (position[0], source[0], *source[1])

    def product() -> int:
        return low.binary(
            BinaryKind.MUL, wide(low, low.evaluate(x, place)), wide(low, low.evaluate(w, filters))
        )

    if condition is None:
        total = low.fold("sum", product())
    else:
        zero = wide(low, low.constant(x.tensor.dtype, 0))
        total = low.fold("sum", low.guarded(condition, product, zero))
    for number, at in ((2, (position[1],)), (3, position)):
        if number < len(node.inputs):
            added = low.evaluate(node.inputs[number], at)
            total = low.binary(BinaryKind.ADD, total, low.cast(wide(low, added), low.dtype(total)))
    return low.cast(activated(low, total, op.activation), node.output.tensor.dtype)


def activated(low: Lowering, x: int, activation: Epilogue | None) -> int:
    """Apply the activation of a contraction, if it has one."""
    if activation is None:
        return x
    kind = Activation(kind=activation.kind, alpha=activation.alpha, beta=activation.beta)
    return low.apply(kind, x)


LAST_RESORT_RULES: dict[type[Op], Rule] = {
    **RULES,
    Matmul: matmul,
    Convolution: convolution,
    Deconvolution: deconvolution,
    Shape: shape,
}
"""All rules, with those of this file."""
