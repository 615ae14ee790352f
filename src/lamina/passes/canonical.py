"""One spelling for things that exporters write in several ways.

Later passes then look for one form only.  Replacing a division by a multiplication, and a power by
products, rounds differently by at most one unit in the last place.
"""

from __future__ import annotations

import math

import numpy as np

from lamina import ops
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Reject, Rewrite, anything, match
from lamina.ops.kinds import ActivationKind, BinaryKind, PoolKind, ReduceKind, UnaryKind
from lamina.passes.algebra import clip_activation
from lamina.passes.constants import constant, emit_constant, is_float, scalar, scalar_of, widened


class SubtractionToAddition(Rewrite):
    """Subtracting a constant adds its negative.

    Before::

        graph(%x: f32[4]) {
          %c = const() type=f32[4] seed=1
          %y = binary(%x, %c) kind=sub
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %c = const() type=f32[4]
          %y = binary(%x, %c) kind=add
          return %y
        }
    """

    x = anything(is_float)
    c = constant()
    pattern = match(ops.Binary, x, c, kind=BinaryKind.SUB)

    def replace(self, m: Match) -> Value:
        """Negate the constant."""
        negative = emit_constant(m, -m.array(self.c), m[self.x].tensor.dtype)
        return m.emit(ops.Binary(kind=BinaryKind.ADD), m[self.x], negative)


class DivisionToMultiplication(Rewrite):
    """Dividing by a constant multiplies by its reciprocal.

    Exact for powers of two; otherwise the reciprocal and the product round once each.  Declined
    where the reciprocal overflows or loses bits (zeros, infinities, subnormal results).

    Before::

        graph(%x: f32[4]) {
          %c = const() type=f32[] value=8.0
          %y = binary(%x, %c) kind=div
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %c = const() type=f32[]
          %y = binary(%x, %c) kind=mul
          return %y
        }
    """

    x = anything(is_float)
    c = constant(lambda a: bool(np.isfinite(a).all() and (a != 0).all()))
    pattern = match(ops.Binary, x, c, kind=BinaryKind.DIV)

    def check(self, m: Match) -> bool | Reject:
        """Require reciprocals that the type holds with full precision."""
        size = np.abs(widened(m.array(self.c)).astype(np.float64))
        if size.min() < 2.0**-13 or size.max() > 2.0**13:
            return Reject("a reciprocal would be too large or too small for narrow types")
        return True

    def replace(self, m: Match) -> Value:
        """Compute the reciprocals in f64."""
        reciprocal = 1.0 / m.array(self.c).astype(np.float64)
        factor = emit_constant(m, reciprocal, m[self.x].tensor.dtype)
        return m.emit(ops.Binary(kind=BinaryKind.MUL), m[self.x], factor)


class LimitsToClip(Rewrite):
    """The minimum or maximum with a number is a clip.

    Before::

        graph(%x: f32[4]) {
          %c = const() type=f32[] value=0.0
          %y = binary(%c, %x) kind=max
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %y = activation(%x) kind=relu
          return %y
        }
    """

    x = anything(is_float)
    limit = scalar()
    pattern = match(ops.Binary, x, limit, kind=(BinaryKind.MIN, BinaryKind.MAX))

    def replace(self, m: Match) -> Value:
        """Clip from one side."""
        number = scalar_of(m[self.limit])
        assert number is not None
        if m.op(self.pattern, ops.Binary).kind is BinaryKind.MIN:
            return m.emit(clip_activation(-math.inf, number), m[self.x])
        return m.emit(clip_activation(number, math.inf), m[self.x])


class ExpandPower(Rewrite):
    """Powers with the exponents 2, 3, 0.5, -0.5 and -1 become cheaper operators.

    Before::

        graph(%x: f32[4]) {
          %c = const() type=f32[] value=2.0
          %y = binary(%x, %c) kind=pow
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %y = binary(%x, %x) kind=mul
          return %y
        }
    """

    unary = {0.5: UnaryKind.SQRT, -0.5: UnaryKind.RSQRT, -1.0: UnaryKind.RECIPROCAL}  # noqa: RUF012
    x = anything(is_float)
    exponent = anything(lambda v: scalar_of(v) in (2.0, 3.0, 0.5, -0.5, -1.0))
    pattern = match(ops.Binary, x, exponent, kind=BinaryKind.POW)

    def replace(self, m: Match) -> Value:
        """Emit the cheaper form."""
        exponent, x = scalar_of(m[self.exponent]), m[self.x]
        if exponent in self.unary:
            return m.emit(ops.Unary(kind=self.unary[exponent]), x)
        times = ops.Binary(kind=BinaryKind.MUL)
        square = m.emit(times, x, x)
        return square if exponent == 2 else m.emit(times, square, x)


class ReciprocalOfNumberOne(Rewrite):
    """One divided by a value is its reciprocal.

    Before::

        graph(%x: f32[4]) {
          %c = const() type=f32[] value=1.0
          %y = binary(%c, %x) kind=div
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %y = unary(%x) kind=reciprocal
          return %y
        }
    """

    x = anything(is_float)
    one = scalar(1.0)
    pattern = match(ops.Binary, one, x, kind=BinaryKind.DIV)

    def replace(self, m: Match) -> Value:
        """Emit the reciprocal."""
        return m.emit(ops.Unary(kind=UnaryKind.RECIPROCAL), m[self.x])


class ReciprocalOfRoot(Rewrite):
    """The reciprocal of a square root is one function.

    Before::

        graph(%x: f32[4]) {
          %p = unary(%x) kind=exp
          %r = unary(%p) kind=sqrt
          %y = unary(%r) kind=reciprocal
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %p = unary(%x) kind=exp
          %y = unary(%p) kind=rsqrt
          return %y
        }
    """

    x = anything()
    root = match(ops.Unary, x, kind=UnaryKind.SQRT)
    pattern = match(ops.Unary, root, kind=UnaryKind.RECIPROCAL)

    def replace(self, m: Match) -> Value:
        """Emit rsqrt."""
        return m.emit(ops.Unary(kind=UnaryKind.RSQRT), m[self.x])


class DivisionByRoot(Rewrite):
    """Dividing by a square root multiplies by the reciprocal root.

    Before::

        graph(%x: f32[3,4], %v: f32[3,1]) {
          %p = unary(%v) kind=exp
          %r = unary(%p) kind=sqrt
          %y = binary(%x, %r) kind=div
          return %y
        }

    After::

        graph(%x: f32[3,4], %v: f32[3,1]) {
          %p = unary(%v) kind=exp
          %s = unary(%p) kind=rsqrt
          %y = binary(%x, %s) kind=mul
          return %y
        }
    """

    x, v = anything(), anything()
    root = match(ops.Unary, v, kind=UnaryKind.SQRT)
    pattern = match(ops.Binary, x, root, kind=BinaryKind.DIV)

    def replace(self, m: Match) -> Value:
        """Emit rsqrt and the product."""
        factor = m.emit(ops.Unary(kind=UnaryKind.RSQRT), m[self.v])
        return m.emit(ops.Binary(kind=BinaryKind.MUL), m[self.x], factor)


class TanhToActivation(Rewrite):
    """The hyperbolic tangent is an activation, so that contractions can absorb it.

    Before::

        graph(%x: f32[4]) {
          %y = unary(%x) kind=tanh
          return %y
        }

    After::

        graph(%x: f32[4]) {
          %y = activation(%x) kind=tanh
          return %y
        }
    """

    x = anything()
    pattern = match(ops.Unary, x, kind=UnaryKind.TANH)

    def replace(self, m: Match) -> Value:
        """Emit the activation."""
        return m.emit(ops.Activation(kind=ActivationKind.TANH), m[self.x])


class PreluToLeakyRelu(Rewrite):
    """A slope that is one number makes a leaky relu.

    Before::

        graph(%x: f32[2,3]) {
          %c = const() type=f32[1] value=(0.25,)
          %y = binary(%x, %c) kind=prelu
          return %y
        }

    After::

        graph(%x: f32[2,3]) {
          %y = activation(%x) kind=leaky_relu alpha=0.25
          return %y
        }
    """

    x = anything(is_float)
    slope = scalar()
    pattern = match(ops.Binary, x, slope, kind=BinaryKind.PRELU)

    def replace(self, m: Match) -> Value:
        """Emit the activation."""
        slope = scalar_of(m[self.slope])
        assert slope is not None
        return m.emit(ops.Activation(kind=ActivationKind.LEAKY_RELU, alpha=slope), m[self.x])


class GlobalPoolToReduce(Rewrite):
    """A pooling window that covers the whole image once is a reduction.

    Before::

        graph(%x: f32[1,3,7,7]) {
          %y = pool(%x) kind=average kernel=(7,7) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          return %y
        }

    After::

        graph(%x: f32[1,3,7,7]) {
          %y = reduce(%x) kind=mean axes=(2,3)
          return %y
        }
    """  # noqa: E501

    kinds = {PoolKind.AVERAGE: ReduceKind.MEAN, PoolKind.MAX: ReduceKind.MAX}  # noqa: RUF012
    x = anything()
    pattern = match(ops.Pool, x, kind=tuple(kinds))

    def check(self, m: Match) -> bool | Reject:
        """Require a kernel of the size of the image and no padding."""
        op = m.op(self.pattern, ops.Pool)
        if any(op.pads_begin) or any(op.pads_end) or any(d != 1 for d in op.dilations):
            return False
        return m[self.x].tensor.shape[2:] == op.kernel

    def replace(self, m: Match) -> Value:
        """Reduce the spatial axes."""
        op = m.op(self.pattern, ops.Pool)
        axes = tuple(range(2, m[self.x].tensor.rank))
        return m.emit(ops.Reduce(kind=self.kinds[op.kind], axes=axes), m[self.x])


class MergeReductions(Rewrite):
    """Reducing one axis after another reduces both at once.

    Before::

        graph(%x: f32[2,3,4,5]) {
          %y = reduce(%x) kind=mean axes=(3,)
          %z = reduce(%y) kind=mean axes=(2,)
          return %z
        }

    After::

        graph(%x: f32[2,3,4,5]) {
          %z = reduce(%x) kind=mean axes=(2,3)
          return %z
        }
    """

    kinds = (ReduceKind.SUM, ReduceKind.MEAN, ReduceKind.MAX, ReduceKind.MIN, ReduceKind.PROD)
    x = anything()
    inner = match(ops.Reduce, x, one_use=True, kind=kinds)
    pattern = match(ops.Reduce, inner, kind=kinds)

    def check(self, m: Match) -> bool | Reject:
        """Require the same function, and the same treatment of reduced axes."""
        a, b = m.op(self.inner, ops.Reduce), m.op(self.pattern, ops.Reduce)
        return a.kind is b.kind and a.keepdims == b.keepdims and bool(a.axes) and bool(b.axes)

    def replace(self, m: Match) -> Value:
        """Reduce the union of the axes, counted in the operand of the first."""
        a, b = m.op(self.inner, ops.Reduce), m.op(self.pattern, ops.Reduce)
        kept = [i for i in range(m[self.x].tensor.rank) if a.keepdims or i not in a.axes]
        axes = tuple(sorted({*a.axes, *(kept[i] for i in b.axes)}))
        return m.emit(ops.Reduce(kind=a.kind, axes=axes, keepdims=a.keepdims), m[self.x])
