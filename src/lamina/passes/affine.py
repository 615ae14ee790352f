"""Scales and shifts per channel, folded into the weights and biases of contractions.

Batch normalization in its inference form is a scale and a shift, so it becomes two of these; what
no contraction takes stays as pointwise work, to be fused with its neighbours.  Products of weights
are computed in f32 or wider and rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lamina import ops
from lamina.ir.graph import Array, Value
from lamina.ir.rewrite import Match, Reject, Rewrite, anything, match
from lamina.ops.kinds import BinaryKind
from lamina.passes.activations import RecognizeGelu, RecognizeHardSwish
from lamina.passes.attention import RecognizeAttention
from lamina.passes.constants import array_of, channel_vector, constant, emit_constant, widened
from lamina.passes.contractions import (
    CONTRACTIONS,
    Contraction,
    bias_vector,
    contraction_of,
    has_constant_weight,
    output_vector,
    rebuild,
    scale_input,
    scale_output,
    shift_input,
    takes_bias,
    takes_scale,
)


class BatchNormToScale(Rewrite):
    """Batch normalization with known statistics is a scale and a shift per channel.

    Before::

        graph(%x: f32[2,3,4]) {
          %s = const() type=f32[3] seed=1
          %b = const() type=f32[3] seed=2
          %m = const() type=f32[3] seed=3
          %v = const() type=f32[3] value=(0.5,1.0,2.0)
          %y = batch_norm(%x, %s, %b, %m, %v) epsilon=1e-05
          return %y
        }

    After::

        graph(%x: f32[2,3,4]) {
          %s = const() type=f32[3,1]
          %y = binary(%x, %s) kind=mul
          %t = const() type=f32[3,1]
          %z = binary(%y, %t) kind=add
          return %z
        }
    """

    x = anything()
    scale, bias, mean, variance = constant(), constant(), constant(), constant()
    pattern = match(ops.BatchNorm, x, scale, bias, mean, variance)

    def replace(self, m: Match) -> Value:
        """Compute scale and shift in f64."""
        x = m[self.x]
        parts = (self.scale, self.bias, self.mean, self.variance)
        scale, bias, mean, variance = (m.array(p).astype(np.float64) for p in parts)
        epsilon = m.op(self.pattern, ops.BatchNorm).epsilon
        s = scale / np.sqrt(variance + epsilon)
        column = (-1, *[1] * (x.tensor.rank - 2))
        factor, shift = (
            emit_constant(m, a.reshape(column), x.tensor.dtype) for a in (s, bias - mean * s)
        )
        scaled = m.emit(ops.Binary(kind=BinaryKind.MUL), x, factor)
        return m.emit(ops.Binary(kind=BinaryKind.ADD), scaled, shift)


class FoldScaleIntoContraction(Rewrite):
    """Scaling the output channels of a convolution or matmul scales its weight and bias.

    Before::

        graph(%x: f32[1,3,5,5]) {
          %w = const() type=f32[4,3,3,3] seed=1
          %b = const() type=f32[4] seed=2
          %s = const() type=f32[4,1,1] seed=3
          %y = convolution(%x, %w, %b) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
          %z = binary(%y, %s) kind=mul
          return %z
        }

    After::

        graph(%x: f32[1,3,5,5]) {
          %w = const() type=f32[4,3,3,3]
          %b = const() type=f32[4]
          %y = convolution(%x, %w, %b) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
          return %y
        }
    """

    after = (RecognizeGelu, RecognizeHardSwish, RecognizeAttention)
    y = match(CONTRACTIONS, one_use=True)
    s = constant()
    pattern = match(ops.Binary, y, s, kind=BinaryKind.MUL)

    def check(self, m: Match) -> bool | Reject:
        """Require constants, and a scale per output channel."""
        return takes_scale(m[self.y], m[self.s])

    def replace(self, m: Match) -> Value:
        """Scale weight and bias."""
        y, op = m[self.y], contraction_of(m[self.y])
        s, w = output_vector(m.array(self.s), y), _weight(y)
        assert s is not None
        bias = bias_vector(y)
        scaled = None if bias is None else bias * widened(s)
        return rebuild(m, y, w=scale_output(op, w, s), bias=scaled)


class FoldBiasIntoContraction(Rewrite):
    """A constant added to the output channels of a contraction is its bias.

    Before::

        graph(%x: f32[2,3,8]) {
          %w = const() type=f32[8,4] seed=1
          %b = const() type=f32[4] seed=2
          %y = matmul(%x, %w)
          %z = binary(%b, %y) kind=add
          return %z
        }

    After::

        graph(%x: f32[2,3,8]) {
          %w = const() type=f32[8,4]
          %b = const() type=f32[4]
          %y = matmul(%x, %w, %b)
          return %y
        }
    """

    y = match(CONTRACTIONS, one_use=True)
    b = constant()
    pattern = match(ops.Binary, y, b, kind=BinaryKind.ADD)

    def check(self, m: Match) -> bool | Reject:
        """Require constants, and a shift per output channel."""
        return takes_bias(m[self.y], m[self.b])

    def replace(self, m: Match) -> Value:
        """Add to the bias, or begin one."""
        y, shift = m[self.y], output_vector(m.array(self.b), m[self.y])
        assert shift is not None
        bias = bias_vector(y)
        return rebuild(m, y, bias=shift if bias is None else bias + widened(shift))


class FoldScaleIntoOperand(Rewrite):
    """Scaling the input channels of a contraction scales its weight.

    Before::

        graph(%x: f32[1,3,5,5]) {
          %w = const() type=f32[4,3,3,3] seed=1
          %s = const() type=f32[3,1,1] seed=3
          %y = binary(%x, %s) kind=mul
          %z = convolution(%y, %w) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
          return %z
        }

    After::

        graph(%x: f32[1,3,5,5]) {
          %w = const() type=f32[4,3,3,3]
          %z = convolution(%x, %w) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
          return %z
        }
    """

    pattern = match(CONTRACTIONS)

    def check(self, m: Match) -> bool | Reject:
        """Look for a scaled operand that only this contraction reads."""
        return _affine_operand(m, m[self.pattern], BinaryKind.MUL) is not None

    def replace(self, m: Match) -> Value:
        """Scale the weight and read the operand before it was scaled."""
        y = m[self.pattern]
        found = _affine_operand(m, y, BinaryKind.MUL)
        assert found is not None
        x, s = found
        return rebuild(m, y, x=x, w=scale_input(contraction_of(y), _weight(y), s))


class FoldShiftIntoOperand(Rewrite):
    """Shifting the input channels of a contraction without padding shifts its bias.

    Before::

        graph(%x: f32[1,3,5,5]) {
          %w = const() type=f32[4,3,3,3] seed=1
          %t = const() type=f32[3,1,1] seed=3
          %y = binary(%x, %t) kind=add
          %z = convolution(%y, %w) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          return %z
        }

    After::

        graph(%x: f32[1,3,5,5]) {
          %w = const() type=f32[4,3,3,3]
          %b = const() type=f32[4]
          %z = convolution(%x, %w, %b) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          return %z
        }
    """

    pattern = match((ops.Convolution, ops.Matmul))

    def check(self, m: Match) -> bool | Reject:
        """Look for a shifted operand; padding would have to be shifted too."""
        y = m[self.pattern]
        if _affine_operand(m, y, BinaryKind.ADD) is None:
            return False
        if isinstance(y.op, ops.Convolution) and any((*y.op.pads_begin, *y.op.pads_end)):
            return Reject("the padding is not shifted")
        return all(v.tensor.rank <= 1 for v in m.node(self.pattern).inputs[2:3])

    def replace(self, m: Match) -> Value:
        """Add the shift's share to the bias."""
        y = m[self.pattern]
        found = _affine_operand(m, y, BinaryKind.ADD)
        assert found is not None
        x, t = found
        shift = shift_input(contraction_of(y), _weight(y), t)
        bias = bias_vector(y)
        return rebuild(m, y, x=x, bias=shift if bias is None else bias + shift)


def _weight(y: Value) -> Array:
    assert y.node is not None
    w = array_of(y.node.inputs[1])
    assert w is not None
    return w


def _affine_operand(m: Match, y: Value, kind: BinaryKind) -> tuple[Value, Array] | None:
    """Return the source and the vector of input channels when the operand is ``source kind c``."""
    assert y.node is not None
    operand = y.node.inputs[0]
    if not isinstance(operand.op, ops.Binary) or operand.op.kind is not kind:
        return None
    op: Contraction = contraction_of(y)
    if not has_constant_weight(y) or m.graph.uses(operand) > 1 or operand.node is None:
        return None
    if isinstance(op, ops.Matmul) and op.transpose_a:
        return None
    axis = operand.tensor.rank - 1 if isinstance(op, ops.Matmul) else 1
    for source, c in (operand.node.inputs, operand.node.inputs[::-1]):
        vector = _vector(c, operand.tensor.shape, axis)
        if vector is not None and source.type == operand.type:
            return source, vector
    return None


def _vector(c: Value, shape: tuple[Any, ...], axis: int) -> Array | None:
    a = array_of(c)
    return None if a is None else channel_vector(a, shape, axis)
