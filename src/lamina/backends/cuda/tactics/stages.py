"""Regions of convolutions that run in one kernel: their operators, and where their operands lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Final

from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import Convolved
from lamina.backends.cuda.tactics.windows import Image
from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.layout import Layout
from lamina.ir.graph import Node, Value
from lamina.ir.types import DType
from lamina.ops import Convolution, Region
from lamina.passes.fusion import KIND
from lamina.tactics.candidate import Placement, Read, Role, Scratch, Write, constant
from lamina.tactics.form import Form, layout

_MATRIX_RANK: Final = 3
"""Rank from which on an operand is an image or filters."""
_RESIDUAL: Final = 3
"""Number of the operand that a convolution adds."""


@dataclass(frozen=True)
class Stages:
    """A region with its operators on the operands of the region, in order of evaluation."""

    region: Node
    nodes: tuple[Node, ...]
    results: tuple[Value, ...]
    """What the body calls the results of the region."""

    @property
    def reads(self) -> tuple[Form | None, ...]:
        """Forms of the operands: filters are packed, images lie channels last."""
        return tuple(map(_read_form, self.region.inputs))

    @property
    def writes(self) -> tuple[Form, ...]:
        """Forms of the results."""
        return (Form.CHANNELS_LAST,) * len(self.results)

    @cached_property
    def dense(self) -> Placement:
        """Return where everything lies when nothing is a view."""
        operands = [layout(v.tensor, f or Form.PLAIN) for v, f in self._operands]
        results = [layout(v.tensor, Form.CHANNELS_LAST) for v in self.results]
        return Placement(tuple(operands), tuple(results), "")

    @property
    def _operands(self) -> list[tuple[Value, Form | None]]:
        return list(zip(self.region.inputs, self.reads, strict=True))

    def role(self, v: Value) -> Role:
        """Return the operand or result of the region that a value is; others stay on the chip."""
        if v in self.region.inputs:
            return Read(self.region.inputs.index(v))
        return Write(self.results.index(v)) if v in self.results else Scratch()

    def where(self, v: Value, at: Placement) -> Layout:
        """Return where a value lies."""
        match self.role(v):
            case Read(i):
                return at.operands[i]
            case Write(i):
                return at.results[i]
        return layout(v.tensor, Form.CHANNELS_LAST)

    def convolved(
        self, node: Node, at: Placement, target: CudaTarget, *, matrix: bool = True
    ) -> Convolved:
        """Return a convolution of the region with the roles that its operands have there."""
        case = case_of(node, target)
        assert isinstance(case, Case)
        places = [self.where(v, at) for v in node.inputs]
        inner = Placement(tuple(places), (self.where(node.output, at),), "")
        (c,) = case.convolved(inner, matrix=matrix)

        def named(image: Image) -> Image:
            return replace(image, role=self._outer(node, image.role))

        return replace(
            c,
            x=named(c.x),
            y=named(c.y),
            residual=None if c.residual is None else named(c.residual),
            bias=None if c.bias is None else (self._outer(node, c.bias[0]), c.bias[1]),
        )

    def _outer(self, node: Node, role: Role) -> Role:
        if isinstance(role, Read):
            return self.role(node.inputs[role.index])
        return self.role(node.output) if isinstance(role, Write) else role


def stages_of(node: Node) -> Stages | None:
    """Return the stages of a region of convolutions; None for other nodes."""
    if not isinstance(node.op, Region) or node.op.kind != KIND:
        return None
    body = node.op.body
    outer = dict(zip(body.inputs, node.inputs, strict=True))
    nodes = []
    for n in body.nodes():
        inputs = tuple(outer.get(v, v) for v in n.inputs)
        nodes.append(Node(n.op, inputs, n.outputs, n.loc))
    return Stages(node, tuple(nodes), tuple(body.outputs))


def _read_form(v: Value) -> Form | None:
    if v.tensor.rank < _MATRIX_RANK:
        return Form.PLAIN
    return Form.CHANNELS_LAST if constant(v) is None else None


@dataclass(frozen=True)
class Chain:
    """Convolutions that feed each other: ``front``, a pointwise ``middle``, a pointwise ``back``.

    ``other`` is a second convolution that the middle's sum takes in.
    """

    middle: Node
    front: Node | None = None
    other: Node | None = None
    back: Node | None = None

    @property
    def dtype(self) -> DType:
        """Type of the images."""
        return self.middle.output.tensor.dtype


def chain_of(stages: Stages) -> Chain | None:
    """Return what the convolutions of a region are to each other; None if they are no chain."""
    nodes = list(stages.nodes)
    if not all(isinstance(n.op, Convolution) for n in nodes):
        return None
    made = {n.output: n for n in nodes}
    added = [n.inputs[_RESIDUAL] for n in nodes if len(n.inputs) > _RESIDUAL]
    other = next((made[v] for v in added if v in made), None)
    row = [n for n in nodes if n is not other]
    if any(b.inputs[0] is not a.output for a, b in pairwise(row)):
        return None
    first = row[0]
    in_front = len(first.inputs) <= _RESIDUAL and first.output not in stages.results
    front = first if len(row) > 1 and in_front else None
    middle, *rest = row[1:] if front else row
    if len(rest) > 1 or any(len(n.inputs) > _RESIDUAL for n in row if n is not middle):
        return None
    return Chain(middle=middle, front=front, other=other, back=rest[0] if rest else None)
