"""Constant factors and offsets between Dequantize and Quantize become one of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lamina import ops
from lamina.ir.graph import Array, Graph, Node, Value
from lamina.ir.rewrite import Match, Reject, Rewrite, match
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind
from lamina.passes.constants import array_of, emit_constant
from lamina.precision.leftover import emit_rounded, has_arithmetic, parameters

_KINDS = (BinaryKind.ADD, BinaryKind.SUB, BinaryKind.MUL, BinaryKind.DIV)


@dataclass(frozen=True)
class _Affine:
    """The number ``factor * source + offset``, its constants in f64, ``source`` in integers."""

    source: Value
    factor: Array
    offset: Array


class MergeScalings(Rewrite):
    """Integers that are dequantized, scaled, shifted and quantized again need one product and sum.

    Every rounding to integers stays; f32 roundings between the products are left out, as in the
    contractions, so that what lies on a tie may fall to the other side.

    Before::

        graph(%q: u8[1,2,3]) {
          %s = const() type=f32[] value=0.5
          %z = const() type=u8[] value=4
          %x = dequantize(%q, %s, %z) dtype=f32
          %g = const() type=f32[2,1] value=(3.0,5.0)
          %y = binary(%x, %g) kind=mul
          %b = const() type=f32[2,1] value=(1.0,2.0)
          %n = binary(%y, %b) kind=add
          %t = const() type=f32[] value=0.25
          %p = quantize(%n, %t) dtype=u8
          return %p
        }

    After::

        graph(%q: u8[1,2,3]) {
          %x = cast(%q) dtype=f32
          %f = const() type=f32[2,1]
          %y = binary(%x, %f) kind=mul
          %o = const() type=f32[2,1]
          %n = binary(%y, %o) kind=add
          %r = unary(%n) kind=round
          %c = activation(%r) kind=clip beta=255.0
          %p = cast(%c) dtype=u8
          return %p
        }
    """

    pattern = match(ops.Quantize, block_size=0)

    def check(self, m: Match) -> bool | Reject:
        """Require constants along at most one axis, all the way from 8-bit integers."""
        node = m.node(self.pattern)
        if node.inputs[0].tensor.dtype is not DType.F32:
            return Reject("the operand is not f32")
        if not isinstance(node.inputs[0].op, ops.Binary):
            return Reject("scales alone are often in a simple ratio, which makes many ties")
        known = has_arithmetic(node, node.output.tensor.dtype)
        if isinstance(known, Reject) or not known:
            return known
        found = _affine(m.graph, node.inputs[0])
        if found is None:
            return Reject("something else than constant factors and offsets comes before")
        return all(np.isfinite(a.astype(np.float32)).all() for a in (found.factor, found.offset))

    def replace(self, m: Match) -> Value:
        """Emit the product, the sum and the rounding."""
        node = m.node(self.pattern)
        found = _affine(m.graph, node.inputs[0])
        assert found is not None
        scale, zero = parameters(node)
        factor, offset = found.factor / scale, found.offset / scale
        x = m.emit(ops.Cast(dtype=DType.F32), found.source)
        x = m.emit(ops.Binary(kind=BinaryKind.MUL), x, emit_constant(m, factor, DType.F32))
        if offset.any():
            x = m.emit(ops.Binary(kind=BinaryKind.ADD), x, emit_constant(m, offset, DType.F32))
        return emit_rounded(m, x, zero, node.output.tensor.dtype)


def _affine(graph: Graph, v: Value) -> _Affine | None:
    """Return how ``v`` depends on 8-bit integers through steps that nothing else reads."""
    node = v.node
    if node is None:
        return None
    if isinstance(node.op, ops.Dequantize):
        if node.op.dtype is not DType.F32 or node.op.block_size:
            return None
        if has_arithmetic(node, node.inputs[0].tensor.dtype) is not True:
            return None
        scale, zero = (None if a is None else a.astype(np.float64) for a in parameters(node))
        assert scale is not None
        return _Affine(node.inputs[0], scale, -scale * (0.0 if zero is None else zero))
    if not isinstance(node.op, ops.Binary) or node.op.kind not in _KINDS or graph.uses(v) > 1:
        return None
    return _after(graph, node, node.op.kind)


def _after(graph: Graph, node: Node, kind: BinaryKind) -> _Affine | None:
    """Return what the sum, difference, product or quotient with a constant is."""
    x, y = node.inputs
    if array_of(x) is not None and kind in (BinaryKind.ADD, BinaryKind.MUL):
        x, y = y, x
    array = array_of(y)
    if array is None or x.type != node.output.type or sum(n > 1 for n in array.shape) > 1:
        return None
    before = _affine(graph, x)
    if before is None:
        return None
    c = array.astype(np.float64)
    if kind in (BinaryKind.ADD, BinaryKind.SUB):
        moved = before.offset + c if kind is BinaryKind.ADD else before.offset - c
        return _Affine(before.source, before.factor, moved)
    if kind is BinaryKind.DIV and not c.all():
        return None
    scale = c if kind is BinaryKind.MUL else 1.0 / c
    return _Affine(before.source, before.factor * scale, before.offset * scale)
