"""Some channels of an image as a view: every kernel here takes strides."""

from __future__ import annotations

from typing import Final

from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import Dim, divides
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ops import Slice
from lamina.tactics.candidate import Candidate
from lamina.tactics.form import Form
from lamina.tactics.relaid import no_step
from lamina.tactics.views import STRIDED_VIEW

_ALIGNMENT: Final = 16


class ChannelView:
    """A slice of channels, channels last, that moves nothing."""

    name = STRIDED_VIEW

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer the view where it begins at an aligned address."""
        if not isinstance(node.op, Slice):
            return None
        if Form.CHANNELS_LAST not in target.forms(node.output.type):
            return Reject("it is no image")
        offset = channel_offset(node)
        if offset is None or not divides(_ALIGNMENT, offset):
            return Reject("it does not begin at a multiple of 16 bytes of some channel")
        forms = (Form.CHANNELS_LAST,)
        return [Candidate(STRIDED_VIEW, forms, forms, 0.0, no_step)]


def channel_offset(node: Node) -> Dim | None:
    """Return the bytes before the first of the channels that a slice takes whole, else None."""
    op, x = node.op, node.inputs[0].tensor
    if not isinstance(op, Slice) or any(s != 1 for s in op.steps):
        return None
    if any(n != d for a, (n, d) in enumerate(zip(op.sizes, x.shape, strict=True)) if a != 1):
        return None
    return op.starts[1] * x.dtype.itemsize
