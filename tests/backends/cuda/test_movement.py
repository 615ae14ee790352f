"""Scatter and top-k on the GPU, in the interpreter, against their meaning; and their code."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.test_generated import run_candidate, sizes_of
from tests.codegen.running import node_graph, type_of
from tests.samples import all_samples

from lamina import ops
from lamina.backends.cuda.tactics.scatter import Scatter
from lamina.backends.cuda.tactics.selection import TopKByRank
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.ir.dims import sym
from lamina.ir.graph import Graph, emit_node
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.pattern import Reject
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import ScatterReduction
from lamina.tactics.candidate import Placement

SAMPLES = [s for op in (ops.ScatterElements, ops.ScatterNd) for s in all_samples()[op]]


def compare(tactic, op, arrays, tolerance=0.0):
    """Run two candidates and compare their results."""
    graph = node_graph(op, [type_of(x) for x in arrays])
    node = graph.outputs[0].node
    offered = tactic.candidates(node, TARGETS[90])
    assert not isinstance(offered, Reject), offered.reason
    expected = [np.asarray(y) for y in interpret(graph, [x.copy() for x in arrays])]
    for candidate in offered[:2]:
        env = sizes_of(node, expected)
        for found, wanted in zip(
            run_candidate(node, candidate, arrays, expected, env), expected, strict=True
        ):
            found.check(wanted, tolerance)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_scatter_samples(sample):
    compare(Scatter(), sample.op, sample.inputs, 1e-6)


@pytest.mark.parametrize("reduction", ScatterReduction)
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, ml_dtypes.bfloat16, np.bool_])
def test_scatter_with_repeated_places(reduction, dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (2, 5, 3)).astype(dtype)
    indices = rng.integers(-5, 5, (2, 8, 3))
    updates = rng.integers(0, 3, indices.shape).astype(dtype)
    tolerance = 0.02 if dtype == ml_dtypes.bfloat16 else 0
    elements = ops.ScatterElements(axis=1, reduction=reduction)
    compare(Scatter(), elements, [x, indices, updates], tolerance)
    places = rng.integers(-2, 2, (7, 1))
    slices = rng.integers(0, 3, (7, 5, 3)).astype(dtype)
    compare(Scatter(), ops.ScatterNd(reduction=reduction), [x, places, slices], tolerance)


def test_scatter_of_symbols():
    b, s = sym("b"), sym("s")
    graph = Graph()
    types = [
        TensorType(DType.F32, (b, s, 4)),
        TensorType(DType.I64, (b, 3, 4)),
        TensorType(DType.F32, (b, 3, 4)),
    ]
    inputs = [graph.input(n, t) for n, t in zip("xiu", types, strict=True)]
    node = emit_node(ops.ScatterElements(axis=1), inputs, loc=Loc("test"))
    graph.output(node.output)
    rng = np.random.default_rng(1)
    env = {"b": 2, "s": 5}
    x, u = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 5, 4), (2, 3, 4)))
    arrays = [x, rng.integers(-5, 5, (2, 3, 4)), u]
    (expected,) = interpret(graph, arrays, symbols=env)
    (candidate,) = Scatter().candidates(node, TARGETS[90])
    (found,) = run_candidate(node, candidate, arrays, [expected], env)
    found.check(expected)


@pytest.mark.parametrize("arch", [75, 80, 90, 100])
@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.I64])
def test_scatter_compiles(arch, dtype):
    for reduction in (ScatterReduction.NONE, ScatterReduction.ADD):
        types = [TensorType(dtype, (64, 32)), TensorType(DType.I64, (9, 1))]
        types.append(TensorType(dtype, (9, 32)))
        node = node_graph(ops.ScatterNd(reduction=reduction), types).outputs[0].node
        for candidate in Scatter().candidates(node, TARGETS[arch]):
            for launch in candidate.draft(Placement((), (), "")).launches:
                assert compile_request(launch.kernel, arch).cubin


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float16, np.float64, np.uint64])
@pytest.mark.parametrize("largest", [True, False])
def test_top_k_with_ties_and_nan(dtype, largest):
    rng = np.random.default_rng(3)
    x = rng.integers(0 if dtype == np.uint64 else -40, 40, (2, 40, 1)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        x[0, ::7] = np.nan
        x[1, 5] = np.inf
        x[1, 6:9] = -0.0
    for count in (7, 40):
        compare(TopKByRank(), ops.TopK(k=count, axis=1, largest=largest), [x])


def test_long_rows_are_narrowed_down():
    x = np.random.default_rng(4).integers(0, 500, (1, 4200)).astype(np.float32)
    op = ops.TopK(k=20, axis=1)
    node = node_graph(op, [type_of(x)]).outputs[0].node
    candidate = TopKByRank().candidates(node, TARGETS[90])[2]
    assert len(candidate.draft(Placement((), (), "")).launches) == 2
    expected = [np.asarray(y) for y in op.reference(x)]
    for found, wanted in zip(
        run_candidate(node, candidate, [x], expected, {}), expected, strict=True
    ):
        found.check(wanted)


@pytest.mark.parametrize("arch", [75, 80, 90, 100])
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.U8, DType.F64])
def test_top_k_compiles(arch, dtype):
    node = node_graph(ops.TopK(k=100, axis=1), [TensorType(dtype, (2, 20_000))]).outputs[0].node
    candidate = TopKByRank().candidates(node, TARGETS[arch])[0]
    for launch in candidate.draft(Placement((), (), "")).launches:
        assert compile_request(launch.kernel, arch).cubin
