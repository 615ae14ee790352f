"""Attention found as two matrix products with a softmax between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lamina import ops
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Reject, Rewrite, match
from lamina.ir.types import DType
from lamina.ops.kinds import ActivationKind, BinaryKind, UnaryKind
from lamina.passes.constants import emit_constant, is_float, scalar_of
from lamina.passes.softmax import RecognizeSoftmax

MASKED = -1e4  # what exporters add or put where a key must not be seen, at most


@dataclass(frozen=True)
class _Mask:
    """A mask that is added or, when bool, selects; ``keep``: True means that the key is seen."""

    value: Value
    keep: bool


@dataclass(frozen=True)
class _Scores:
    """The parts of ``softmax(softcap(scale * q @ k) + masks)``."""

    q: Value
    k: Value
    scale: float
    softcap: float
    masks: tuple[_Mask, ...]
    k_transposed: bool  # k is [..., T, D] and not [..., D, T]


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
        weights = _softmax_of(m, node.inputs[0])
        if weights is None:
            return False
        op = m.op(self.pattern, ops.Matmul)
        rank = weights.tensor.rank
        if len(node.inputs) > 2 or op.transpose_a or op.activation is not None:
            return Reject("the second product has an epilogue")
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
        softmax = _softmax_of(m, weights)
        assert softmax is not None
        scores = _scores(m, softmax)
        assert scores is not None
        if m.op(self.pattern, ops.Matmul).transpose_b:
            values = _swapped(m, values)
        keys = scores.k if scores.k_transposed else _swapped(m, scores.k)
        operands = [_four_axes(m, v) for v in (scores.q, keys, values)]
        if scores.masks:
            operands.append(_mask(m, scores.masks, weights.tensor.rank))
        y = m.emit(ops.Attention(scale=scores.scale, softcap=scores.softcap), *operands)
        result = m[self.pattern].tensor.shape
        return y if len(result) == 4 else m.emit(ops.Reshape(shape=result), y)


def _softmax_of(m: Match, v: Value) -> Value | None:
    """Return the softmax along the last axis that only the second product reads.

    Zeros in place of the NaN of queries that see no key are what attention gives anyway.
    """
    readers = 1
    if isinstance(v.op, ops.Select) and v.node is not None and m.graph.uses(v) == 1:
        condition, zero, weights = v.node.inputs
        guards = isinstance(condition.op, ops.Unary) and condition.op.kind is UnaryKind.ISNAN
        if not guards or scalar_of(zero) != 0 or condition.node is None:
            return None
        if condition.node.inputs[0] is not weights:
            return None
        v, readers = weights, 2
    op = v.op
    if not isinstance(op, ops.Softmax) or op.log or op.axis != v.tensor.rank - 1:
        return None
    return v if m.graph.uses(v) == readers else None


def _swapped(m: Match, v: Value) -> Value:
    rank = v.tensor.rank
    return m.emit(ops.Transpose(perm=(*range(rank - 2), rank - 1, rank - 2)), v)


def _four_axes(m: Match, v: Value) -> Value:
    """Put an axis of one head behind the first axis of a [G, S, D] operand."""
    if v.tensor.rank == 4:
        return v
    first, *rest = v.tensor.shape
    return m.emit(ops.Reshape(shape=(first, 1, *rest)), v)


def _mask(m: Match, masks: tuple[_Mask, ...], rank: int) -> Value:
    """Return one mask that does what all of them do."""
    values = [_kept(m, mask) for mask in masks]
    first = values[0]
    for other in values[1:]:
        if _is_bool(first) and _is_bool(other):
            first = m.emit(ops.Binary(kind=BinaryKind.LOGICAL_AND), first, other)
        elif _is_bool(first) or _is_bool(other):
            keep, added = (first, other) if _is_bool(first) else (other, first)
            hidden = emit_constant(m, -np.inf, added.tensor.dtype)
            first = m.emit(ops.Select(), keep, added, hidden)
        else:
            first = m.emit(ops.Binary(kind=BinaryKind.ADD), first, other)
    return _four_axes(m, first) if rank == 3 and first.tensor.rank == 3 else first


def _kept(m: Match, mask: _Mask) -> Value:
    if _is_bool(mask.value) and not mask.keep:
        return m.emit(ops.Unary(kind=UnaryKind.LOGICAL_NOT), mask.value)
    return mask.value


def _is_bool(v: Value) -> bool:
    return v.tensor.dtype is DType.BOOL


def _scores(m: Match, weights: Value) -> _Scores | None:
    """Take the softmax's operand apart, from the end."""
    assert weights.node is not None
    v = weights.node.inputs[0]
    masks: list[_Mask] = []
    while (found := _unmask(v)) is not None and len(masks) < 2:
        mask, v = found
        masks.append(mask)
    scale, v = unscale(v)
    softcap = 0.0
    if isinstance(v.op, ops.Activation) and v.op.kind is ActivationKind.TANH and v.node is not None:
        # c * tanh(s * inner) caps the scores s * (inner * c).
        softcap, (inner, v) = scale, unscale(v.node.inputs[0])
        scale = inner * softcap
    node = v.node
    if node is None or not isinstance(node.op, ops.Matmul) or m.graph.uses(v) > 1:
        return None
    op = node.op
    if len(node.inputs) > 2 or op.transpose_a or op.activation is not None:
        return None
    (a, q), (b, k) = unscale(node.inputs[0]), unscale(node.inputs[1])
    return _Scores(q, k, scale * a * b, softcap, tuple(masks), op.transpose_b)


def unscale(v: Value) -> tuple[float, Value]:
    """Take off one multiplication by a number."""
    if isinstance(v.op, ops.Binary) and v.op.kind is BinaryKind.MUL and v.node is not None:
        for x, c in (v.node.inputs, v.node.inputs[::-1]):
            number = scalar_of(c)
            if number is not None and x.type == v.type:
                return number, x
    return 1.0, v


def _unmask(v: Value) -> tuple[_Mask, Value] | None:
    """Take off one mask; None when there is none."""
    if v.node is None:
        return None
    if isinstance(v.op, ops.Binary) and v.op.kind is BinaryKind.ADD:
        for x, mask in (v.node.inputs, v.node.inputs[::-1]):
            if x.type == v.type and _is_scores(x):
                return _Mask(mask, keep=True), x
    if isinstance(v.op, ops.Select):
        condition, a, b = v.node.inputs
        for x, number, keep in ((a, b, True), (b, a, False)):
            low = scalar_of(number)
            if low is not None and low <= MASKED and x.type == v.type:
                return _Mask(condition, keep=keep), x
    return None


def _is_scores(v: Value) -> bool:
    """Whether ``v`` is a product, perhaps masked, scaled and capped."""
    if isinstance(v.op, ops.Select) and (found := _unmask(v)) is not None:
        _, v = found
    _, x = unscale(v)
    if isinstance(x.op, ops.Activation) and x.op.kind is ActivationKind.TANH and x.node is not None:
        _, x = unscale(x.node.inputs[0])
    return isinstance(x.op, ops.Matmul)
