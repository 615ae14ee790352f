"""The attention kernel against the operator's meaning, alone and on heads in place."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tests.backends.cpu.candidates import run_candidate
from tests.passes.checking import parse

from lamina import ops
from lamina.backends.cpu.driver import CpuDriver
from lamina.backends.cpu.tactics import own_attention
from lamina.backends.cpu.tactics.own_attention import OwnAttention
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm import target as llvm_target
from lamina.ir.dims import sym
from lamina.ir.graph import Graph, emit_node
from lamina.ir.loc import Loc
from lamina.ir.pattern import Reject
from lamina.ir.types import DType, TensorType
from lamina.passes.in_place import KIND, AttentionInPlace

HOST = llvm_target.host_isa()
ISAS = sorted({HOST, llvm_target.AVX2}, key=lambda isa: isa.name)
TOLERANCE = {DType.F32: 5e-6, DType.BF16: 1e-2, DType.F16: 1e-3}

CASES = {
    "one block": ((1, 2, 2, 33, 64, 64, 64), None, {}),
    "odd sizes": ((2, 4, 2, 13, 29, 20, 12), None, {}),
    "many blocks": ((1, 3, 1, 7, 1030, 17, 33), None, {"causal": True, "causal_offset": 1023}),
    "causal": ((2, 2, 2, 50, 50, 8, 64), None, {"causal": True}),
    "mask of a row": ((2, 2, 2, 20, 70, 8, 64), ((2, 1, 1, 70), False), {}),
    "mask of a column": ((2, 2, 2, 20, 70, 8, 64), ((20, 1), False), {"softcap": 2.0}),
    "kept keys": ((2, 2, 1, 20, 70, 8, 64), ((2, 2, 20, 70), True), {}),
    "nothing seen": (
        (2, 2, 1, 50, 90, 40, 40), ((1, 2, 1, 90), True), {"causal": True, "causal_offset": -20}
    ),
    "heads share keys": (
        (2, 8, 2, 5, 70, 16, 24), ((2, 8, 5, 70), False), {"causal": True, "causal_offset": 60}
    ),
    "one query of each head": ((2, 8, 2, 1, 90, 16, 16), ((2, 8, 1, 90), True), {}),
    "one query": ((1, 1, 1, 1, 300, 64, 64), None, {}),
    "one value": ((1, 1, 1, 40, 33, 40, 1), None, {}),
}  # fmt: skip


def _node(sizes, mask, options, dtype):
    rng = np.random.default_rng(len(str(sizes)))
    b, h, shared, s, t, d, dv = sizes
    shapes = [(b, h, s, d), (b, shared, t, d), (b, shared, t, dv)]
    arrays = [rng.standard_normal(shape).astype(dtype.numpy) for shape in shapes]
    if mask is not None:
        shape, keep = mask
        random = rng.standard_normal(shape)
        arrays.append(random > -0.5 if keep else random.astype(dtype.numpy))
    graph = Graph()
    operands = [
        graph.input(f"i{k}", TensorType(DType.of(a.dtype), a.shape)) for k, a in enumerate(arrays)
    ]
    return emit_node(ops.Attention(scale=0.3, **options), operands, loc=Loc("test")), arrays


def _target(isa=HOST, **env):
    return CpuTarget(CpuDriver(2).library, isa, 2, env)


def _check(node, arrays, target, tolerance):
    (candidate,) = OwnAttention().candidates(node, target)
    (got,) = run_candidate(node, candidate, target, arrays)
    want = node.op.reference(*arrays)
    want = want[0] if isinstance(want, tuple) else want
    assert got.dtype == want.dtype
    np.testing.assert_allclose(
        got.astype(np.float64), want.astype(np.float64), rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("case", CASES)
def test_results(case, isa):
    node, arrays = _node(*CASES[case], DType.F32)
    _check(node, arrays, _target(isa), TOLERANCE[DType.F32])


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16])
def test_narrow_operands(dtype):
    node, arrays = _node((2, 2, 2, 20, 70, 24, 40), ((20, 70), False), {}, dtype)
    _check(node, arrays, _target(), 2 * TOLERANCE[dtype])


@pytest.mark.parametrize("heads", [(2, 2), (4, 1)])
def test_small_blocks_keep_running_maximum(monkeypatch, heads):
    options = {"causal": True, "causal_offset": 180}
    node, arrays = _node((1, *heads, 20, 200, 8, 8), None, options, DType.F32)
    config = own_attention.AttentionConfig(rows=12, keys=64)
    monkeypatch.setattr(own_attention, "_config", lambda problem, target: config)
    arrays[1][:, :, 150:] *= 20  # the maximum moves in a later block
    _check(node, arrays, _target(), 4 * TOLERANCE[DType.F32])  # of scores as large as 50


IN_PLACE = """
graph(%x: f32[2,37,72], %m: f32[2,1,1,37]) {
  %a = slice(%x) starts=(0,0,0) sizes=(2,37,24) steps=(1,1,1)
  %b = reshape(%a) shape=(2,37,3,8)
  %q = transpose(%b) perm=(0,2,1,3)
  %c = slice(%x) starts=(0,0,24) sizes=(2,37,24) steps=(1,1,1)
  %d = reshape(%c) shape=(2,37,3,8)
  %k = transpose(%d) perm=(0,2,1,3)
  %e = slice(%x) starts=(0,0,48) sizes=(2,37,24) steps=(1,1,1)
  %f = reshape(%e) shape=(2,37,3,8)
  %v = transpose(%f) perm=(0,2,1,3)
  %s = attention(%q, %k, %v, %m) scale=0.5
  %t = transpose(%s) perm=(0,2,1,3)
  %y = reshape(%t) shape=(2,37,24)
  return %y
}
"""


def test_heads_in_place():
    graph = parse(IN_PLACE)
    assert AttentionInPlace()(graph) == 1
    node = graph.outputs[0].node
    assert node.op.kind == KIND
    assert len(list(graph.nodes())) == 1
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal(v.tensor.static_shape).astype(np.float32) for v in node.inputs]
    _check(node, arrays, _target(), TOLERANCE[DType.F32])


def test_bf16_around_f32_attention():
    text = IN_PLACE.replace("f32[2,37,72]", "bf16[2,37,72]")
    for name in "qkv":
        text = text.replace(f"%{name} = transpose", f"%{name}0 = transpose")
    casts = "".join(f"  %{name} = cast(%{name}0) dtype=f32\n" for name in "qkv")
    text = text.replace("  %s = attention", casts + "  %s = attention")
    text = text.replace("%y = reshape(%t) shape=(2,37,24)", "%w = reshape(%t) shape=(2,37,24)")
    text = text.replace("  return %y", "  %y = cast(%w) dtype=bf16\n  return %y")
    graph = parse(text)
    assert AttentionInPlace()(graph) == 1
    node = graph.outputs[0].node
    assert len(list(graph.nodes())) == 1
    rng = np.random.default_rng(6)
    arrays = [
        rng.standard_normal(v.tensor.static_shape).astype(v.tensor.dtype.numpy) for v in node.inputs
    ]
    _check(node, arrays, _target(), TOLERANCE[DType.BF16])


def test_symbolic_sizes_are_parameters():
    graph = Graph()
    b, s, t = sym("b"), sym("s"), sym("t")
    shapes = [(b, 4, s, 8), (b, 2, t, 8), (b, 2, t, 8)]
    operands = [graph.input(f"i{k}", TensorType(DType.F32, x)) for k, x in enumerate(shapes)]
    node = emit_node(ops.Attention(scale=0.3), operands, loc=Loc("test"))
    (candidate,) = OwnAttention().candidates(node, _target(b=1, s=16, t=16))
    assert candidate.tactic == "attention"
    assert isinstance(OwnAttention().candidates(node, _target()), list)


def test_declines():
    node, _ = _node((1, 1, 1, 2, 2, 600, 8), None, {}, DType.F32)
    reason = OwnAttention().candidates(node, _target())
    assert isinstance(reason, Reject)
    assert "600" in reason.reason
    text = """graph(%q: f32[b,1,s,8], %m: f32[n,1,1,s]) {
      %y = attention(%q, %q, %q, %m) scale=1.0
      return %y
    }"""
    reason = OwnAttention().candidates(parse(text).outputs[0].node, _target(b=2, s=3, n=1))
    assert isinstance(reason, Reject)
    assert "axis 0" in reason.reason
    node, _ = _node((1, 1, 1, 2, 2, 8, 8), None, {}, DType.F64)
    assert isinstance(OwnAttention().candidates(node, _target()), Reject)
    assert dataclasses.is_dataclass(reason)
