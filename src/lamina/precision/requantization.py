"""Roundings inside what becomes one step are left out.

Quantization tools put a Quantize and a Dequantize behind every operator.  Where the next operator
is computed in the same step, the value between them is never stored, and rounding it to 8 bits
would only cost time and accuracy.  This changes the last bits of what the model computes, towards
the model before quantization; the saturation that stands for a ReLU is kept.
"""

from __future__ import annotations

from lamina import ops
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Rewrite, anything, match
from lamina.ops.kinds import ActivationKind, BinaryKind
from lamina.passes.constants import is_constant
from lamina.passes.contractions import CONTRACTIONS
from lamina.precision.movement import range_of
from lamina.precision.scalings import is_dequantized, is_quantized


def _is_rounded(v: Value) -> bool:
    """Whether at most one node reads the value, a contraction's requantized result."""
    if not is_dequantized(v) or v.node is None or len(v.users) > 1:
        return False
    q = v.node.inputs[0]
    if not is_quantized(q) or q.node is None:
        return False
    x = q.node.inputs[0]
    return isinstance(x.op, CONTRACTIONS) and len(q.users) == len(x.users) == 1


def _unrounded(m: Match, v: Value) -> Value:
    """Return the value before it was quantized, with the saturation at zero if there is one."""
    assert v.node is not None
    q = v.node.inputs[0].node
    assert q is not None
    x = q.inputs[0]
    if range_of(v)[0] < 0:
        return x
    return m.emit(ops.Activation(kind=ActivationKind.RELU), x)


class SkipRoundingBeforeQuantize(Rewrite):
    """A contraction's result that is quantized twice is quantized with the second scale at once.

    Before::

        graph(%x: f32[2,8]) {
          %w = const() type=f32[8,4] seed=1
          %y = matmul(%x, %w)
          %s = const() type=f32[] value=0.0625
          %z = const() type=u8[] value=0
          %a = quantize(%y, %s, %z) dtype=u8
          %b = dequantize(%a, %s, %z) dtype=f32
          %t = const() type=f32[] value=16.0
          %o = const() type=u8[] value=7
          %q = quantize(%b, %t, %o) dtype=u8
          return %q
        }

    After::

        graph(%x: f32[2,8]) {
          %w = const() type=f32[8,4]
          %y = matmul(%x, %w)
          %b = activation(%y) kind=relu
          %t = const() type=f32[]
          %o = const() type=u8[]
          %q = quantize(%b, %t, %o) dtype=u8
          return %q
        }
    """

    x = anything(_is_rounded)
    pattern = match(ops.Quantize)

    def check(self, m: Match) -> bool:
        """Require a rounded contraction that nothing else reads."""
        x = m.node(self.pattern).inputs[0]
        return is_quantized(m[self.pattern]) and _is_rounded(x) and m.graph.uses(x) == 1

    def replace(self, m: Match) -> Value:
        """Quantize what the contraction gives."""
        node = m.node(self.pattern)
        return m.emit(node.op, _unrounded(m, node.inputs[0]), *node.inputs[1:])


class SkipRoundingBeforeSum(Rewrite):
    """A contraction's result that a residual or a bias is added to is not rounded before the sum.

    Before::

        graph(%x: f32[2,8], %r: u8[2,4]) {
          %w = const() type=f32[8,4] seed=1
          %y = matmul(%x, %w)
          %s = const() type=f32[] value=0.015625
          %z = const() type=u8[] value=128
          %a = quantize(%y, %s, %z) dtype=u8
          %b = dequantize(%a, %s, %z) dtype=f32
          %t = const() type=f32[] value=0.25
          %c = dequantize(%r, %t, %z) dtype=f32
          %d = binary(%b, %c) kind=add
          %u = const() type=f32[] value=16.0
          %q = quantize(%d, %u, %z) dtype=u8
          return %q
        }

    After::

        graph(%x: f32[2,8], %r: u8[2,4]) {
          %w = const() type=f32[8,4]
          %y = matmul(%x, %w)
          %t = const() type=f32[]
          %z = const() type=u8[]
          %c = dequantize(%r, %t, %z) dtype=f32
          %d = binary(%y, %c) kind=add
          %u = const() type=f32[]
          %q = quantize(%d, %u, %z) dtype=u8
          return %q
        }
    """

    rounded = anything(_is_rounded)
    other = anything(lambda v: is_dequantized(v) or is_constant(v))
    pattern = match(ops.Binary, rounded, other, kind=BinaryKind.ADD)

    def check(self, m: Match) -> bool:
        """Require a rounded operand that nothing else reads."""
        if m.graph.uses(m[self.rounded]) > 1 or m[self.rounded] is m[self.other]:
            return False
        # A ReLU would stand between the contraction and the sum.
        return range_of(m[self.rounded])[0] < 0

    def replace(self, m: Match) -> Value:
        """Add to what the contraction gives."""
        x = _unrounded(m, m[self.rounded])
        return m.emit(m.op(self.pattern, ops.Binary), x, m[self.other])


class SkipRoundingBeforeOutput(Rewrite):
    """A contraction's result that leaves the graph as f32 is not rounded.

    Before::

        graph(%x: f32[2,8]) {
          %w = const() type=f32[8,4] seed=1
          %y = matmul(%x, %w)
          %s = const() type=f32[] value=0.0625
          %z = const() type=u8[] value=128
          %a = quantize(%y, %s, %z) dtype=u8
          %b = dequantize(%a, %s, %z) dtype=f32
          return %b
        }

    After::

        graph(%x: f32[2,8]) {
          %w = const() type=f32[8,4]
          %b = matmul(%x, %w)
          return %b
        }
    """

    pattern = match(ops.Dequantize)

    def check(self, m: Match) -> bool:
        """Require an output that nothing inside the graph reads."""
        v = m[self.pattern]
        return _is_rounded(v) and not v.users and m.graph.uses(v) > 0

    def replace(self, m: Match) -> Value:
        """Return what the contraction gives."""
        return _unrounded(m, m[self.pattern])
