"""Attention alone or in a region with the views around it: where its heads lie."""

from __future__ import annotations

from lamina.ir.graph import Node, Value
from lamina.ir.strided import StridedView
from lamina.ops import Attention, Region
from lamina.passes.in_place import KIND, viewed, written
from lamina.tactics.candidate import Placement


def attention_of(node: Node) -> Node | None:
    """Return the attention that a node is, or that its region computes."""
    if isinstance(node.op, Attention):
        return node
    if isinstance(node.op, Region) and node.op.kind == KIND:
        return next(n for n in node.op.body.nodes() if isinstance(n.op, Attention))
    return None


def operand_of(node: Node, v: Value) -> tuple[int, list[Node]]:
    """Return the number of the node's operand behind ``v``, and the steps from there."""
    steps: list[Node] = []
    if isinstance(node.op, Attention):
        return node.inputs.index(v), steps
    assert isinstance(node.op, Region)
    while v.node is not None:
        steps.insert(0, v.node)
        v = v.node.inputs[0]
    return node.op.body.inputs.index(v), steps


def operand_view(node: Node, v: Value, p: Placement) -> StridedView | None:
    """Return where the elements of attention's operand ``v`` lie in the node's operand."""
    index, steps = operand_of(node, v)
    source, where = node.inputs[index].tensor, p.operands[index]
    return viewed(StridedView(source.shape, where.strides, where.offset), steps)


def result_view(node: Node, core: Node, p: Placement) -> StridedView | None:
    """Return where attention's result must be written in the node's result."""
    steps: list[Node] = []
    if core is not node:
        assert isinstance(node.op, Region)
        v = node.op.body.outputs[0]
        while v.node is not core and v.node is not None:
            steps.insert(0, v.node)
            v = v.node.inputs[0]
    result, where = node.output.tensor, p.results[0]
    return written(StridedView(result.shape, where.strides, where.offset), steps)
