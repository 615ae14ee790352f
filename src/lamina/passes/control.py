"""Control flow made easier to optimize."""

from __future__ import annotations

from dataclasses import fields, replace

from lamina import ops
from lamina.ir.graph import Graph, Node, Op, emit, emit_node
from lamina.ir.rewrite import GraphPass
from lamina.passes.constants import is_constant
from lamina.passes.specialize import copy


class CaptureConstants(GraphPass):
    """Constants that a branch or a loop body reads from outside move into it.

    There they can be folded, and the weights of a recurrent body are known to be weights.

    Before::

        graph @1(%i: i64[], %c: bool[], %h: f32[2,4], %w: f32[4,4]) {
          %a = matmul(%h, %w)
          %b = unary(%a) kind=tanh
          return %c, %b
        }
        graph(%x: f32[2,4]) {
          %n = const() type=i64[] value=3
          %t = const() type=bool[] value=true
          %w = const() type=f32[4,4] seed=1
          %y = loop(%n, %t, %x, %w) body=@1 carried=1
          return %y
        }

    After::

        graph @1(%i: i64[], %c: bool[], %h: f32[2,4]) {
          %w = const() type=f32[4,4]
          %a = matmul(%h, %w)
          %b = unary(%a) kind=tanh
          return %c, %b
        }
        graph(%x: f32[2,4]) {
          %n = const() type=i64[] value=3
          %t = const() type=bool[] value=true
          %y = loop(%n, %t, %x) body=@1 carried=1
          return %y
        }
    """

    def run(self, graph: Graph) -> int:
        """Give every node with constant captures bodies without these inputs."""
        count = 0
        for node in graph.nodes():
            first = _first_capture(node.op)
            if first is None:
                continue
            moved = [i for i in range(first, len(node.inputs)) if is_constant(node.inputs[i])]
            if moved:
                self._move(graph, node, moved)
                count += len(moved)
        return count

    def _move(self, graph: Graph, node: Node, moved: list[int]) -> None:
        bodies = {
            f.name: _with_constants(body, node, moved)
            for f in fields(node.op)
            if isinstance(body := getattr(node.op, f.name), Graph)
        }
        operands = [v for i, v in enumerate(node.inputs) if i not in moved]
        new = emit_node(replace(node.op, **bodies), operands, loc=node.loc)
        for old, made in zip(node.outputs, new.outputs, strict=True):
            made.name = old.name
            graph.replace(old, made)


def _first_capture(op: Op) -> int | None:
    """Return the first operand that only feeds the nested graphs, unchanged all the time."""
    if isinstance(op, ops.If):
        return 1
    return 2 + op.carried if isinstance(op, ops.Loop) else None


def _with_constants(body: Graph, node: Node, moved: list[int]) -> Graph:
    result = copy(body)
    # The condition of an If is no input of its branches.
    skipped = len(node.inputs) - len(body.inputs)
    for i in reversed(moved):
        outer = node.inputs[i]
        assert outer.node is not None
        inner = result.inputs.pop(i - skipped)
        result.replace(inner, emit(outer.node.op, (), loc=outer.loc, name=outer.name))
    return result
