"""Attention that reads and writes heads where they are."""

from __future__ import annotations

from lamina import ops
from lamina.ir.graph import Graph, Node, Value, emit_node
from lamina.ir.loc import Loc
from lamina.ir.rewrite import GraphPass
from lamina.ir.strided import StridedView
from lamina.ir.types import DType, TensorType

KIND = "attention"
_FLOATS = (DType.F32, DType.BF16, DType.F16)


class AttentionInPlace(GraphPass):
    """Attention takes in the views and casts around it, so that none of them is computed.

    Before::

        graph(%x: f32[2,5,24]) {
          %a = slice(%x) starts=(0,0,0) sizes=(2,5,8) steps=(1,1,1)
          %b = reshape(%a) shape=(2,5,2,4)
          %q = transpose(%b) perm=(0,2,1,3)
          %s = attention(%q, %q, %q) scale=0.5
          %t = transpose(%s) perm=(0,2,1,3)
          %y = reshape(%t) shape=(2,5,8)
          return %y
        }

    After::

        graph @1(%i0: f32[2,5,24]) {
          %a = slice(%i0) starts=(0,0,0) sizes=(2,5,8) steps=(1,1,1)
          %b = reshape(%a) shape=(2,5,2,4)
          %q = transpose(%b) perm=(0,2,1,3)
          %s = attention(%q, %q, %q) scale=0.5
          %t = transpose(%s) perm=(0,2,1,3)
          %y = reshape(%t) shape=(2,5,8)
          return %y
        }
        graph(%x: f32[2,5,24]) {
          %y = region(%x) body=@1 kind="attention"
          return %y
        }
    """

    def __call__(self, graph: Graph) -> int:
        """Run here and in the bodies of control flow, but not in regions made before."""
        for node in graph.nodes():
            if isinstance(node.op, ops.If | ops.Loop):
                for body in (v for v in vars(node.op).values() if isinstance(v, Graph)):
                    self(body)
        count = self.run(graph)
        self.statistics.hits += count
        return count

    def run(self, graph: Graph) -> int:
        """Wrap each attention that has views or casts around it."""
        count = 0
        for node in list(graph.nodes()):
            if isinstance(node.op, ops.Attention):
                count += _wrap(graph, node, self.name)
        return count


def _wrap(graph: Graph, node: Node, rule: str) -> int:
    before = [_chain(v) for v in node.inputs[:3]]
    after = _followers(graph, node)
    if not after and not any(before):
        return 0
    body = Graph()
    env: dict[Value, Value] = {}
    operands: list[Value] = []

    def inside(v: Value) -> Value:
        if v not in env:
            env[v] = body.input(f"i{len(operands)}", v.type, v.loc)
            operands.append(v)
        return env[v]

    for step in (s for chain in before for s in chain):
        if step.output not in env:
            _copy(step, [inside(v) for v in step.inputs], env)
    for step in (node, *after):
        _copy(step, [inside(v) for v in step.inputs], env)
    last = (node, *after)[-1]
    body.output(env[last.output], last.output.name or "y")
    loc = Loc.fused(rule, node.loc, *(n.loc for n in after))
    region = emit_node(ops.Region(body=body, kind=KIND), operands, loc=loc)
    region.output.name = last.output.name
    graph.replace(last.output, region.output)
    return 1


def _copy(step: Node, operands: list[Value], env: dict[Value, Value]) -> None:
    made = emit_node(step.op, operands, loc=step.loc)
    made.output.name = step.output.name
    env[step.output] = made.output


def _chain(v: Value) -> list[Node]:
    """Return the views and casts, first one first, behind which the operand's heads still lie."""
    steps: list[Node] = []
    found: list[Node] = []
    while v.node is not None and isinstance(v.op, _MOVES):
        steps.insert(0, v.node)
        v = v.node.inputs[0]
        if not isinstance(v.type, TensorType) or v.tensor.dtype not in _FLOATS:
            break
        view = viewed(StridedView.dense(v.tensor.shape), steps)
        if view is not None and view.strides[-1] == 1:
            found = list(steps)
    return found


def _followers(graph: Graph, node: Node) -> list[Node]:
    """Return the views and casts that alone read the result, as far as it can be written there."""
    steps: list[Node] = []
    found: list[Node] = []
    v = node.output
    while graph.uses(v) == 1 and len(v.users) == 1:
        step = next(iter(v.users))
        if not isinstance(step.op, _MOVES) or isinstance(step.op, ops.Slice):
            break
        if step.output.tensor.dtype not in _FLOATS:
            break
        steps.append(step)
        v = step.output
        view = written(StridedView.dense(v.tensor.shape), steps)
        if view is not None and view.strides[-1] == 1:
            found = list(steps)
    return found


_MOVES = (ops.Reshape, ops.Transpose, ops.Slice, ops.Cast)


def viewed(view: StridedView, steps: list[Node]) -> StridedView | None:
    """Return what the steps make of a view, or None where elements would have to move."""
    for step in steps:
        op = step.op
        moved: StridedView | None = view
        if isinstance(op, ops.Reshape):
            moved = view.reshaped(op.shape)
        elif isinstance(op, ops.Transpose):
            moved = view.transposed(op.perm)
        elif isinstance(op, ops.Slice):
            moved = view.sliced(op.starts, op.sizes, op.steps)
        if moved is None:
            return None
        view = moved
    return view


def written(view: StridedView, steps: list[Node]) -> StridedView | None:
    """Return where the operand of the steps must be written so that they leave ``view``."""
    for step in reversed(steps):
        op = step.op
        moved: StridedView | None = view
        if isinstance(op, ops.Reshape):
            moved = view.reshaped(step.inputs[0].tensor.shape)
        elif isinstance(op, ops.Transpose):
            moved = view.transposed([op.perm.index(a) for a in range(len(op.perm))])
        if moved is None:
            return None
        view = moved
    return view
