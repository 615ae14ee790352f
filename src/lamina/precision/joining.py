"""Concatenations of dequantized values with different scales stay 8-bit."""

from __future__ import annotations

import numpy as np

from lamina import ops
from lamina.ir.graph import Array, Value
from lamina.ir.rewrite import Match, Reject, Rewrite, match
from lamina.ir.types import DType
from lamina.passes.constants import array_of, emit_constant
from lamina.precision.scalings import EIGHT_BIT, integers_of


class JoinBeforeDequantize(Rewrite):
    """Parts with scales of their own are joined, then dequantized with one scale a channel.

    Before::

        graph(%a: u8[1,2,4], %b: u8[1,1,4]) {
          %s = const() type=f32[] value=0.5
          %z = const() type=u8[] value=3
          %x = dequantize(%a, %s, %z) dtype=f32
          %t = const() type=f32[] value=0.25
          %y = dequantize(%b, %t) dtype=f32
          %c = concat(%x, %y) axis=1
          return %c
        }

    After::

        graph(%a: u8[1,2,4], %b: u8[1,1,4]) {
          %q = concat(%a, %b) axis=1
          %s = const() type=f32[3]
          %z = const() type=u8[3]
          %c = dequantize(%q, %s, %z) dtype=f32 axis=1
          return %c
        }
    """

    pattern = match(ops.Concat)

    def check(self, m: Match) -> bool | Reject:
        """Require 8-bit parts of one type with constant scales."""
        axis, parts = m.op(self.pattern, ops.Concat).axis, m.node(self.pattern).inputs
        if not all(_is_dequantized(v, axis) for v in parts):
            return False
        if len({integers_of(v).tensor.dtype for v in parts}) > 1:
            return Reject("the parts have different types")
        return all(isinstance(v.tensor.shape[axis], int) for v in parts)

    def replace(self, m: Match) -> Value:
        """Join the integers, and the scales."""
        node, axis = m.node(self.pattern), m.op(self.pattern, ops.Concat).axis
        parameters = [_parameters(v, axis) for v in node.inputs]
        scales, zeros = (np.concatenate(arrays) for arrays in zip(*parameters, strict=True))
        q = m.emit(node.op, *(integers_of(v) for v in node.inputs))
        s = emit_constant(m, scales, DType.F32)
        z = emit_constant(m, zeros, q.tensor.dtype)
        return m.emit(ops.Dequantize(dtype=DType.F32, axis=axis), q, s, z)


def _is_dequantized(v: Value, axis: int) -> bool:
    """Whether constants dequantize 8-bit numbers, one scale for all or one an index of ``axis``."""
    op, node = v.op, v.node
    if node is None or not isinstance(op, ops.Dequantize) or op.block_size:
        return False
    arrays = [array_of(p) for p in node.inputs[1:]]
    if node.inputs[0].tensor.dtype not in EIGHT_BIT or v.tensor.dtype is not DType.F32:
        return False
    if any(a is None for a in arrays) or node.inputs[1].tensor.dtype is not DType.F32:
        return False
    return op.axis == axis or all(a is not None and a.size == 1 for a in arrays)


def _parameters(v: Value, axis: int) -> tuple[Array, Array]:
    """Return scale and zero point for each index of the axis."""
    assert v.node is not None
    scale, *zero = (array_of(p) for p in v.node.inputs[1:])
    count = v.tensor.shape[axis]
    assert isinstance(count, int)
    zeros = zero[0] if zero else np.zeros(1, np.uint8)
    assert scale is not None
    assert zeros is not None
    return np.broadcast_to(scale.reshape(-1), count), np.broadcast_to(zeros.reshape(-1), count)
