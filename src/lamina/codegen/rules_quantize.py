"""Loop-nest rules of quantization."""

from __future__ import annotations

from lamina.codegen.indexing import Position
from lamina.codegen.lowering import Lowering, Rule
from lamina.codegen.nest import Refusal
from lamina.codegen.rules_reduce import unary
from lamina.codegen.scalar import SCALAR_DTYPES, integer_range
from lamina.ir.graph import Node, Op
from lamina.ir.types import DType
from lamina.ops.elementwise import Unary
from lamina.ops.kinds import BinaryKind, UnaryKind
from lamina.ops.quantize import Dequantize, Quantize


def _parameter_position(low: Lowering, node: Node, position: Position) -> Position:
    """Return where scale and zero point are read for an element."""
    op = node.op
    assert isinstance(op, Quantize | Dequantize)
    if op.axis is None:
        return ()
    index = position[op.axis]
    if not op.block_size:
        return (index,)
    size = node.inputs[0].tensor.shape[op.axis]
    block, _ = low.split(index, op.block_size, size)
    return (*position[: op.axis], block, *position[op.axis + 1 :])


def quantize(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Divide, round half to even, add the zero point, clamp."""
    op = node.op
    assert isinstance(op, Quantize)
    if op.dtype not in SCALAR_DTYPES or not op.dtype.is_integer:
        raise Refusal(f"quantization to {op.dtype}")
    x, scale = node.inputs[:2]
    if scale.tensor.dtype not in SCALAR_DTYPES:
        raise Refusal(f"a scale of type {scale.tensor.dtype}")
    at = _parameter_position(low, node, position)
    exact = DType.F64 if scale.tensor.dtype is DType.F64 else DType.F32
    divisor = low.cast(low.evaluate(scale, at), exact)
    ratio = low.binary(BinaryKind.DIV, low.cast(low.evaluate(x, position), exact), divisor)
    if scale.tensor.dtype in (DType.F16, DType.BF16):
        ratio = low.cast(low.cast(ratio, scale.tensor.dtype), exact)
    rounded = unary(low, UnaryKind.ROUND, ratio)
    if len(node.inputs) > 2:
        zero = low.cast(low.evaluate(node.inputs[2], at), exact)
        rounded = low.binary(BinaryKind.ADD, rounded, zero)
    smallest, largest = (low.number(rounded, float(v)) for v in integer_range(op.dtype))
    clamped = low.binary(BinaryKind.MIN, low.binary(BinaryKind.MAX, rounded, smallest), largest)
    nan = low.apply(_IS_NAN, clamped, dtype=DType.BOOL)
    return low.cast(low.select(nan, low.number(clamped, 0.0), clamped), op.dtype)


def dequantize(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Subtract the zero point exactly, then multiply."""
    op = node.op
    assert isinstance(op, Dequantize)
    x, scale = node.inputs[:2]
    if x.tensor.dtype not in SCALAR_DTYPES or scale.tensor.dtype not in SCALAR_DTYPES:
        raise Refusal(f"dequantization of {x.tensor.dtype} by {scale.tensor.dtype}")
    at = _parameter_position(low, node, position)
    factor_type = DType.F64 if scale.tensor.dtype is DType.F64 else DType.F32
    value = low.evaluate(x, position)
    if len(node.inputs) > 2:
        whole = DType.I64 if x.tensor.dtype is DType.I32 else DType.I32
        zero = low.cast(low.evaluate(node.inputs[2], at), whole)
        value = low.binary(BinaryKind.SUB, low.cast(value, whole), zero)
    factor = low.cast(low.evaluate(scale, at), factor_type)
    return low.cast(low.binary(BinaryKind.MUL, low.cast(value, factor_type), factor), op.dtype)


_IS_NAN = Unary(kind=UnaryKind.ISNAN)

RULES: dict[type[Op], Rule] = {Quantize: quantize, Dequantize: dequantize}
"""Rules of this file."""
