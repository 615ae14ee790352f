"""Loop-nest rules for random numbers."""

from __future__ import annotations

from lamina.codegen.indexing import AxisIndex, Position
from lamina.codegen.layout import Layout
from lamina.codegen.lowering import Lowering, Rule
from lamina.codegen.nest import Refusal
from lamina.ir.dims import is_static
from lamina.ir.graph import Node, Op
from lamina.ir.types import DType
from lamina.ops.random import Random, RandomKey

_MOST = 1 << 31
"""Elements that the counter of a loop nest tells apart."""


def random(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Draw the element whose row-major number is that of the position."""
    shape = node.output.tensor.shape
    size = node.output.tensor.size
    if is_static(size) and int(size) >= _MOST:  # type: ignore[arg-type]
        raise Refusal(f"{size} random numbers")
    number = AxisIndex()
    for stride, index in zip(Layout.dense(shape).strides, position, strict=True):
        number = number + index * stride
    key = [low.evaluate(v, ()) for v in node.inputs]
    return low.apply(node.op, low.index(number), *key, dtype=node.output.tensor.dtype)


def random_key(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Read the clock."""
    return low.apply(node.op, low.constant(DType.U64, 0))


RULES: dict[type[Op], Rule] = {Random: random, RandomKey: random_key}
"""Rules of this file."""
