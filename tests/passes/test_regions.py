"""Regions keep the promises that their compilers rely on."""

from __future__ import annotations

import pytest

from lamina import ops
from lamina.ir.graph import Graph, Node
from lamina.ir.verify import verify
from lamina.passes.clusters import MAX_INPUTS, MAX_NODES, is_rows
from lamina.passes.pipeline import default_pipeline
from lamina.passes.regions import FuseRegions
from tests.passes.checking import assert_same, parse
from tests.passes.random_graphs import RandomGraph

POINTWISE = (ops.Unary, ops.Activation, ops.Binary, ops.Select, ops.Cast)
NORMS = (ops.Softmax, ops.LayerNorm, ops.RmsNorm)


def regions(graph: Graph) -> list[ops.Region]:
    return [n.op for n in graph.nodes() if isinstance(n.op, ops.Region)]


def nodes_of(region: ops.Region) -> list[Node]:
    nodes = list(region.body.nodes())
    for n in nodes:
        assert isinstance(n.op, (*POINTWISE, *NORMS, ops.Reduce, ops.Const))
        assert not isinstance(n.op, ops.Const) or n.output.tensor.size == 1
    return [n for n in nodes if not isinstance(n.op, ops.Const)]


def check_region(region: ops.Region) -> None:
    nodes = nodes_of(region)
    assert 2 <= len(nodes) <= MAX_NODES
    assert len(region.body.inputs) <= MAX_INPUTS
    shapes = {n.output.tensor.shape for n in nodes}
    if region.kind == "pointwise":
        assert all(isinstance(n.op, POINTWISE) for n in nodes)
        assert len(shapes) == 1
        return
    working = [n for n in nodes if not isinstance(n.op, POINTWISE)]
    (whole,) = {n.inputs[0].tensor.shape for n in working}
    axes = {_axes(n) for n in working}
    assert len(axes) == 1
    (along,) = axes
    kept = tuple(1 if i in along else d for i, d in enumerate(whole))
    dropped = tuple(d for i, d in enumerate(whole) if i not in along)
    assert shapes <= {whole, kept, dropped}
    if region.kind == "row":
        assert is_rows(whole, along)
        assert shapes <= {whole, kept}
    else:
        assert region.kind == "reduce"
        assert all(isinstance(n.op, (*POINTWISE, ops.Reduce)) for n in nodes)
        assert {v.tensor.shape for v in region.body.outputs} <= {kept, dropped}


def _axes(node: Node) -> tuple[int, ...]:
    op = node.op
    if isinstance(op, ops.Reduce):
        return op.axes
    if isinstance(op, ops.Softmax):
        return (op.axis,)
    assert isinstance(op, ops.LayerNorm | ops.RmsNorm)
    return tuple(range(op.axis, node.output.tensor.rank))


@pytest.mark.parametrize("seed", range(60))
def test_random_regions(seed: int) -> None:
    graph = RandomGraph(500 + seed).grow(20)
    default_pipeline()(graph)
    for region in regions(graph):
        check_region(region)


def fused(text: str) -> Graph:
    graph = parse(text)
    before = parse(text)
    FuseRegions()(graph)
    verify(graph)
    assert_same(before, graph)
    for region in regions(graph):
        check_region(region)
    return graph


def test_a_diamond_around_a_matmul_makes_no_cycle() -> None:
    graph = fused("""
    graph(%x: f32[4,4]) {
      %w = const() type=f32[4,4] seed=1
      %a = unary(%x) kind=exp
      %b = unary(%a) kind=neg
      %m = matmul(%a, %w)
      %y = binary(%b, %m) kind=add
      %z = unary(%y) kind=tanh
      return %z
    }
    """)
    assert [len(nodes_of(r)) for r in regions(graph)] == [2, 2]


def test_regions_do_not_depend_on_each_other_in_a_circle() -> None:
    graph = fused("""
    graph(%x: f32[4,4], %u: f32[4,4]) {
      %w = const() type=f32[4,4] seed=1
      %a = unary(%x) kind=exp
      %b = unary(%u) kind=neg
      %p = matmul(%a, %w)
      %q = matmul(%b, %w)
      %c = binary(%b, %p) kind=add
      %d = binary(%a, %q) kind=add
      %y = binary(%c, %d) kind=mul
      return %y
    }
    """)
    verify(graph)


def test_softmax_with_its_mask_and_scale_is_one_row_region() -> None:
    graph = fused("""
    graph(%x: f32[2,3,8], %m: f32[2,1,8]) {
      %s = const() type=f32[] value=0.5
      %a = binary(%x, %s) kind=mul
      %b = binary(%a, %m) kind=add
      %t = reduce(%b) kind=max axes=(2,)
      %c = binary(%b, %t) kind=sub
      %e = unary(%c) kind=exp
      %u = reduce(%e) kind=sum axes=(2,)
      %y = binary(%e, %u) kind=div
      return %y
    }
    """)
    (region,) = regions(graph)
    assert region.kind == "row"
    assert len(region.body.inputs) == 2


def test_a_loss_is_one_reduction() -> None:
    graph = fused("""
    graph(%x: f32[6,8], %y: f32[6,8]) {
      %d = binary(%x, %y) kind=sub
      %s = binary(%d, %d) kind=mul
      %m = reduce(%s) kind=mean axes=(0,1) keepdims=false
      %r = unary(%m) kind=sqrt
      return %r
    }
    """)
    (region,) = regions(graph)
    assert region.kind == "reduce"
    assert len(nodes_of(region)) == 4


def test_shape_arithmetic_stays_outside() -> None:
    graph = fused("""
    graph(%x: i64[3], %y: i64[3]) {
      %a = binary(%x, %y) kind=add
      %b = binary(%a, %y) kind=mul
      return %b
    }
    """)
    assert not regions(graph)


def test_long_chains_are_cut_at_the_limit() -> None:
    steps = "\n".join(f"%v{i + 1} = unary(%v{i}) kind=sin" for i in range(150))
    graph = fused(f"graph(%v0: f32[4]) {{\n{steps}\nreturn %v150\n}}")
    assert sum(len(nodes_of(r)) for r in regions(graph)) == 150
    assert len(regions(graph)) == 3
