"""Kernels that the code generator makes from an operator or a fused region."""

from __future__ import annotations

from lamina.backends.cpu.tactics.candidate import Candidate, CpuTarget
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject


class Generated:
    """Everything that is not a contraction."""

    name = "codegen"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer one kernel for each form that all operands can share."""
        return None
