"""Movements of elements that are one copy although they are spelled as several."""

from __future__ import annotations

from lamina import ops
from lamina.ir.graph import Graph, Value, emit
from lamina.ir.rewrite import Match, Reject, Rewrite, match


class FuseChannelShuffle(Rewrite):
    """A reshape, a transpose and a reshape of an image become one region.

    As a region the copy reads and writes the image in any layout; apart, the five-dimensional
    value in the middle would force row-major order on its neighbours.

    Before::

        graph(%x: f32[1,6,4,4]) {
          %a = reshape(%x) shape=(1,2,3,4,4)
          %b = transpose(%a) perm=(0,2,1,3,4)
          %c = reshape(%b) shape=(1,6,4,4)
          %d = activation(%c) kind=relu
          return %d
        }

    After::

        graph @1(%i0: f32[1,6,4,4]) {
          %a = reshape(%i0) shape=(1,2,3,4,4)
          %b = transpose(%a) perm=(0,2,1,3,4)
          %c = reshape(%b) shape=(1,6,4,4)
          return %c
        }
        graph(%x: f32[1,6,4,4]) {
          %c = region(%x) body=@1
          %d = activation(%c) kind=relu
          return %d
        }
    """

    split = match(ops.Reshape, one_use=True)
    moved = match(ops.Transpose, split, one_use=True)
    pattern = match(ops.Reshape, moved)

    def check(self, m: Match) -> bool | Reject:
        """Demand that both ends are images of the same shape."""
        before, after = m.node(self.split).inputs[0].tensor, m[self.pattern].tensor
        if before.rank != 4 or before.shape != after.shape:
            return Reject("the ends are not images of one shape")
        if m.graph.inputs == [*m.node(self.split).inputs] and m.graph.outputs == [m[self.pattern]]:
            return Reject("the graph is the body of such a region, or nothing else")
        return True

    def replace(self, m: Match) -> Value:
        """Repeat the three in the body of a region."""
        source = m.node(self.split).inputs[0]
        body = Graph()
        value = body.input("i0", source.type)
        for step in (self.split, self.moved, self.pattern):
            value = emit(m.node(step).op, [value], loc=m[step].loc)
        body.output(value, "o0")
        return m.emit(ops.Region(body=body), source)
