"""Padding done by the convolution or the pooling window that reads it."""

from __future__ import annotations

import math
from dataclasses import replace

from lamina import ops
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Reject, Rewrite, match
from lamina.ops.kinds import PadMode, PoolKind
from lamina.passes.constants import scalar_of


class FoldPaddingIntoConvolution(Rewrite):
    """A convolution pads its operand with zeros itself.

    Before::

        graph(%x: f32[1,3,4,4]) {
          %w = const() type=f32[4,3,3,3] seed=1
          %p = pad(%x) pads_begin=(0,0,1,0) pads_end=(0,0,1,2)
          %y = convolution(%p, %w) strides=(1,1) dilations=(1,1) pads_begin=(0,1) pads_end=(0,0)
          return %y
        }

    After::

        graph(%x: f32[1,3,4,4]) {
          %w = const() type=f32[4,3,3,3]
          %y = convolution(%x, %w) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,2)
          return %y
        }
    """

    pattern = match(ops.Convolution)

    def check(self, m: Match) -> bool | Reject:
        """Require zeros around the image only."""
        return _fill(m.node(self.pattern).inputs[0]) == 0.0

    def replace(self, m: Match) -> Value:
        """Add the padding to the convolution's own."""
        padded, *rest = m.node(self.pattern).inputs
        op = m.op(self.pattern, ops.Convolution)
        begin, end = _spatial_pads(padded)
        new = replace(op, pads_begin=_sum(op.pads_begin, begin), pads_end=_sum(op.pads_end, end))
        return m.emit(new, _source(padded), *rest)


class FoldPaddingIntoPool(Rewrite):
    """A pooling window pads its operand itself: with -inf for a maximum, with zeros for an average.

    Before::

        graph(%x: f32[1,3,4,4]) {
          %c = const() type=f32[] value=-inf
          %p = pad(%x, %c) pads_begin=(0,0,1,1) pads_end=(0,0,1,1)
          %y = pool(%p) kind=max kernel=(3,3) strides=(2,2) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          return %y
        }

    After::

        graph(%x: f32[1,3,4,4]) {
          %y = pool(%x) kind=max kernel=(3,3) strides=(2,2) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
          return %y
        }
    """  # noqa: E501

    pattern = match(ops.Pool)

    def check(self, m: Match) -> bool | Reject:
        """Require the fill that the window ignores, no rounding up, and pads below the kernel."""
        op, fill = m.op(self.pattern, ops.Pool), _fill(m.node(self.pattern).inputs[0])
        if fill is None or op.ceil_mode:
            return False
        if op.kind is PoolKind.MAX:
            wanted = fill == -math.inf
        else:
            own = any((*op.pads_begin, *op.pads_end)) and not op.count_include_pad
            wanted = fill == 0 and not own
        begin, end = _spatial_pads(m.node(self.pattern).inputs[0])
        total = (*_sum(op.pads_begin, begin), *_sum(op.pads_end, end))
        fits = all(p < k for p, k in zip(total, op.kernel * 2, strict=True))
        return wanted and fits

    def replace(self, m: Match) -> Value:
        """Add the padding to the window's own; averages count it."""
        op = m.op(self.pattern, ops.Pool)
        padded = m.node(self.pattern).inputs[0]
        begin, end = _spatial_pads(padded)
        new = replace(
            op,
            pads_begin=_sum(op.pads_begin, begin),
            pads_end=_sum(op.pads_end, end),
            count_include_pad=op.kind is not PoolKind.MAX or op.count_include_pad,
        )
        return m.emit(new, _source(padded))


def _fill(v: Value) -> float | None:
    """Return what a constant padding of spatial axes fills with, None for everything else."""
    op = v.op
    if not isinstance(op, ops.Pad) or op.mode is not PadMode.CONSTANT or v.node is None:
        return None
    pads = (*op.pads_begin, *op.pads_end)
    if any(not isinstance(p, int) or p < 0 for p in pads):
        return None
    if any((*op.pads_begin[:2], *op.pads_end[:2])):
        return None
    return scalar_of(v.node.inputs[1]) if len(v.node.inputs) > 1 else 0.0


def _spatial_pads(v: Value) -> tuple[tuple[int, ...], tuple[int, ...]]:
    op = v.op
    assert isinstance(op, ops.Pad)
    begin, end = (
        tuple(p for p in pads[2:] if isinstance(p, int)) for pads in (op.pads_begin, op.pads_end)
    )
    return begin, end


def _source(v: Value) -> Value:
    assert v.node is not None
    return v.node.inputs[0]


def _sum(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))
