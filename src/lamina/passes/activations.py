"""Activation functions found in the arithmetic that exporters write for them.

The patterns assume the canonical forms of ``canonical``: no subtraction of or division by
constants, no powers 2 and 3, limits as clips.
"""

from __future__ import annotations

import math
from typing import Any

from lamina import ops
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Pat, Reject, Rewrite, anything, either, match
from lamina.ops.kinds import ActivationKind, BinaryKind, UnaryKind
from lamina.passes.canonical import DivisionToMultiplication
from lamina.passes.constants import is_float, scalar, scalar_of


def times(*operands: Pat, **keywords: Any) -> Pat:
    """Match a product."""
    return match(ops.Binary, *operands, kind=BinaryKind.MUL, **keywords)


def plus(*operands: Pat, **keywords: Any) -> Pat:
    """Match a sum."""
    return match(ops.Binary, *operands, kind=BinaryKind.ADD, **keywords)


def unary(kind: UnaryKind, x: Pat) -> Pat:
    """Match one function."""
    return match(ops.Unary, x, kind=kind)


def activation(kind: ActivationKind, x: Pat, **keywords: Any) -> Pat:
    """Match one activation."""
    return match(ops.Activation, x, kind=kind, **keywords)


def _product_of_three(a: Pat, b: Pat, c: Pat) -> Pat:
    """Match ``a * b * c`` in any association."""
    return either(times(times(a, b), c), times(times(a, c), b), times(a, times(b, c)))


class RecognizeGelu(Rewrite):
    """``x / 2 * (1 + erf(x / sqrt 2))`` is the GELU, whichever factors are multiplied first.

    Before::

        graph(%x: f32[4]) {
          %r = const() type=f32[] value=0.70710678
          %h = const() type=f32[] value=0.5
          %o = const() type=f32[] value=1.0
          %a = binary(%x, %r) kind=mul
          %b = unary(%a) kind=erf
          %c = binary(%b, %o) kind=add
          %d = binary(%x, %c) kind=mul
          %y = binary(%d, %h) kind=mul
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %y = activation(%x) kind=gelu
          return %y
        }
    """

    after = (DivisionToMultiplication,)
    x = anything(is_float)
    gate = plus(unary(UnaryKind.ERF, times(x, scalar(math.sqrt(0.5)))), scalar(1.0))
    pattern = _product_of_three(x, gate, scalar(0.5))

    def replace(self, m: Match) -> Value:
        """Emit the activation."""
        return m.emit(ops.Activation(kind=ActivationKind.GELU), m[self.x])


class RecognizeGeluTanh(Rewrite):
    """``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`` is the GELU's approximation.

    Before::

        graph(%x: f32[4]) {
          %c = const() type=f32[] value=0.044715
          %k = const() type=f32[] value=0.7978845608
          %h = const() type=f32[] value=0.5
          %o = const() type=f32[] value=1.0
          %s = binary(%x, %x) kind=mul
          %t = binary(%s, %x) kind=mul
          %a = binary(%c, %t) kind=mul
          %b = binary(%x, %a) kind=add
          %d = binary(%b, %k) kind=mul
          %e = activation(%d) kind=tanh
          %f = binary(%e, %o) kind=add
          %g = binary(%h, %x) kind=mul
          %y = binary(%g, %f) kind=mul
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %y = activation(%x) kind=gelu_tanh
          return %y
        }
    """

    x = anything(is_float)
    square = times(x, x)
    slope, root = scalar(0.044715), scalar(math.sqrt(2 / math.pi))
    cube = either(
        times(times(square, x), slope),
        times(times(times(slope, x), x), x),
        times(times(square, slope), x),
        times(times(slope, x), square),
    )
    bend = plus(either(times(square, slope), times(times(slope, x), x)), scalar(1.0))
    inner = either(
        times(plus(x, cube), root),
        times(times(x, root), bend),
        times(times(x, bend), root),
    )
    gate = plus(activation(ActivationKind.TANH, inner), scalar(1.0))
    pattern = _product_of_three(x, gate, scalar(0.5))

    def replace(self, m: Match) -> Value:
        """Emit the activation."""
        return m.emit(ops.Activation(kind=ActivationKind.GELU_TANH), m[self.x])


class RecognizeSigmoid(Rewrite):
    """``1 / (1 + exp(-x))`` is the sigmoid.

    Before::

        graph(%x: f32[4]) {
          %o = const() type=f32[] value=1.0
          %a = unary(%x) kind=neg
          %b = unary(%a) kind=exp
          %c = binary(%b, %o) kind=add
          %y = unary(%c) kind=reciprocal
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %y = activation(%x) kind=sigmoid
          return %y
        }
    """

    x = anything(is_float)
    negative = either(unary(UnaryKind.NEG, x), times(x, scalar(-1.0)))
    pattern = unary(UnaryKind.RECIPROCAL, plus(unary(UnaryKind.EXP, negative), scalar(1.0)))

    def replace(self, m: Match) -> Value:
        """Emit the activation."""
        return m.emit(ops.Activation(kind=ActivationKind.SIGMOID), m[self.x])


class RecognizeSilu(Rewrite):
    """``x * sigmoid(a x)`` is SiLU (Swish).

    Before::

        graph(%x: f32[4]) {
          %a = const() type=f32[] value=1.5
          %b = binary(%x, %a) kind=mul
          %c = activation(%b) kind=sigmoid
          %y = binary(%x, %c) kind=mul
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %y = activation(%x) kind=silu alpha=1.5
          return %y
        }
    """

    x, alpha = anything(is_float), scalar()
    gate = activation(ActivationKind.SIGMOID, either(times(x, alpha), x))
    pattern = times(x, gate)

    def replace(self, m: Match) -> Value:
        """Emit the activation; ``a`` is one when nothing scales the operand."""
        alpha = scalar_of(m[self.alpha]) if self.alpha in m else 1.0
        assert alpha is not None
        return m.emit(ops.Activation(kind=ActivationKind.SILU, alpha=alpha), m[self.x])


class RecognizeHardSigmoid(Rewrite):
    """A line limited to 0..1 is the hard sigmoid, and so is its multiple ``clip(x + 3, 0, 6) / 6``.

    Before::

        graph(%x: f32[4]) {
          %c = const() type=f32[] value=3.0
          %s = const() type=f32[] value=0.16666667
          %a = binary(%x, %c) kind=add
          %b = activation(%a) kind=clip alpha=0.0 beta=6.0
          %y = binary(%b, %s) kind=mul
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %y = activation(%x) kind=hard_sigmoid alpha=0.16666666666666666 beta=0.5
          return %y
        }
    """

    x, factor, shift, outer = anything(is_float), scalar(), scalar(), scalar()
    line = plus(either(times(x, factor), x), shift)
    clipped = activation(ActivationKind.CLIP, line)
    pattern = either(times(clipped, outer), clipped)

    def check(self, m: Match) -> bool | Reject:
        """Require that the limits become 0 and 1."""
        op = m.op(self.clipped, ops.Activation)
        height = op.beta * self._scale(m)
        return op.alpha == 0 and abs(height - 1) < 1e-5

    def replace(self, m: Match) -> Value:
        """Emit the activation."""
        scale, shift = self._scale(m), scalar_of(m[self.shift])
        factor = scalar_of(m[self.factor]) if self.factor in m else 1.0
        assert shift is not None
        assert factor is not None
        op = ops.Activation(
            kind=ActivationKind.HARD_SIGMOID, alpha=factor * scale, beta=shift * scale
        )
        return m.emit(op, m[self.x])

    def _scale(self, m: Match) -> float:
        scale = scalar_of(m[self.outer]) if self.outer in m else 1.0
        assert scale is not None
        # A sixth in f32 or narrower is meant as a sixth.
        return 1 / 6 if abs(scale * 6 - 1) < 1e-5 else scale


class RecognizeHardSwish(Rewrite):
    """``x * clip(x + 3, 0, 6) / 6`` is HardSwish, whichever factors are multiplied first.

    Before::

        graph(%x: f32[4]) {
          %a = activation(%x) kind=hard_sigmoid alpha=0.16666667 beta=0.5
          %y = binary(%x, %a) kind=mul
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %y = activation(%x) kind=hard_swish
          return %y
        }
    """

    x = anything(is_float)
    gate = activation(ActivationKind.HARD_SIGMOID, x)
    clipped = activation(ActivationKind.CLIP, plus(x, scalar(3.0)), alpha=0.0, beta=6.0)
    sixth = scalar(1 / 6)
    pattern = either(
        times(x, gate), times(times(x, clipped), sixth), times(times(x, sixth), clipped)
    )

    def check(self, m: Match) -> bool | Reject:
        """Compare the parameters of the hard sigmoid."""
        if self.gate not in m:
            return True
        op = m.op(self.gate, ops.Activation)
        return abs(op.alpha - 1 / 6) < 1e-5 and abs(op.beta - 0.5) < 1e-5

    def replace(self, m: Match) -> Value:
        """Emit the activation."""
        return m.emit(ops.Activation(kind=ActivationKind.HARD_SWISH), m[self.x])


class RecognizeSoftplus(Rewrite):
    """``log(1 + exp(x))`` is softplus, which does not overflow.

    Before::

        graph(%x: f32[4]) {
          %o = const() type=f32[] value=1.0
          %a = unary(%x) kind=exp
          %b = binary(%o, %a) kind=add
          %y = unary(%b) kind=log
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %y = activation(%x) kind=softplus
          return %y
        }
    """

    x = anything(is_float)
    pattern = unary(UnaryKind.LOG, plus(unary(UnaryKind.EXP, x), scalar(1.0)))

    def replace(self, m: Match) -> Value:
        """Emit the activation."""
        return m.emit(ops.Activation(kind=ActivationKind.SOFTPLUS), m[self.x])


class RecognizeMish(Rewrite):
    """``x * tanh(softplus(x))`` is Mish.

    Before::

        graph(%x: f32[4]) {
          %a = activation(%x) kind=softplus
          %b = activation(%a) kind=tanh
          %y = binary(%b, %x) kind=mul
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %y = activation(%x) kind=mish
          return %y
        }
    """

    x = anything(is_float)
    gate = activation(ActivationKind.TANH, activation(ActivationKind.SOFTPLUS, x))
    pattern = times(x, gate)

    def replace(self, m: Match) -> Value:
        """Emit the activation."""
        return m.emit(ops.Activation(kind=ActivationKind.MISH), m[self.x])


class RecognizeLeakyRelu(Rewrite):
    """The larger of ``x`` and a fraction of ``x`` is the leaky relu.

    Before::

        graph(%x: f32[4]) {
          %s = const() type=f32[] value=0.125
          %a = binary(%x, %s) kind=mul
          %y = binary(%x, %a) kind=max
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %y = activation(%x) kind=leaky_relu alpha=0.125
          return %y
        }
    """

    x, slope = anything(is_float), scalar()
    pattern = match(ops.Binary, x, times(x, slope), kind=BinaryKind.MAX)

    def check(self, m: Match) -> bool | Reject:
        """Require a slope between 0 and 1: only then is the larger one the leaky relu."""
        slope = scalar_of(m[self.slope])
        return slope is not None and 0 <= slope <= 1

    def replace(self, m: Match) -> Value:
        """Emit the activation."""
        slope = scalar_of(m[self.slope])
        assert slope is not None
        return m.emit(ops.Activation(kind=ActivationKind.LEAKY_RELU, alpha=slope), m[self.x])
