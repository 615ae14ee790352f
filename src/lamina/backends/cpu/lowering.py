"""What the CPU backend changes in an optimized graph before it chooses kernels."""

from __future__ import annotations

from lamina.backends.cpu.tactics.candidate import CpuTarget
from lamina.backends.cpu.tactics.own_attention import OwnAttention
from lamina.ir.graph import Graph, Node
from lamina.ir.pattern import Reject
from lamina.ops import Attention
from lamina.passes.cleanup import EliminateDeadNodes
from lamina.passes.decompose import DecomposeAttention
from lamina.passes.in_place import AttentionInPlace
from lamina.passes.regions import FuseRegions


def lower(graph: Graph, target: CpuTarget) -> None:
    """Rewrite, in place, what runs better or only in another form on this machine's CPU."""
    kernel = OwnAttention()

    def is_declined(node: Node) -> bool:
        offered = kernel.candidates(node, target)
        return isinstance(node.op, Attention) and isinstance(offered, Reject)

    if DecomposeAttention(is_declined)(graph):
        FuseRegions()(graph)
    AttentionInPlace()(graph)
    EliminateDeadNodes()(graph)
