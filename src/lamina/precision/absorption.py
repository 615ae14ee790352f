"""Dequantize, contraction, epilogue and Quantize become one operator on 8-bit integers."""

from __future__ import annotations

from dataclasses import replace as changed

import numpy as np

from lamina import ops
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Reject, Rewrite, anything, match
from lamina.ir.traced import dense
from lamina.ir.types import DType
from lamina.ops.kinds import ActivationKind, BinaryKind
from lamina.ops.quantized import Quantized
from lamina.passes.constants import emit_constant
from lamina.precision.scalings import (
    integers_of,
    is_dequantized,
    is_quantized,
    known_array,
    scaled_weights,
    scaling,
)

QUANTIZED = (ops.QuantizedConvolution, ops.QuantizedMatmul)

FUSED_ACTIVATIONS = frozenset(
    {
        ActivationKind.RELU,
        ActivationKind.LEAKY_RELU,
        ActivationKind.CLIP,
        ActivationKind.SIGMOID,
        ActivationKind.TANH,
        ActivationKind.GELU,
        ActivationKind.GELU_TANH,
        ActivationKind.SILU,
        ActivationKind.HARD_SWISH,
        ActivationKind.HARD_SIGMOID,
        ActivationKind.ELU,
    }
)
"""Activations that every backend's integer contractions have as an epilogue."""


def _quantized(v: Value) -> Quantized:
    op = v.op
    assert isinstance(op, QUANTIZED)
    return op


def _is_open(v: Value) -> bool:
    """Whether a quantized contraction gives f32 and has no residual and no activation yet."""
    op, node = v.op, v.node
    if not isinstance(op, QUANTIZED) or node is None:
        return False
    return op.dtype is DType.F32 and op.activation is None and len(node.inputs) <= 4


class QuantizeConvolution(Rewrite):
    """A convolution of dequantized values multiplies the integers.

    Before::

        graph(%q: u8[1,3,5,5]) {
          %s = const() type=f32[] value=0.5
          %z = const() type=u8[] value=3
          %x = dequantize(%q, %s, %z) dtype=f32
          %v = const() type=i8[4,3,3,3] seed=1
          %t = const() type=f32[4] value=(0.5,1.0,2.0,0.25)
          %w = dequantize(%v, %t) dtype=f32 axis=0
          %b = const() type=f32[4] seed=2
          %y = convolution(%x, %w, %b) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          return %y
        }

    After::

        graph(%q: u8[1,3,5,5]) {
          %v = const() type=i8[4,3,3,3]
          %t = const() type=f32[4]
          %b = const() type=f32[4]
          %y = quantized_convolution(%q, %v, %t, %b) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0) x_scaling={0.5,3}
          return %y
        }
    """  # noqa: E501

    pattern = match(ops.Convolution, activation=None)

    def check(self, m: Match) -> bool | Reject:
        """Require quantized operands, constant weights and a bias without surprises."""
        node = m.node(self.pattern)
        if len(node.inputs) > 3 or not is_dequantized(node.inputs[0]):
            return Reject("the operand is not dequantized")
        if scaled_weights(node.inputs[1], 0) is None:
            return Reject("the weights are not 8-bit constants with a scale a channel")
        return all(known_array(b) is not None for b in node.inputs[2:])

    def replace(self, m: Match) -> Value:
        """Take the integers and the scales."""
        node, op = m.node(self.pattern), m.op(self.pattern, ops.Convolution)
        x, w = node.inputs[0], scaled_weights(node.inputs[1], 0)
        assert w is not None
        new = ops.QuantizedConvolution(
            strides=op.strides,
            dilations=op.dilations,
            pads_begin=op.pads_begin,
            pads_end=op.pads_end,
            groups=op.groups,
            x_scaling=scaling(x),
        )
        bias = [_f32(m, known_array(b)) for b in node.inputs[2:]]
        return m.emit(
            new, integers_of(x), m.emit(ops.Const.of(w.integers)), _f32(m, w.scales), *bias
        )


def _f32(m: Match, array: np.ndarray | None) -> Value:
    assert array is not None
    return emit_constant(m, array, DType.F32)


class QuantizeMatmul(Rewrite):
    """A product of a dequantized value with dequantized weights multiplies the integers.

    Before::

        graph(%q: u8[2,8]) {
          %s = const() type=f32[] value=0.5
          %z = const() type=u8[] value=3
          %x = dequantize(%q, %s, %z) dtype=f32
          %v = const() type=i8[4,8] seed=1
          %t = const() type=f32[] value=0.25
          %w = dequantize(%v, %t) dtype=f32
          %y = matmul(%x, %w) transpose_b=true
          return %y
        }

    After::

        graph(%q: u8[2,8]) {
          %v = const() type=i8[8,4]
          %t = const() type=f32[4]
          %y = quantized_matmul(%q, %v, %t) x_scaling={0.5,3}
          return %y
        }
    """

    pattern = match(ops.Matmul, activation=None, transpose_a=False)

    def check(self, m: Match) -> bool | Reject:
        """Require quantized operands, 2-D constant weights and a vector as bias."""
        node, op = m.node(self.pattern), m.op(self.pattern, ops.Matmul)
        if len(node.inputs) > 3 or not is_dequantized(node.inputs[0]):
            return Reject("the operand is not dequantized")
        w = node.inputs[1]
        if w.tensor.rank != 2 or scaled_weights(w, 0 if op.transpose_b else 1) is None:
            return Reject("the weights are not an 8-bit matrix with a scale a column")
        return all(_vector(b, m[self.pattern]) is not None for b in node.inputs[2:])

    def replace(self, m: Match) -> Value:
        """Take the integers and the scales."""
        node, op = m.node(self.pattern), m.op(self.pattern, ops.Matmul)
        x, w = node.inputs[0], scaled_weights(node.inputs[1], 0 if op.transpose_b else 1)
        assert w is not None
        matrix = dense(w.integers.T) if op.transpose_b else w.integers
        bias = [_f32(m, _vector(b, m[self.pattern])) for b in node.inputs[2:]]
        new = ops.QuantizedMatmul(x_scaling=scaling(x))
        return m.emit(new, integers_of(x), m.emit(ops.Const.of(matrix)), _f32(m, w.scales), *bias)


def _vector(v: Value, y: Value) -> np.ndarray | None:
    """Return a constant that is added to ``y`` as a vector along its last axis, or None."""
    a = known_array(v)
    n = y.tensor.shape[-1]
    if a is None or not isinstance(n, int) or a.size not in (1, n) or a.ndim > y.tensor.rank:
        return None
    if a.size > 1 and a.shape[-1] != n:
        return None
    return dense(np.broadcast_to(a.reshape(-1), (n,)))


class FuseQuantizedBias(Rewrite):
    """A vector added to a quantized product becomes its bias.

    Before::

        graph(%q: u8[2,8]) {
          %v = const() type=i8[8,4] seed=1
          %t = const() type=f32[4] value=(0.5,1.0,2.0,0.25)
          %y = quantized_matmul(%q, %v, %t) x_scaling={0.5,3}
          %b = const() type=f32[4] seed=2
          %z = binary(%y, %b) kind=add
          return %z
        }

    After::

        graph(%q: u8[2,8]) {
          %v = const() type=i8[8,4]
          %t = const() type=f32[4]
          %b = const() type=f32[4]
          %y = quantized_matmul(%q, %v, %t, %b) x_scaling={0.5,3}
          return %y
        }
    """

    y = match(ops.QuantizedMatmul, one_use=True, dtype=DType.F32, activation=None)
    bias = anything()
    pattern = match(ops.Binary, y, bias, kind=BinaryKind.ADD)

    def check(self, m: Match) -> bool:
        """Require a product without a bias."""
        return len(m.node(self.y).inputs) == 3 and _vector(m[self.bias], m[self.y]) is not None

    def replace(self, m: Match) -> Value:
        """Emit the product with the bias."""
        bias = _f32(m, _vector(m[self.bias], m[self.y]))
        return m.emit(_quantized(m[self.y]), *m.node(self.y).inputs, bias)


class FuseQuantizedResidual(Rewrite):
    """A quantized contraction adds the residual before it quantizes its result.

    Before::

        graph(%q: u8[2,8], %r: u8[2,4]) {
          %v = const() type=i8[8,4] seed=1
          %t = const() type=f32[4] value=(0.5,1.0,2.0,0.25)
          %b = const() type=f32[4] seed=2
          %y = quantized_matmul(%q, %v, %t, %b) x_scaling={0.5,3}
          %u = const() type=f32[] value=0.125
          %x = dequantize(%r, %u) dtype=f32
          %z = binary(%y, %x) kind=add
          return %z
        }

    After::

        graph(%q: u8[2,8], %r: u8[2,4]) {
          %v = const() type=i8[8,4]
          %t = const() type=f32[4]
          %b = const() type=f32[4]
          %y = quantized_matmul(%q, %v, %t, %b, %r) x_scaling={0.5,3} residual_scaling={0.125,0}
          return %y
        }
    """

    residual = anything()
    y = match(QUANTIZED, one_use=True, dtype=DType.F32, activation=None)
    pattern = match(ops.Binary, residual, y, kind=BinaryKind.ADD)

    def check(self, m: Match) -> bool | Reject:
        """Require a residual of the same type that was dequantized with one scale."""
        y, residual = m[self.y], m[self.residual]
        if not _is_open(y) or y.type != residual.type:
            return Reject("not a residual of the same type")
        return is_dequantized(residual)

    def replace(self, m: Match) -> Value:
        """Emit the contraction with the residual; without a bias it needs one of zeros."""
        y, residual = m[self.y], m[self.residual]
        operands = list(m.node(self.y).inputs)
        if len(operands) == 3:
            operands.append(_f32(m, np.zeros(operands[2].tensor.static_shape)))
        op = changed(_quantized(y), residual_scaling=scaling(residual))
        return m.emit(op, *operands, integers_of(residual))


class FuseQuantizedActivation(Rewrite):
    """A quantized contraction applies the activation before it quantizes its result.

    Before::

        graph(%q: u8[2,8]) {
          %v = const() type=i8[8,4] seed=1
          %t = const() type=f32[4] value=(0.5,1.0,2.0,0.25)
          %y = quantized_matmul(%q, %v, %t) x_scaling={0.5,3}
          %z = activation(%y) kind=relu
          return %z
        }

    After::

        graph(%q: u8[2,8]) {
          %v = const() type=i8[8,4]
          %t = const() type=f32[4]
          %y = quantized_matmul(%q, %v, %t) x_scaling={0.5,3} activation={relu,0.0,0.0}
          return %y
        }
    """

    y = match(QUANTIZED, one_use=True, dtype=DType.F32, activation=None)
    pattern = match(ops.Activation, y, kind=tuple(sorted(FUSED_ACTIVATIONS)))

    def replace(self, m: Match) -> Value:
        """Emit the contraction with the epilogue."""
        epilogue = m.op(self.pattern, ops.Activation).epilogue
        return m.emit(changed(_quantized(m[self.y]), activation=epilogue), *m.node(self.y).inputs)


class FuseQuantize(Rewrite):
    """A quantized contraction gives 8-bit results.

    Before::

        graph(%q: u8[2,8]) {
          %v = const() type=i8[8,4] seed=1
          %t = const() type=f32[4] value=(0.5,1.0,2.0,0.25)
          %y = quantized_matmul(%q, %v, %t) x_scaling={0.5,3}
          %s = const() type=f32[] value=8.0
          %z = const() type=i8[] value=-3
          %p = quantize(%y, %s, %z) dtype=i8
          return %p
        }

    After::

        graph(%q: u8[2,8]) {
          %v = const() type=i8[8,4]
          %t = const() type=f32[4]
          %y = quantized_matmul(%q, %v, %t) x_scaling={0.5,3} dtype=i8 y_scaling={8.0,-3}
          return %y
        }
    """

    pattern = match(ops.Quantize)

    def check(self, m: Match) -> bool | Reject:
        """Require one scale, and that nothing else reads the f32 result."""
        y = m.node(self.pattern).inputs[0]
        if not isinstance(y.op, QUANTIZED) or not is_quantized(m[self.pattern]):
            return False
        if m.graph.uses(y) > 1:
            return Reject("something else reads the f32 result")
        return y.op.dtype is DType.F32

    def replace(self, m: Match) -> Value:
        """Emit the contraction with the type and scale."""
        node = m.node(self.pattern)
        y = node.inputs[0]
        assert y.node is not None
        op = changed(_quantized(y), dtype=node.output.tensor.dtype, y_scaling=scaling(node.output))
        return m.emit(op, *y.node.inputs)
