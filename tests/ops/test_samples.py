"""Checks that hold for every operator, on the samples of each."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from tests.samples import all_samples

from lamina import ops
from lamina.ir.attributes import attribute_symbols
from lamina.ir.dims import Dim, sym
from lamina.ir.graph import Graph, emit_node
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.text import parse_graph, print_graph
from lamina.ir.types import DType, TensorType

SAMPLES = all_samples()
CASES = [pytest.param(s, id=str(s)) for group in SAMPLES.values() for s in group]


def array_type(x) -> TensorType:
    return TensorType(DType.of(x.dtype), x.shape)


def comparable(y):
    """Return numbers that compare NaN as equal; NumPy does not know those of ml_dtypes."""
    return y.astype(np.float64) if np.asarray(y).dtype.kind in "fV" else y


def build(op, types) -> Graph:
    graph = Graph()
    inputs = [graph.input(f"x{i}", t) for i, t in enumerate(types)]
    node = emit_node(op, inputs, loc=Loc("sample"), name="y")
    known = {s for t in types for s in attribute_symbols(t)}
    for i, v in enumerate(node.outputs):
        graph.output(v, f"y{i}")
        for s in attribute_symbols(v.type):
            if s not in known:
                graph.definers.setdefault(s, v)
    return graph


def run(sample):
    graph = build(sample.op, [array_type(x) for x in sample.inputs])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return graph, interpret(graph, [x.copy() for x in sample.inputs])


def test_every_operator_is_listed_and_has_a_sample():
    subclasses = set()
    stack = [ops.Const.__mro__[1]]
    while stack:
        for c in stack.pop().__subclasses__():
            stack.append(c)
            if c.__module__.startswith("lamina.ops"):
                subclasses.add(c)
    assert set(ops.ALL) == subclasses
    assert list(ops.ALL) == sorted(ops.ALL, key=lambda c: c.__name__)
    assert {op.name for op in ops.ALL} - {op.name for op in SAMPLES} == set()


@pytest.mark.parametrize("sample", CASES)
def test_infer_agrees_with_reference(sample):
    graph, results = run(sample)
    assert len(results) == len(graph.outputs)
    for v, y in zip(graph.outputs, results, strict=True):
        if not isinstance(v.type, TensorType):
            continue
        assert isinstance(y, np.ndarray)
        assert v.type.dtype is DType.of(y.dtype)
        if v.type.is_static:
            assert v.type.shape == y.shape
        else:
            assert v.type.rank == y.ndim


@pytest.mark.parametrize("sample", [c for c in CASES if not c.values[0].op.symbols()])
def test_reference_leaves_operands_alone(sample):
    before = [x.copy() for x in sample.inputs]
    sample.op.reference(*sample.inputs)
    for x, old in zip(sample.inputs, before, strict=True):
        np.testing.assert_array_equal(x, old)


def with_symbols(types, sizes) -> tuple[list[TensorType], dict[str, Dim]]:
    env = {f"s{n}": n for n in sizes}
    return [
        t.with_shape(tuple(sym(f"s{d}") if d in sizes else d for d in t.shape)) for t in types
    ], env


@pytest.mark.parametrize("sample", [c for c in CASES if c.values[0].symbolic])
def test_symbolic_shapes_specialize_to_static_ones(sample):
    """Replace one size, then all sizes by symbols: the result is the static one again."""
    types = [array_type(x) for x in sample.inputs]
    sizes = sorted({d for t in types for d in t.shape if d > 1})
    static = sample.op.infer(*types)
    static = static if isinstance(static, tuple) else (static,)
    for chosen in [*({n} for n in sizes), set(sizes)]:
        symbolic, env = with_symbols(types, chosen)
        result = sample.op.infer(*symbolic)
        result = result if isinstance(result, tuple) else (result,)
        assert tuple(t.substitute(env) for t in result) == static


@pytest.mark.parametrize("sample", CASES)
def test_text_form_round_trip(sample):
    graph, results = run(sample)
    text = print_graph(graph)
    weights = {
        n.op.weight.digest: n.op.weight for n in graph.nodes() if isinstance(n.op, ops.Const)
    }
    parsed = parse_graph(text, ops.BY_NAME, weights)
    assert print_graph(parsed) == text
    if isinstance(sample.op, ops.RandomKey):
        return
    for y, again in zip(results, interpret(parsed, list(sample.inputs)), strict=True):
        np.testing.assert_array_equal(comparable(y), comparable(again))


@pytest.mark.parametrize("sample", [c for c in CASES if c.values[0].expected is not None])
def test_expected_results(sample):
    _, results = run(sample)
    for y, wanted in zip(results, sample.expected, strict=True):
        wanted = np.asarray(wanted, y.dtype)
        if y.dtype == object or y.dtype.kind in "iub":
            np.testing.assert_array_equal(y, wanted)
        else:
            wide = (np.float64, np.asarray(y).astype(np.float64))
            np.testing.assert_allclose(wide[1], wanted.astype(wide[0]), rtol=2e-6, atol=1e-7)
