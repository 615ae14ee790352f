"""Where operands and results of chosen candidates lie: dense, or inside larger values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lamina.codegen.layout import Layout
from lamina.ir.graph import Node, Value
from lamina.ir.types import TensorType
from lamina.tactics.candidate import Candidate, Placement, constant
from lamina.tactics.form import Form, layout
from lamina.tactics.views import STRIDED_VIEW, ViewPlan


@dataclass(frozen=True)
class Placements:
    """Tells where values lie once forms and views are decided."""

    chosen: Mapping[Node, Candidate]
    forms: Mapping[Value, str]
    views: ViewPlan

    def of(self, node: Node, candidate: Candidate) -> Placement:
        """Return where a candidate of ``node`` finds its operands and leaves its results."""
        return Placement(
            tuple(
                self._read(v, form or Form.PLAIN)
                for v, form in zip(node.inputs, candidate.reads, strict=True)
            ),
            tuple(
                self._written(v, form)
                for v, form in zip(node.outputs, candidate.writes, strict=True)
            ),
            "",
        )

    def _read(self, v: Value, form: str) -> Layout:
        """Return where an operand lies: as it was written, or dense behind a reorder."""
        if constant(v) is not None or self.forms.get(v, Form.PLAIN) != form:
            return layout(v.tensor, form)
        return self._written(v, form)

    def _written(self, v: Value, form: str) -> Layout:
        assert isinstance(v.type, TensorType)
        parent = self.views.parent(v)
        if parent is not None:
            inner = self._written(parent[0], form)
            return Layout(inner.strides, 0, inner.block_axis, inner.block)
        candidate = self.chosen.get(v.node) if v.node is not None else None
        if candidate is not None and candidate.tactic == STRIDED_VIEW and form != Form.PLAIN:
            assert v.node is not None
            return self._read(v.node.inputs[0], form)
        return layout(v.type, form)
