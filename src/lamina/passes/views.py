"""Movement of elements that cancels, merges, or moves nothing at all."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np

from lamina import ops
from lamina.ir.dims import Dim, always_le, product
from lamina.ir.graph import Op, Value
from lamina.ir.rewrite import Match, Reject, Rewrite, anything, match
from lamina.ir.types import DType
from lamina.passes.constants import array_of, emit_constant
from lamina.passes.folding import fold


class DropIdentityView(Rewrite):
    """A movement that leaves every element in its place is dropped.

    Before::

        graph(%x: f32[b,3]) {
          %a = reshape(%x) shape=(b,3)
          %b = transpose(%a) perm=(0,1)
          %c = expand(%b) shape=(b,3)
          %d = slice(%c) starts=(0,0) sizes=(b,3) steps=(1,1)
          %e = concat(%d) axis=1
          %f = tile(%e) repeats=(1,1)
          %y = unary(%f) kind=exp
          return %y
        }

    After::

        graph(%x: f32[b,3]) {
          %y = unary(%x) kind=exp
          return %y
        }
    """

    pattern = match(
        (ops.Reshape, ops.Transpose, ops.Expand, ops.Slice, ops.Concat, ops.Tile, ops.Pad)
    )

    def check(self, m: Match) -> bool | Reject:
        """Compare types, and the attributes where a movement can keep the shape."""
        node = m.node(self.pattern)
        return node.inputs[0].type == m[self.pattern].type and _stays(node.op, len(node.inputs))

    def replace(self, m: Match) -> Value:
        """Return the operand."""
        return m.node(self.pattern).inputs[0]


def _stays(op: Op, operands: int) -> bool:
    if isinstance(op, ops.Transpose):
        return op.perm == tuple(range(len(op.perm)))
    if isinstance(op, ops.Slice):
        return all(s == 1 for s in op.steps) and all(s == 0 for s in op.starts)
    if isinstance(op, ops.Concat):
        return operands == 1
    if isinstance(op, ops.Pad):
        return all(p == 0 for p in (*op.pads_begin, *op.pads_end))
    return True


class MergeReshapes(Rewrite):
    """Only the last of several reshapes counts.

    Before::

        graph(%x: f32[2,6]) {
          %a = reshape(%x) shape=(12,)
          %y = reshape(%a) shape=(3,4)
          return %y
        }

    After::

        graph(%x: f32[2,6]) {
          %y = reshape(%x) shape=(3,4)
          return %y
        }
    """

    x = anything()
    inner = match(ops.Reshape, x)
    pattern = match(ops.Reshape, inner)

    def replace(self, m: Match) -> Value:
        """Reshape the source."""
        return m.emit(m.op(self.pattern, ops.Reshape), m[self.x])


class MergeTransposes(Rewrite):
    """Two permutations in a row are one.

    Before::

        graph(%x: f32[2,3,4]) {
          %a = transpose(%x) perm=(1,0,2)
          %y = transpose(%a) perm=(0,2,1)
          return %y
        }

    After::

        graph(%x: f32[2,3,4]) {
          %y = transpose(%x) perm=(1,2,0)
          return %y
        }
    """

    x = anything()
    inner = match(ops.Transpose, x)
    pattern = match(ops.Transpose, inner)

    def replace(self, m: Match) -> Value:
        """Compose the permutations."""
        first = m.op(self.inner, ops.Transpose).perm
        perm = tuple(first[p] for p in m.op(self.pattern, ops.Transpose).perm)
        return m.emit(ops.Transpose(perm=perm), m[self.x])


class TransposeToReshape(Rewrite):
    """Moving only axes of size one moves no element.

    Before::

        graph(%x: f32[2,1,4]) {
          %y = transpose(%x) perm=(1,0,2)
          return %y
        }

    After::

        graph(%x: f32[2,1,4]) {
          %y = reshape(%x) shape=(1,2,4)
          return %y
        }
    """

    x = anything()
    pattern = match(ops.Transpose, x)

    def check(self, m: Match) -> bool | Reject:
        """Require that the axes of other sizes keep their order."""
        shape = m[self.x].tensor.shape
        moved = [p for p in m.op(self.pattern, ops.Transpose).perm if shape[p] != 1]
        return moved == sorted(moved)

    def replace(self, m: Match) -> Value:
        """Emit the reshape."""
        return m.emit(ops.Reshape(shape=m[self.pattern].tensor.shape), m[self.x])


class MergeExpands(Rewrite):
    """Only the last of several expansions counts.

    Before::

        graph(%x: f32[1,4]) {
          %a = expand(%x) shape=(3,4)
          %y = expand(%a) shape=(2,3,4)
          return %y
        }

    After::

        graph(%x: f32[1,4]) {
          %y = expand(%x) shape=(2,3,4)
          return %y
        }
    """

    x = anything()
    inner = match(ops.Expand, x)
    pattern = match(ops.Expand, inner)

    def replace(self, m: Match) -> Value:
        """Expand the source."""
        return m.emit(m.op(self.pattern, ops.Expand), m[self.x])


class MergeSlices(Rewrite):
    """A slice of a slice is one slice.

    Before::

        graph(%x: f32[10,8]) {
          %a = slice(%x) starts=(2,0) sizes=(4,8) steps=(2,1)
          %y = slice(%a) starts=(1,3) sizes=(3,2) steps=(1,1)
          return %y
        }

    After::

        graph(%x: f32[10,8]) {
          %y = slice(%x) starts=(4,3) sizes=(3,2) steps=(2,1)
          return %y
        }
    """

    x = anything()
    inner = match(ops.Slice, x)
    pattern = match(ops.Slice, inner)

    def replace(self, m: Match) -> Value:
        """Compose starts and steps."""
        a, b = m.op(self.inner, ops.Slice), m.op(self.pattern, ops.Slice)
        starts = tuple(s + t * k for s, t, k in zip(a.starts, b.starts, a.steps, strict=True))
        steps = tuple(k * j for k, j in zip(a.steps, b.steps, strict=True))
        return m.emit(ops.Slice(starts=starts, sizes=b.sizes, steps=steps), m[self.x])


class GatherToSlice(Rewrite):
    """Gathering one known index, or a known run of indices, is a slice.

    Before::

        graph(%x: f32[2,5,4]) {
          %i = const() type=i64[] value=-2
          %y = gather(%x, %i) axis=1
          return %y
        }

    After::

        graph(%x: f32[2,5,4]) {
          %a = slice(%x) starts=(0,3,0) sizes=(2,1,4) steps=(1,1,1)
          %y = reshape(%a) shape=(2,4)
          return %y
        }
    """

    x = anything()
    indices = match(ops.Const)
    pattern = match(ops.Gather, x, indices)

    def check(self, m: Match) -> bool | Reject:
        """Require evenly spaced indices that are in range for certain."""
        run = _run_of(m.array(self.indices), m[self.x].tensor.shape[self._axis(m)])
        return run is not None

    def replace(self, m: Match) -> Value:
        """Slice the axis and give the result its shape."""
        axis, x = self._axis(m), m[self.x]
        run = _run_of(m.array(self.indices), x.tensor.shape[axis])
        assert run is not None
        start, size, step = run
        rank = x.tensor.rank
        part = ops.Slice(
            starts=tuple(start if i == axis else 0 for i in range(rank)),
            sizes=tuple(size if i == axis else d for i, d in enumerate(x.tensor.shape)),
            steps=tuple(step if i == axis else 1 for i in range(rank)),
        )
        sliced = m.emit(part, x)
        if sliced.type == m[self.pattern].type:
            return sliced
        return m.emit(ops.Reshape(shape=m[self.pattern].tensor.shape), sliced)

    def _axis(self, m: Match) -> int:
        return m.op(self.pattern, ops.Gather).axis


def _run_of(indices: np.ndarray, size: Dim) -> tuple[Dim, int, int] | None:
    """Return (start, count, step) of evenly spaced indices inside an axis of ``size``."""
    flat = [int(i) for i in indices.reshape(-1)]
    if not flat or len(flat) > 4096:
        return None
    steps = {b - a for a, b in pairwise(flat)}
    if len(steps) > 1 or 0 in steps or any((i < 0) != (flat[0] < 0) for i in flat):
        return None
    negative = flat[0] < 0
    furthest: Dim = -min(flat) if negative else max(flat) + 1
    if not always_le(furthest, size):
        return None
    return (size + flat[0] if negative else flat[0]), len(flat), steps.pop() if steps else 1


class PadToShape(Rewrite):
    """Negative padding is a slice.

    Before::

        graph(%x: f32[6,4]) {
          %y = pad(%x) pads_begin=(-1,0) pads_end=(-2,0)
          return %y
        }

    After::

        graph(%x: f32[6,4]) {
          %y = slice(%x) starts=(1,0) sizes=(3,4) steps=(1,1)
          return %y
        }
    """

    pattern = match(ops.Pad)

    def check(self, m: Match) -> bool | Reject:
        """Require that nothing is added anywhere."""
        op = m.op(self.pattern, ops.Pad)
        return all(always_le(p, 0) for p in (*op.pads_begin, *op.pads_end))

    def replace(self, m: Match) -> Value:
        """Emit the slice."""
        op = m.op(self.pattern, ops.Pad)
        part = ops.Slice(
            starts=tuple(p * -1 for p in op.pads_begin),
            sizes=m[self.pattern].tensor.shape,
            steps=(1,) * len(op.pads_begin),
        )
        return m.emit(part, m.node(self.pattern).inputs[0])


class SliceBeforeReshape(Rewrite):
    """A slice along the first of the axes into which one axis was split slices that axis.

    Before::

        graph(%x: f32[2,5,24]) {
          %a = reshape(%x) shape=(2,5,3,2,4)
          %y = slice(%a) starts=(0,0,1,0,0) sizes=(2,5,1,2,4) steps=(1,1,1,1,1)
          return %y
        }

    After::

        graph(%x: f32[2,5,24]) {
          %a = slice(%x) starts=(0,0,8) sizes=(2,5,8) steps=(1,1,1)
          %y = reshape(%a) shape=(2,5,1,2,4)
          return %y
        }
    """

    x = anything()
    shaped = match(ops.Reshape, x)
    pattern = match(ops.Slice, shaped)

    def check(self, m: Match) -> bool | Reject:
        """Require one sliced axis, of step 1, that begins the parts of one axis of the source."""
        return self._place(m) is not None

    def replace(self, m: Match) -> Value:
        """Slice the source."""
        place = self._place(m)
        assert place is not None
        axis, start, size = place
        shape = m[self.x].tensor.shape
        part = ops.Slice(
            starts=tuple(start if i == axis else 0 for i in range(len(shape))),
            sizes=tuple(size if i == axis else d for i, d in enumerate(shape)),
            steps=(1,) * len(shape),
        )
        sliced = m.emit(part, m[self.x])
        return m.emit(ops.Reshape(shape=m[self.pattern].tensor.shape), sliced)

    def _place(self, m: Match) -> tuple[int, Dim, Dim] | None:
        op, shape = m.op(self.pattern, ops.Slice), m[self.shaped].tensor.shape
        cut = [i for i, d in enumerate(shape) if op.sizes[i] != d or op.starts[i] != 0]
        if len(cut) != 1 or any(s != 1 for s in op.steps):
            return None
        source = m[self.x].tensor.shape
        for axis in range(len(source)):
            before = product(source[:axis]) == product(shape[: cut[0]])
            inner = product(shape[cut[0] + 1 :])
            after = product(source[axis + 1 :])
            if not before or not isinstance(inner, int) or not isinstance(after, int):
                continue
            if after == 0 or inner % after or source[axis] != shape[cut[0]] * (inner // after):
                continue
            block = inner // after
            return axis, op.starts[cut[0]] * block, op.sizes[cut[0]] * block
        return None


class SqueezeBeforeTranspose(Rewrite):
    """Axes of size one that a reshape drops after a transpose are dropped before it.

    Before::

        graph(%x: f32[2,5,1,4]) {
          %a = transpose(%x) perm=(2,0,3,1)
          %y = reshape(%a) shape=(2,4,5)
          return %y
        }

    After::

        graph(%x: f32[2,5,1,4]) {
          %a = reshape(%x) shape=(2,5,4)
          %y = transpose(%a) perm=(0,2,1)
          return %y
        }
    """

    x = anything()
    moved = match(ops.Transpose, x)
    pattern = match(ops.Reshape, moved)

    def check(self, m: Match) -> bool | Reject:
        """Require that the reshape does nothing else."""
        return self._kept(m) is not None

    def replace(self, m: Match) -> Value:
        """Reshape the source and permute what is left."""
        kept = self._kept(m)
        assert kept is not None
        order = sorted(kept)
        squeezed = ops.Reshape(shape=tuple(m[self.x].tensor.shape[i] for i in order))
        perm = tuple(order.index(p) for p in kept)
        return m.emit(ops.Transpose(perm=perm), m.emit(squeezed, m[self.x]))

    def _kept(self, m: Match) -> tuple[int, ...] | None:
        """Return the axes of the source that stay, in the order of the result.

        Of several axes of size one those stay that leave the fewest axes out of order.
        """
        perm, shape = m.op(self.moved, ops.Transpose).perm, m[self.x].tensor.shape
        result = m[self.pattern].tensor.shape
        ones = [p for p in perm if shape[p] == 1]
        drop = len(perm) - len(result)
        if not 0 < drop <= len(ones) or len(ones) > 4:
            return None
        candidates = [tuple(p for p in perm if p not in gone) for gone in combinations(ones, drop)]
        fitting = [c for c in candidates if tuple(shape[p] for p in c) == result]
        return min(fitting, key=_inversions, default=None)


def _inversions(perm: tuple[int, ...]) -> int:
    return sum(a > b for a, b in combinations(perm, 2))


class FoldSmallViews(Rewrite):
    """A shape operator on a small constant gives a constant, even where constants are not folded.

    Before::

        graph(%x: f32[2,3]) {
          %c = const() type=f32[3] seed=1
          %r = reshape(%c) shape=(1,3)
          %y = binary(%x, %r) kind=add
          return %y
        }

    After::

        graph(%x: f32[2,3]) {
          %r = const() type=f32[1,3]
          %y = binary(%x, %r) kind=add
          return %y
        }
    """

    c = match(ops.Const)
    pattern = match((ops.Reshape, ops.Transpose), c)

    def check(self, m: Match) -> bool | Reject:
        """Fold only arrays for which no copy is made, or a small one."""
        a = array_of(m[self.c])
        if a is None or m[self.c].tensor.dtype is DType.STR:
            return False
        reshapes = isinstance(m[self.pattern].op, ops.Reshape)
        return m[self.pattern].tensor.is_static and (reshapes or a.size <= 4096)

    def replace(self, m: Match) -> Value:
        """Apply the operator."""
        (result,) = fold(m.node(self.pattern).op, m.array(self.c))
        return emit_constant(m, result, m[self.c].tensor.dtype)
