"""The whole pipeline keeps the meaning of graphs and finds what it is there to find."""

from __future__ import annotations

from collections import Counter

import pytest

from lamina import ops
from lamina.ir.graph import Graph
from lamina.ir.interpret import interpret
from lamina.ir.text import print_graph
from lamina.ir.verify import verify
from lamina.passes.pipeline import OPTIMIZE, default_pipeline
from lamina.passes.specialize import copy, specialize
from tests.passes.checking import assert_results_equal, assert_same, parse, random_inputs
from tests.passes.random_graphs import RandomGraph


def optimized(graph: Graph, *left_out: str) -> Graph:
    result = copy(graph)
    default_pipeline().without(*left_out)(result)
    verify(result)
    return result


def ops_of(graph: Graph) -> Counter[str]:
    return Counter(n.op.name for n in graph.nodes() if not isinstance(n.op, ops.Const))


@pytest.mark.parametrize("seed", range(120))
def test_random_graphs_keep_their_results(seed: int) -> None:
    graph = RandomGraph(seed).grow(5 + seed % 20)
    verify(graph)
    inputs = random_inputs(graph, seed)
    expected = interpret(graph, inputs)
    assert_results_equal(expected, interpret(optimized(graph), inputs))


@pytest.mark.parametrize("seed", range(20))
def test_optimizing_twice_changes_nothing_more(seed: int) -> None:
    graph = optimized(RandomGraph(1000 + seed).grow(15), "FuseRegions")
    again = optimized(graph, "FuseRegions")
    assert sum(ops_of(again).values()) <= sum(ops_of(graph).values())
    assert_same(graph, again)


def test_every_pass_can_be_left_out() -> None:
    graph = RandomGraph(7).grow(20)
    inputs = random_inputs(graph)
    expected = interpret(graph, inputs)
    for name in sorted({p.name for p in OPTIMIZE.rules()}):
        assert name not in {p.name for p in OPTIMIZE.without(name).rules()}
        assert_results_equal(expected, interpret(optimized(graph, name), inputs))


def test_unknown_pass_names_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no pass Nonsense"):
        OPTIMIZE.without("Nonsense")


RESIDUAL_BLOCK = """
graph(%x: f32[b,4,6,6]) {
  %w = const() type=f32[4,4,3,3] seed=1
  %s = const() type=f32[4] seed=2
  %z = const() type=f32[4] seed=3
  %m = const() type=f32[4] seed=4
  %v = const() type=f32[4] value=(1.0,2.0,0.5,1.5)
  %p = pad(%x) pads_begin=(0,0,1,1) pads_end=(0,0,1,1)
  %a = convolution(%p, %w) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
  %b = batch_norm(%a, %s, %z, %m, %v) epsilon=1e-05
  %c = activation(%b) kind=relu
  %d = convolution(%c, %w) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
  %e = batch_norm(%d, %s, %z, %m, %v) epsilon=1e-05
  %f = binary(%e, %x) kind=add
  %y = activation(%f) kind=relu
  return %y
}
"""


def test_a_residual_block_becomes_two_convolutions() -> None:
    graph = parse(RESIDUAL_BLOCK)
    result = optimized(graph)
    assert ops_of(result) == {"convolution": 2}
    last = result.outputs[0].node
    assert last is not None
    assert len(last.inputs) == 4
    assert str(last.op).endswith("activation={relu,0.0,0.0}")
    assert_same(graph, result)


def test_nhwc_exports_lose_their_transposes() -> None:
    graph = parse("""
    graph(%x: f32[1,3,8,8]) {
      %v = const() type=f32[4,3,3,3] seed=1
      %w = const() type=f32[4,4,3,3] seed=2
      %b = const() type=f32[4] seed=3
      %c = const() type=f32[1,1,1,4] seed=4
      %a = convolution(%x, %v) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
      %n = transpose(%a) perm=(0,2,3,1)
      %o = binary(%n, %b) kind=add
      %p = activation(%o) kind=relu
      %q = transpose(%p) perm=(0,3,1,2)
      %r = convolution(%q, %w) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
      %s = transpose(%r) perm=(0,2,3,1)
      %t = binary(%s, %c) kind=add
      %u = binary(%t, %p) kind=add
      %m = reduce(%u) kind=mean axes=(1,2) keepdims=false
      return %m
    }
    """)
    result = optimized(graph)
    assert ops_of(result) == {"convolution": 2, "reduce": 1}
    assert_same(graph, result)


def test_flattened_linear_layers_lose_their_reshapes() -> None:
    graph = parse("""
    graph(%x: f32[2,s,8]) {
      %w = const() type=f32[6,8] seed=1
      %b = const() type=f32[6] seed=3
      %a = reshape(%x) shape=(2*s,8)
      %c = matmul(%a, %w) transpose_b=true
      %d = binary(%c, %b) kind=add
      %e = activation(%d) kind=silu alpha=1.0
      %f = reshape(%e) shape=(2,s,6)
      return %f
    }
    """)
    result = optimized(graph)
    assert ops_of(result) == {"matmul": 1}
    assert_same(graph, result)


def test_specialize_replaces_symbols_everywhere() -> None:
    graph = parse(RESIDUAL_BLOCK)
    small = specialize(graph, {"b": 2})
    verify(small)
    assert "b," not in print_graph(small)
    assert small.inputs[0].tensor.shape == (2, 4, 6, 6)
    assert graph.inputs[0].tensor.shape != (2, 4, 6, 6)
    assert_same(graph, small)


def test_specialize_reaches_nested_graphs() -> None:
    graph = parse("""
    graph @1(%a: f32[n,4]) {
      %b = expand(%a) shape=(2,n,4)
      return %b
    }
    graph @2(%a: f32[n,4]) {
      %b = unary(%a) kind=abs
      %c = expand(%b) shape=(2,n,4)
      return %c
    }
    graph(%c: bool[], %x: f32[n,4]) {
      %y = if(%c, %x) then_branch=@1 else_branch=@2
      return %y
    }
    """)
    small = specialize(graph, {"n": 3})
    verify(small)
    assert "n" not in {s for v in small.outputs for s in map(str, v.tensor.shape)}
    assert_same(graph, small)


def test_copies_share_no_nodes() -> None:
    graph = parse(RESIDUAL_BLOCK)
    other = copy(graph)
    assert print_graph(graph) == print_graph(other)
    assert not set(graph.nodes()) & set(other.nodes())
