"""Attention found as two matrix products with a softmax between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lamina import ops
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Reject, Rewrite, match
from lamina.ops.kinds import ActivationKind, BinaryKind, UnaryKind
from lamina.passes.constants import is_float, scalar_of
from lamina.passes.softmax import RecognizeSoftmax

_MASKED = -1e4  # what exporters add or put where a key must not be seen, at most


@dataclass(frozen=True)
class _Scores:
    """The parts of ``softmax(softcap(scale * q @ k) + mask)``; k is [..., D, T]."""

    q: Value
    k: Value
    scale: float
    softcap: float
    mask: Value | None
    keep: bool  # for a bool mask: whether True means that the key is seen
    k_transposed: bool  # k is [..., T, D]


class RecognizeAttention(Rewrite):
    """A softmax of scaled, masked scores times the values is attention.

    The scale may stand on the queries, the keys, the scores or any of them; the mask is added, or
    selects between the scores and a very negative number.

    Before::

        graph(%q: f32[2,4,3,8], %k: f32[2,4,8,5], %v: f32[2,4,5,8], %m: f32[2,1,1,5]) {
          %c = const() type=f32[] value=0.25
          %s = matmul(%q, %k)
          %t = binary(%s, %c) kind=mul
          %u = binary(%t, %m) kind=add
          %p = softmax(%u) axis=3
          %y = matmul(%p, %v)
          return %y
        }

    After::

        graph(%q: f32[2,4,3,8], %k: f32[2,4,8,5], %v: f32[2,4,5,8], %m: f32[2,1,1,5]) {
          %t = transpose(%k) perm=(0,1,3,2)
          %y = attention(%q, %t, %v, %m) scale=0.25
          return %y
        }
    """

    after = (RecognizeSoftmax,)
    pattern = match(ops.Matmul)

    def check(self, m: Match) -> bool | Reject:
        """Require the whole chain, read by nothing else, and operands of the same rank."""
        node = m.node(self.pattern)
        weights = node.inputs[0]
        if not isinstance(weights.op, ops.Softmax):
            return False
        op = m.op(self.pattern, ops.Matmul)
        rank = weights.tensor.rank
        if len(node.inputs) > 2 or op.transpose_a or op.activation is not None:
            return Reject("the second product has an epilogue")
        if weights.op.log or weights.op.axis != rank - 1 or m.graph.uses(weights) > 1:
            return Reject("the softmax is not along the keys")
        scores = _scores(m, weights)
        if scores is None:
            return Reject("the scores are not a product")
        shapes = [v.tensor.shape[:-2] for v in (scores.q, scores.k, node.inputs[1])]
        if rank not in (3, 4) or len(set(shapes)) != 1 or len(shapes[0]) != rank - 2:
            return Reject("queries, keys and values differ in their leading axes")
        return is_float(scores.q)

    def replace(self, m: Match) -> Value:
        """Emit the attention on [B, H, ., D] operands."""
        weights, values = m.node(self.pattern).inputs
        scores = _scores(m, weights)
        assert scores is not None
        if m.op(self.pattern, ops.Matmul).transpose_b:
            values = _swapped(m, values)
        keys = scores.k if scores.k_transposed else _swapped(m, scores.k)
        operands = [_four_axes(m, v) for v in (scores.q, keys, values)]
        if scores.mask is not None:
            operands.append(_mask(m, scores.mask, scores.keep, weights.tensor.rank))
        y = m.emit(ops.Attention(scale=scores.scale, softcap=scores.softcap), *operands)
        result = m[self.pattern].tensor.shape
        return y if len(result) == 4 else m.emit(ops.Reshape(shape=result), y)


def _swapped(m: Match, v: Value) -> Value:
    rank = v.tensor.rank
    return m.emit(ops.Transpose(perm=(*range(rank - 2), rank - 1, rank - 2)), v)


def _four_axes(m: Match, v: Value) -> Value:
    """Put an axis of one head behind the first axis of a [G, S, D] operand."""
    if v.tensor.rank == 4:
        return v
    first, *rest = v.tensor.shape
    return m.emit(ops.Reshape(shape=(first, 1, *rest)), v)


def _mask(m: Match, mask: Value, keep: bool, rank: int) -> Value:
    if mask.tensor.dtype.value == "bool" and not keep:
        mask = m.emit(ops.Unary(kind=UnaryKind.LOGICAL_NOT), mask)
    return _four_axes(m, mask) if rank == 3 and mask.tensor.rank == 3 else mask


def _scores(m: Match, weights: Value) -> _Scores | None:
    """Take the softmax's operand apart, from the end."""
    assert weights.node is not None
    v = weights.node.inputs[0]
    mask, keep, v = _unmask(v)
    scale, v = _unscale(v)
    softcap = 0.0
    if isinstance(v.op, ops.Activation) and v.op.kind is ActivationKind.TANH and v.node is not None:
        # c * tanh(s * inner) caps the scores s * (inner * c).
        softcap, (inner, v) = scale, _unscale(v.node.inputs[0])
        scale = inner * softcap
    node = v.node
    if node is None or not isinstance(node.op, ops.Matmul) or m.graph.uses(v) > 1:
        return None
    op = node.op
    if len(node.inputs) > 2 or op.transpose_a or op.activation is not None:
        return None
    (a, q), (b, k) = _unscale(node.inputs[0]), _unscale(node.inputs[1])
    return _Scores(q, k, scale * a * b, softcap, mask, keep, op.transpose_b)


def _unscale(v: Value) -> tuple[float, Value]:
    """Take off one multiplication by a number."""
    if isinstance(v.op, ops.Binary) and v.op.kind is BinaryKind.MUL and v.node is not None:
        for x, c in (v.node.inputs, v.node.inputs[::-1]):
            number = scalar_of(c)
            if number is not None and x.type == v.type:
                return number, x
    return 1.0, v


def _unmask(v: Value) -> tuple[Value | None, bool, Value]:
    """Return the mask, whether True keeps, and the scores before masking."""
    if v.node is None:
        return None, True, v
    if isinstance(v.op, ops.Binary) and v.op.kind is BinaryKind.ADD:
        for x, mask in (v.node.inputs, v.node.inputs[::-1]):
            if x.type == v.type and _is_scores(x):
                return mask, True, x
    if isinstance(v.op, ops.Select):
        condition, a, b = v.node.inputs
        for x, number, keep in ((a, b, True), (b, a, False)):
            low = scalar_of(number)
            if low is not None and low <= _MASKED and x.type == v.type:
                return condition, keep, x
    return None, True, v


def _is_scores(v: Value) -> bool:
    _, x = _unscale(v)
    if isinstance(x.op, ops.Activation) and x.op.kind is ActivationKind.TANH and x.node is not None:
        _, x = _unscale(x.node.inputs[0])
    return isinstance(x.op, ops.Matmul)


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
        hidden_is_low = a.dtype == np.bool_ or bool((a[~seen] <= _MASKED).all())
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
        """Look for a scaled operand."""
        return any(_unscale(v)[1] is not v for v in m.node(self.pattern).inputs[:2])

    def replace(self, m: Match) -> Value:
        """Multiply the scale."""
        op = m.op(self.pattern, ops.Attention)
        q, k, *rest = m.node(self.pattern).inputs
        (a, q), (b, k) = _unscale(q), _unscale(k)
        return m.emit(replace(op, scale=op.scale * a * b), q, k, *rest)
