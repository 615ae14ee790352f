"""Halves widened to f32 where the machine multiplies only f32."""

from __future__ import annotations

from collections.abc import Callable

from lamina import ops
from lamina.ir.graph import Graph, Node, Value, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.rewrite import GraphPass
from lamina.ir.types import DType, TensorType
from lamina.passes.contractions import CONTRACTIONS

_HALVES = (DType.F16, DType.BF16)
_PRODUCTS = (*CONTRACTIONS, ops.DeformConvolution, ops.Recurrent)


class WidenHalves(GraphPass):
    """Contractions and recurrent layers of halves compute in f32 and round their results.

    ``wanted`` chooses the nodes; by default all of f16.

    Before::

        graph(%x: f16[2,8], %w: f16[8,4]) {
          %y = matmul(%x, %w)
          return %y
        }

    After::

        graph(%x: f16[2,8], %w: f16[8,4]) {
          %a = cast(%x) dtype=f32
          %b = cast(%w) dtype=f32
          %c = matmul(%a, %b)
          %y = cast(%c) dtype=f16
          return %y
        }
    """

    def __init__(self, wanted: Callable[[Node], bool] | None = None) -> None:
        super().__init__()
        self.wanted = wanted or (lambda node: node.inputs[0].tensor.dtype is DType.F16)

    def run(self, graph: Graph) -> int:
        """Cast the operands and results of each wanted node."""
        count = 0
        for node in list(graph.nodes()):
            if isinstance(node.op, _PRODUCTS) and _is_half(node.inputs[0]) and self.wanted(node):
                _widen(graph, node, self.name)
                count += 1
        return count


def _is_half(v: Value) -> bool:
    return isinstance(v.type, TensorType) and v.type.dtype in _HALVES


def _widen(graph: Graph, node: Node, rule: str) -> None:
    loc = Loc.fused(rule, node.loc)
    wide = ops.Cast(dtype=DType.F32)
    cast = {v: emit(wide, [v], loc=loc) for v in dict.fromkeys(node.inputs) if _is_half(v)}
    made = emit_node(node.op, [cast.get(v, v) for v in node.inputs], loc=loc)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        narrow = emit(ops.Cast(dtype=old.tensor.dtype), [new], loc=loc)
        narrow.name = old.name
        graph.replace(old, narrow)
