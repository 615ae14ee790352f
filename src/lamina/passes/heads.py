"""Attention simplified once it is recognized: shared heads, causal masks, scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lamina import ops
from lamina.ir.graph import Op, Value
from lamina.ir.rewrite import Match, Reject, Rewrite, match
from lamina.passes.attention import MASKED, unscale


class ShareKeyHeads(Rewrite):
    """Attention shares heads of keys and values that were repeated for groups of query heads.

    Before::

        graph(%q: f32[2,4,3,8], %k: f32[2,2,5,8], %v: f32[2,2,5,8]) {
          %a = reshape(%k) shape=(2,2,1,5,8)
          %b = expand(%a) shape=(2,2,2,5,8)
          %c = reshape(%b) shape=(2,4,5,8)
          %d = reshape(%v) shape=(2,2,1,5,8)
          %e = expand(%d) shape=(2,2,2,5,8)
          %f = reshape(%e) shape=(2,4,5,8)
          %y = attention(%q, %c, %f) scale=0.25
          return %y
        }

    After::

        graph(%q: f32[2,4,3,8], %k: f32[2,2,5,8], %v: f32[2,2,5,8]) {
          %y = attention(%q, %k, %v) scale=0.25
          return %y
        }
    """

    pattern = match(ops.Attention)

    def check(self, m: Match) -> bool | Reject:
        """Require keys and values repeated alike."""
        _, k, v, *_ = m.node(self.pattern).inputs
        keys, values = _repeated(k), _repeated(v)
        if keys is None or values is None:
            return False
        return keys.tensor.shape[1] == values.tensor.shape[1]

    def replace(self, m: Match) -> Value:
        """Read keys and values before they were repeated."""
        q, k, v, *mask = m.node(self.pattern).inputs
        keys, values = _repeated(k), _repeated(v)
        assert keys is not None
        assert values is not None
        return m.emit(m.node(self.pattern).op, q, keys, values, *mask)


def _repeated(v: Value) -> Value | None:
    """Return x when v is x[B, H, T, D] with every head repeated in place."""
    if not isinstance(v.op, ops.Reshape) or v.node is None:
        return None
    wide = v.node.inputs[0]
    if not isinstance(wide.op, ops.Expand) or wide.node is None or wide.tensor.rank != 5:
        return None
    narrow = wide.node.inputs[0]
    if not isinstance(narrow.op, ops.Reshape) or narrow.node is None:
        return None
    source = narrow.node.inputs[0]
    if source.tensor.rank != 4:
        return None
    b, h, t, d = source.tensor.shape
    groups = wide.tensor.shape[2]
    if narrow.tensor.shape != (b, h, 1, t, d) or wide.tensor.shape != (b, h, groups, t, d):
        return None
    return source if v.tensor.shape == (b, h * groups, t, d) else None


class RecognizeCausalMask(Rewrite):
    """A constant lower triangle as mask is causal attention.

    Before::

        graph(%q: f32[1,2,3,4], %k: f32[1,2,3,4], %v: f32[1,2,3,4]) {
          %m = const() type=bool[3,3] value=((true,false,false),(true,true,false),(true,true,true))
          %y = attention(%q, %k, %v, %m) scale=0.5
          return %y
        }

    After::

        graph(%q: f32[1,2,3,4], %k: f32[1,2,3,4], %v: f32[1,2,3,4]) {
          %y = attention(%q, %k, %v) scale=0.5 causal=true
          return %y
        }
    """

    pattern = match(ops.Attention, causal=False)

    def check(self, m: Match) -> bool | Reject:
        """Compare the mask with the triangle that begins at the first key."""
        node = m.node(self.pattern)
        if len(node.inputs) < 4 or not isinstance(node.inputs[3].op, ops.Const):
            return False
        a = np.asarray(node.inputs[3].op.weight.array)
        sizes = node.inputs[0].tensor.shape[2], node.inputs[1].tensor.shape[2]
        if a.ndim < 2 or a.shape[-2:] != sizes or a.size != a.shape[-2] * a.shape[-1]:
            return Reject("the mask is not one matrix of queries and keys")
        seen = a if a.dtype == np.bool_ else a == 0
        hidden_is_low = a.dtype == np.bool_ or bool((a[~seen] <= MASKED).all())
        return hidden_is_low and bool((seen.reshape(a.shape[-2:]) == np.tri(*a.shape[-2:])).all())

    def replace(self, m: Match) -> Value:
        """Drop the mask."""
        op = m.op(self.pattern, ops.Attention)
        return m.emit(replace(op, causal=True), *m.node(self.pattern).inputs[:3])


class ScaleQueries(Rewrite):
    """A number that multiplies the queries or keys of attention belongs to its scale.

    Before::

        graph(%q: f32[1,2,3,4], %k: f32[1,2,3,4], %v: f32[1,2,3,4]) {
          %c = const() type=f32[] value=0.5
          %a = binary(%q, %c) kind=mul
          %y = attention(%a, %k, %v) scale=1.0
          return %y
        }

    After::

        graph(%q: f32[1,2,3,4], %k: f32[1,2,3,4], %v: f32[1,2,3,4]) {
          %y = attention(%q, %k, %v) scale=0.5
          return %y
        }
    """

    pattern = match(ops.Attention)

    def check(self, m: Match) -> bool | Reject:
        """Look for a scaled operand, also behind views."""
        return any(_scaled_view(v) is not None for v in m.node(self.pattern).inputs[:2])

    def replace(self, m: Match) -> Value:
        """Multiply the scale; the views are made again on the unscaled operand."""
        op = m.op(self.pattern, ops.Attention)
        operands = list(m.node(self.pattern).inputs)
        scale = op.scale
        for i in (0, 1):
            if (found := _scaled_view(operands[i])) is not None:
                factor, x, views = found
                scale *= factor
                for view in views:
                    x = m.emit(view, x)
                operands[i] = x
        return m.emit(replace(op, scale=scale), *operands)


def _scaled_view(v: Value) -> tuple[float, Value, list[Op]] | None:
    """Return (number, operand, views) when ``v`` is views of an operand times a number."""
    views: list[Op] = []
    while isinstance(v.op, ops.Reshape | ops.Transpose | ops.Slice) and v.node is not None:
        views.append(v.op)
        v = v.node.inputs[0]
    factor, x = unscale(v)
    return None if x is v else (factor, x, views[::-1])


class DropExpandedMask(Rewrite):
    """Attention broadcasts its mask by itself.

    Before::

        graph(%q: f32[2,4,3,8], %k: f32[2,4,5,8], %v: f32[2,4,5,8], %m: f32[2,1,1,5]) {
          %a = expand(%m) shape=(2,1,3,5)
          %y = attention(%q, %k, %v, %a) scale=0.5
          return %y
        }

    After::

        graph(%q: f32[2,4,3,8], %k: f32[2,4,5,8], %v: f32[2,4,5,8], %m: f32[2,1,1,5]) {
          %y = attention(%q, %k, %v, %m) scale=0.5
          return %y
        }
    """

    pattern = match(ops.Attention)

    def check(self, m: Match) -> bool | Reject:
        """Look for an expanded mask."""
        mask = m.node(self.pattern).inputs[3:]
        return any(isinstance(v.op, ops.Expand) for v in mask)

    def replace(self, m: Match) -> Value:
        """Read the mask before it was expanded."""
        *operands, mask = m.node(self.pattern).inputs
        assert mask.node is not None
        return m.emit(m.node(self.pattern).op, *operands, mask.node.inputs[0])
