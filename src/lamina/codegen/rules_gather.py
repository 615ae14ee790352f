"""Loop-nest rules of operators that read where another operand says.

Indices outside the axis are clamped, so that a kernel never reads foreign memory.
"""

from __future__ import annotations

from lamina.codegen.indexing import AxisIndex, Position
from lamina.codegen.lowering import Lowering, Rule
from lamina.ir.dims import Dim, is_static
from lamina.ir.graph import Node, Op
from lamina.ir.types import DType
from lamina.ops.indexing import Gather, GatherElements, GatherNd, OneHot, ReverseSequence
from lamina.ops.kinds import BinaryKind


def size_of(low: Lowering, size: Dim, dtype: DType) -> int:
    """Return a size as a number of an integer type."""
    if is_static(size):
        return low.constant(dtype, int(size))  # type: ignore[arg-type]
    return low.cast(low.index(AxisIndex(size)), dtype)


def wrapped(low: Lowering, index: int, size: Dim) -> AxisIndex:
    """Return an index that counts from the end when negative, clamped to the axis."""
    count = size_of(low, size, low.dtype(index))
    zero = low.number(index, 0)
    negative = low.binary(BinaryKind.LESS, index, zero)
    index = low.select(negative, low.binary(BinaryKind.ADD, index, count), index)
    last = low.binary(BinaryKind.SUB, count, low.number(index, 1))
    index = low.binary(BinaryKind.MAX, low.binary(BinaryKind.MIN, index, last), zero)
    return AxisIndex.value(index)


def gather(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Replace the axes of the indices by the index that they name."""
    op = node.op
    assert isinstance(op, Gather)
    x, indices = node.inputs
    stop = op.axis + indices.tensor.rank
    index = low.evaluate(indices, position[op.axis : stop])
    place = wrapped(low, index, x.tensor.shape[op.axis])
    return low.evaluate(x, (*position[: op.axis], place, *position[stop:]))


def gather_elements(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Replace the index along the axis."""
    op = node.op
    assert isinstance(op, GatherElements)
    x, indices = node.inputs
    place = wrapped(low, low.evaluate(indices, position), x.tensor.shape[op.axis])
    return low.evaluate(x, (*position[: op.axis], place, *position[op.axis + 1 :]))


def gather_nd(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Replace the axes of the indices by the tuple that they name."""
    op = node.op
    assert isinstance(op, GatherNd)
    x, indices = node.inputs
    lead, rest = position[: indices.tensor.rank - 1], position[indices.tensor.rank - 1 :]
    depth = indices.tensor.shape[-1]
    assert isinstance(depth, int)
    places = []
    for j in range(depth):
        part = AxisIndex(j) if depth > 1 else AxisIndex()
        index = low.evaluate(indices, (*lead, part))
        places.append(wrapped(low, index, x.tensor.shape[op.batch_dims + j]))
    return low.evaluate(x, (*lead[: op.batch_dims], *places, *rest))


def one_hot(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Compare the index of the new axis with the operand."""
    op = node.op
    assert isinstance(op, OneHot)
    indices, values = node.inputs
    index = low.evaluate(indices, (*position[: op.axis], *position[op.axis + 1 :]))
    if low.dtype(index).is_float or not low.dtype(index).is_signed:
        index = low.cast(index, DType.I64)
    depth = size_of(low, op.depth, low.dtype(index))
    negative = low.binary(BinaryKind.LESS, index, low.number(index, 0))
    index = low.select(negative, low.binary(BinaryKind.ADD, index, depth), index)
    here = low.cast(low.index(position[op.axis]), low.dtype(index))
    hot = low.binary(BinaryKind.EQUAL, index, here)
    on, off = (low.evaluate(values, (AxisIndex(i),)) for i in (1, 0))
    return low.select(hot, on, off)


def reverse_sequence(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Mirror the index along time where it is below the length."""
    op = node.op
    assert isinstance(op, ReverseSequence)
    x, lengths = node.inputs
    length = low.cast(low.evaluate(lengths, (position[op.batch_axis],)), DType.I32)
    time = low.index(position[op.time_axis])
    last = low.binary(BinaryKind.SUB, length, low.number(length, 1))
    mirrored = low.binary(BinaryKind.SUB, last, time)
    inside = low.binary(BinaryKind.LESS, time, length)
    place = wrapped(low, low.select(inside, mirrored, time), x.tensor.shape[op.time_axis])
    axis = op.time_axis
    return low.evaluate(x, (*position[:axis], place, *position[axis + 1 :]))


RULES: dict[type[Op], Rule] = {
    Gather: gather,
    GatherElements: gather_elements,
    GatherNd: gather_nd,
    OneHot: one_hot,
    ReverseSequence: reverse_sequence,
}
"""Rules of this file."""
