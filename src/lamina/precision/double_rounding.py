"""Contractions that round their result to 8 bits inside, before what follows in the same step.

Quantization tools put a Quantize and a Dequantize behind every operator.  Where a sum or another
Quantize follows, the value between is never needed in memory: the contraction rounds it in
registers, so that the model computes the very same numbers without a pass of its own for them.
"""

from __future__ import annotations

from dataclasses import replace as changed

import numpy as np

from lamina import ops
from lamina.ir.graph import Graph, Value
from lamina.ir.rewrite import Match, Rewrite, anything, match
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, Epilogue
from lamina.ops.quantized import Quantized
from lamina.passes.constants import emit_constant
from lamina.precision.absorption import FUSED_ACTIVATIONS, QUANTIZED
from lamina.precision.scalings import integers_of, is_dequantized, is_quantized, scaling


def _is_rounded(v: Value) -> bool:
    """Whether ``v`` alone reads the 8-bit result of a contraction without epilogue."""
    if not is_dequantized(v) or len(v.users) > 1:
        return False
    q = integers_of(v)
    if not isinstance(q.op, QUANTIZED) or q.node is None or len(q.users) > 1:
        return False
    return q.op.activation is None and q.op.rounding is None and len(q.node.inputs) <= 4


def _is_returned(graph: Graph, v: Value) -> bool:
    """Whether a graph returns the value or what it dequantizes."""
    return any(graph.uses(x) > len(x.users) for x in (v, integers_of(v)))


def _opened(v: Value) -> Quantized:
    """Return the contraction that gives the dequantized value ``v``, in f32."""
    op = integers_of(v).op
    assert isinstance(op, QUANTIZED)
    return changed(
        op, dtype=DType.F32, y_scaling=None, rounding=op.y_scaling, rounding_dtype=op.dtype
    )


def _operands(v: Value) -> list[Value]:
    node = integers_of(v).node
    assert node is not None
    return list(node.inputs)


class FuseRoundedResidual(Rewrite):
    """A contraction rounds its result to 8 bits and adds the residual in one step.

    Before::

        graph(%q: u8[2,8], %r: u8[2,4]) {
          %v = const() type=i8[8,4] seed=1
          %t = const() type=f32[4] value=(0.5,1.0,2.0,0.25)
          %p = quantized_matmul(%q, %v, %t) x_scaling={0.5,3} dtype=u8 y_scaling={8.0,7}
          %s = const() type=f32[] value=8.0
          %z = const() type=u8[] value=7
          %y = dequantize(%p, %s, %z) dtype=f32
          %u = const() type=f32[] value=0.125
          %x = dequantize(%r, %u) dtype=f32
          %n = binary(%y, %x) kind=add
          return %n
        }

    After::

        graph(%q: u8[2,8], %r: u8[2,4]) {
          %v = const() type=i8[8,4]
          %t = const() type=f32[4]
          %b = const() type=f32[4]
          %n = quantized_matmul(%q, %v, %t, %b, %r) x_scaling={0.5,3} residual_scaling={0.125,0} rounding={8.0,7} rounding_dtype=u8
          return %n
        }
    """  # noqa: E501

    residual = anything(is_dequantized)
    y = anything(_is_rounded)
    pattern = match(ops.Binary, residual, y, kind=BinaryKind.ADD)

    def check(self, m: Match) -> bool:
        """Require a rounded contraction and a residual of the same type."""
        y, residual = m[self.y], m[self.residual]
        same = y is not residual and y.type == residual.type
        return same and not _is_returned(m.graph, y)

    def replace(self, m: Match) -> Value:
        """Emit the contraction with the residual; without a bias it needs one of zeros."""
        y, residual = m[self.y], m[self.residual]
        operands = _operands(y)
        if len(operands) == 3:
            zeros = np.zeros(operands[2].tensor.static_shape)
            operands.append(emit_constant(m, zeros, DType.F32))
        op = changed(_opened(y), residual_scaling=scaling(residual))
        return m.emit(op, *operands, integers_of(residual))


class FuseRequantize(Rewrite):
    """A contraction whose 8-bit result is quantized with another scale does both in one step.

    Before::

        graph(%q: u8[2,8]) {
          %v = const() type=i8[8,4] seed=1
          %t = const() type=f32[4] value=(0.5,1.0,2.0,0.25)
          %p = quantized_matmul(%q, %v, %t) x_scaling={0.5,3} dtype=i8 y_scaling={4.0,7}
          %s = const() type=f32[] value=4.0
          %z = const() type=i8[] value=7
          %y = dequantize(%p, %s, %z) dtype=f32
          %a = activation(%y) kind=relu
          %u = const() type=f32[] value=8.0
          %o = const() type=u8[] value=3
          %n = quantize(%a, %u, %o) dtype=u8
          return %n
        }

    After::

        graph(%q: u8[2,8]) {
          %v = const() type=i8[8,4]
          %t = const() type=f32[4]
          %n = quantized_matmul(%q, %v, %t) x_scaling={0.5,3} activation={relu,0.0,0.0} dtype=u8 y_scaling={8.0,3} rounding={4.0,7} rounding_dtype=i8
          return %n
        }
    """  # noqa: E501

    pattern = match(ops.Quantize)

    def check(self, m: Match) -> bool:
        """Require a rounded contraction, with at most an activation before the second Quantize."""
        if not is_quantized(m[self.pattern]):
            return False
        source, _ = _before(m.graph, m.node(self.pattern).inputs[0])
        return _is_rounded(source) and not _is_returned(m.graph, source)

    def replace(self, m: Match) -> Value:
        """Emit the contraction with both scales."""
        y = m[self.pattern]
        source, activation = _before(m.graph, m.node(self.pattern).inputs[0])
        op = changed(
            _opened(source), activation=activation, dtype=y.tensor.dtype, y_scaling=scaling(y)
        )
        return m.emit(op, *_operands(source))


def _before(graph: Graph, v: Value) -> tuple[Value, Epilogue | None]:
    """Return the operand of an activation that is read once and the activation, or ``v``."""
    op, node = v.op, v.node
    if node is None or not isinstance(op, ops.Activation) or graph.uses(v) > 1:
        return v, None
    return (node.inputs[0], op.epilogue) if op.kind in FUSED_ACTIVATIONS else (v, None)
