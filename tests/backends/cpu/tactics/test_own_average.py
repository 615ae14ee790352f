"""Averages of bytes against what the steps of the region mean in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cpu.candidates import run_candidate

from lamina.backends.cpu.tactics.own_average import OwnAverage
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm import target as llvm_target
from lamina.ir.graph import Graph
from lamina.ir.interpret import interpret
from lamina.ir.pattern import Reject
from lamina.ir.text import parse_graph
from lamina.ops import BY_NAME, Region
from lamina.precision.reductions import FuseAverageOfIntegers

TARGET = CpuTarget(None, llvm_target.host_isa(), 2)
needs_vnni = pytest.mark.skipif(not TARGET.isa.has("avx512vnni"), reason="needs AVX-512 VNNI")

STEPS = """
graph(%q: u8[{shape}]) {{
  %a = cast(%q) dtype=f32
  %z = const() type=f32[] value=21.0
  %b = binary(%a, %z) kind=sub
  %s = const() type=f32[] value=0.5
  %x = binary(%b, %s) kind=mul
  %y = pool(%x) kind=average kernel=({k},{k}) strides=({s},{s}) dilations=(1,1) \
pads_begin=({p},{p}) pads_end=({p},{p}){more}
  %t = const() type=f32[] value=0.3183
  %d = binary(%y, %t) kind=div
  %r = unary(%d) kind=round
  %o = const() type=f32[] value={zero}.0
  %e = binary(%r, %o) kind=add
  %c = activation(%e) kind=clip alpha={low} beta={high}
  %n = cast(%c) dtype={dtype}
  return %n
}}
"""


def fused(shape="2,72,9,8", k=3, s=1, p=1, more="", signed=False) -> Graph:
    limits = dict(zero=-20, low=-128.0, high=127.0, dtype="i8")
    if not signed:
        limits = dict(zero=10, low=0.0, high=255.0, dtype="u8")
    graph = parse_graph(STEPS.format(shape=shape, k=k, s=s, p=p, more=more, **limits), BY_NAME)
    assert FuseAverageOfIntegers()(graph) == 1
    return graph


@needs_vnni
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("more", ["", " count_include_pad=true"])
@pytest.mark.parametrize(
    ("shape", "k", "s", "p"),
    [
        ("2,72,9,8", 3, 1, 1),
        ("1,64,8,8", 2, 2, 0),
        ("1,16,7,9", 5, 2, 2),
        ("2,160,7,7", 3, 2, 1),
        ("1,32,7,7", 7, 1, 0),
    ],
)
def test_average(shape, k, s, p, more, signed):
    graph = fused(shape, k, s, p, more, signed)
    (node,) = (n for n in graph.nodes() if isinstance(n.op, Region))
    x = np.random.default_rng(0).integers(0, 256, node.inputs[0].tensor.static_shape)
    x = x.astype(np.uint8)
    (candidate,) = OwnAverage().candidates(node, TARGET)
    (got,) = run_candidate(node, candidate, TARGET, [x])
    (wanted,) = interpret(graph, [x])
    assert got.dtype == wanted.dtype
    # One product takes the place of several roundings to f32: ties may fall to the other side.
    steps = np.abs(got.astype(int) - wanted.astype(int))
    assert steps.max() <= 1
    assert (steps > 0).mean() < 0.005


def test_what_it_declines():
    for changes, word in (
        (dict(shape="1,8,9,8"), "channels"),
        (dict(shape="1,72,9,9", k=9, p=0), "windows"),
    ):
        (node,) = (n for n in fused(**changes).nodes() if isinstance(n.op, Region))
        offered = OwnAverage().candidates(node, TARGET)
        assert isinstance(offered, Reject)
        if TARGET.isa.has("avx512vnni"):
            assert word in offered.reason
