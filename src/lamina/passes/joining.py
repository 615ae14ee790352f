"""Concatenations, the slices that undo them, and the slices they undo."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lamina import ops
from lamina.ir.dims import Dim
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Reject, Rewrite, match


class MergeConcats(Rewrite):
    """A concatenation inside another along the same axis dissolves.

    Before::

        graph(%x: f32[2,3], %y: f32[2,1], %z: f32[2,2]) {
          %a = concat(%x, %y) axis=1
          %b = concat(%a, %z) axis=1
          return %b
        }

    After::

        graph(%x: f32[2,3], %y: f32[2,1], %z: f32[2,2]) {
          %b = concat(%x, %y, %z) axis=1
          return %b
        }
    """

    pattern = match(ops.Concat)

    def check(self, m: Match) -> bool | Reject:
        """Look for a part that is a concatenation and read only here, or an empty part."""
        axis = m.op(self.pattern, ops.Concat).axis
        return any(self._dissolves(m, v, axis) for v in m.node(self.pattern).inputs)

    def replace(self, m: Match) -> Value:
        """Put the parts of the inner ones in their places."""
        op = m.op(self.pattern, ops.Concat)
        parts: list[Value] = []
        for v in m.node(self.pattern).inputs:
            if not self._dissolves(m, v, op.axis):
                parts.append(v)
            elif v.tensor.shape[op.axis] != 0 and v.node is not None:
                parts.extend(v.node.inputs)
        return m.emit(op, *parts) if parts else m[self.pattern]

    def _dissolves(self, m: Match, v: Value, axis: int) -> bool:
        if v.tensor.shape[axis] == 0:
            return True
        inner = v.op
        return isinstance(inner, ops.Concat) and inner.axis == axis and m.graph.uses(v) == 1


class SliceOfConcat(Rewrite):
    """A slice that lies inside some parts of a concatenation reads only these.

    Before::

        graph(%x: f32[2,3], %y: f32[2,4]) {
          %a = concat(%x, %y) axis=1
          %b = slice(%a) starts=(0,4) sizes=(2,2) steps=(1,1)
          return %b
        }

    After::

        graph(%x: f32[2,3], %y: f32[2,4]) {
          %b = slice(%y) starts=(0,1) sizes=(2,2) steps=(1,1)
          return %b
        }
    """

    joined = match(ops.Concat)
    pattern = match(ops.Slice, joined)

    def check(self, m: Match) -> bool | Reject:
        """Require a slice of step 1 that one part contains."""
        return self._find(m) is not None

    def replace(self, m: Match) -> Value:
        """Slice the part."""
        found = self._find(m)
        assert found is not None
        part, start = found
        axis = m.op(self.joined, ops.Concat).axis
        op = m.op(self.pattern, ops.Slice)
        starts = (*op.starts[:axis], start, *op.starts[axis + 1 :])
        return m.emit(ops.Slice(starts=starts, sizes=op.sizes, steps=op.steps), part)

    def _find(self, m: Match) -> tuple[Value, int] | None:
        axis = m.op(self.joined, ops.Concat).axis
        op = m.op(self.pattern, ops.Slice)
        start, size = op.starts[axis], op.sizes[axis]
        if op.steps[axis] != 1 or not isinstance(start, int) or not isinstance(size, int):
            return None
        begin = 0
        for part in m.node(self.joined).inputs:
            length = part.tensor.shape[axis]
            if not isinstance(length, int):
                return None
            if begin <= start and start + size <= begin + length:
                return part, start - begin
            begin += length
        return None


class ConcatOfSlices(Rewrite):
    """Neighbouring slices of one value that are put together again are one slice.

    Before::

        graph(%x: f32[6,4], %y: f32[1,4]) {
          %a = slice(%x) starts=(1,0) sizes=(2,4) steps=(1,1)
          %b = slice(%x) starts=(3,0) sizes=(3,4) steps=(1,1)
          %c = concat(%a, %b, %y) axis=0
          return %c
        }

    After::

        graph(%x: f32[6,4], %y: f32[1,4]) {
          %a = slice(%x) starts=(1,0) sizes=(5,4) steps=(1,1)
          %c = concat(%a, %y) axis=0
          return %c
        }
    """

    pattern = match(ops.Concat)

    def check(self, m: Match) -> bool | Reject:
        """Look for two parts that continue each other."""
        axis = m.op(self.pattern, ops.Concat).axis
        parts = m.node(self.pattern).inputs
        return any(_continues(a, b, axis) for a, b in pairwise(parts))

    def replace(self, m: Match) -> Value:
        """Join runs of slices."""
        op = m.op(self.pattern, ops.Concat)
        parts: list[Value] = []
        for v in m.node(self.pattern).inputs:
            if parts and _continues(parts[-1], v, op.axis):
                parts[-1] = self._join(m, parts[-1], v, op.axis)
            else:
                parts.append(v)
        return m.emit(op, *parts)

    def _join(self, m: Match, a: Value, b: Value, axis: int) -> Value:
        assert a.node is not None
        first, second = _slice_of(a), _slice_of(b)
        assert first is not None
        assert second is not None
        size = first.sizes[axis] + second.sizes[axis]
        sizes = (*first.sizes[:axis], size, *first.sizes[axis + 1 :])
        joined = ops.Slice(starts=first.starts, sizes=sizes, steps=first.steps)
        return m.emit(joined, a.node.inputs[0])


def _slice_of(v: Value) -> ops.Slice | None:
    return v.op if isinstance(v.op, ops.Slice) else None


def _continues(a: Value, b: Value, axis: int) -> bool:
    first, second = _slice_of(a), _slice_of(b)
    if first is None or second is None or a.node is None or b.node is None:
        return False
    if a.node.inputs[0] is not b.node.inputs[0] or first.steps != second.steps:
        return False
    end: Dim = first.starts[axis] + first.sizes[axis] * first.steps[axis]
    return second.starts[axis] == end and _without(first.starts, axis) == _without(
        second.starts, axis
    )


def _without(entries: Sequence[Dim], axis: int) -> tuple[Dim, ...]:
    return (*entries[:axis], *entries[axis + 1 :])
