"""Recurrent layers that round what they multiply, and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from lamina import ops
from lamina.ir.graph import Graph, emit_node
from lamina.ir.loc import Loc
from lamina.ir.rewrite import GraphPass
from lamina.ir.types import DType


class RoundRecurrentFactors(GraphPass):
    """Recurrent layers multiply bf16; their operands, sums, gates, states and results stay f32.

    A state that were bf16 itself would lose what a step adds to it.

    Before::

        graph(%x: f32[5,2,4], %h: f32[1,2,3]) {
          %w = const() type=f32[1,3,4] seed=1
          %r = const() type=f32[1,3,3] seed=2
          %b = const() type=f32[1,6] seed=3
          %y, %l, %c = recurrent(%x, %w, %r, %b, %h, %h) kind=rnn hidden_size=3 \
direction=forward activations=({tanh,0.0,0.0})
          return %y
        }

    After::

        graph(%x: f32[5,2,4], %h: f32[1,2,3]) {
          %w = const() type=f32[1,3,4] seed=1
          %r = const() type=f32[1,3,3] seed=2
          %b = const() type=f32[1,6] seed=3
          %y, %l, %c = recurrent(%x, %w, %r, %b, %h, %h) kind=rnn hidden_size=3 \
direction=forward activations=({tanh,0.0,0.0}) factors=bf16
          return %y
        }
    """

    def __init__(self, kept: Collection[str] = ()) -> None:
        """``kept`` names source nodes that go on multiplying f32."""
        super().__init__()
        self.kept = kept

    def run(self, graph: Graph) -> int:
        """Change each f32 layer."""
        count = 0
        for node in list(graph.nodes()):
            op = node.op
            if not isinstance(op, ops.Recurrent) or op.factors is not DType.F32:
                continue
            if node.inputs[0].tensor.dtype is not DType.F32 or node.loc.comes_from(self.kept):
                continue
            loc = Loc.fused(self.name, node.loc)
            made = emit_node(replace(op, factors=DType.BF16), node.inputs, loc=loc)
            for old, new in zip(node.outputs, made.outputs, strict=True):
                new.name = old.name
                graph.replace(old, new)
            count += 1
        return count
