"""Movements that move nothing: the bytes of the operand are the result in another form."""

from __future__ import annotations

from typing import Protocol

from lamina.ir.graph import Graph, Node
from lamina.ir.pattern import Reject
from lamina.ir.types import TensorType
from lamina.ops import Region, Reshape, Transpose
from lamina.tactics.candidate import Candidate, Draft, Placement
from lamina.tactics.form import BLOCK, Form, layout
from lamina.tactics.views import STRIDED_VIEW, view_offset


class Forms(Protocol):
    """What a target says about forms."""

    def forms(self, type: object) -> tuple[Form, ...]:
        """Return the forms that a value of this type may have."""


class Relaid:
    """A transpose between channels first and last, or of blocks of channels, as a view.

    The operand of such a transpose is read in one form and its result is of another.
    """

    name = STRIDED_VIEW

    def candidates(self, node: Node, target: Forms) -> list[Candidate] | Reject | None:
        """Offer each pair of forms that puts every element where it was."""
        if not isinstance(node.op, Transpose | Region) or view_offset(node) is not None:
            return None
        if len(node.inputs) != 1 or len(node.outputs) != 1:
            return None
        pairs = relaid_forms(node, target)
        if not pairs:
            return Reject("elements move in every form") if isinstance(node.op, Transpose) else None
        return [
            Candidate(STRIDED_VIEW, (read,), (write,), 0.0, no_step, takes_strides=False)
            for read, write in pairs
        ]


def relaid_forms(node: Node, target: Forms) -> list[tuple[Form, Form]]:
    """Return the forms of the operand and the result with which no element moves."""
    x, y = node.inputs[0].type, node.output.type
    if not isinstance(x, TensorType) or not isinstance(y, TensorType):
        return []
    pairs = []
    for read in target.forms(x):
        for write in target.forms(y):
            if isinstance(node.op, Transpose):
                stays = _same_places(node.op, x, y, read, write)
            else:
                assert isinstance(node.op, Region)
                stays = write == Form.BLOCKED and read == Form.PLAIN and _unpacks(node.op.body)
                stays |= write == Form.PLAIN and read == Form.BLOCKED and _packs(node.op.body)
            if stays:
                pairs.append((read, write))
    return pairs


def _same_places(op: Transpose, x: TensorType, y: TensorType, read: Form, write: Form) -> bool:
    if Form.BLOCKED in (read, write):
        return False
    before, after = layout(x, read).strides, layout(y, write).strides
    return all(
        y.shape[axis] == 1 or before[source] == after[axis] for axis, source in enumerate(op.perm)
    )


def _unpacks(body: Graph) -> bool:
    """Whether a body turns whole blocks of channels (NCHWc) into channels: [N, C, ...]."""
    nodes = list(body.nodes())
    if len(nodes) != 2 or not isinstance(nodes[0].op, Transpose):
        return False
    x, y = body.inputs[0].tensor, body.outputs[0].tensor
    last = x.rank - 1
    return (
        nodes[0].op.perm == (0, 1, last, *range(2, last))
        and isinstance(nodes[1].op, Reshape)
        and x.shape[last] == BLOCK
        and y.shape == (x.shape[0], x.shape[1] * BLOCK, *x.shape[2:last])
    )


def _packs(body: Graph) -> bool:
    """Whether a body turns channels into whole blocks of them."""
    nodes = list(body.nodes())
    if len(nodes) != 2 or not isinstance(nodes[1].op, Transpose):
        return False
    x, y = body.inputs[0].tensor, body.outputs[0].tensor
    last = y.rank - 1
    return (
        nodes[1].op.perm == (0, 1, *range(3, y.rank), 2)
        and isinstance(nodes[0].op, Reshape)
        and y.shape[last] == BLOCK
        and x.shape == (y.shape[0], y.shape[1] * BLOCK, *y.shape[2:last])
    )


def no_step(_: Placement) -> Draft:
    """Refuse to be run: a view has no step."""
    raise AssertionError("a view has no step")
