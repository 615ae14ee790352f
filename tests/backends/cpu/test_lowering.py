"""What the CPU backend rewrites so that nothing of it runs on the host, from model to result."""

from __future__ import annotations

import numpy as np
import pytest
from tests.passes.checking import parse

import lamina
from lamina.backends.cpu.driver import CpuDriver
from lamina.backends.cpu.lowering import lower
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm import target as llvm_target
from lamina.ir.interpret import interpret
from lamina.ir.types import DType
from lamina.ops import Attention, Einsum

ATTENTION = """
graph(%q: f32[b,4,s,8], %k: f32[b,2,t,8], %v: f32[b,2,t,8], %m: bool[b,1,s,t]) {
  %y = attention(%q, %k, %v, %m) scale=0.35
  return %y
}
"""


def _run(text, sizes, tolerance, random=np.random.default_rng(1)):
    graph = parse(text)
    arrays = {}
    for v in graph.inputs:
        shape = tuple(sizes.get(str(d), d) for d in v.tensor.shape)
        x = random.standard_normal(shape)
        is_bool = v.tensor.dtype is DType.BOOL
        arrays[v.name] = x > -0.7 if is_bool else x.astype(v.tensor.dtype.numpy)
    want = interpret(parse(text), list(arrays.values()))
    engine = lamina.build(graph, threads=2, optimization_level=0)
    assert not engine.plan.fallbacks
    results = engine.run(arrays).values()
    for a, b in zip(results, want, strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 17, 33), (1, 130, 70)])
def test_attention_of_sizes_known_at_run_time(sizes):
    _run(ATTENTION, dict(zip("bst", sizes, strict=True)), 5e-6)


def test_decomposed_attention():
    _run(ATTENTION.replace("f32", "f64"), {"b": 2, "s": 5, "t": 6}, 1e-12)


def test_decomposed_causal_attention():
    text = ATTENTION.replace(", %m: bool[b,1,s,t]", "").replace(", %m)", ")")
    text = text.replace("f32", "f64").replace("scale=0.35", "scale=0.35 causal=true softcap=2.0")
    _run(text, {"b": 2, "s": 5, "t": 5}, 1e-12)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk,k->i", ["3,4", "4,5", "5"]),
        ("...ij,...jk->...ik", ["2,3,4", "5,2,4,6"]),
        ("i,j->ij", ["3", "4"]),
        ("bij,bjk,bkl->bil", ["2,3,4", "2,4,5", "2,5,6"]),
        ("...i->...", ["2,3,4"]),
        ("abc,cd->abd", ["2,3,4", "1,5"]),
        ("b...,b->...", ["2,3,4", "2"]),
        ("ab,ac->cb", ["n,4", "n,6"]),
    ],
)
def test_einsum(equation, shapes):
    inputs = ", ".join(f"%x{i}: f32[{s}]" for i, s in enumerate(shapes))
    names = ", ".join(f"%x{i}" for i in range(len(shapes)))
    text = f'graph({inputs}) {{\n  %y = einsum({names}) equation="{equation}"\n  return %y\n}}'
    _run(text, {"n": 7}, 5e-6)


def test_einsum_of_a_diagonal_stays():
    graph = parse('graph(%x: f32[3,3]) {\n  %y = einsum(%x) equation="ii->i"\n  return %y\n}')
    lower(graph, CpuTarget(CpuDriver(2).library, llvm_target.host_isa(), 2, {}))
    assert isinstance(graph.outputs[0].op, Einsum)


def test_halves_are_computed_in_f32():
    text = """
    graph(%x: f16[2,3,8,8], %w: f16[4,3,3,3]) {
      %y = convolution(%x, %w) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
      %z = matmul(%y, %y) transpose_b=true
      return %z
    }"""
    _run(text, {}, 3e-2)


def test_shapes_and_bits():
    text = """
    graph(%x: f32[n,3]) {
      %a = shape(%x)
      %b = bitcast(%x) dtype=i32
      return %a, %b
    }"""
    _run(text, {"n": 5}, 0)


def test_nothing_is_wrapped_without_views():
    graph = parse(ATTENTION)
    lower(graph, CpuTarget(None, llvm_target.host_isa(), 1, {"b": 1, "s": 4, "t": 4}))
    assert isinstance(graph.outputs[0].op, Attention)


@pytest.mark.parametrize(
    ("image", "filters", "groups", "window"),
    [
        ("b,4,9,8", "6,4,3,2", (1, 1), ("(2,1)", "(1,2)", "(1,0)", "(0,2)")),
        ("b,4,9,8", "6,2,3,3", (2, 2), ("(1,1)", "(1,1)", "(1,1)", "(1,1)")),
        ("b,6,5,1", "3,2,1,1", (3, 2), ("(1,1)", "(1,1)", "(0,0)", "(0,0)")),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_deformable_convolution(image, filters, groups, window, masked):
    inputs = f"%x: f32[{image}], %w: f32[{filters}]"
    taps = groups[1] * int(np.prod([int(d) for d in filters.split(",")[2:]]))
    out = {"6,4,3,2": "4,8", "6,2,3,3": "9,8", "3,2,1,1": "5,1"}[filters]
    inputs += f", %o: f32[b,{2 * taps},{out}]"
    names = "%x, %w, %o"
    attributes = ("strides", "dilations", "pads_begin", "pads_end")
    rest = " ".join(f"{name}={value}" for name, value in zip(attributes, window, strict=True))
    if masked:
        inputs += f", %b: f32[{filters.split(',')[0]}], %m: f32[b,{taps},{out}]"
        names += ", %b, %m"
    text = f"""
graph({inputs}) {{
  %y = deform_convolution({names}) {rest} groups={groups[0]} offset_groups={groups[1]}
  return %y
}}
"""
    _run(text, {"b": 2}, 2e-5)
