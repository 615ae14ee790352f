"""Identities of element-by-element operators."""

from __future__ import annotations

import math

import numpy as np

from lamina import ops
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Reject, Rewrite, anything, match
from lamina.ir.types import DType
from lamina.ops.kinds import ActivationKind, BinaryKind, UnaryKind
from lamina.passes.constants import constant, emit_constant, is_float, scalar, scalar_of
from lamina.passes.folding import fold

_NEUTRAL_RIGHT = {
    BinaryKind.ADD: 0.0,
    BinaryKind.SUB: 0.0,
    BinaryKind.MUL: 1.0,
    BinaryKind.DIV: 1.0,
    BinaryKind.POW: 1.0,
    BinaryKind.MAX: -math.inf,
    BinaryKind.MIN: math.inf,
    BinaryKind.LOGICAL_AND: 1.0,
    BinaryKind.LOGICAL_OR: 0.0,
    BinaryKind.LOGICAL_XOR: 0.0,
    BinaryKind.BITWISE_OR: 0.0,
    BinaryKind.BITWISE_XOR: 0.0,
    BinaryKind.SHIFT_LEFT: 0.0,
    BinaryKind.SHIFT_RIGHT: 0.0,
}


class DropNeutralOperand(Rewrite):
    """Adding zero, multiplying by one and their like change nothing.

    Before::

        graph(%x: f32[2,3]) {
          %one = const() type=f32[] value=1.0
          %y = binary(%one, %x) kind=mul
          %z = unary(%y) kind=exp
          return %z
        }

    After::

        graph(%x: f32[2,3]) {
          %z = unary(%x) kind=exp
          return %z
        }
    """

    x = anything()
    number = scalar()
    pattern = match(ops.Binary, x, number)

    def check(self, m: Match) -> bool | Reject:
        """Compare the constant with the neutral element; it must not widen the result."""
        kind = m.op(self.pattern, ops.Binary).kind
        if kind not in _NEUTRAL_RIGHT or scalar_of(m[self.number]) != _NEUTRAL_RIGHT[kind]:
            return Reject("the constant is not neutral")
        return bool(m[self.x].type == m[self.pattern].type)

    def replace(self, m: Match) -> Value:
        """Return the other operand."""
        return m[self.x]


class DropIdentityCast(Rewrite):
    """A cast to the type that a value has is dropped.

    Before::

        graph(%x: f32[2]) {
          %y = cast(%x) dtype=f32
          %z = unary(%y) kind=exp
          return %z
        }

    After::

        graph(%x: f32[2]) {
          %z = unary(%x) kind=exp
          return %z
        }
    """

    x = anything()
    pattern = match(ops.Cast, x)

    def check(self, m: Match) -> bool | Reject:
        """Compare the types."""
        return bool(m[self.x].type == m[self.pattern].type)

    def replace(self, m: Match) -> Value:
        """Return the operand."""
        return m[self.x]


_WIDER: dict[DType, frozenset[DType]] = {
    DType.BOOL: frozenset(d for d in DType if (d.is_integer and d.bits >= 8) or d.bits >= 16),
    DType.F16: frozenset({DType.F32, DType.F64}),
    DType.BF16: frozenset({DType.F32, DType.F64}),
    DType.F32: frozenset({DType.F64}),
    DType.I8: frozenset(
        {DType.I16, DType.I32, DType.I64, DType.F16, DType.BF16, DType.F32, DType.F64}
    ),
    DType.U8: frozenset(
        {
            DType.I16, DType.I32, DType.I64, DType.U16, DType.U32, DType.U64,
            DType.F16, DType.BF16, DType.F32, DType.F64,
        }
    ),
    DType.I16: frozenset({DType.I32, DType.I64, DType.F32, DType.F64}),
    DType.U16: frozenset(
        {DType.I32, DType.I64, DType.U32, DType.U64, DType.F32, DType.F64}
    ),
    DType.I32: frozenset({DType.I64, DType.F64}),
    DType.U32: frozenset({DType.I64, DType.U64, DType.F64}),
}  # fmt: skip
"""The types that hold every value of a type."""


class MergeCasts(Rewrite):
    """A cast to a type that holds every value is skipped by the cast after it.

    Before::

        graph(%x: f16[4]) {
          %y = cast(%x) dtype=f32
          %z = cast(%y) dtype=bf16
          return %z
        }

    After::

        graph(%x: f16[4]) {
          %z = cast(%x) dtype=bf16
          return %z
        }
    """

    x = anything()
    inner = match(ops.Cast, x)
    pattern = match(ops.Cast, inner)

    def check(self, m: Match) -> bool | Reject:
        """Require that the inner cast loses nothing."""
        source, through = m[self.x].tensor.dtype, m[self.inner].tensor.dtype
        if through not in _WIDER.get(source, frozenset()):
            return Reject("the inner cast may round")
        return True

    def replace(self, m: Match) -> Value:
        """Cast the source directly."""
        return m.emit(m.op(self.pattern, ops.Cast), m[self.x])


class DropDoubleInverse(Rewrite):
    """Negating twice gives back the operand, and so do logical and bitwise complements.

    Before::

        graph(%x: f32[4]) {
          %y = unary(%x) kind=neg
          %z = unary(%y) kind=neg
          %a = unary(%z) kind=exp
          return %a
        }

    After::

        graph(%x: f32[4]) {
          %a = unary(%x) kind=exp
          return %a
        }
    """

    kinds = (UnaryKind.NEG, UnaryKind.LOGICAL_NOT, UnaryKind.BITWISE_NOT)
    x = anything()
    inner = match(ops.Unary, x, kind=kinds)
    pattern = match(ops.Unary, inner, kind=kinds)

    def check(self, m: Match) -> bool | Reject:
        """Require the same function twice."""
        return m.op(self.pattern, ops.Unary).kind is m.op(self.inner, ops.Unary).kind

    def replace(self, m: Match) -> Value:
        """Return the operand of the first."""
        return m[self.x]


def clip_interval(op: ops.Activation) -> tuple[float, float]:
    """Return the interval to which relu or clip limit their operand."""
    return (0.0, math.inf) if op.kind is ActivationKind.RELU else (op.alpha, op.beta)


def clip_activation(low: float, high: float) -> ops.Activation:
    """Return the activation that limits values to an interval."""
    if low == 0 and high == math.inf:
        return ops.Activation(kind=ActivationKind.RELU)
    return ops.Activation(kind=ActivationKind.CLIP, alpha=low, beta=high)


class MergeClips(Rewrite):
    """Two limits in a row (relu, clip) are one.

    Before::

        graph(%x: f32[4]) {
          %y = activation(%x) kind=relu
          %z = activation(%y) kind=clip alpha=-inf beta=6.0
          return %z
        }

    After::

        graph(%x: f32[4]) {
          %z = activation(%x) kind=clip alpha=0.0 beta=6.0
          return %z
        }
    """

    kinds = (ActivationKind.RELU, ActivationKind.CLIP)
    x = anything()
    inner = match(ops.Activation, x, kind=kinds)
    pattern = match(ops.Activation, inner, kind=kinds)

    def replace(self, m: Match) -> Value:
        """Clip to the first interval clipped to the second."""
        low, high = clip_interval(m.op(self.pattern, ops.Activation))
        ends = (min(max(e, low), high) for e in clip_interval(m.op(self.inner, ops.Activation)))
        return m.emit(clip_activation(*ends), m[self.x])


class DropConstantSelect(Rewrite):
    """A choice that is always the same is dropped.

    Before::

        graph(%x: f32[4], %y: f32[4]) {
          %c = const() type=bool[] value=false
          %z = select(%c, %x, %y)
          %a = unary(%z) kind=exp
          return %a
        }

    After::

        graph(%x: f32[4], %y: f32[4]) {
          %a = unary(%y) kind=exp
          return %a
        }
    """

    condition = scalar()
    a, b = anything(), anything()
    pattern = match(ops.Select, condition, a, b)

    def replace(self, m: Match) -> Value:
        """Return the chosen operand (expanded where the result is wider)."""
        chosen = m[self.a] if scalar_of(m[self.condition]) else m[self.b]
        if chosen.type == m[self.pattern].type:
            return chosen
        return m.emit(ops.Expand(shape=m[self.pattern].tensor.shape), chosen)


class DropExpandOperand(Rewrite):
    """Operators that broadcast need no operand expanded for them.

    Before::

        graph(%x: f32[1,4], %y: f32[3,4]) {
          %e = expand(%x) shape=(3,4)
          %z = binary(%e, %y) kind=add
          return %z
        }

    After::

        graph(%x: f32[1,4], %y: f32[3,4]) {
          %z = binary(%x, %y) kind=add
          return %z
        }
    """

    pattern = match((ops.Binary, ops.Select))

    def check(self, m: Match) -> bool | Reject:
        """Look for an expanded operand; the result keeps its type or nothing changes."""
        return any(isinstance(v.op, ops.Expand) for v in m.node(self.pattern).inputs)

    def replace(self, m: Match) -> Value:
        """Take the operands of as many expansions as the result can do without."""
        node = m.node(self.pattern)
        operands = list(node.inputs)
        for i, v in enumerate(operands):
            if v.node is None or not isinstance(v.op, ops.Expand):
                continue
            trial = [*operands[:i], v.node.inputs[0], *operands[i + 1 :]]
            if node.op.infer(*(t.type for t in trial)) == node.output.type:
                operands = trial
        return node.output if tuple(operands) == node.inputs else m.emit(node.op, *operands)


class CombineConstantOperands(Rewrite):
    """Two constants added one after the other are added first, and so are two factors.

    Before::

        graph(%x: f32[2,3]) {
          %a = const() type=f32[3] seed=1
          %b = const() type=f32[] value=3.0
          %y = binary(%x, %a) kind=mul
          %z = binary(%y, %b) kind=mul
          return %z
        }

    After::

        graph(%x: f32[2,3]) {
          %ab = const() type=f32[3]
          %z = binary(%x, %ab) kind=mul
          return %z
        }
    """

    kinds = (BinaryKind.ADD, BinaryKind.MUL)
    x = anything(is_float)
    first, second = constant(), constant()
    inner = match(ops.Binary, x, first, one_use=True, kind=kinds)
    pattern = match(ops.Binary, inner, second, kind=kinds)

    def check(self, m: Match) -> bool | Reject:
        """Require the same operator twice, and constants that stay small together."""
        if m.op(self.pattern, ops.Binary).kind is not m.op(self.inner, ops.Binary).kind:
            return False
        a, b = m.array(self.first), m.array(self.second)
        combined = np.broadcast_shapes(a.shape, b.shape)
        if math.prod(combined) > max(a.size, b.size):
            return Reject("the combined constant would be larger than both")
        return True

    def replace(self, m: Match) -> Value:
        """Combine the constants with the same operator."""
        op = m.op(self.pattern, ops.Binary)
        (combined,) = fold(op, m.array(self.first), m.array(self.second))
        return m.emit(op, m[self.x], emit_constant(m, combined, m[self.x].tensor.dtype))
