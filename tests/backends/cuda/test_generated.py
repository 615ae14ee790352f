"""Generated Triton kernels, in the interpreter, give what the operators mean in NumPy."""

from __future__ import annotations

from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
from tests.backends.cuda.interpreter import run
from tests.codegen.running import Guarded, node_graph, type_of
from tests.codegen.test_random_graphs import Maker
from tests.codegen.test_regions import random_layout
from tests.codegen.test_symbolic import CASES as SYMBOLIC
from tests.samples import all_samples

from lamina import ops
from lamina.backends.cuda.tactics import generated
from lamina.backends.cuda.tactics.generated import Generated, variant_draft
from lamina.backends.cuda.target import TARGETS
from lamina.codegen.kernels import Reject as Refused
from lamina.codegen.kernels import lower
from lamina.codegen.nest import Refusal
from lamina.codegen.triton.cost import Rates
from lamina.codegen.triton.variants import variants
from lamina.ir.graph import Graph, emit_node
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.pattern import Reject
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import ReduceKind
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

TARGET = TARGETS[90]
TOLERANCE = {"float64": 1e-9, "float32": 3e-6, "float16": 2e-3, "bfloat16": 1e-2}
ALWAYS = (
    ops.Unary, ops.Activation, ops.Binary, ops.Select, ops.Reduce, ops.ArgReduce, ops.Softmax,
    ops.LayerNorm, ops.RmsNorm, ops.InstanceNorm, ops.GroupNorm, ops.BatchNorm, ops.Transpose,
    ops.Expand, ops.Slice, ops.Concat, ops.Tile, ops.Pad, ops.Gather, ops.GatherElements,
    ops.GatherNd, ops.Trilu, ops.Range, ops.OneHot, ops.Pool, ops.MaxPoolIndices, ops.Lrn,
    ops.ReverseSequence, ops.Cumulative, ops.Reshape,
)  # fmt: skip
"""Operators none of whose samples may be refused."""

SAMPLES = [
    s for op, group in all_samples().items() if op is not ops.RandomKey for s in group
]  # a key is new in each run


def picked(candidates, text):
    """Return one of the candidates, always the same for a text."""
    return candidates[crc32(text.encode()) % len(candidates)]


def run_candidate(node, candidate, inputs, expected, env):
    """Run a candidate on operands and results that lie as it wants; return the results."""
    held = []
    for x, value, form in zip(inputs, node.inputs, candidate.reads, strict=True):
        shape = value.tensor.with_shape(np.shape(x))
        held.append(Guarded(np.shape(x), x.dtype, layout(shape, form), x))
    results = []
    for y, value, form in zip(expected, node.outputs, candidate.writes, strict=True):
        shape = value.tensor.with_shape(y.shape)
        results.append(Guarded(y.shape, y.dtype, layout(shape, form)))
    placement = Placement(
        tuple(layout(v.tensor, f) for v, f in zip(node.inputs, candidate.reads, strict=True)),
        tuple(layout(v.tensor, f) for v, f in zip(node.outputs, candidate.writes, strict=True)),
        "",
    )
    draft = candidate.draft(placement)
    run(draft, [m.tensor for m in held], [m.tensor for m in results], env)
    return results


def sizes_of(node, arrays):
    """Return what the symbols in the types of results stand for."""
    env = {}
    for value, y in zip(node.outputs, arrays, strict=True):
        for d, n in zip(value.tensor.shape, y.shape, strict=True):
            if not isinstance(d, int):
                env[str(d)] = n
    return env


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: str(s)[:90])
def test_samples(sample):
    if any(x.dtype == object for x in sample.inputs):
        return
    graph = node_graph(sample.op, [type_of(x) for x in sample.inputs])
    node = graph.outputs[0].node
    candidates = Generated().candidates(node, TARGET)
    if candidates is None or isinstance(candidates, Reject):
        assert not isinstance(sample.op, ALWAYS), candidates and candidates.reason
        return
    expected = [np.asarray(y) for y in interpret(graph, [x.copy() for x in sample.inputs])]
    candidate = picked(candidates, str(sample))
    results = run_candidate(node, candidate, sample.inputs, expected, sizes_of(node, expected))
    for found, wanted in zip(results, expected, strict=True):
        found.check(wanted, TOLERANCE.get(str(wanted.dtype), 0))


def compare_random(seed):
    """Return whether a random graph had a kernel; an assertion fails when it is wrong."""
    made = Maker(seed)
    graph, rng = made.graph, made.rng
    graph.output(made.values[-1])
    sources = [random_layout(rng, v.tensor.shape) for v in graph.inputs]
    targets = [random_layout(rng, v.tensor.shape) for v in graph.outputs]
    source = lower(graph, sources, targets)
    if isinstance(source, Refused):
        return False
    processors = 2 + seed % 5 * 30
    rates = Rates(processors=processors, bytes_per_microsecond=4e6, operations_per_microsecond=2e7)
    try:
        offered = variants(source, rates)
    except Refusal:
        return False
    expected = interpret(graph, made.arrays)
    held = [Guarded(x.shape, x.dtype, at, x) for x, at in zip(made.arrays, sources, strict=True)]
    results = [Guarded(y.shape, y.dtype, at) for y, at in zip(expected, targets, strict=True)]
    draft = variant_draft(offered[seed % len(offered)], (len(held), len(results)), TARGET)
    run(draft, [m.tensor for m in held], [m.tensor for m in results])
    for found, wanted in zip(results, expected, strict=True):
        found.check(wanted, 1e-4)
    return True


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_random_graphs(first):
    done = [compare_random(seed) for seed in range(first, first + 20)]
    assert sum(done) >= 5


@pytest.mark.parametrize("name", SYMBOLIC)
def test_symbolic_sizes(name):
    op, shapes = SYMBOLIC[name]
    graph = Graph()
    inputs = [graph.input(f"x{i}", TensorType(DType.F32, s)) for i, s in enumerate(shapes)]
    node = emit_node(op, inputs, loc=Loc("test"))
    graph.output(node.output)
    candidates = Generated().candidates(node, TARGET)
    assert not isinstance(candidates, Reject), candidates.reason
    rng = np.random.default_rng(0)
    for env in ({"b": 2, "s": 7, "t": 7}, {"b": 1, "s": 45, "t": 1}):
        arrays = [
            rng.standard_normal(v.tensor.substitute(env).static_shape).astype(np.float32)
            for v in graph.inputs
        ]
        (expected,) = interpret(graph, arrays, symbols=env)
        candidate = picked(candidates, f"{name}{env}")
        (found,) = run_candidate(node, candidate, arrays, [expected], env)
        found.check(expected, 1e-5)


def test_few_results_are_reduced_in_pieces():
    x = np.random.default_rng(0).standard_normal((3, 1 << 15)).astype(np.float32)
    op = ops.Reduce(kind=ReduceKind.MEAN, axes=(1,), keepdims=True)
    node = node_graph(op, [type_of(x)]).outputs[0].node
    candidate = Generated().candidates(node, TARGET)[0]
    ends = [layout(v.tensor, Form.PLAIN) for v in (node.inputs[0], node.output)]
    assert len(candidate.draft(Placement((ends[0],), (ends[1],), "")).launches) == 2
    (found,) = run_candidate(node, candidate, [x], [np.zeros((3, 1), np.float32)], {})
    found.check(x.astype(np.float64).mean(1, keepdims=True).astype(np.float32), 1e-6)


def test_answers_are_kept_whatever_opens_the_libraries(monkeypatch):
    graph = Graph()
    x = graph.input("x", TensorType(DType.F32, (5, 24)))
    node = emit_node(ops.Softmax(axis=1), [x], loc=x.loc)
    here = [replace(TARGET, library=lambda name, n=n: n) for n in range(2)]
    assert here[0] == here[1] and hash(here[0]) == hash(here[1])
    offered = Generated().candidates(node, here[0])
    monkeypatch.setattr(generated, "_answer", None)  # a later build asks nothing again
    again = Generated().candidates(node, here[1])
    assert [c.tactic for c in again] == [c.tactic for c in offered]
