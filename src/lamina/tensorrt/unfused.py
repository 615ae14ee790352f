"""Tensors that no fusion has swallowed, as debug tensors."""

from __future__ import annotations

from collections.abc import Collection

from lamina.ir.graph import Graph
from lamina.ir.types import TensorType
from lamina.plan.plan import Plan
from lamina.tensorrt.foundation.dtype import has_dtype
from lamina.tensorrt.lower import Lowered


def unfused_tensors(plan: Plan, lowered: Lowered) -> tuple[str, ...]:
    """Return the tensors of a network that steps of its plan write, outputs left out."""
    alive = {v for node in lowered.graph.nodes() for v in node.outputs}
    outputs = set(lowered.graph.output_names)
    known = {
        name
        for name, v in lowered.values.items()
        if v in alive and isinstance(v.type, TensorType) and has_dtype(v.type.dtype)
    }
    found: dict[str, None] = {}
    for section in plan.sections:
        for step in section.program.steps:
            found |= dict.fromkeys(section.program.tensors[t].name for t in step.writes)
    return tuple(name for name in found if name in known - outputs)


def show(graph: Graph, lowered: Lowered, names: Collection[str]) -> None:
    """Make tensors outputs of the graph; they were results of steps, and stay that."""
    for name in names:
        graph.output(lowered.values[name], name)
