"""Quantize moved up and Dequantize moved down, so that 8-bit values flow between contractions.

All of these keep what the model computes, to the last bit: moving elements and taking maxima
commute with a monotone function of each element.
"""

from __future__ import annotations

from lamina import ops
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Reject, Rewrite, anything, match
from lamina.ops.kinds import ActivationKind, PoolKind
from lamina.precision.scalings import (
    LIMITS,
    again,
    integers_of,
    is_dequantized,
    is_quantized,
    scaling,
)

_MOVERS = (ops.Reshape, ops.Transpose, ops.Slice, ops.Expand, ops.Tile, ops.Gather)


def _commutes(v: Value) -> bool:
    """Whether the node of ``v`` only moves elements of its first operand, or takes maxima."""
    if isinstance(v.op, ops.Pool):
        return v.op.kind is PoolKind.MAX
    return isinstance(v.op, _MOVERS)


class SinkDequantize(Rewrite):
    """Elements are moved, and maxima taken, before they are dequantized.

    Before::

        graph(%q: u8[1,2,4,4]) {
          %s = const() type=f32[] value=0.5
          %z = const() type=u8[] value=3
          %x = dequantize(%q, %s, %z) dtype=f32
          %y = pool(%x) kind=max kernel=(2,2) strides=(2,2) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          return %y
        }

    After::

        graph(%q: u8[1,2,4,4]) {
          %p = pool(%q) kind=max kernel=(2,2) strides=(2,2) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          %s = const() type=f32[]
          %z = const() type=u8[]
          %y = dequantize(%p, %s, %z) dtype=f32
          return %y
        }
    """  # noqa: E501

    pattern = match((*_MOVERS, ops.Pool))

    def check(self, m: Match) -> bool | Reject:
        """Require one scale for the tensor."""
        return _commutes(m[self.pattern]) and is_dequantized(m.node(self.pattern).inputs[0])

    def replace(self, m: Match) -> Value:
        """Exchange the two."""
        node = m.node(self.pattern)
        x, *rest = node.inputs
        assert x.node is not None
        return again(m, x.node, m.emit(node.op, integers_of(x), *rest))


class SinkDequantizeThroughConcat(Rewrite):
    """Parts with the same scale are joined before they are dequantized.

    Before::

        graph(%a: u8[1,2,4], %b: u8[1,3,4]) {
          %s = const() type=f32[] value=0.5
          %z = const() type=u8[] value=3
          %x = dequantize(%a, %s, %z) dtype=f32
          %y = dequantize(%b, %s, %z) dtype=f32
          %c = concat(%x, %y) axis=1
          return %c
        }

    After::

        graph(%a: u8[1,2,4], %b: u8[1,3,4]) {
          %q = concat(%a, %b) axis=1
          %s = const() type=f32[]
          %z = const() type=u8[]
          %c = dequantize(%q, %s, %z) dtype=f32
          return %c
        }
    """

    pattern = match(ops.Concat)

    def check(self, m: Match) -> bool | Reject:
        """Require the same type, scale and zero point of every part."""
        parts = m.node(self.pattern).inputs
        if not all(is_dequantized(v) for v in parts):
            return False
        if len({(integers_of(v).tensor.dtype, scaling(v)) for v in parts}) > 1:
            return Reject("the parts have different scales")
        return True

    def replace(self, m: Match) -> Value:
        """Join the integers."""
        node = m.node(self.pattern)
        first = node.inputs[0].node
        assert first is not None
        return again(m, first, m.emit(node.op, *(integers_of(v) for v in node.inputs)))


class HoistQuantize(Rewrite):
    """Elements are quantized before they are moved or their maximum is taken.

    Before::

        graph(%x: f32[1,2,4,4]) {
          %s = const() type=f32[] value=0.125
          %z = const() type=u8[] value=3
          %y = transpose(%x) perm=(0,2,3,1)
          %q = quantize(%y, %s, %z) dtype=u8
          return %q
        }

    After::

        graph(%x: f32[1,2,4,4]) {
          %s = const() type=f32[]
          %z = const() type=u8[]
          %p = quantize(%x, %s, %z) dtype=u8
          %q = transpose(%p) perm=(0,2,3,1)
          return %q
        }
    """

    pattern = match(ops.Quantize)

    def check(self, m: Match) -> bool | Reject:
        """Require one scale, and that nothing else reads the moved value."""
        moved = m.node(self.pattern).inputs[0]
        if not is_quantized(m[self.pattern]) or not _commutes(moved):
            return False
        if isinstance(moved.op, ops.Tile | ops.Expand | ops.Gather):
            return Reject("more elements may leave than enter")
        return m.graph.uses(moved) == 1 or Reject("something else reads the moved value")

    def replace(self, m: Match) -> Value:
        """Exchange the two."""
        node = m.node(self.pattern)
        moved = node.inputs[0].node
        assert moved is not None
        x, *rest = moved.inputs
        return m.emit(moved.op, again(m, node, x), *rest)


class HoistQuantizeAboveConcat(Rewrite):
    """Parts are quantized where they are made, so that the joined tensor is never f32.

    Before::

        graph(%x: f32[1,2,4], %q: u8[1,3,4]) {
          %s = const() type=f32[] value=0.5
          %t = const() type=f32[] value=0.25
          %z = const() type=u8[] value=3
          %a = dequantize(%q, %t, %z) dtype=f32
          %b = unary(%x) kind=exp
          %c = concat(%b, %a) axis=1
          %y = quantize(%c, %s, %z) dtype=u8
          return %y
        }

    After::

        graph(%x: f32[1,2,4], %q: u8[1,3,4]) {
          %b = unary(%x) kind=exp
          %s = const() type=f32[]
          %z = const() type=u8[]
          %d = quantize(%b, %s, %z) dtype=u8
          %t = const() type=f32[]
          %a = dequantize(%q, %t, %z) dtype=f32
          %e = quantize(%a, %s, %z) dtype=u8
          %y = concat(%d, %e) axis=1
          return %y
        }
    """

    pattern = match(ops.Quantize)

    def check(self, m: Match) -> bool | Reject:
        """Require parts that nothing else reads, or that were integers already."""
        joined = m.node(self.pattern).inputs[0]
        if not is_quantized(m[self.pattern]) or not isinstance(joined.op, ops.Concat):
            return False
        assert joined.node is not None
        if m.graph.uses(joined) > 1:
            return Reject("something else reads the joined value")
        return all(is_dequantized(v) or m.graph.uses(v) == 1 for v in joined.node.inputs)

    def replace(self, m: Match) -> Value:
        """Quantize each part."""
        node = m.node(self.pattern)
        joined = node.inputs[0].node
        assert joined is not None
        return m.emit(joined.op, *(again(m, node, v) for v in joined.inputs))


class CancelQuantizeOfDequantize(Rewrite):
    """Quantizing what was dequantized with the same scale gives the integers back.

    Before::

        graph(%q: u8[4]) {
          %s = const() type=f32[] value=0.5
          %z = const() type=u8[] value=3
          %x = dequantize(%q, %s, %z) dtype=f32
          %y = quantize(%x, %s, %z) dtype=u8
          %n = binary(%y, %q) kind=max
          return %n
        }

    After::

        graph(%q: u8[4]) {
          %n = binary(%q, %q) kind=max
          return %n
        }
    """

    pattern = match(ops.Quantize)

    def check(self, m: Match) -> bool | Reject:
        """Require the same type, scale and zero point."""
        y, x = m[self.pattern], m.node(self.pattern).inputs[0]
        if not is_quantized(y) or not is_dequantized(x):
            return False
        same = y.type == integers_of(x).type and scaling(y) == scaling(x)
        return same or Reject("the scales differ")

    def replace(self, m: Match) -> Value:
        """Return the integers."""
        return integers_of(m.node(self.pattern).inputs[0])


class DropActivationAtLimit(Rewrite):
    """An activation that only cuts off what 8 bits cannot hold is left to the saturation.

    Before::

        graph(%x: f32[4]) {
          %s = const() type=f32[] value=0.5
          %z = const() type=u8[] value=0
          %y = activation(%x) kind=relu
          %q = quantize(%y, %s, %z) dtype=u8
          return %q
        }

    After::

        graph(%x: f32[4]) {
          %s = const() type=f32[]
          %z = const() type=u8[]
          %q = quantize(%x, %s, %z) dtype=u8
          return %q
        }
    """

    pattern = match(ops.Quantize)

    def check(self, m: Match) -> bool | Reject:
        """Require limits at or beyond the smallest and largest number."""
        y = m[self.pattern]
        x = m.node(self.pattern).inputs[0]
        if not is_quantized(y) or not isinstance(x.op, ops.Activation) or m.graph.uses(x) > 1:
            return False
        low, high = range_of(y)
        if x.op.kind is ActivationKind.RELU:
            return low >= 0
        return x.op.kind is ActivationKind.CLIP and x.op.alpha <= low and x.op.beta >= high

    def replace(self, m: Match) -> Value:
        """Quantize the operand of the activation."""
        node = m.node(self.pattern)
        activation = node.inputs[0].node
        assert activation is not None
        return again(m, node, activation.inputs[0])


class DropActivationOfDequantized(Rewrite):
    """An activation that no dequantized number reaches the limits of does nothing.

    Before::

        graph(%q: u8[4]) {
          %s = const() type=f32[] value=0.5
          %z = const() type=u8[] value=0
          %x = dequantize(%q, %s, %z) dtype=f32
          %y = activation(%x) kind=relu
          %n = unary(%y) kind=sqrt
          return %n
        }

    After::

        graph(%q: u8[4]) {
          %s = const() type=f32[]
          %z = const() type=u8[]
          %x = dequantize(%q, %s, %z) dtype=f32
          %n = unary(%x) kind=sqrt
          return %n
        }
    """

    x = anything(is_dequantized)
    pattern = match(ops.Activation, x, kind=(ActivationKind.RELU, ActivationKind.CLIP))

    def check(self, m: Match) -> bool | Reject:
        """Require all numbers inside the limits."""
        low, high = range_of(m[self.x])
        op = m.op(self.pattern, ops.Activation)
        if op.kind is ActivationKind.RELU:
            return low >= 0
        return op.alpha <= low and op.beta >= high

    def replace(self, m: Match) -> Value:
        """Return the operand."""
        return m[self.x]


def range_of(v: Value) -> tuple[float, float]:
    """Return the smallest and largest number that a (de)quantized value can hold."""
    assert v.node is not None
    integers = v if isinstance(v.op, ops.Quantize) else v.node.inputs[0]
    s = scaling(v)
    low, high = LIMITS[integers.tensor.dtype]
    return (low - s.zero_point) * s.scale, (high - s.zero_point) * s.scale
