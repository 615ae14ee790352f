"""Engines on the simulated device: operators of every kind, small networks, sizes data decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.backends.cpu.test_on_the_host import _graph, _why_on_host
from tests.backends.cuda.simulation import simulated
from tests.samples import all_samples

import lamina
from lamina import ops
from lamina.backends.cuda.lowering import lower
from lamina.backends.cuda.selection import enumerate_candidates
from lamina.backends.cuda.tactics import LAST_RESORTS, TACTICS
from lamina.backends.cuda.target import TARGETS
from lamina.errors import LaminaError
from lamina.ir.dims import sym
from lamina.tactics.views import view_offset

DATA = Path(lamina.__file__).parent / "cli" / "data"
TOLERANCE = {2: 4e-3, 4: 2e-5, 8: 1e-9}
WHOLE = (ops.Recurrent, ops.Shape, ops.Deconvolution, ops.DeformConvolution)


def run(op, arrays, constants):
    graph = _graph(op, arrays, constants=constants)
    engine = simulated(graph)
    feed = [arrays[int(p.name[1:])] for p in engine.inputs]
    results = engine(*feed)
    return engine, results if len(engine.outputs) > 1 else [results]


@pytest.mark.parametrize("kind", WHOLE, ids=lambda kind: kind.__name__)
def test_samples_run_without_the_host(kind):
    for sample in all_samples()[kind]:
        for constants in {kind is ops.Recurrent, False}:
            engine, found = run(sample.op, sample.inputs, constants)
            wanted = sample.op.reference(*sample.inputs)
            assert engine.plan.fallbacks == (), sample
            for y, e in zip(found, wanted if isinstance(wanted, tuple) else [wanted], strict=True):
                assert y.dtype == e.dtype and y.shape == e.shape, sample
                tolerance = TOLERANCE[e.dtype.itemsize]
                wide = np.float64
                np.testing.assert_allclose(
                    y.astype(wide), e.astype(wide), rtol=tolerance, atol=tolerance
                )


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_of_any_type(dtype, transposed):
    rng = np.random.default_rng(0)
    a = rng.integers(-9, 9, (2, 1, 5, 7)).astype(dtype)
    b = rng.integers(-9, 9, (3, 4, 7) if transposed else (3, 7, 4)).astype(dtype)
    op = ops.Matmul(transpose_b=transposed)
    engine, (y,) = run(op, [a, b], constants=False)
    assert engine.plan.fallbacks == ()
    np.testing.assert_array_equal(y, op.reference(a, b))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("shape", "most"), [((2, 3, 70), 10), ((1, 1, 1500), 9), ((1, 2, 5), 0)])
def test_boxes_that_are_kept(dtype, shape, most):
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 1, (shape[0], shape[2], 4)).astype(dtype)
    scores = np.round(rng.uniform(-1, 1, shape), 1).astype(dtype)  # many are equal
    limits = np.array([most], np.int64), np.float32([0.4]), np.float32([0.05])
    op = ops.Nms(count=sym("k"), center_point_box=most == 9)
    check_counted(op, [boxes, scores, *limits])


@pytest.mark.parametrize("shape", [(7, 9), (5000,), (3, 4, 5, 60), (0, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.uint8])
def test_coordinates_of_what_is_not_zero(shape, dtype):
    x = (np.random.default_rng(0).integers(0, 3, shape) > 1).astype(dtype)
    check_counted(ops.NonZero(count=sym("k")), [x])


def check_counted(op, arrays):
    graph = _graph(op, arrays, constants=False)
    graph.definers["k"] = graph.outputs[0]
    engine = simulated(graph)
    assert engine.plan.fallbacks == ()
    for _ in range(2):
        np.testing.assert_array_equal(engine(*arrays), op.reference(*arrays))


@pytest.mark.parametrize(
    ("model", "precision", "tolerance"),
    [("digits", "fp32", 1e-5), ("digits", "fp16", 2e-2), ("digits_int8", "fp32", 1e-5)],
)
def test_digits(model, precision, tolerance):
    images = np.load(DATA / "digits_held_out.npz")["images"]
    path = str(DATA / f"{model}.onnx")
    engine = simulated(path, precision=precision)
    exact = lamina.build(path, timing_cache="", optimization_level=0)
    assert engine.plan.fallbacks == ()
    for batch in (1, 3, 1):
        np.testing.assert_allclose(
            engine(images[:batch]), exact(images[:batch]), rtol=tolerance, atol=tolerance
        )


def _alone_on_host(node):
    """Return why only the CPU has a kernel, None where the GPU must have one too."""
    if isinstance(node.op, ops.PluginCall):
        return "a plugin is the code of its user"
    if isinstance(node.op, ops.NonZero) and not node.inputs[0].tensor.rank:
        return "a scalar has no coordinates"
    return _why_on_host(node)


@pytest.mark.parametrize("kind", all_samples(), ids=lambda kind: kind.__name__)
def test_operators_have_kernels(kind):
    target = TARGETS[90]
    for sample in all_samples()[kind]:
        try:
            graph = _graph(sample.op, sample.inputs, constants=True)
        except LaminaError:
            continue  # an operand that may not be a constant
        lower(graph, target)
        refused = [
            n
            for n in graph.nodes()
            if not isinstance(n.op, ops.Const | ops.If | ops.Loop)
            and view_offset(n) is None
            and not enumerate_candidates(n, target, TACTICS, 0, LAST_RESORTS).candidates
        ]
        assert not [str(n) for n in refused if _alone_on_host(n) is None], sample
