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


def _nms_operands(case, dtype):
    rng = np.random.default_rng(case)
    batch, classes, count = [(2, 3, 70), (1, 1, 1), (3, 2, 0), (1, 5, 333), (2, 2, 40)][case]
    boxes = rng.uniform(0, 4, (batch, count, 4))
    boxes[..., 2:] = boxes[..., :2] + rng.uniform(-2, 2, (batch, count, 2))
    scores = rng.integers(-3, 40, (batch, classes, count)) / 8  # many ties
    boxes, scores = boxes.astype(dtype), scores.astype(dtype)
    if count > 9:
        boxes[0, 3, 1], scores[0, 0, 5], scores[0, 0, 6] = np.nan, np.nan, np.inf
        boxes[0, 7] = boxes[0, 8]
    return boxes, scores


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("case", range(5))
@pytest.mark.parametrize("center", [False, True])
def test_nms_keeps_the_boxes_of_the_meaning(case, dtype, center):
    boxes, scores = _nms_operands(case, dtype)
    for most, overlap, least in [
        (200, 0.5, 0.0),
        (3, 0.1, 1.1),
        (9, 1.0, -9),
        (5, -0.5, 0),
        (0, 0, 0),
    ]:
        limits = [np.array([most]), np.float32([overlap]), np.float32([least])]
        operands = [boxes, scores, *limits]
        op = ops.Nms(count=sym("n"), center_point_box=center)
        graph = node_graph(op, [type_of(x) for x in operands])
        kernel = kernel_for(graph.outputs[0].node)
        assert not isinstance(kernel, Reject), kernel.reason
        with np.errstate(all="ignore"):
            expected = op.reference(*operands)
        for isa, nthreads in ((ISAS[0], 1), (ISAS[1], 4)):
            compiled = Compiled(kernel, isa)
            y = np.full(3 * scores.size + 3, -7, np.int64)
            compiled([*operands, y], nthreads=nthreads)
            assert compiled.counts[0] == len(expected)
            np.testing.assert_array_equal(y[: expected.size].reshape(-1, 3), expected)
            assert (y[expected.size :] == -7).all()
