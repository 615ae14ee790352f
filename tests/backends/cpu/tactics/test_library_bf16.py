"""bf16 contractions of the library against the operators' NumPy meaning."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cpu.candidates import run_candidate

from lamina.backends.cpu.features import cpu_features
from lamina.backends.cpu.onednn import library
from lamina.backends.cpu.tactics.library_convolution import LibraryConvolution
from lamina.backends.cpu.tactics.library_matmul import LibraryMatmul
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm import target as llvm_target
from lamina.ir.graph import Graph, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ops import ActivationKind, Const, Convolution, Deconvolution, Epilogue, Matmul

pytestmark = pytest.mark.skipif(
    "avx512bf16" not in cpu_features(), reason="the CPU has no bf16 arithmetic"
)

HERE = Loc("test")
BF16 = ml_dtypes.bfloat16
ACTIVATIONS = [None, Epilogue(ActivationKind.RELU), Epilogue(ActivationKind.SILU, 1.0)]


def target():
    return CpuTarget(library.load(None), llvm_target.host_isa(), 2)


def normal(*shape, seed=0, dtype=BF16):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def check(tactic, op, operands, runtime):
    graph = Graph()
    values = [
        graph.input(f"i{k}", TensorType(DType.of(a.dtype), a.shape))
        if k in runtime
        else emit(Const.of(a), (), loc=HERE)
        for k, a in enumerate(operands)
    ]
    node = emit_node(op, values, loc=HERE)
    offered = tactic.candidates(node, target())
    assert isinstance(offered, list), offered
    assert offered
    wanted = op.reference(*operands).astype(np.float32)
    for candidate in offered:
        (got,) = run_candidate(node, candidate, target(), operands)
        assert got.dtype == BF16
        # One rounding of the result, and one of the sum before a residual is added.
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(got.astype(np.float32), wanted, rtol=2**-7, atol=scale * 2**-8)


def each(n):
    return (n, n)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias_type", [np.float32, BF16])
@pytest.mark.parametrize("residual", [False, True])
def test_convolution(activation, bias_type, residual):
    op = Convolution(
        strides=each(1), dilations=each(1), pads_begin=each(1), pads_end=each(1),
        activation=activation,
    )  # fmt: skip
    operands = [
        normal(2, 16, 7, 6), normal(24, 16, 3, 3, seed=1), normal(24, seed=2, dtype=bias_type)
    ]  # fmt: skip
    if residual:
        operands.append(normal(2, 24, 7, 6, seed=3))
    check(LibraryConvolution(), op, operands, {0, 3})


def test_convolution_of_an_image_and_depthwise():
    image = Convolution(strides=each(2), dilations=each(1), pads_begin=each(3), pads_end=each(3))
    check(LibraryConvolution(), image, [normal(1, 3, 20, 20), normal(32, 3, 7, 7, seed=1)], {0})
    depthwise = Convolution(
        strides=each(1), dilations=each(1), pads_begin=each(1), pads_end=each(1), groups=32
    )
    operands = [normal(1, 32, 9, 9), normal(32, 1, 3, 3, seed=1), normal(32, dtype=np.float32)]
    check(LibraryConvolution(), depthwise, operands, {0})


def test_deconvolution():
    op = Deconvolution(
        strides=each(2), dilations=each(1), pads_begin=each(1), pads_end=each(1),
        output_padding=each(0),
    )  # fmt: skip
    operands = [normal(1, 16, 5, 5), normal(16, 16, 3, 3, seed=1), normal(16, dtype=np.float32)]
    check(LibraryConvolution(), op, operands, {0})


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("transpose_b", [False, True])
def test_matmul_with_constant_weights(activation, transpose_b):
    op = Matmul(transpose_b=transpose_b, activation=activation)
    b = normal(48, 64, seed=1) if transpose_b else normal(64, 48, seed=1)
    operands = [normal(3, 9, 64), b, normal(48, seed=2, dtype=np.float32), normal(3, 9, 48)]
    check(LibraryMatmul(), op, operands, {0, 3})


def test_matmul_of_two_computed_operands():
    check(LibraryMatmul(), Matmul(), [normal(2, 3, 9, 16), normal(2, 3, 16, 11, seed=1)], {0, 1})
