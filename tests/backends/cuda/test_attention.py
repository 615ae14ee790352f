"""The attention kernel against the operator's meaning, and its code for every architecture."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cuda.interpreter import run

from lamina import ops
from lamina.backends.cuda.compile import MachineCode
from lamina.backends.cuda.tactics.attention import TritonAttention
from lamina.backends.cuda.tactics.attention_once import TritonAttentionOnce, pieces
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.codegen.layout import Layout
from lamina.ir.interpret import interpret
from lamina.ir.text import parse_graph
from lamina.ir.types import TensorType
from lamina.passes.in_place import AttentionInPlace
from lamina.tactics.candidate import Placement

TOLERANCE = {"f32": 2e-6, "f16": 2e-3, "bf16": 2e-2}


def drafts(graph, arch=90, pick=lambda c: True, tactic=TritonAttention):
    node = graph.outputs[0].node
    found = tactic().candidates(node, TARGETS[arch])
    assert isinstance(found, list), found
    dense = Placement(
        tuple(Layout.dense(v.tensor.shape) for v in node.inputs),
        (Layout.dense(node.output.tensor.shape),),
        "",
    )
    return node, [(c, c.draft(dense)) for c in found if pick(c)]


def check(
    text, configs=("16x32 w2", "32x64 w4", "64x32 w4"), env=None, seed=0, tactic=TritonAttention
):
    graph = parse_graph(text, ops.BY_NAME)
    AttentionInPlace()(graph)
    rng = np.random.default_rng(seed)
    inputs = []
    for v in graph.inputs:
        type: TensorType = v.tensor.substitute(env or {})
        x = rng.standard_normal(type.static_shape)
        inputs.append((x > 0.3) if type.dtype.value == "bool" else x.astype(type.dtype.numpy))
    expected = interpret(graph, inputs)[0]
    node, found = drafts(graph, pick=lambda c: any(w in c.tactic for w in configs), tactic=tactic)
    assert len(found) >= len(configs)
    order = [graph.inputs.index(v) for v in node.inputs]
    for candidate, draft in found:
        y = np.full(expected.shape, np.nan, expected.dtype)
        run(draft, [inputs[i] for i in order], [y], env)
        tolerance = TOLERANCE[node.output.tensor.dtype.value]
        np.testing.assert_allclose(
            y.astype(np.float32), expected.astype(np.float32),
            rtol=tolerance, atol=tolerance, err_msg=candidate.tactic,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_plain(dtype):
    t = dtype
    check(
        f"graph(%q: {t}[2,3,37,24], %k: {t}[2,3,45,24], %v: {t}[2,3,45,40]) {{\n"
        "  %y = attention(%q, %k, %v) scale=0.3\n  return %y\n}"
    )


@pytest.mark.parametrize("options", ["causal=true", "causal=true causal_offset=8", "softcap=2.0"])
def test_options(options):
    check(
        "graph(%q: f32[1,4,20,16], %k: f32[1,2,28,16], %v: f32[1,2,28,16]) {\n"
        f"  %y = attention(%q, %k, %v) scale=0.25 {options}\n  return %y\n}}",
        configs=("16x32 w2",),
    )


@pytest.mark.parametrize("mask", ["f32[20,28]", "f32[2,1,1,28]", "bool[2,4,20,28]", "bool[20,1]"])
def test_masks(mask):
    check(
        f"graph(%q: f32[2,4,20,16], %k: f32[2,4,28,16], %v: f32[2,4,28,16], %m: {mask}) {{\n"
        "  %y = attention(%q, %k, %v, %m) scale=0.25\n  return %y\n}",
        configs=("16x32 w2",),
    )


def test_heads_where_they_are_and_symbolic_lengths():
    check(
        """graph(%x: f16[b,s,96]) {
          %a = slice(%x) starts=(0,0,0) sizes=(b,s,32) steps=(1,1,1)
          %c = slice(%x) starts=(0,0,32) sizes=(b,s,32) steps=(1,1,1)
          %d = slice(%x) starts=(0,0,64) sizes=(b,s,32) steps=(1,1,1)
          %e = reshape(%a) shape=(b,s,2,16)
          %f = reshape(%c) shape=(b,s,2,16)
          %g = reshape(%d) shape=(b,s,2,16)
          %q = transpose(%e) perm=(0,2,1,3)
          %k = transpose(%f) perm=(0,2,1,3)
          %v = transpose(%g) perm=(0,2,1,3)
          %s = attention(%q, %k, %v) scale=0.25
          %t = transpose(%s) perm=(0,2,1,3)
          %y = reshape(%t) shape=(b,s,32)
          return %y
        }""",
        env={"b": 2, "s": 19},
    )


@pytest.mark.parametrize("keys", [45, 69, 128, 150])
def test_the_last_keys_take_narrower_blocks(keys):
    check(
        f"graph(%q: f16[1,2,20,16], %k: f16[1,2,{keys},16], %v: f16[1,2,{keys},16]) {{\n"
        "  %y = attention(%q, %k, %v) scale=0.3\n  return %y\n}",
        configs=("16x128 w4", "32x64 w4"),
    )


@pytest.mark.parametrize("dtype, keys", [("f16", 197), ("bf16", 40), ("f16", 77), ("f16", 16)])
def test_scores_in_registers(dtype, keys):
    t = dtype
    check(
        f"graph(%q: {t}[2,4,37,24], %k: {t}[2,2,{keys},24], %v: {t}[2,2,{keys},40]) {{\n"
        "  %y = attention(%q, %k, %v) scale=0.3\n  return %y\n}",
        configs=("16 w2", "32 w4"),
        tactic=TritonAttentionOnce,
    )


def test_scores_in_registers_with_turns_a_bound_and_symbolic_rows():
    check(
        "graph(%q: f16[1,2,s,16], %k: f16[1,2,40,16], %v: f16[1,2,40,16]) {\n"
        "  %y = attention(%q, %k, %v) scale=0.3 softcap=2.0\n  return %y\n}",
        configs=("64 w4", "64 w4 x2", "128 w8 x2"),
        env={"s": 150},
        tactic=TritonAttentionOnce,
    )


def test_pieces_hold_the_keys_with_little_left_over():
    assert pieces(197) == (128, 64, 16)
    assert pieces(5) == (16,)
    assert pieces(24) == (32,)
    for keys in range(1, 257):
        widths = pieces(keys)
        assert keys <= sum(widths) < max(17, 1.35 * keys + 16)
        assert sum(widths[:-1]) < keys


@pytest.mark.parametrize(
    "text, why",
    [
        ("f16[1,2,300,16], %v: f16[1,2,300,16]) {\n  %y = attention(%q, %k, %v)", "256 keys"),
        (
            "f16[1,2,40,16], %v: f16[1,2,40,16]) {\n  %y = attention(%q, %k, %v) causal=true",
            "every",
        ),
        ("f16[1,2,s,16], %v: f16[1,2,s,16]) {\n  %y = attention(%q, %k, %v)", "256 keys"),
    ],
)
def test_scores_in_registers_are_declined(text, why):
    graph = parse_graph(
        f"graph(%q: f16[1,2,40,16], %k: {text} scale=0.3\n  return %y\n}}", ops.BY_NAME
    )
    found = TritonAttentionOnce().candidates(graph.outputs[0].node, TARGETS[90])
    assert why in found.reason


@pytest.mark.parametrize("arch", sorted(TARGETS))
def test_scores_in_registers_compile(arch):
    graph = parse_graph(
        "graph(%q: f16[b,12,197,64], %k: f16[b,12,197,64], %v: f16[b,12,197,64]) {\n"
        "  %y = attention(%q, %k, %v) scale=0.125\n  return %y\n}",
        ops.BY_NAME,
    )
    if arch < 80:
        assert (
            "matrix units"
            in TritonAttentionOnce().candidates(graph.outputs[0].node, TARGETS[arch]).reason
        )
        return
    _, found = drafts(graph, arch, lambda c: "64 w4" in c.tactic, TritonAttentionOnce)
    assert found
    for _, draft in found:
        code = compile_request(draft.launches[0].kernel, arch)
        assert 0 < code.shared_bytes <= TARGETS[arch].shared_bytes


@pytest.mark.parametrize("arch", sorted(TARGETS))
def test_compiles(arch):
    graph = parse_graph(
        "graph(%q: f16[b,12,s,64], %k: f16[b,12,s,64], %v: f16[b,12,s,64]) {\n"
        "  %y = attention(%q, %k, %v) scale=0.125\n  return %y\n}",
        ops.BY_NAME,
    )
    _, found = drafts(graph, arch, lambda c: "64x64 w4" in c.tactic or "16x64 w4" in c.tactic)
    assert len(found) == 2
    for _, draft in found:
        code = compile_request(draft.launches[0].kernel, arch)
        assert isinstance(code, MachineCode)
        assert 0 < code.shared_bytes <= TARGETS[arch].shared_bytes
