"""What was offered for a node."""

from __future__ import annotations

from dataclasses import dataclass, field

from lamina.codegen.layout import Layout
from lamina.ir.graph import Node
from lamina.tactics.candidate import Candidate
from lamina.tactics.form import Form, layout


@dataclass
class Choices:
    """What was offered for a node, with times, and what declined."""

    node: Node
    candidates: list[Candidate]
    microseconds: list[float]
    declined: list[tuple[str, str]] = field(default_factory=list)

    def copy(self) -> Choices:
        """Return the same choices, which change without these."""
        rows = [*self.candidates], [*self.microseconds], [*self.declined]
        return Choices(self.node, *rows)


def describe(candidate: Candidate) -> str:
    """Return the tactic with the forms it works on, as the timing cache names it."""
    reads = ",".join(form or "-" for form in candidate.reads)
    return f"{candidate.tactic} [{reads}>{','.join(candidate.writes)}]"


def dense_layouts(
    node: Node, candidate: Candidate
) -> tuple[tuple[Layout, ...], tuple[Layout, ...]]:
    """Return the layouts of operands and results when nothing is a view of anything else."""
    operands = tuple(
        layout(v.type, form or Form.PLAIN)
        for v, form in zip(node.inputs, candidate.reads, strict=True)
    )
    results = tuple(
        layout(v.type, form) for v, form in zip(node.outputs, candidate.writes, strict=True)
    )
    return operands, results
