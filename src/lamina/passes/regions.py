"""Fusion of pointwise work, row normalizations and reductions into regions.

What a region promises to whoever compiles it:

- its body holds only Unary, Activation, Binary, Select, Cast, Reduce, Softmax, LayerNorm and
  RmsNorm, and constants of one element;
- ``pointwise``: every result inside has the same shape S; inputs broadcast to it;
- ``row``: S is cut into rows by an axis; results have the shape S or, with ones from that axis on,
  one element per row.  Softmax and norms work on whole rows, reductions keep their axes;
- ``reduce``: reductions of values of shape S over the same axes, with pointwise work of shape S
  before and of the reduced shape R after; all outputs have the shape R (axes kept or dropped).

Any value inside may be an output.  Nothing is computed twice, and a region never contains a path
that leaves it and comes back.
"""

from __future__ import annotations

import time
from typing import ClassVar

from lamina import ops
from lamina.errors import where
from lamina.ir.graph import Graph, Value, emit_node
from lamina.ir.loc import Loc
from lamina.ir.rewrite import GraphPass
from lamina.passes.clusters import Cluster, Clusters
from lamina.passes.constants import array_of
from lamina.passes.epilogue import FuseActivation, FuseResidual


class FuseRegions(GraphPass):
    """Pointwise operators, row norms and reductions that feed each other become one region.

    Before::

        graph(%x: f32[2,8], %r: f32[2,8]) {
          %s = const() type=f32[8] seed=1
          %c = const() type=f32[] value=2.0
          %a = binary(%x, %r) kind=add
          %n = layer_norm(%a, %s) axis=1 epsilon=1e-05
          %y = binary(%n, %c) kind=mul
          return %a, %y
        }

    After::

        graph @1(%i0: f32[2,8], %i1: f32[2,8], %i2: f32[8]) {
          %c = const() type=f32[] value=2.0
          %a = binary(%i0, %i1) kind=add
          %n = layer_norm(%a, %i2) axis=1 epsilon=1e-05
          %y = binary(%n, %c) kind=mul
          return %a, %y
        }
        graph(%x: f32[2,8], %r: f32[2,8]) {
          %s = const() type=f32[8] seed=1
          %a, %y = region(%x, %r, %s) body=@1 kind="row"
          return %a, %y
        }
    """

    MIN_NODES: ClassVar[int] = 2
    after = (FuseActivation, FuseResidual)

    def __call__(self, graph: Graph) -> int:
        """Run here and in the bodies of control flow, but not in regions made before."""
        for node in graph.nodes():
            if isinstance(node.op, ops.If | ops.Loop):
                for body in (v for v in vars(node.op).values() if isinstance(v, Graph)):
                    self(body)
        begin = time.perf_counter()
        with where(f"in pass {self.name}"):
            count = self.run(graph)
        self.statistics.hits += count
        self.statistics.seconds += time.perf_counter() - begin
        return count

    def run(self, graph: Graph) -> int:
        """Cluster the nodes in order of evaluation and replace every cluster of at least two."""
        clusters = Clusters(graph)
        for node in graph.nodes():
            clusters.add(node)
        count = 0
        for cluster in clusters.fusible():
            if len(cluster.nodes) >= self.MIN_NODES:
                _replace(graph, cluster, self.name)
                count += 1
        return count


def _replace(graph: Graph, cluster: Cluster, rule: str) -> None:
    nodes = cluster.nodes
    inside = {v for n in nodes for v in n.outputs}
    outputs = [n.output for n in nodes if _leaves(graph, n.output, cluster)]
    body = Graph()
    env: dict[Value, Value] = {}
    operands: list[Value] = []
    for node in nodes:
        for v in node.inputs:
            if v in env or v in inside:
                continue
            if _is_number(v):
                assert v.node is not None
                env[v] = emit_node(v.node.op, (), loc=v.loc).output
            else:
                env[v] = body.input(f"i{len(operands)}", v.type, v.loc)
                operands.append(v)
        new = emit_node(node.op, [env[v] for v in node.inputs], loc=node.loc)
        new.output.name = node.output.name
        env[node.output] = new.output
    for i, v in enumerate(outputs):
        body.output(env[v], v.name or f"o{i}")
    loc = Loc.fused(rule, *(n.loc for n in nodes))
    region = emit_node(ops.Region(body=body, kind=_kind(cluster, outputs)), operands, loc=loc)
    for old, made in zip(outputs, region.outputs, strict=True):
        made.name = old.name
        graph.replace(old, made)


def _kind(cluster: Cluster, outputs: list[Value]) -> str:
    if cluster.axes is None:
        return "pointwise"
    whole = any(v.tensor.shape == cluster.shape for v in outputs)
    norms = any(not isinstance(n.op, ops.Reduce) and cluster.is_row_op(n) for n in cluster.nodes)
    return "row" if whole or norms else "reduce"


def _leaves(graph: Graph, v: Value, cluster: Cluster) -> bool:
    users = sum(u in cluster.members for u in v.users)
    return graph.uses(v) > users


def _is_number(v: Value) -> bool:
    a = array_of(v)
    return a is not None and a.size == 1
