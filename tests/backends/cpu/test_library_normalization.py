"""oneDNN's softmax and layer normalization give what the operators mean."""

from __future__ import annotations

import numpy as np
import pytest

import lamina
from lamina import ops
from lamina.backends.cpu.compiler import CpuCompiler
from lamina.backends.cpu.driver import find_library
from lamina.backends.cpu.selection import enumerate_candidates
from lamina.backends.cpu.tactics import library_normalization
from lamina.config import BuildConfig
from lamina.ir.interpret import interpret
from lamina.ir.text import parse_graph

CASES = {
    "softmax": "graph(%x: f32[6,37]) {\n  %y = softmax(%x) axis=1\n  return %y\n}",
    "logarithm, inner axis": (
        "graph(%x: f32[3,5,7]) {\n  %y = softmax(%x) axis=1 log=true\n  return %y\n}"
    ),
    "symbolic rows": "graph(%x: f32[n,19]) {\n  %y = softmax(%x) axis=1\n  return %y\n}",
    "layer norm": (
        "graph(%x: f32[4,6,48], %s: f32[48], %b: f32[48]) {\n"
        "  %y = layer_norm(%x, %s, %b) axis=2 epsilon=0.001\n  return %y\n}"
    ),
    "layer norm without a shift": (
        "graph(%x: f32[9,50], %s: f32[50]) {\n"
        "  %y = layer_norm(%x, %s) axis=1 epsilon=0.00001\n  return %y\n}"
    ),
    "layer norm alone": (
        "graph(%x: f32[9,50]) {\n  %y = layer_norm(%x) axis=1 epsilon=0.00001\n  return %y\n}"
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_meaning(case, monkeypatch):
    assert find_library()[0] is not None
    graph = parse_graph(CASES[case], ops.BY_NAME)
    rng = np.random.default_rng(0)
    env = {"n": 11}
    inputs = [
        rng.standard_normal(v.tensor.substitute(env).static_shape).astype(np.float32)
        for v in graph.inputs
    ]
    (expected,) = interpret(graph, inputs)
    tactics = (library_normalization.LibraryNormalization(),)
    monkeypatch.setattr("lamina.backends.cpu.selection.TACTICS", tactics)
    engine = lamina.build(graph, timing_cache="")
    assert [s.tactic.split()[0] for s in engine.section.program.steps] == ["onednn"]
    np.testing.assert_allclose(engine(*inputs), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("%y = layer_norm(%x) axis=0 epsilon=0.1", "the last of two to five axes"),
        ("%h = cast(%x) dtype=f64\n  %y = softmax(%h) axis=1", "needs f32"),
    ],
)
def test_refusals(text, reason):
    graph = parse_graph(f"graph(%x: f32[4,8]) {{\n  {text}\n  return %y\n}}", ops.BY_NAME)
    node = graph.outputs[0].node
    target = CpuCompiler(BuildConfig(), {}, lambda *_: None).target
    declined = dict(enumerate_candidates(node, target).declined)
    assert reason in declined["onednn"]
