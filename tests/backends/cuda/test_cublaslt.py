"""Products by cuBLASLt, whose stand-in runs them in host memory."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import check, node_of, run_candidate
from tests.backends.cuda.libraries import fake_cublaslt
from tests.samples.sample import integers, normal

from lamina.backends.cuda.library.cublaslt_api import Algorithm
from lamina.backends.cuda.tactics.cublaslt import CublasLtMatmul
from lamina.backends.cuda.target import TARGETS
from lamina.codegen.layout import Layout
from lamina.errors import DeviceError, PlanError
from lamina.ir.dims import sym
from lamina.ir.pattern import Reject
from lamina.ops import ActivationKind, Convolution, Epilogue, Matmul, QuantizedMatmul, Scaling
from lamina.tactics.candidate import Placement

RELU = Epilogue(ActivationKind.RELU)
UNIT = {"strides": (1, 1), "dilations": (1, 1), "pads_begin": (0, 0), "pads_end": (0, 0)}
GELU = Epilogue(ActivationKind.GELU_TANH)


@pytest.fixture(scope="module")
def target():
    library = fake_cublaslt()
    return replace(TARGETS[90], library=lambda name: library)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("activation", [None, RELU, GELU])
def test_bias_residual_activation(target, dtype, activation):
    shapes = [(19, 37), (37, 24), (24,), (19, 24)]
    given = [normal(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]
    check(CublasLtMatmul(), Matmul(activation=activation), given, target, most=3)
    check(CublasLtMatmul(), Matmul(activation=activation), given[:3], target, most=1)
    check(CublasLtMatmul(), Matmul(activation=activation), given[:2], target, most=1)


@pytest.mark.parametrize("a", [True, False])
@pytest.mark.parametrize("b", [True, False])
def test_transposes_and_batches(target, a, b):
    left = normal(3, 24, 16, dtype=np.float16) if a else normal(3, 16, 24, dtype=np.float16)
    right = normal(3, 40, 24, seed=1, dtype=np.float16)
    right = right if b else np.ascontiguousarray(right.swapaxes(1, 2))
    op = Matmul(transpose_a=a, transpose_b=b)
    check(CublasLtMatmul(), op, [left, right], target, constants=())
    check(CublasLtMatmul(), op, [left, right[0]], target, constants=())
    check(CublasLtMatmul(), op, [left, right[:1]], target, constants=())
    check(CublasLtMatmul(), op, [left[0], right[0]], target)


@pytest.mark.parametrize("rows, columns", [(1, 24), (24, 1), (1, 1)])
def test_thin_products(target, rows, columns):
    given = [normal(rows, 16), normal(16, columns, seed=1), normal(columns, seed=2)]
    check(CublasLtMatmul(), Matmul(), given, target, most=1)
    check(CublasLtMatmul(), Matmul(), given, target, most=1, constants=())


def test_sizes_known_at_the_run(target):
    given = [normal(6, 4, 32), normal(32, 16, seed=1), normal(16, seed=2)]
    known = replace(target, env={"b": 2})
    how = {"shapes": {0: (sym("b"), 4, 32)}, "env": {"b": 6}}
    check(CublasLtMatmul(), Matmul(activation=RELU), given, known, most=1, **how)


def test_a_pointwise_convolution_is_a_product(target):
    given = [normal(2, 32, 5, 7), normal(24, 32, 1, 1, seed=1), normal(24, seed=2)]
    op = Convolution(**UNIT, activation=RELU)
    check(CublasLtMatmul(), op, given, target, most=2)
    check(CublasLtMatmul(), op, given, target, most=1, gap=8)
    check(CublasLtMatmul(), op, [*given, normal(2, 24, 5, 7, seed=3)], target, most=1)


def reason(op, given, target, **how):
    offered = CublasLtMatmul().candidates(node_of(op, given, **how), target)
    assert isinstance(offered, Reject)
    return offered.reason


def test_what_it_does_not_do(target):
    pair = [normal(8, 16), normal(16, 24, seed=1)]
    tanh = Matmul(activation=Epilogue(ActivationKind.TANH))
    assert "no tanh" in reason(tanh, pair, target)
    assert "bias is no row" in reason(Matmul(), [*pair, normal(8, 1)], target)
    residual = [*pair, normal(24), normal(1, 24)]
    assert "residual" in reason(Matmul(), residual, target)
    apart = [normal(2, 1, 8, 16), normal(2, 3, 16, 24, seed=1)]
    assert "lie apart" in reason(Matmul(), apart, target, constants=())
    conv = [normal(1, 8, 5, 5), normal(8, 8, 3, 3)]
    assert "pointwise" in reason(Convolution(**UNIT), conv, target)
    eight = [integers(8, 16, dtype=np.int8), integers(16, 24, dtype=np.int8), normal(24)]
    assert "integer" in reason(QuantizedMatmul(x_scaling=Scaling(0.1)), eight, target)


def test_without_a_device_or_the_library_the_reason_is_said(target):
    pair = [normal(8, 16), normal(16, 24, seed=1)]
    assert "there is none here" in reason(Matmul(), pair, replace(target, library=None))

    def missing(name):
        raise DeviceError("libcublasLt.so.13 cannot be loaded", hint="pip install it")

    said = reason(Matmul(), pair, replace(target, library=missing))
    assert "cannot be loaded; pip install it" in said


def stored(target, columns=24):
    """Return a product's step with the algorithm that has the largest workspace."""
    given = [normal(8, 16), normal(16, columns, seed=1)]
    offered = CublasLtMatmul().candidates(node_of(Matmul(), given), target)
    assert isinstance(offered, list)
    return node_of(Matmul(), given), offered[-1], given


def test_an_algorithm_of_another_version_is_replaced(target):
    node, candidate, _ = stored(target)
    library = target.library("cublaslt")
    draft = candidate.draft(_dense(node))
    names = [name for name, _ in draft.operands]
    own = library.operation(draft.problem, names, b"")
    assert own.workspace_bytes == 3 * 256, "the third algorithm needs that much"
    other = library.operation(draft.problem | {"version": "1"}, names, b"")
    assert other.workspace_bytes == 256, "the first proposal"


def test_an_algorithm_that_does_not_do_is_replaced(target):
    node, candidate, _ = stored(target)
    draft = candidate.draft(_dense(node))
    names = [name for name, _ in draft.operands]
    sizes = {"columns": 80, "y_stride": 80, "b_stride": 80}  # algorithm 3 takes up to 64
    got = target.library("cublaslt").operation(draft.problem | sizes, names, b"")
    assert got.workspace_bytes == 256
    with pytest.raises(DeviceError, match="no algorithm"):
        none = draft.problem | sizes | {"workspace_bytes": 8}
        target.library("cublaslt").operation(none, names, b"")


def test_damaged_problems_are_refused(target):
    node, candidate, _ = stored(target)
    draft = candidate.draft(_dense(node))
    names, library = [name for name, _ in draft.operands], target.library("cublaslt")
    for wrong in ({"algorithm": "00"}, {"dtype": "f64"}, {"rows": None}, {"activation": "x"}):
        with pytest.raises(PlanError):
            library.operation(draft.problem | wrong, names, b"")
    with pytest.raises(DeviceError, match="invalid value"):
        library.operation(draft.problem, names, b"").run((8, 8, 8), 0, 0)


def _dense(node):
    operands = tuple(Layout.dense(v.tensor.shape) for v in node.inputs)
    return Placement(operands, (Layout.dense(node.output.tensor.shape),), "")


def test_names_tell_algorithms_apart(target):
    api = target.library("cublaslt").api
    texts = []
    for number in (1, 2):
        algorithm = Algorithm()
        algorithm.data[0] = number
        texts.append(api.configuration(algorithm))
    assert texts == ["61 t15 k1", "62 t15 k1"]


def test_a_result_with_gaps_stays_in_its_place(target):
    node, candidate, given = stored(target)
    np.testing.assert_allclose(
        run_candidate(node, candidate, given, gap=3),
        Matmul().reference(*given),
        rtol=1e-5,
        atol=1e-5,
    )
