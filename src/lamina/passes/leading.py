"""Transposes of leading axes move down and past reshapes, until they meet their inverses.

Attention of torch's ``MultiheadAttention`` puts the sequence before the batch around its linear
layers, and takes heads apart from batch and heads merged into one axis.
"""

from __future__ import annotations

from lamina import ops
from lamina.ir.dims import Dim, product
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Reject, Rewrite, anything, match
from lamina.passes.constants import is_constant


def _groups(whole: tuple[Dim, ...], parts: tuple[Dim, ...]) -> list[tuple[Dim, ...]] | None:
    """Return for each size of ``whole`` the consecutive ``parts`` that it is the product of."""
    groups: list[tuple[Dim, ...]] = []
    at = 0
    for size in whole:
        end = at + 1
        while end <= len(parts) and product(parts[at:end]) != size:
            end += 1
        if end > len(parts):
            return None
        groups.append(parts[at:end])
        at = end
    return groups if at == len(parts) else None


class SplitBeforeTranspose(Rewrite):
    """A reshape that only splits axes of a transposed value splits them before it.

    Before::

        graph(%x: f32[5,6,4]) {
          %a = transpose(%x) perm=(1,0,2)
          %y = reshape(%a) shape=(2,3,5,4)
          return %y
        }

    After::

        graph(%x: f32[5,6,4]) {
          %a = reshape(%x) shape=(5,2,3,4)
          %y = transpose(%a) perm=(1,2,0,3)
          return %y
        }
    """

    x = anything()
    moved = match(ops.Transpose, x)
    pattern = match(ops.Reshape, moved)

    def check(self, m: Match) -> bool | Reject:
        """Require whole axes, at least one of them split."""
        result = m[self.pattern].tensor.shape
        groups = _groups(m[self.moved].tensor.shape, result)
        return groups is not None and len(result) > len(groups)

    def replace(self, m: Match) -> Value:
        """Split the axes of the source, and permute the parts together."""
        perm = m.op(self.moved, ops.Transpose).perm
        groups = _groups(m[self.moved].tensor.shape, m[self.pattern].tensor.shape)
        assert groups is not None
        of_source = {axis: groups[place] for place, axis in enumerate(perm)}
        begin: dict[int, int] = {}
        shape: tuple[Dim, ...] = ()
        for axis in range(len(perm)):
            begin[axis] = len(shape)
            shape += of_source[axis]
        order = [begin[axis] + i for axis in perm for i in range(len(of_source[axis]))]
        split = m.emit(ops.Reshape(shape=shape), m[self.x])
        return m.emit(ops.Transpose(perm=tuple(order)), split)


class MergeBeforeTranspose(Rewrite):
    """Merging the last axes of a transposed value leaves the leading ones to a later transpose.

    Before::

        graph(%x: f32[2,4,5,3]) {
          %a = transpose(%x) perm=(2,0,1,3)
          %y = reshape(%a) shape=(5,2,12)
          return %y
        }

    After::

        graph(%x: f32[2,4,5,3]) {
          %a = transpose(%x) perm=(0,2,1,3)
          %b = reshape(%a) shape=(2,5,12)
          %y = transpose(%b) perm=(1,0,2)
          return %y
        }
    """

    x = anything()
    moved = match(ops.Transpose, x)
    pattern = match(ops.Reshape, moved)

    def check(self, m: Match) -> bool | Reject:
        """Require that only the last axes merge, and leading ones out of order."""
        before, after = m[self.moved].tensor.shape, m[self.pattern].tensor.shape
        kept = len(after) - 1
        if not 0 < kept < len(before) - 1 or before[:kept] != after[:kept]:
            return False
        leading = m.op(self.moved, ops.Transpose).perm[:kept]
        return leading != tuple(sorted(leading))

    def replace(self, m: Match) -> Value:
        """Transpose without the leading axes, merge, and transpose these."""
        perm, result = m.op(self.moved, ops.Transpose).perm, m[self.pattern].tensor.shape
        kept = len(result) - 1
        leading = sorted(perm[:kept])
        inner = m.emit(ops.Transpose(perm=(*leading, *perm[kept:])), m[self.x])
        sizes = tuple(m[self.x].tensor.shape[axis] for axis in leading)
        merged = m.emit(ops.Reshape(shape=(*sizes, result[-1])), inner)
        order = tuple(leading.index(axis) for axis in perm[:kept])
        return m.emit(ops.Transpose(perm=(*order, kept)), merged)


class SinkTransposeThroughMatmul(Rewrite):
    """A matmul with one weight matrix comes before a transpose of its rows.

    Before::

        graph(%x: f32[2,3,4]) {
          %w = const() type=f32[4,5] seed=1
          %a = transpose(%x) perm=(1,0,2)
          %y = matmul(%a, %w)
          return %y
        }

    After::

        graph(%x: f32[2,3,4]) {
          %w = const() type=f32[4,5]
          %a = matmul(%x, %w)
          %y = transpose(%a) perm=(1,0,2)
          return %y
        }
    """

    pattern = match(ops.Matmul)

    def check(self, m: Match) -> bool | Reject:
        """Require rows that only change places, and operands that are the same for all."""
        node, op = m.node(self.pattern), m.op(self.pattern, ops.Matmul)
        rows, w, *bias = node.inputs
        if not isinstance(rows.op, ops.Transpose) or not is_constant(w) or w.tensor.rank != 2:
            return False
        if op.transpose_a or rows.op.perm[-1] != len(rows.op.perm) - 1:
            return Reject("the last axis moves")
        if m.graph.uses(rows) != 1:
            return Reject("something else reads the transposed rows")
        return len(bias) < 2 and all(b.tensor.rank <= 1 for b in bias)

    def replace(self, m: Match) -> Value:
        """Multiply first."""
        node = m.node(self.pattern)
        rows, *rest = node.inputs
        assert rows.node is not None
        y = m.emit(node.op, rows.node.inputs[0], *rest)
        return m.emit(rows.node.op, y)


class MergeNeighboursBeforeTranspose(Rewrite):
    """A reshape that merges axes which a transpose kept together merges them before it.

    Before::

        graph(%x: f32[2,3,4,5]) {
          %a = transpose(%x) perm=(0,3,1,2)
          %y = reshape(%a) shape=(2,5,12)
          return %y
        }

    After::

        graph(%x: f32[2,3,4,5]) {
          %a = reshape(%x) shape=(2,12,5)
          %y = transpose(%a) perm=(0,2,1)
          return %y
        }
    """

    x = anything()
    moved = match(ops.Transpose, x)
    pattern = match(ops.Reshape, moved)

    def check(self, m: Match) -> bool | Reject:
        """Require merged axes, each group of which follow each other in the source."""
        groups = self._axes(m)
        if groups is None or all(len(g) == 1 for g in groups):
            return False
        return all(g == tuple(range(g[0], g[0] + len(g))) for g in groups)

    def replace(self, m: Match) -> Value:
        """Merge in the source and permute the groups."""
        groups = self._axes(m)
        assert groups is not None
        sizes = m[self.x].tensor.shape
        order = sorted(groups)
        shape = tuple(product(sizes[axis] for axis in g) for g in order)
        merged = m.emit(ops.Reshape(shape=shape), m[self.x])
        return m.emit(ops.Transpose(perm=tuple(map(order.index, groups))), merged)

    def _axes(self, m: Match) -> list[tuple[int, ...]] | None:
        """Return the source's axes that make up each axis of the result."""
        perm = m.op(self.moved, ops.Transpose).perm
        groups = _groups(m[self.pattern].tensor.shape, m[self.moved].tensor.shape)
        if groups is None:
            return None
        axes = iter(perm)
        return [tuple(next(axes) for _ in g) for g in groups]
