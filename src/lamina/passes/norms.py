"""Normalizations found in the arithmetic that exporters write for them.

The patterns assume the canonical forms: squares as products, reciprocal roots as rsqrt.
"""

from __future__ import annotations

import numpy as np

from lamina import ops
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Pat, Reject, Rewrite, anything, either, match
from lamina.ops.kinds import BinaryKind, ReduceKind, UnaryKind
from lamina.passes.activations import plus, times, unary
from lamina.passes.canonical import DivisionByRoot, ExpandPower
from lamina.passes.constants import (
    array_of,
    channel_vector,
    constant,
    emit_constant,
    is_constant,
    is_float,
    scalar,
    scalar_of,
)


def mean_of(x: Pat) -> Pat:
    """Match a mean that keeps its axes."""
    return match(ops.Reduce, x, kind=ReduceKind.MEAN, keepdims=True)


def _trailing(axes: tuple[int, ...], rank: int) -> bool:
    return bool(axes) and axes == tuple(range(rank - len(axes), rank))


class RecognizeLayerNorm(Rewrite):
    """Subtracting the mean and dividing by the root of the variance is LayerNorm.

    Before::

        graph(%x: f32[2,3,8]) {
          %e = const() type=f32[] value=1e-05
          %m = reduce(%x) kind=mean axes=(2,)
          %c = binary(%x, %m) kind=sub
          %s = binary(%c, %c) kind=mul
          %v = reduce(%s) kind=mean axes=(2,)
          %w = binary(%v, %e) kind=add
          %r = unary(%w) kind=rsqrt
          %y = binary(%c, %r) kind=mul
          return %y
        }

    After::

        graph(%x: f32[2,3,8]) {
          %y = layer_norm(%x) axis=2 epsilon=9.999999747378752e-06
          return %y
        }
    """

    after = (DivisionByRoot, ExpandPower)
    x = anything(is_float)
    epsilon = scalar()
    mean = mean_of(x)
    centred = match(ops.Binary, x, mean, kind=BinaryKind.SUB)
    variance = mean_of(times(centred, centred))
    pattern = times(centred, unary(UnaryKind.RSQRT, either(plus(variance, epsilon), variance)))

    def check(self, m: Match) -> bool | Reject:
        """Require that both means are over the same last axes."""
        a, b = m.op(self.mean, ops.Reduce).axes, m.op(self.variance, ops.Reduce).axes
        if a != b or not _trailing(a, m[self.x].tensor.rank):
            return Reject("the means are not over the last axes")
        return True

    def replace(self, m: Match) -> Value:
        """Emit the norm without scale and bias; these follow."""
        epsilon = scalar_of(m[self.epsilon]) if self.epsilon in m else 0.0
        assert epsilon is not None
        axis = m.op(self.mean, ops.Reduce).axes[0]
        return m.emit(ops.LayerNorm(axis=axis, epsilon=epsilon), m[self.x])


class RecognizeRmsNorm(Rewrite):
    """Dividing by the root of the mean square is RmsNorm.

    Before::

        graph(%x: f32[2,3,8]) {
          %e = const() type=f32[] value=1e-06
          %s = binary(%x, %x) kind=mul
          %v = reduce(%s) kind=mean axes=(2,)
          %w = binary(%v, %e) kind=add
          %r = unary(%w) kind=rsqrt
          %y = binary(%x, %r) kind=mul
          return %y
        }

    After::

        graph(%x: f32[2,3,8]) {
          %y = rms_norm(%x) axis=2 epsilon=9.999999974752427e-07
          return %y
        }
    """

    x = anything(is_float)
    epsilon = scalar()
    square = mean_of(times(x, x))
    pattern = times(x, unary(UnaryKind.RSQRT, either(plus(square, epsilon), square)))

    def check(self, m: Match) -> bool | Reject:
        """Require the last axes, and an operand that is not the centred one of a LayerNorm."""
        if not _trailing(m.op(self.square, ops.Reduce).axes, m[self.x].tensor.rank):
            return Reject("the mean is not over the last axes")
        return True

    def replace(self, m: Match) -> Value:
        """Emit the norm without scale; it follows."""
        epsilon = scalar_of(m[self.epsilon]) if self.epsilon in m else 0.0
        assert epsilon is not None
        axis = m.op(self.square, ops.Reduce).axes[0]
        return m.emit(ops.RmsNorm(axis=axis, epsilon=epsilon), m[self.x])


def _affine_value(m: Match, norm: Value, c: Value) -> Value:
    """Return ``c`` in exactly the shape of the normalized axes, reshaped where it has ones."""
    op = norm.op
    assert isinstance(op, ops.LayerNorm | ops.RmsNorm)
    normalized = norm.tensor.shape[op.axis :]
    if c.tensor.shape == normalized:
        return c
    return m.emit(ops.Reshape(shape=normalized), c)


class FoldScaleIntoNorm(Rewrite):
    """A norm applies the scale that follows it.

    Before::

        graph(%x: f32[2,8]) {
          %s = const() type=f32[8] seed=1
          %n = layer_norm(%x) axis=1 epsilon=1e-05
          %y = binary(%s, %n) kind=mul
          return %y
        }

    After::

        graph(%x: f32[2,8]) {
          %s = const() type=f32[8]
          %y = layer_norm(%x, %s) axis=1 epsilon=1e-05
          return %y
        }
    """

    x, s = anything(), anything()
    norm = match((ops.LayerNorm, ops.RmsNorm), x, one_use=True)
    pattern = times(s, norm)

    def check(self, m: Match) -> bool | Reject:
        """Require a scale over the normalized axes."""
        return _lies_along(m[self.norm], m[self.s])

    def replace(self, m: Match) -> Value:
        """Add the operand."""
        scale = _affine_value(m, m[self.norm], m[self.s])
        return m.emit(m.node(self.norm).op, m[self.x], scale)


def _lies_along(norm: Value, c: Value) -> bool | Reject:
    """Whether ``c`` has the shape of the normalized axes, after leading ones."""
    op = norm.op
    assert isinstance(op, ops.LayerNorm | ops.RmsNorm)
    normalized, shape = norm.tensor.shape[op.axis :], c.tensor.shape
    leading = len(shape) - len(normalized)
    if leading < 0 or any(d != 1 for d in shape[:leading]) or shape[leading:] != normalized:
        return Reject("the operand does not lie along the normalized axes")
    return True


class FoldBiasIntoNorm(Rewrite):
    """A LayerNorm adds the bias that follows it.

    Before::

        graph(%x: f32[2,8]) {
          %s = const() type=f32[8] seed=1
          %b = const() type=f32[8] seed=2
          %n = layer_norm(%x, %s) axis=1 epsilon=1e-05
          %y = binary(%n, %b) kind=add
          return %y
        }

    After::

        graph(%x: f32[2,8]) {
          %s = const() type=f32[8]
          %b = const() type=f32[8]
          %y = layer_norm(%x, %s, %b) axis=1 epsilon=1e-05
          return %y
        }
    """

    b = anything()
    norm = match(ops.LayerNorm, one_use=True)
    pattern = plus(b, norm)

    def check(self, m: Match) -> bool | Reject:
        """Require a bias over the normalized axes; without a scale it needs static ones."""
        if len(m.node(self.norm).inputs) > 2:
            return Reject("the norm has a bias")
        op = m.op(self.norm, ops.LayerNorm)
        if any(not isinstance(d, int) for d in m[self.norm].tensor.shape[op.axis :]):
            return Reject("the normalized axes are symbolic")
        return _lies_along(m[self.norm], m[self.b])

    def replace(self, m: Match) -> Value:
        """Add the operand, after a scale of ones where there is none."""
        norm, op = m[self.norm], m.op(self.norm, ops.LayerNorm)
        operands = list(m.node(self.norm).inputs)
        if len(operands) == 1:
            shape = tuple(int(d) for d in norm.tensor.shape[op.axis :])  # type: ignore[arg-type]
            operands.append(emit_constant(m, np.ones(shape), norm.tensor.dtype))
        return m.emit(op, *operands, _affine_value(m, norm, m[self.b]))


class RecognizeGroupNorm(Rewrite):
    """InstanceNorm (or LayerNorm) of channels reshaped into groups is GroupNorm.

    Before::

        graph(%x: f32[2,6,4,4]) {
          %s = const() type=f32[3] value=(1.0,1.0,1.0)
          %z = const() type=f32[3] value=(0.0,0.0,0.0)
          %a = reshape(%x) shape=(2,3,32)
          %b = instance_norm(%a, %s, %z) epsilon=1e-05
          %y = reshape(%b) shape=(2,6,4,4)
          return %y
        }

    After::

        graph(%x: f32[2,6,4,4]) {
          %s = const() type=f32[6]
          %z = const() type=f32[6]
          %y = group_norm(%x, %s, %z) groups=3 epsilon=1e-05
          return %y
        }
    """

    x = anything(is_float)
    scale, bias = scalar(1.0), scalar(0.0)
    grouped = match(ops.Reshape, x)
    norm = either(
        match(ops.InstanceNorm, grouped, scale, bias),
        match(ops.LayerNorm, grouped, axis=2),
    )
    pattern = match(ops.Reshape, norm)

    def check(self, m: Match) -> bool | Reject:
        """Require that the second reshape undoes the first and batches stay apart."""
        x, grouped = m[self.x].tensor, m[self.norm].tensor
        if x.rank < 3 or m[self.pattern].tensor != x or x.shape[0] != grouped.shape[0]:
            return False
        channels, groups = x.shape[1], grouped.shape[1]
        if not isinstance(channels, int) or not isinstance(groups, int):
            return Reject("the number of channels is symbolic")
        return channels % groups == 0

    def replace(self, m: Match) -> Value:
        """Emit the norm with neutral scale and bias; the real ones follow."""
        x = m[self.x]
        channels, groups = x.tensor.shape[1], m[self.norm].tensor.shape[1]
        assert isinstance(channels, int)
        assert isinstance(groups, int)
        ones, zeros = (emit_constant(m, f(channels), x.tensor.dtype) for f in (np.ones, np.zeros))
        op = m.node(self.norm).op
        assert isinstance(op, ops.InstanceNorm | ops.LayerNorm)
        return m.emit(ops.GroupNorm(groups=groups, epsilon=op.epsilon), x, ones, zeros)


class FoldAffineIntoChannelNorm(Rewrite):
    """InstanceNorm and GroupNorm apply the constants per channel that follow them.

    Before::

        graph(%x: f32[2,6,4,4]) {
          %s = const() type=f32[6] seed=1
          %z = const() type=f32[6] seed=2
          %f = const() type=f32[6,1,1] seed=3
          %a = group_norm(%x, %s, %z) groups=3 epsilon=1e-05
          %y = binary(%a, %f) kind=mul
          return %y
        }

    After::

        graph(%x: f32[2,6,4,4]) {
          %s = const() type=f32[6]
          %z = const() type=f32[6]
          %y = group_norm(%x, %s, %z) groups=3 epsilon=1e-05
          return %y
        }
    """

    x, scale, bias, c = anything(), constant(), constant(), constant()
    norm = match((ops.InstanceNorm, ops.GroupNorm), x, scale, bias, one_use=True)
    pattern = match(ops.Binary, norm, c, kind=(BinaryKind.MUL, BinaryKind.ADD))

    def check(self, m: Match) -> bool | Reject:
        """Require a constant per channel."""
        return channel_vector(m.array(self.c), m[self.norm].tensor.shape, 1) is not None

    def replace(self, m: Match) -> Value:
        """Change scale and bias."""
        norm = m[self.norm]
        vector = channel_vector(m.array(self.c), norm.tensor.shape, 1)
        assert vector is not None
        scale, bias = m.array(self.scale), m.array(self.bias)
        if m.op(self.pattern, ops.Binary).kind is BinaryKind.MUL:
            scale, bias = scale * vector, bias * vector
        else:
            bias = bias + vector
        operands = (emit_constant(m, a, norm.tensor.dtype) for a in (scale, bias))
        return m.emit(m.node(self.norm).op, m[self.x], *operands)


class RecognizeInstanceNorm(Rewrite):
    """Normalizing every channel of an image over its spatial axes is InstanceNorm.

    Only where a scale or shift per channel follows, which LayerNorm cannot take.

    Before::

        graph(%x: f32[2,3,4,4]) {
          %s = const() type=f32[3,1,1] seed=1
          %a = layer_norm(%x) axis=2 epsilon=1e-05
          %y = binary(%a, %s) kind=mul
          return %y
        }

    After::

        graph(%x: f32[2,3,4,4]) {
          %s = const() type=f32[3]
          %z = const() type=f32[3]
          %y = instance_norm(%x, %s, %z) epsilon=1e-05
          return %y
        }
    """

    x, c = anything(), constant()
    norm = match(ops.LayerNorm, x, one_use=True, axis=2)
    pattern = times(norm, c)

    def check(self, m: Match) -> bool | Reject:
        """Require one factor per channel."""
        shape = m[self.norm].tensor.shape
        a = array_of(m[self.c])
        if len(shape) < 3 or a is None or not is_constant(m[self.c]):
            return False
        return a.size > 1 and channel_vector(a, shape, 1) is not None

    def replace(self, m: Match) -> Value:
        """Emit the norm with the scale and a bias of zeros."""
        norm = m[self.norm]
        scale = channel_vector(m.array(self.c), norm.tensor.shape, 1)
        assert scale is not None
        dtype = norm.tensor.dtype
        operands = (emit_constant(m, a, dtype) for a in (scale, np.zeros(scale.shape)))
        epsilon = m.op(self.norm, ops.LayerNorm).epsilon
        return m.emit(ops.InstanceNorm(epsilon=epsilon), m[self.x], *operands)
