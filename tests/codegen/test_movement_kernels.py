"""Kernels of movement that are no loop nests: scatter, top-k, nonzero; larger than the samples."""

from __future__ import annotations

import numpy as np
import pytest
from tests.codegen.running import ISAS, Compiled, node_graph, run_node, type_of

from lamina import ops
from lamina.codegen.kernels import Reject, kernel_for
from lamina.ir.dims import sym
from lamina.ir.graph import Graph, emit_node
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import ScatterReduction


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.int64, np.float16])
@pytest.mark.parametrize("shape", [(5000,), (7, 40, 33), (2, 3, 4, 50)])
def test_nonzero_writes_coordinates_and_their_count(shape, dtype):
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 3, shape) * rng.integers(1, 5, shape)).astype(dtype)
    graph = Graph()
    operand = graph.input("x", type_of(x))
    node = emit_node(ops.NonZero(count=sym("n")), [operand], loc=Loc("test"))
    kernel = kernel_for(node)
    assert not isinstance(kernel, Reject), kernel.reason
    assert kernel.count_slots == 1
    compiled = Compiled(kernel)
    expected = np.argwhere(x).T
    for nthreads in (1, 3, 50):
        y = np.full(x.ndim * x.size, -7, np.int64)
        compiled([x, y], nthreads=nthreads)
        assert compiled.counts[0] == expected.shape[1]
        np.testing.assert_array_equal(y[: expected.size].reshape(expected.shape), expected)
        assert (y[expected.size :] == -7).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float16])
@pytest.mark.parametrize("count", [1, 5, 64, 65, 300])
@pytest.mark.parametrize("largest", [True, False])
def test_top_k_with_ties_and_nan(dtype, count, largest):
    rng = np.random.default_rng(count)
    x = rng.integers(-40, 40, (3, 300, 2)).astype(dtype)
    if dtype != np.int32:
        x[0, ::37] = np.nan
        x[1, 5] = np.inf
    op = ops.TopK(k=count, axis=1, largest=largest)
    kernel, results, expected = run_node(op, [x], ISAS[count % 2])
    assert not isinstance(kernel, Reject)
    for found, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("reduction", ScatterReduction)
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
def test_scatter_with_repeated_places(reduction, dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (6, 20, 37)).astype(dtype)
    indices = rng.integers(-20, 20, (6, 50, 37))
    updates = rng.integers(0, 9, indices.shape).astype(dtype)
    op = ops.ScatterElements(axis=1, reduction=reduction)
    _, (found,), (wanted,) = run_node(op, [x, indices, updates], nthreads=4)
    np.testing.assert_array_equal(found, wanted)
    places = rng.integers(-6, 6, (40, 1))
    slices = rng.integers(0, 3, (40, 20, 37)).astype(dtype)
    op = ops.ScatterNd(reduction=reduction)
    _, (found,), (wanted,) = run_node(op, [x, places, slices], ISAS[1], nthreads=4)
    np.testing.assert_array_equal(found, wanted)


def test_indices_outside_the_axis_stay_in_the_tensor():
    """A kernel cannot raise; it must at least not touch foreign memory."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    op = ops.Gather(axis=0)
    graph = node_graph(op, [type_of(x), TensorType(DType.I64, (3,))])
    kernel = kernel_for(graph.outputs[0].node)
    y = np.zeros((3, 4), np.float32)
    Compiled(kernel)([x, np.array([99, -99, 1]), y])
    np.testing.assert_array_equal(y, x[[2, 0, 1]])
