"""Loop-nest rules of pointwise operators."""

from __future__ import annotations

from lamina.codegen.indexing import Position
from lamina.codegen.lowering import Lowering, Rule
from lamina.codegen.nest import Refusal
from lamina.codegen.scalar import SCALAR_DTYPES
from lamina.ir.graph import Node, Op
from lamina.ir.types import DType
from lamina.ops.cast import Cast
from lamina.ops.elementwise import Activation, Binary, Select, Unary
from lamina.ops.kinds import BinaryKind, UnaryKind
from lamina.ops.norm import BatchNorm
from lamina.ops.shape import BindDims


def pointwise(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Apply the scalar operation to the operands where they broadcast to."""
    dtype = node.outputs[result].tensor.dtype
    if dtype not in SCALAR_DTYPES:
        raise Refusal(f"{dtype} is only stored, never computed with")
    args = tuple(low.operand_at(node, i, position) for i in range(len(node.inputs)))
    return low.apply(node.op, *args, dtype=dtype)


def batch_norm(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Compute ``(x - mean) * (scale / sqrt(variance + epsilon)) + bias`` per channel."""
    op = node.op
    assert isinstance(op, BatchNorm)
    x, scale, bias, mean, variance = node.inputs
    channel = (position[1],)
    wide = low.cast(low.evaluate(x, position), DType.F32) if _is_half(x.tensor.dtype) else None
    value = low.evaluate(x, position) if wide is None else wide
    dtype = low.dtype(value)
    s, b, m, v = (low.cast(low.evaluate(p, channel), dtype) for p in (scale, bias, mean, variance))
    shifted = low.binary(BinaryKind.ADD, v, low.constant(dtype, op.epsilon))
    factor = low.binary(BinaryKind.DIV, s, low.apply(Unary(kind=UnaryKind.SQRT), shifted))
    centered = low.binary(BinaryKind.SUB, value, m)
    y = low.binary(BinaryKind.ADD, low.binary(BinaryKind.MUL, centered, factor), b)
    return low.cast(y, node.output.tensor.dtype)


def _is_half(dtype: DType) -> bool:
    return dtype in (DType.F16, DType.BF16)


def passed(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Return the operand unchanged."""
    return low.evaluate(node.inputs[0], position)


RULES: dict[type[Op], Rule] = {
    Unary: pointwise,
    Activation: pointwise,
    Binary: pointwise,
    Select: pointwise,
    Cast: pointwise,
    BatchNorm: batch_norm,
    BindDims: passed,
}
"""Rules of this file."""
