"""Transposes moved towards the outputs, where they meet their inverses or a matmul.

A transpose moves past an operator only when that does not multiply it: either nothing else reads
it, or every operand that is not constant is transposed alike.
"""

from __future__ import annotations

from lamina import ops
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Reject, Rewrite, anything, match
from lamina.passes.constants import array_of, emit_constant


def inverse(perm: tuple[int, ...]) -> tuple[int, ...]:
    """Return the permutation that undoes ``perm``."""
    return tuple(sorted(range(len(perm)), key=perm.__getitem__))


class SinkTransposeThroughPointwise(Rewrite):
    """A function of transposed elements is the transposed function of the elements.

    Before::

        graph(%x: f32[2,3,4]) {
          %a = transpose(%x) perm=(0,2,1)
          %y = activation(%a) kind=relu
          return %y
        }

    After::

        graph(%x: f32[2,3,4]) {
          %a = activation(%x) kind=relu
          %y = transpose(%a) perm=(0,2,1)
          return %y
        }
    """

    x = anything()
    moved = match(ops.Transpose, x, one_use=True)
    pattern = match((ops.Unary, ops.Activation, ops.Cast), moved)

    def replace(self, m: Match) -> Value:
        """Exchange the two."""
        y = m.emit(m.node(self.pattern).op, m[self.x])
        return m.emit(m.op(self.moved, ops.Transpose), y)


class SinkTransposeThroughBroadcast(Rewrite):
    """Operands transposed alike (or constant) are combined first and transposed afterwards.

    Before::

        graph(%x: f32[2,3,4], %y: f32[2,3,4]) {
          %c = const() type=f32[3] seed=1
          %a = transpose(%x) perm=(0,2,1)
          %b = transpose(%y) perm=(0,2,1)
          %d = binary(%a, %c) kind=mul
          %z = binary(%d, %b) kind=add
          return %z
        }

    After::

        graph(%x: f32[2,3,4], %y: f32[2,3,4]) {
          %c = const() type=f32[1,3,1]
          %d = binary(%x, %c) kind=mul
          %e = binary(%d, %y) kind=add
          %z = transpose(%e) perm=(0,2,1)
          return %z
        }
    """

    pattern = match((ops.Binary, ops.Select))

    def check(self, m: Match) -> bool | Reject:
        """Require one permutation of the full rank, and constants elsewhere."""
        node = m.node(self.pattern)
        perms = {v.op.perm for v in node.inputs if isinstance(v.op, ops.Transpose)}
        if len(perms) != 1:
            return False
        moved = [v for v in node.inputs if isinstance(v.op, ops.Transpose)]
        rest = [v for v in node.inputs if not isinstance(v.op, ops.Transpose)]
        if any(array_of(v) is None for v in rest):
            return Reject("an operand is neither transposed nor constant")
        if len(moved) == 1 and m.graph.uses(moved[0]) > 1:
            return Reject("something else reads the transposed operand")
        return all(v.tensor.rank == node.output.tensor.rank for v in moved)

    def replace(self, m: Match) -> Value:
        """Take the sources and transpose the result."""
        node = m.node(self.pattern)
        (perm,) = {v.op.perm for v in node.inputs if isinstance(v.op, ops.Transpose)}
        operands = [_untransposed(m, v, perm) for v in node.inputs]
        return m.emit(ops.Transpose(perm=perm), m.emit(node.op, *operands))


def _untransposed(m: Match, v: Value, perm: tuple[int, ...]) -> Value:
    if isinstance(v.op, ops.Transpose) and v.node is not None:
        return v.node.inputs[0]
    a = array_of(v)
    assert a is not None
    if a.size == 1:
        return v if a.ndim == 0 else emit_constant(m, a.reshape(()), v.tensor.dtype)
    full = a.reshape((1,) * (len(perm) - a.ndim) + a.shape)
    return emit_constant(m, full.transpose(inverse(perm)), v.tensor.dtype)


class SinkTransposeThroughReduce(Rewrite):
    """A reduction names the axes as they were before the transpose.

    Before::

        graph(%x: f32[2,3,4]) {
          %a = transpose(%x) perm=(0,2,1)
          %y = reduce(%a) kind=mean axes=(2,)
          return %y
        }

    After::

        graph(%x: f32[2,3,4]) {
          %a = reduce(%x) kind=mean axes=(1,)
          %y = transpose(%a) perm=(0,2,1)
          return %y
        }
    """

    x = anything()
    moved = match(ops.Transpose, x, one_use=True)
    pattern = match(ops.Reduce, moved)

    def replace(self, m: Match) -> Value:
        """Map the axes; without reduced axes the permutation has fewer entries."""
        op, perm = m.op(self.pattern, ops.Reduce), m.op(self.moved, ops.Transpose).perm
        axes = tuple(sorted(perm[a] for a in op.axes))
        y = m.emit(ops.Reduce(kind=op.kind, axes=axes, keepdims=op.keepdims), m[self.x])
        if not op.keepdims:
            left = [p for p in perm if p not in axes]
            order = sorted(left)
            perm = tuple(order.index(p) for p in left)
        return m.emit(ops.Transpose(perm=perm), y)


class SinkTransposeThroughSoftmax(Rewrite):
    """A softmax names the axis as it was before the transpose.

    Before::

        graph(%x: f32[2,3,4]) {
          %a = transpose(%x) perm=(0,2,1)
          %y = softmax(%a) axis=1
          return %y
        }

    After::

        graph(%x: f32[2,3,4]) {
          %a = softmax(%x) axis=2
          %y = transpose(%a) perm=(0,2,1)
          return %y
        }
    """

    x = anything()
    moved = match(ops.Transpose, x, one_use=True)
    pattern = match(ops.Softmax, moved)

    def check(self, m: Match) -> bool | Reject:
        """Require that the axis does not leave the last place, where it is cheapest."""
        op, perm = m.op(self.pattern, ops.Softmax), m.op(self.moved, ops.Transpose).perm
        last = len(perm) - 1
        if op.axis == last and perm[last] != last:
            return Reject("the axis would not be the last any more")
        return True

    def replace(self, m: Match) -> Value:
        """Map the axis."""
        op, moved = m.op(self.pattern, ops.Softmax), m.op(self.moved, ops.Transpose)
        y = m.emit(ops.Softmax(axis=moved.perm[op.axis], log=op.log), m[self.x])
        return m.emit(moved, y)


class SinkTransposeThroughConcat(Rewrite):
    """Parts transposed alike are joined first and transposed afterwards.

    Before::

        graph(%x: f32[2,3,4], %y: f32[2,3,5]) {
          %a = transpose(%x) perm=(0,2,1)
          %b = transpose(%y) perm=(0,2,1)
          %z = concat(%a, %b) axis=1
          return %z
        }

    After::

        graph(%x: f32[2,3,4], %y: f32[2,3,5]) {
          %a = concat(%x, %y) axis=2
          %z = transpose(%a) perm=(0,2,1)
          return %z
        }
    """

    pattern = match(ops.Concat)

    def check(self, m: Match) -> bool | Reject:
        """Require the same permutation on every part."""
        parts = m.node(self.pattern).inputs
        perms = {v.op.perm if isinstance(v.op, ops.Transpose) else None for v in parts}
        return len(perms) == 1 and None not in perms

    def replace(self, m: Match) -> Value:
        """Join the sources along the mapped axis."""
        node = m.node(self.pattern)
        first = node.inputs[0].op
        assert isinstance(first, ops.Transpose)
        sources = [v.node.inputs[0] for v in node.inputs if v.node is not None]
        axis = first.perm[m.op(self.pattern, ops.Concat).axis]
        return m.emit(first, m.emit(ops.Concat(axis=axis), *sources))


class SinkTransposeThroughSlice(Rewrite):
    """Slices and padding name the axes as they were before the transpose.

    Before::

        graph(%x: f32[2,3,4]) {
          %a = transpose(%x) perm=(0,2,1)
          %y = slice(%a) starts=(0,1,0) sizes=(2,2,3) steps=(1,1,1)
          return %y
        }

    After::

        graph(%x: f32[2,3,4]) {
          %a = slice(%x) starts=(0,0,1) sizes=(2,3,2) steps=(1,1,1)
          %y = transpose(%a) perm=(0,2,1)
          return %y
        }
    """

    pattern = match((ops.Slice, ops.Pad))

    def check(self, m: Match) -> bool | Reject:
        """Require that only slices and padding read the transposed value."""
        v = m.node(self.pattern).inputs[0]
        if not isinstance(v.op, ops.Transpose) or m.graph.uses(v) != len(v.users):
            return False
        if len(v.users) == 1:
            return True
        return all(isinstance(user.op, ops.Slice) for user in v.users)

    def replace(self, m: Match) -> Value:
        """Permute the attributes."""
        node = m.node(self.pattern)
        source, *rest = node.inputs
        moved, op = source.op, node.op
        assert isinstance(moved, ops.Transpose)
        assert source.node is not None
        back = inverse(moved.perm)
        new: ops.Slice | ops.Pad
        if isinstance(op, ops.Slice):
            new = ops.Slice(
                starts=tuple(op.starts[i] for i in back),
                sizes=tuple(op.sizes[i] for i in back),
                steps=tuple(op.steps[i] for i in back),
            )
        else:
            assert isinstance(op, ops.Pad)
            new = ops.Pad(
                mode=op.mode,
                pads_begin=tuple(op.pads_begin[i] for i in back),
                pads_end=tuple(op.pads_end[i] for i in back),
            )
        return m.emit(moved, m.emit(new, source.node.inputs[0], *rest))


class AbsorbTransposeIntoMatmul(Rewrite):
    """A matmul reads an operand with its last two axes exchanged.

    Before::

        graph(%x: f32[5,2,3], %y: f32[5,4,3]) {
          %a = transpose(%y) perm=(0,2,1)
          %z = matmul(%x, %a)
          return %z
        }

    After::

        graph(%x: f32[5,2,3], %y: f32[5,4,3]) {
          %z = matmul(%x, %y) transpose_b=true
          return %z
        }
    """

    pattern = match(ops.Matmul)

    def check(self, m: Match) -> bool | Reject:
        """Look for such an operand."""
        return any(_swaps_last_two(v) for v in m.node(self.pattern).inputs[:2])

    def replace(self, m: Match) -> Value:
        """Flip the flags."""
        node, op = m.node(self.pattern), m.op(self.pattern, ops.Matmul)
        a, b, *rest = node.inputs
        swap_a, swap_b = _swaps_last_two(a), _swaps_last_two(b)
        new = ops.Matmul(
            transpose_a=op.transpose_a != swap_a,
            transpose_b=op.transpose_b != swap_b,
            activation=op.activation,
        )
        left, right = (
            v.node.inputs[0] if s and v.node else v for v, s in ((a, swap_a), (b, swap_b))
        )
        return m.emit(new, left, right, *rest)


def _swaps_last_two(v: Value) -> bool:
    if not isinstance(v.op, ops.Transpose):
        return False
    perm = v.op.perm
    rank = len(perm)
    return perm == (*range(rank - 2), rank - 1, rank - 2)
