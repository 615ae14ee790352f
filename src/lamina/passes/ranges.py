"""What is known about the sign of values, and the activations that this makes unnecessary."""

from __future__ import annotations

import math

import numpy as np

from lamina import ops
from lamina.ir.graph import Node, Value
from lamina.ir.rewrite import Match, Reject, Rewrite, anything, match
from lamina.ops.kinds import ActivationKind, BinaryKind, PoolKind, ReduceKind, UnaryKind
from lamina.passes.algebra import clip_interval
from lamina.passes.constants import array_of
from lamina.passes.contractions import CONTRACTIONS

_DEPTH = 12
_MOVES = (ops.Reshape, ops.Transpose, ops.Slice, ops.Expand, ops.Concat, ops.Tile, ops.Gather)
_POSITIVE_UNARY = frozenset({UnaryKind.ABS, UnaryKind.EXP, UnaryKind.SQRT, UnaryKind.RSQRT})
_POSITIVE_ACTIVATIONS = frozenset(
    {
        ActivationKind.RELU,
        ActivationKind.SIGMOID,
        ActivationKind.SOFTPLUS,
        ActivationKind.HARD_SIGMOID,
    }
)
_KEEPS_SIGN = frozenset({BinaryKind.ADD, BinaryKind.MUL, BinaryKind.DIV, BinaryKind.MIN})
_KEEPS_SIGN_REDUCED = frozenset(
    {ReduceKind.SUM, ReduceKind.MEAN, ReduceKind.MAX, ReduceKind.MIN, ReduceKind.PROD}
)


def is_non_negative(v: Value, depth: int = _DEPTH) -> bool:
    """Whether no element can be below zero (False when unsure, or the reason is far away)."""
    node = v.node
    if node is None or depth == 0:
        return False
    a = array_of(v)
    if a is not None:
        return a.dtype.kind in "fiub" and a.size <= 4096 and bool(np.all(a >= 0))
    if (known := _by_itself(node)) is not None:
        return known
    if isinstance(node.op, _MOVES):
        sources = node.inputs[:1] if isinstance(node.op, ops.Gather) else node.inputs
    elif _keeps_sign(node):
        sources = node.inputs
    else:
        return False
    return all(is_non_negative(s, depth - 1) for s in sources)


def _by_itself(node: Node) -> bool | None:
    """Decide from the operator alone; None when it depends on the operands."""
    op = node.op
    if isinstance(op, ops.Activation):
        return _limits_below(op.kind, op.alpha)
    if isinstance(op, CONTRACTIONS):
        return op.activation is not None and _limits_below(op.activation.kind, op.activation.alpha)
    if isinstance(op, ops.Unary):
        return op.kind in _POSITIVE_UNARY
    if isinstance(op, ops.Softmax):
        return not op.log
    return None


def _limits_below(kind: ActivationKind, alpha: float) -> bool:
    return kind in _POSITIVE_ACTIVATIONS or (kind is ActivationKind.CLIP and alpha >= 0)


def _keeps_sign(node: Node) -> bool:
    op = node.op
    if isinstance(op, ops.Binary):
        return op.kind in _KEEPS_SIGN
    if isinstance(op, ops.Reduce):
        return op.kind in _KEEPS_SIGN_REDUCED
    return isinstance(op, ops.Pool) and op.kind is not PoolKind.LP


class DropReluOfNonNegative(Rewrite):
    """Relu changes nothing where no value is negative, and a clip from zero only limits above.

    Before::

        graph(%x: f32[1,2,4,4]) {
          %a = activation(%x) kind=sigmoid
          %p = pool(%a) kind=average kernel=(2,2) strides=(2,2) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          %y = activation(%p) kind=relu
          %z = unary(%y) kind=neg
          return %z
        }

    After::

        graph(%x: f32[1,2,4,4]) {
          %a = activation(%x) kind=sigmoid
          %p = pool(%a) kind=average kernel=(2,2) strides=(2,2) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          %z = unary(%p) kind=neg
          return %z
        }
    """  # noqa: E501

    x = anything()
    pattern = match(ops.Activation, x, kind=(ActivationKind.RELU, ActivationKind.CLIP))

    def check(self, m: Match) -> bool | Reject:
        """Require that only the lower limit acts, and that it never does."""
        low, high = clip_interval(m.op(self.pattern, ops.Activation))
        if high != math.inf or low > 0:
            return False
        return is_non_negative(m[self.x])

    def replace(self, m: Match) -> Value:
        """Return the operand."""
        return m[self.x]


class ActivationBeforeConcat(Rewrite):
    """An activation of joined parts moves to the parts when contractions among them take it.

    Before::

        graph(%x: f32[1,3,4,4], %p: f32[1,2,4,4]) {
          %w = const() type=f32[5,3,1,1] seed=1
          %c = convolution(%x, %w) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          %q = unary(%p) kind=abs
          %j = concat(%q, %c) axis=1
          %y = activation(%j) kind=relu
          return %y
        }

    After::

        graph(%x: f32[1,3,4,4], %p: f32[1,2,4,4]) {
          %q = unary(%p) kind=abs
          %r = activation(%q) kind=relu
          %w = const() type=f32[5,3,1,1] seed=1
          %c = convolution(%x, %w) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          %s = activation(%c) kind=relu
          %y = concat(%r, %s) axis=1
          return %y
        }
    """

    joined = match(ops.Concat, one_use=True)
    pattern = match(ops.Activation, joined)

    def check(self, m: Match) -> bool | Reject:
        """Require that every part takes the activation in or does not need it."""
        relu = m.op(self.pattern, ops.Activation).kind is ActivationKind.RELU
        takes = free = 0
        for v in m.node(self.joined).inputs:
            if isinstance(v.op, CONTRACTIONS) and v.op.activation is None and m.graph.uses(v) == 1:
                takes += 1
            elif relu and is_non_negative(v):
                free += 1
        if not takes or takes + free < len(m.node(self.joined).inputs):
            return Reject("a part would need an activation of its own")
        return True

    def replace(self, m: Match) -> Value:
        """Apply it to every part."""
        op = m.op(self.pattern, ops.Activation)
        parts = (m.emit(op, v) for v in m.node(self.joined).inputs)
        return m.emit(m.op(self.joined, ops.Concat), *parts)
