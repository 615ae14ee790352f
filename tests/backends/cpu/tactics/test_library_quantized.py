"""8-bit contractions of the library against the operators' NumPy meaning."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cpu.candidates import run_candidate

from lamina.backends.cpu.onednn import library
from lamina.backends.cpu.tactics.library_quantized import LibraryQuantized
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm import target as llvm_target
from lamina.errors import DeviceError
from lamina.ir.graph import Graph, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.pattern import Reject
from lamina.ir.types import DType, TensorType
from lamina.ops import (
    ActivationKind,
    Const,
    Epilogue,
    QuantizedConvolution,
    QuantizedMatmul,
    Scaling,
)

HERE = Loc("test")
RELU = Epilogue(ActivationKind.RELU)
try:
    LIBRARY = library.load(None)
except DeviceError as absent:  # a machine that tests its GPU alone
    pytest.skip(str(absent), allow_module_level=True)
TARGET = CpuTarget(LIBRARY, llvm_target.host_isa(), 2)


def integers(shape, dtype, seed=0):
    low, high = (0, 256) if dtype is DType.U8 else (-128, 128)
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype.numpy)


def node_of(op, operands, runtime):
    """Return a node whose operands are graph inputs where ``runtime`` says so, else constants."""
    graph = Graph()
    values = [
        graph.input(f"i{k}", TensorType(DType.of(a.dtype), a.shape))
        if k in runtime
        else emit(Const.of(a), (), loc=HERE)
        for k, a in enumerate(operands)
    ]
    return emit_node(op, values, loc=HERE)


def check(op, operands):
    node = node_of(op, operands, {0, 4})
    offered = LibraryQuantized().candidates(node, TARGET)
    assert isinstance(offered, list), offered
    wanted = op.reference(*operands)
    for candidate in offered:
        (got,) = run_candidate(node, candidate, TARGET, operands)
        assert got.dtype == wanted.dtype
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
        else:
            # Ties may fall to the other side, since the library scales in another order.
            steps = np.abs(got.astype(int) - wanted.astype(int))
            assert steps.max() <= 1
            assert (steps > 0).mean() < 0.01
            assert len(np.unique(wanted)) > 20, "the scale leaves too little to compare"


def convolution(rank=2, kernel=3, stride=1, pad=1, **more):
    def each(n):
        return (n,) * rank

    return QuantizedConvolution(
        strides=each(stride), dilations=each(1), pads_begin=each(pad), pads_end=each(pad), **more
    )


def operands(op, x_type=DType.U8, channels=(16, 24), size=7, kernel=3, rank=2, bias=True):
    c, m = channels
    x = integers((2, c, *(size,) * rank), x_type)
    w = integers((m, c // op.groups, *(kernel,) * rank), DType.I8, 1)
    rng = np.random.default_rng(2)
    scales = rng.uniform(0.5, 2, m).astype(np.float32) / np.float32(64 * np.sqrt(w[0].size))
    return [x, w, scales, *([rng.standard_normal(m).astype(np.float32) * 3] if bias else [])]


X = {DType.U8: Scaling(0.0625, 117), DType.I8: Scaling(0.0625, -9)}
Y = {DType.U8: Scaling(0.125, 99), DType.I8: Scaling(0.125, 3)}


@pytest.mark.parametrize("y_type", [DType.F32, DType.U8, DType.I8])
@pytest.mark.parametrize("x_type", [DType.U8, DType.I8])
@pytest.mark.parametrize("activation", [None, RELU, Epilogue(ActivationKind.HARD_SWISH)])
def test_convolution_of_each_type(x_type, y_type, activation):
    op = convolution(
        x_scaling=X[x_type], activation=activation, dtype=y_type, y_scaling=Y.get(y_type)
    )
    check(op, operands(op, x_type))


@pytest.mark.parametrize("y_type", [DType.F32, DType.U8])
@pytest.mark.parametrize(
    "activation", [None, RELU, Epilogue(ActivationKind.CLIP, 0.0, 6.0), Epilogue("sigmoid")]
)
@pytest.mark.parametrize("residual_type", [DType.F32, DType.U8, DType.I8])
def test_convolution_with_residual(residual_type, activation, y_type):
    if isinstance(activation, Epilogue):
        activation = Epilogue(ActivationKind(activation.kind), activation.alpha, activation.beta)
    fine = Scaling(0.004, 0) if activation and activation.kind == "sigmoid" else Y[DType.U8]
    op = convolution(
        x_scaling=X[DType.U8],
        residual_scaling=None if residual_type is DType.F32 else Scaling(0.03125, 5),
        activation=activation,
        dtype=y_type,
        y_scaling=None if y_type is DType.F32 else fine,
    )
    given = operands(op)
    shape = op.reference(*given[:2], *given[2:4]).shape
    if residual_type is DType.F32:
        residual = np.random.default_rng(3).standard_normal(shape).astype(np.float32) * 4
    else:
        residual = integers(shape, residual_type, 3)
    check(op, [*given, residual])


@pytest.mark.parametrize(
    ("rank", "kernel", "stride", "pad", "groups", "channels"),
    [
        (2, 1, 1, 0, 1, (3, 5)),
        (2, 7, 2, 3, 1, (3, 32)),
        (2, 3, 2, 1, 32, (32, 32)),
        (2, 3, 1, 1, 2, (32, 48)),
        (1, 3, 1, 1, 1, (16, 16)),
        (3, 3, 1, 1, 1, (16, 16)),
    ],
)
def test_convolution_geometries(rank, kernel, stride, pad, groups, channels):
    op = convolution(
        rank, kernel, stride, pad, groups=groups, x_scaling=X[DType.U8], dtype=DType.U8,
        y_scaling=Y[DType.U8],
    )  # fmt: skip
    check(op, operands(op, channels=channels, kernel=kernel, rank=rank, bias=groups == 1))


@pytest.mark.parametrize("y_type", [DType.F32, DType.U8, DType.I8])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("x_type", [DType.U8, DType.I8])
def test_matmul(x_type, y_type, residual):
    op = QuantizedMatmul(
        x_scaling=X[x_type],
        residual_scaling=Scaling(0.03125, 5) if residual else None,
        activation=RELU,
        dtype=y_type,
        y_scaling=Y.get(y_type),
    )
    rng = np.random.default_rng(4)
    a, b = integers((3, 9, 64), x_type), integers((64, 40), DType.I8, 1)
    given = [a, b, rng.uniform(0.001, 0.004, 40).astype(np.float32)]
    given.append(rng.standard_normal(40).astype(np.float32))
    if residual:
        given.append(integers((3, 9, 40), DType.U8, 5))
    check(op, given)


def test_weights_known_at_run_time_are_declined():
    op = convolution(x_scaling=X[DType.U8])
    given = operands(op)
    offered = LibraryQuantized().candidates(node_of(op, given, {0, 1}), TARGET)
    assert isinstance(offered, Reject)
    assert "not constant" in offered.reason


@pytest.mark.parametrize("y_type", [DType.F32, DType.U8])
@pytest.mark.parametrize(
    "activation", [None, RELU, Epilogue(ActivationKind.HARD_SWISH)], ids=["none", "relu", "swish"]
)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("rounding_type", [DType.U8, DType.I8])
def test_convolution_that_rounds_twice(rounding_type, residual, activation, y_type):
    op = convolution(
        x_scaling=X[DType.U8],
        residual_scaling=Scaling(0.03125, 5) if residual else None,
        activation=activation,
        dtype=y_type,
        y_scaling=Y.get(y_type) if y_type is not DType.F32 else None,
        rounding=Scaling(0.0917, 40 if rounding_type is DType.U8 else -7),
        rounding_dtype=rounding_type,
    )
    given = operands(op)
    shape = op.reference(*given).shape if not residual else (2, 24, 7, 7)
    check_rounded(op, [*given, *([integers(shape, DType.U8, 3)] if residual else [])])


def check_rounded(op, given):
    """Compare; a tie that falls to the other side inside is one step of the inner scale."""
    node = node_of(op, given, {0, 4})
    offered = LibraryQuantized().candidates(node, TARGET)
    assert isinstance(offered, list), offered
    wanted = op.reference(*given).astype(np.float64)
    step = op.rounding.scale if op.y_scaling is None else 1.0
    for candidate in offered:
        (got,) = run_candidate(node, candidate, TARGET, given)
        difference = np.abs(got - wanted)
        assert difference.max() <= step * 1.0001
        assert (difference > 1e-4 * np.abs(wanted).max()).mean() < 0.01
