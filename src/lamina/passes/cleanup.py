"""Passes that remove work without changing what is computed."""

from __future__ import annotations

from lamina import ops
from lamina.ir.dims import Dim
from lamina.ir.graph import Array, Graph, Node, Op, Value, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.rewrite import GraphPass
from lamina.ir.types import TensorType
from lamina.passes.constants import array_of, nested_graphs_of
from lamina.passes.folding import fold

_GROWTH_BYTES = 64 * 1024


class FoldConstants(GraphPass):
    """What depends on constants alone is computed now.

    Results much larger than their operands (an expanded scalar) stay as they are, and so do
    dequantized weights, which the precision stage wants to see.

    Before::

        graph(%x: f32[2]) {
          %a = const() type=f32[2] seed=1
          %b = unary(%a) kind=exp
          %y = binary(%x, %b) kind=add
          return %y
        }

    After::

        graph(%x: f32[2]) {
          %b = const() type=f32[2]
          %y = binary(%x, %b) kind=add
          return %y
        }
    """

    def run(self, graph: Graph) -> int:
        """Fold in order of evaluation, so that whole chains go in one run."""
        count = 0
        for node in graph.nodes():
            operands = [a for v in node.inputs if (a := array_of(v)) is not None]
            if operands and len(operands) == len(node.inputs) and _foldable(node, operands):
                count += self._fold(graph, node, operands)
        return count

    def _fold(self, graph: Graph, node: Node, operands: list[Array]) -> int:
        results = fold(node.op, *operands)
        loc = Loc.fused(self.name, node.loc)
        for old, array in zip(node.outputs, results, strict=True):
            if graph.uses(old):
                graph.replace(old, emit(ops.Const.of(array), (), loc=loc, name=old.name))
        return 1


def _foldable(node: Node, operands: list[Array]) -> bool:
    op = node.op
    if isinstance(op, ops.Dequantize | ops.BindDims) or nested_graphs_of(op) or not op.pure:
        return False
    if op.symbols():
        return False
    size = 0
    for v in node.outputs:
        if not isinstance(v.type, TensorType) or not v.type.is_static:
            return False
        size += int(v.type.size) * v.type.dtype.itemsize  # type: ignore[arg-type]
    return size <= max(_GROWTH_BYTES, 2 * sum(a.nbytes for a in operands))


class EliminateDeadNodes(GraphPass):
    """What no output needs is removed, and so are symbols that nothing mentions.

    Before::

        graph(%x: f32[4]) {
          %i = non_zero(%x) count=n
          %y = unary(%x) kind=exp
          define n = %i
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %y = unary(%x) kind=exp
          return %y
        }
    """

    def run(self, graph: Graph) -> int:
        """Unlink every node that cannot be reached from an output."""
        live, needed = _live(graph)
        count = len(graph.definers) - len(needed)
        graph.definers = {s: v for s, v in graph.definers.items() if s in needed}
        values = [*graph.inputs, *(v for node in live for v in node.outputs)]
        for v in values:
            dead = [user for user in v.users if user not in live]
            for user in dead:
                del v.users[user]
            count += len(dead)
        return count


def _live(graph: Graph) -> tuple[set[Node], set[str]]:
    live: set[Node] = set()
    needed: set[str] = set()
    stack: list[Value] = list(graph.outputs)
    while stack:
        node = stack.pop().node
        if node is None or node in live:
            continue
        live.add(node)
        stack.extend(node.inputs)
        if graph.definers:
            for s in node.op.symbols():
                if s in graph.definers and s not in needed:
                    needed.add(s)
                    stack.append(graph.definers[s])
    return live, needed


class MergeCommonSubexpressions(GraphPass):
    """The same operator on the same operands is computed once.

    Before::

        graph(%x: f32[4], %y: f32[4]) {
          %a = binary(%x, %y) kind=add
          %b = binary(%y, %x) kind=add
          %z = binary(%a, %b) kind=mul
          return %z
        }

    After::

        graph(%x: f32[4], %y: f32[4]) {
          %a = binary(%x, %y) kind=add
          %z = binary(%a, %a) kind=mul
          return %z
        }
    """

    def run(self, graph: Graph) -> int:
        """Look every node up by operator and operands, in order of evaluation."""
        count = 0
        known: dict[tuple[Op, frozenset[Value] | tuple[Value, ...]], Node] = {}
        for node in graph.nodes():
            if isinstance(node.op, ops.Const) or not node.op.pure:
                continue
            commutes = node.op.commutative and len(node.inputs) == 2
            first = known.setdefault(
                (node.op, frozenset(node.inputs) if commutes else node.inputs), node
            )
            if first is node or any(not isinstance(v.type, TensorType) for v in node.outputs):
                continue
            count += 1
            for old, new in zip(node.outputs, first.outputs, strict=True):
                graph.replace(old, new)
        return count


class ShareWeights(GraphPass):
    """Equal constants are stored once; with ``by_name``, those of one name.

    Before::

        graph(%x: f32[4]) {
          %a = const() type=f32[4] seed=3
          %b = const() type=f32[4] seed=3
          %y = binary(%x, %a) kind=add
          %z = binary(%y, %b) kind=mul
          return %z
        }

    After::

        graph(%x: f32[4]) {
          %a = const() type=f32[4] seed=3
          %y = binary(%x, %a) kind=add
          %z = binary(%y, %a) kind=mul
          return %z
        }
    """

    def __init__(self, *, by_name: bool = False) -> None:
        super().__init__()
        self.by_name = by_name

    def run(self, graph: Graph) -> int:
        """Compare contents; those that differ in type or the first elements are never read."""
        count = 0
        known: dict[tuple[Op, str], Value] = {}
        for node in graph.nodes():
            if isinstance(node.op, ops.Const):
                name = node.op.weight.name if self.by_name else ""
                first = known.setdefault((node.op, name), node.output)
                if first is not node.output:
                    graph.replace(node.output, first)
                    count += 1
        return count


class InlineConstantIf(GraphPass):
    """A branch whose condition is known takes the place of the choice.

    Before::

        graph @1(%a: f32[2]) {
          %b = unary(%a) kind=exp
          return %b
        }
        graph @2(%a: f32[2]) {
          %b = unary(%a) kind=abs
          return %b
        }
        graph(%x: f32[2]) {
          %c = const() type=bool[] value=false
          %y = if(%c, %x) then_branch=@1 else_branch=@2
          return %y
        }

    After::

        graph(%x: f32[2]) {
          %y = unary(%x) kind=abs
          return %y
        }
    """

    def run(self, graph: Graph) -> int:
        """Copy the taken branch into the graph."""
        count = 0
        for node in graph.nodes():
            if not isinstance(node.op, ops.If):
                continue
            condition = array_of(node.inputs[0])
            if condition is None:
                continue
            taken = bool(condition.reshape(-1)[0])
            body = node.op.then_branch if taken else node.op.else_branch
            results = inline(graph, body, node.inputs[1:])
            if [v.type for v in results] != [v.type for v in node.outputs]:
                continue
            for old, new in zip(node.outputs, results, strict=True):
                graph.replace(old, new)
            count += 1
        return count


def inline(graph: Graph, body: Graph, operands: tuple[Value, ...]) -> list[Value]:
    """Emit the nodes of ``body`` with its inputs replaced by ``operands``; return the results."""
    dims: dict[str, Dim] = {}
    for v, operand in zip(body.inputs, operands, strict=True):
        if isinstance(v.type, TensorType) and isinstance(operand.type, TensorType):
            dims |= {str(d): n for d, n in zip(v.type.shape, operand.type.shape, strict=True)}
    body = body.substitute(dims)
    env: dict[Value, Value] = dict(zip(body.inputs, operands, strict=True))
    for node in body.nodes():
        new = emit_copy(node.op, [env[v] for v in node.inputs], node)
        env.update(zip(node.outputs, new.outputs, strict=True))
    for symbol, v in body.definers.items():
        graph.definers.setdefault(symbol, env[v])
    return [env[v] for v in body.outputs]


def emit_copy(op: Op, inputs: list[Value], source: Node) -> Node:
    """Emit ``op`` with the location and the result names of ``source``."""
    node = emit_node(op, inputs, loc=source.loc)
    for new, old in zip(node.outputs, source.outputs, strict=True):
        new.name = old.name
    return node
