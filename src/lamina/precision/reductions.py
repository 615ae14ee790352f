"""Reductions of images that read narrow values where they are stored."""

from __future__ import annotations

from lamina import ops
from lamina.ir.graph import Graph, Node, Value, emit
from lamina.ir.rewrite import Match, Rewrite, match
from lamina.ir.types import DType
from lamina.passes.constants import array_of

_NARROW = (DType.BF16, DType.F16, DType.I8, DType.U8)
_MOST_STEPS = 4


class FuseWideningIntoReduction(Rewrite):
    """A reduction over pixels widens or dequantizes what it reads itself.

    Before::

        graph(%q: u8[1,8,4,4]) {
          %a = cast(%q) dtype=f32
          %s = const() type=f32[] value=0.5
          %x = binary(%a, %s) kind=mul
          %y = reduce(%x) kind=mean axes=(2,3)
          return %y
        }

    After::

        graph @1(%i0: u8[1,8,4,4]) {
          %a = cast(%i0) dtype=f32
          %s = const() type=f32[] value=0.5
          %x = binary(%a, %s) kind=mul
          %y = reduce(%x) kind=mean axes=(2,3)
          return %y
        }
        graph(%q: u8[1,8,4,4]) {
          %y = region(%q) body=@1 kind="reduce"
          return %y
        }
    """

    pattern = match(ops.Reduce)

    def __call__(self, graph: Graph) -> int:
        """Run here, but not inside regions."""
        count = self.run(graph)
        self.statistics.hits += count
        return count

    def check(self, m: Match) -> bool:
        """Require a reduction over pixels of a widened value that nothing else reads."""
        op = m.op(self.pattern, ops.Reduce)
        x = m.node(self.pattern).inputs[0]
        pixels = tuple(range(2, x.tensor.rank))
        return bool(pixels) and op.axes == pixels and bool(_widening(m.graph, x))

    def replace(self, m: Match) -> Value:
        """Emit a region of the cast, the arithmetic and the reduction."""
        node = m.node(self.pattern)
        chain = [*_widening(m.graph, node.inputs[0]), node]
        source = chain[0].inputs[0]
        body = Graph()
        v = body.input("i0", source.type, source.loc)
        for step in chain:
            numbers = [emit(x.node.op, (), loc=x.loc) for x in step.inputs[1:] if x.node]
            v = emit(step.op, [v, *numbers], loc=step.loc, name=step.output.name)
        body.output(v, node.output.name or "y")
        return m.emit(ops.Region(body=body, kind="reduce"), source)


def _widening(graph: Graph, v: Value) -> list[Node]:
    """Return the nodes from a cast of a narrow value to ``v``; none when it is something else."""
    chain: list[Node] = []
    while v.node is not None and graph.uses(v) == 1 and len(chain) < _MOST_STEPS:
        node = v.node
        chain.insert(0, node)
        v = node.inputs[0]
        if isinstance(node.op, ops.Cast):
            return chain if v.tensor.dtype in _NARROW else []
        numbers = [array_of(x) for x in node.inputs[1:]]
        if not isinstance(node.op, ops.Binary) or any(a is None or a.size > 1 for a in numbers):
            return []
    return []
