"""What the CPU backend changes in an optimized graph before it chooses kernels."""

from __future__ import annotations

from lamina.backends.cpu.tactics.own_attention import OwnAttention
from lamina.backends.cpu.target import CpuTarget
from lamina.ir.graph import Graph, Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import DeformConvolution, Recurrent
from lamina.passes.cleanup import EliminateDeadNodes, FoldConstants
from lamina.passes.decompose import DecomposeAttention
from lamina.passes.deform import DecomposeDeformConvolution
from lamina.passes.einsum import DecomposeEinsum
from lamina.passes.in_place import AttentionInPlace
from lamina.passes.regions import FuseRegions
from lamina.passes.widen import WidenHalves


def lower(graph: Graph, target: CpuTarget) -> None:
    """Rewrite, in place, what runs better or only in another form on this machine's CPU."""
    kernel = OwnAttention()
    multiplies_bf16 = target.library is not None and target.isa.has("avx512bf16")

    def is_declined(node: Node) -> bool:
        return isinstance(kernel.candidates(node, target), Reject)

    def needs_f32(node: Node) -> bool:
        if isinstance(node.op, Recurrent | DeformConvolution):
            return True
        return node.inputs[0].tensor.dtype is DType.F16 or not multiplies_bf16

    changes = DecomposeAttention(is_declined)(graph) + DecomposeEinsum()(graph)
    changes += WidenHalves(needs_f32)(graph)
    changes += DecomposeDeformConvolution()(graph)
    if changes:
        FoldConstants()(graph)  # widened weights
        FuseRegions()(graph)
    AttentionInPlace()(graph)
    EliminateDeadNodes()(graph)
