"""Reductions and averages of images that read and write narrow values where they are stored."""

from __future__ import annotations

from lamina import ops
from lamina.ir.graph import Graph, Node, Value, emit
from lamina.ir.rewrite import Match, Rewrite, match
from lamina.ir.types import DType
from lamina.ops.kinds import PoolKind
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

    NESTED = False  # what stands inside regions is fused already
    pattern = match(ops.Reduce)

    def check(self, m: Match) -> bool:
        """Require a reduction over pixels of a widened value that nothing else reads."""
        op = m.op(self.pattern, ops.Reduce)
        x = m.node(self.pattern).inputs[0]
        pixels = tuple(range(2, x.tensor.rank))
        return bool(pixels) and op.axes == pixels and bool(_widening(m.graph, x))

    def replace(self, m: Match) -> Value:
        """Emit a region of the cast, the arithmetic and the reduction."""
        node = m.node(self.pattern)
        return _region(m, [*_widening(m.graph, node.inputs[0]), node], "reduce")


class FuseAverageOfIntegers(Rewrite):
    """An average over windows dequantizes what it reads, and quantizes its result, itself.

    Before::

        graph(%q: u8[1,8,4,4]) {
          %a = cast(%q) dtype=f32
          %s = const() type=f32[] value=0.5
          %x = binary(%a, %s) kind=mul
          %y = pool(%x) kind=average kernel=(2,2) strides=(2,2) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          %t = const() type=f32[] value=0.25
          %d = binary(%y, %t) kind=div
          %r = unary(%d) kind=round
          %c = activation(%r) kind=clip beta=255.0
          %n = cast(%c) dtype=u8
          return %n
        }

    After::

        graph @1(%i0: u8[1,8,4,4]) {
          %a = cast(%i0) dtype=f32
          %s = const() type=f32[] value=0.5
          %x = binary(%a, %s) kind=mul
          %y = pool(%x) kind=average kernel=(2,2) strides=(2,2) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          %t = const() type=f32[] value=0.25
          %d = binary(%y, %t) kind=div
          %r = unary(%d) kind=round
          %c = activation(%r) kind=clip beta=255.0
          %n = cast(%c) dtype=u8
          return %n
        }
        graph(%q: u8[1,8,4,4]) {
          %n = region(%q) body=@1 kind="average"
          return %n
        }
    """  # noqa: E501

    NESTED = False
    pattern = match(ops.Cast)

    def check(self, m: Match) -> bool:
        """Require integers before and after, and nothing else that reads what is between."""
        return bool(_averaging(m.graph, m.node(self.pattern)))

    def replace(self, m: Match) -> Value:
        """Emit a region of all steps."""
        return _region(m, _averaging(m.graph, m.node(self.pattern)), "average")


def _averaging(graph: Graph, last: Node) -> list[Node]:
    """Return the nodes from 8-bit integers over an average to 8-bit integers; or none."""
    if last.output.tensor.dtype not in (DType.I8, DType.U8):
        return []
    chain = [last]
    while len(chain) <= _MOST_STEPS + 1:
        node = chain[0].inputs[0].node
        if node is None or graph.uses(node.output) > 1 or any(map(_varies, node.inputs[1:])):
            return []
        chain.insert(0, node)
        if isinstance(node.op, ops.Pool):
            before = _widening(graph, node.inputs[0]) if node.op.kind is PoolKind.AVERAGE else []
            integers = before and before[0].inputs[0].tensor.dtype in (DType.I8, DType.U8)
            return [*before, *chain] if integers else []
        if not isinstance(node.op, ops.Binary | ops.Unary | ops.Activation):
            return []
    return []


def _varies(v: Value) -> bool:
    """Whether the value is anything but one known number."""
    array = array_of(v)
    return array is None or array.size > 1


def _region(m: Match, chain: list[Node], kind: str) -> Value:
    """Emit a region of nodes, each of which reads the one before and constants."""
    source = chain[0].inputs[0]
    body = Graph()
    v = body.input("i0", source.type, source.loc)
    for step in chain:
        numbers = [emit(x.node.op, (), loc=x.loc) for x in step.inputs[1:] if x.node]
        v = emit(step.op, [v, *numbers], loc=step.loc, name=step.output.name)
    body.output(v, chain[-1].output.name or "y")
    return m.emit(ops.Region(body=body, kind=kind), source)


def _widening(graph: Graph, v: Value) -> list[Node]:
    """Return the nodes from a cast of a narrow value to ``v``; none when it is something else."""
    chain: list[Node] = []
    while v.node is not None and graph.uses(v) == 1 and len(chain) < _MOST_STEPS:
        node = v.node
        chain.insert(0, node)
        v = node.inputs[0]
        if isinstance(node.op, ops.Cast):
            return chain if v.tensor.dtype in _NARROW else []
        if not isinstance(node.op, ops.Binary) or any(map(_varies, node.inputs[1:])):
            return []
    return []
