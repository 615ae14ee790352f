"""What the CUDA backend changes in an optimized graph before it chooses kernels."""

from __future__ import annotations

from collections.abc import Collection

from lamina.backends.cuda.tactics.attention import TritonAttention
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.graph import Graph, Node
from lamina.ir.pattern import Reject
from lamina.ops import Attention, Concat, Reshape, Transpose
from lamina.passes.cleanup import EliminateDeadNodes, FoldConstants
from lamina.passes.decompose import DecomposeAttention
from lamina.passes.deform import DecomposeDeformConvolution
from lamina.passes.einsum import DecomposeEinsum
from lamina.passes.in_place import AttentionInPlace
from lamina.passes.parallel import MergeParallelConvolutions, MergeParallelMatmuls
from lamina.passes.regions import FuseRegions


def lower(graph: Graph, target: CudaTarget, without: Collection[str] = ()) -> None:
    """Rewrite, in place, what runs better or only in another form on the device.

    ``without`` names passes that the user leaves out.
    """
    kernel = TritonAttention()

    def is_declined(node: Node) -> bool:
        return isinstance(kernel.candidates(node, target), Reject)

    changes = DecomposeAttention(is_declined)(graph) + DecomposeEinsum()(graph)
    if changes + DecomposeDeformConvolution()(graph):
        FoldConstants()(graph)
        FuseRegions()(graph)
    merges = (
        MergeParallelConvolutions(_is_no_part),
        MergeParallelMatmuls(_feeds_attention),  # which reads heads where they are
    )
    for merge in merges:
        if merge.name not in without:
            merge(graph)
    AttentionInPlace()(graph)
    EliminateDeadNodes()(graph)


def _feeds_attention(node: Node) -> bool:
    """Whether attention alone reads a result, as it is or with its heads apart."""

    def ends(n: Node) -> bool:
        return isinstance(n.op, Attention) or (isinstance(n.op, Reshape | Transpose) and leads(n))

    def leads(n: Node) -> bool:
        return bool(n.output.users) and all(map(ends, n.output.users))

    return leads(node)


def _is_no_part(node: Node) -> bool:
    """Whether a result is no part of a concatenation, where it would be written in place."""
    return not any(isinstance(n.op, Concat) for n in node.output.users)
