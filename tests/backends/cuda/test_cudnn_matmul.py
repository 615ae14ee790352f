"""Matrix products with an activation by cuDNN, whose stand-in runs them in NumPy."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import check, node_of
from tests.backends.cuda.libraries import stand_in
from tests.samples.sample import normal

from lamina.backends.cuda.tactics.cudnn_matmul import CudnnMatmul
from lamina.backends.cuda.target import TARGETS
from lamina.ops import ActivationKind, Epilogue, Matmul

H200 = replace(TARGETS[90], library=stand_in)
GELU = Epilogue(ActivationKind.GELU)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("operands", [2, 3, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_bias_residual_activation(dtype, operands, transposed):
    weights = (24, 16) if transposed else (16, 24)
    shapes = [(2, 9, 16), weights, (24,), (2, 9, 24)]
    given = [normal(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes)][:operands]
    op = Matmul(transpose_b=transposed, activation=GELU)
    check(CudnnMatmul(), op, given, H200, pick="eng0", most=1)
    check(CudnnMatmul(), op, given, H200, pick="eng2", most=1, gap=8)


def test_a_second_operand_that_is_no_constant():
    given = [normal(8, 16), normal(16, 24, seed=1)]
    check(CudnnMatmul(), Matmul(activation=GELU), given, H200, pick="eng0", constants=())


@pytest.mark.parametrize(
    "op, shapes, why",
    [
        (Matmul(), [(8, 16), (16, 8)], "cuBLASLt"),
        (Matmul(activation=Epilogue(ActivationKind.RELU)), [(8, 16), (16, 8)], "cuBLASLt"),
        (Matmul(activation=Epilogue(ActivationKind.MISH)), [(8, 16), (16, 8)], "no mish"),
        (Matmul(activation=GELU), [(3, 8, 16), (3, 16, 8)], "several"),
        (Matmul(activation=GELU), [(8, 15), (15, 8)], "16 bytes"),
    ],
)
def test_declined(op, shapes, why):
    given = [np.zeros(s, np.float16) for s in shapes]
    found = CudnnMatmul().candidates(node_of(op, given, constants=()), H200)
    assert why in found.reason


def test_without_the_library():
    node = node_of(
        Matmul(activation=GELU), [np.zeros((8, 16), np.float16), np.zeros((16, 8), np.float16)]
    )
    assert "on the device itself" in CudnnMatmul().candidates(node, TARGETS[90]).reason
