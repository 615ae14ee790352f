"""Scales, shifts and batch norms go into every kind of contraction, on both sides."""

from __future__ import annotations

import itertools

import pytest

from lamina import ops
from lamina.ir.graph import Graph
from lamina.ir.verify import verify
from lamina.passes.pipeline import default_pipeline
from lamina.passes.specialize import copy
from tests.passes.checking import assert_same, parse

GEOMETRY = "strides=(2,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)"
CONTRACTIONS = {
    "convolution": ("[6,4,3,3]", f"convolution(%a, %w, %b) {GEOMETRY}"),
    "grouped": ("[6,2,3,3]", f"convolution(%a, %w, %b) {GEOMETRY} groups=2"),
    "deconvolution": ("[4,6,3,3]", f"deconvolution(%a, %w, %b) {GEOMETRY} output_padding=(0,0)"),
    "grouped deconvolution": (
        "[4,3,3,3]",
        f"deconvolution(%a, %w, %b) {GEOMETRY} output_padding=(1,0) groups=2",
    ),
}
BEFORE = {
    "nothing": "%a = reshape(%x) shape=(2,4,7,6)",
    "scale": "%a = binary(%x, %f) kind=mul",
    "batch norm": "%a = batch_norm(%x, %s, %t, %m, %v) epsilon=0.001",
}
NORM = """
  %f = const() type=f32[4,1,1] seed=1
  %s = const() type=f32[4] seed=2
  %t = const() type=f32[4] seed=3
  %m = const() type=f32[4] seed=4
  %v = const() type=f32[4] value=(1.0,2.0,0.5,1.5)
  %s6 = const() type=f32[6] seed=5
  %v6 = const() type=f32[6] value=(1.0,2.0,0.5,1.5,1.0,3.0)
"""


def optimized(graph: Graph) -> dict[str, int]:
    result = copy(graph)
    default_pipeline().without("FuseRegions")(result)
    verify(result)
    assert_same(graph, result)
    names = [n.op.name for n in result.nodes() if not isinstance(n.op, ops.Const)]
    return {name: names.count(name) for name in names}


@pytest.mark.parametrize(("kind", "before"), list(itertools.product(CONTRACTIONS, BEFORE)))
def test_affine_around_convolutions(kind: str, before: str) -> None:
    shape, call = CONTRACTIONS[kind]
    graph = parse(f"""graph(%x: f32[2,4,7,6]) {{{NORM}
      %w = const() type=f32{shape} seed=6
      %b = const() type=f32[6] seed=7
      {BEFORE[before]}
      %c = {call}
      %d = batch_norm(%c, %s6, %b, %s6, %v6) epsilon=0.001
      %y = activation(%d) kind=elu alpha=1.0
      return %y
    }}""")
    counts = optimized(graph)
    # A shift before a deconvolution reaches border elements less often: it stays, and so does the
    # scale before it.
    left = {"binary": 2} if "de" in kind and before == "batch norm" else {}
    assert counts == {kind.split()[-1].replace("grouped", "convolution"): 1, **left}


def test_a_shift_before_padding_stays() -> None:
    graph = parse("""graph(%x: f32[1,4,5,5]) {
      %t = const() type=f32[4,1,1] seed=1
      %w = const() type=f32[6,4,3,3] seed=6
      %a = binary(%x, %t) kind=add
      %y = convolution(%a, %w) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
      return %y
    }""")
    assert optimized(graph) == {"binary": 1, "convolution": 1}


@pytest.mark.parametrize("transposed", [False, True])
def test_affine_around_matmuls(transposed: bool) -> None:
    shape = "[5,8]" if transposed else "[8,5]"
    graph = parse(f"""graph(%x: f32[b,3,8]) {{
      %w = const() type=f32{shape} seed=1
      %f = const() type=f32[8] seed=2
      %g = const() type=f32[1,1,8] seed=3
      %h = const() type=f32[5] seed=4
      %c = const() type=f32[] value=3.0
      %a = binary(%x, %f) kind=mul
      %d = binary(%a, %g) kind=add
      %m = matmul(%d, %w) transpose_b={str(transposed).lower()}
      %n = binary(%m, %h) kind=add
      %o = binary(%n, %c) kind=mul
      %p = binary(%o, %h) kind=mul
      %y = activation(%p) kind=relu
      return %y
    }}""")
    assert optimized(graph) == {"matmul": 1}


def test_a_value_that_others_read_is_left_alone() -> None:
    graph = parse("""graph(%x: f32[2,8]) {
      %w = const() type=f32[8,4] seed=1
      %c = const() type=f32[4] seed=4
      %m = matmul(%x, %w)
      %y = binary(%m, %c) kind=mul
      return %m, %y
    }""")
    assert optimized(graph) == {"matmul": 1, "binary": 1}


def test_residuals_and_activations_in_every_order() -> None:
    graph = parse("""graph(%x: f32[1,4,5,5], %r: f32[1,4,5,5]) {
      %w = const() type=f32[4,4,1,1] seed=6
      %u = const() type=f32[4,4,1,1] seed=7
      %a = convolution(%x, %w) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
      %b = activation(%a) kind=relu
      %c = binary(%b, %r) kind=add
      %d = convolution(%c, %w) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
      %e = convolution(%c, %u) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
      %f = binary(%d, %x) kind=add
      %y = activation(%f) kind=relu
      return %y, %e
    }""")
    # The activation comes before the first sum: that one stays.
    assert optimized(graph) == {"convolution": 3, "binary": 1}
