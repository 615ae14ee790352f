"""Matrix products against the operators' meaning, in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import check, compare, node_of, run_candidate
from tests.samples.sample import integers, normal

from lamina.backends.cuda.tactics.matmul import TritonMatmul, TritonMatmulBoxes, TritonMatvec
from lamina.backends.cuda.target import TARGETS
from lamina.ir.dims import sym
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import ActivationKind, Epilogue, Matmul, QuantizedMatmul, Scaling

H200 = TARGETS[90]
RELU = Epilogue(ActivationKind.RELU)


def half(*shape, seed=0):
    return normal(*shape, seed=seed, dtype=np.float16)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_bias_residual_activation(dtype):
    given = [
        normal(*shape, seed=i, dtype=dtype)
        for i, shape in enumerate([(19, 37), (37, 21), (21,), (19, 21)])
    ]
    check(TritonMatmul(), Matmul(activation=RELU), given, H200, most=3)


@pytest.mark.parametrize("a, b", [(True, False), (False, True), (True, True)])
def test_transposes(a, b):
    left = half(2, 24, 18) if a else half(2, 18, 24)
    right = half(2, 20, 24, seed=1) if b else half(2, 24, 20, seed=1)
    op = Matmul(transpose_a=a, transpose_b=b)
    check(TritonMatmul(), op, [left, right], H200, most=1, constants=())
    check(TritonMatmul(), op, [left, right[0]], H200, most=1)


@pytest.mark.parametrize(
    "left, right, bias",
    [
        ((3, 1, 6, 8), (2, 8, 5), (5,)),
        ((2, 3, 6, 8), (8, 5), (3, 6, 1)),
        ((2, 3, 1, 8), (3, 8, 5), (2, 1, 1, 5)),
        ((4, 1, 8), (8, 5), (1, 1)),
        ((8, 5), (2, 5, 8), (8, 8)),
    ],
)
def test_matrices_broadcast(left, right, bias):
    given = [half(*left), half(*right, seed=1), half(*bias, seed=2)]
    check(TritonMatmul(), Matmul(), given, H200, most=1, constants=())
    check(TritonMatmul(), Matmul(), given, H200, most=1)


def test_depth_split_between_programs():
    given = [half(20, 300), half(300, 24, seed=1), half(24, seed=2), half(20, 24, seed=3)]
    check(TritonMatmul(), Matmul(activation=RELU), given, H200, most=2, pick="split")


def test_rows_that_are_apart():
    given = [half(2, 7, 24), half(24, 20, seed=1), half(20, seed=2)]
    check(TritonMatmul(), Matmul(), given, H200, most=1, gap=12)


def test_symbolic_sizes():
    rows, depth = sym("rows"), sym("depth")
    env = {"rows": 21, "depth": 19}
    target = replace(H200, env=env)
    given = [half(21, 32), half(32, 40, seed=1), half(40, seed=2)]
    shapes = {0: (rows, 32)}
    check(TritonMatmul(), Matmul(), given, target, most=1, env=env, shapes=shapes)
    check(TritonMatmulBoxes(), Matmul(), given, target, most=1, env=env, shapes=shapes)
    given = [half(2, 21, 19), half(2, 19, 8, seed=1)]
    shapes = {0: (2, rows, depth), 1: (2, depth, 8)}
    check(TritonMatmul(), Matmul(), given, target, most=1, env=env, shapes=shapes, constants=())


def test_a_symbol_that_may_repeat_is_refused():
    a, b = half(2, 3, 4), half(2, 4, 5)
    node = node_of(
        Matmul(), [a, b], constants=(), shapes={0: (sym("p"), 3, 4), 1: (sym("q"), 4, 5)}
    )
    target = replace(H200, env={"p": 2, "q": 2})
    assert isinstance(TritonMatmul().candidates(node, target), Reject)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_boxes(dtype):
    given = [
        normal(*shape, seed=i, dtype=dtype)
        for i, shape in enumerate([(90, 48), (48, 40), (40,), (90, 40)])
    ]
    check(TritonMatmulBoxes(), Matmul(activation=RELU), given, H200, most=3)


def test_boxes_that_are_stored_in_halves():
    given = [half(70, 32), half(32, 256, seed=1), half(256, seed=2), half(70, 256, seed=3)]
    node = node_of(Matmul(), given)
    wide = [c for c in TritonMatmulBoxes().candidates(node, H200) if "x256x" in c.tactic]
    wanted = Matmul().reference(*given)
    assert wide
    compare(run_candidate(node, wide[0], given), wanted, wide[0].tactic)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_few_rows(rows):
    given = [half(rows, 300), half(300, 21, seed=1), half(21, seed=2), half(rows, 21, seed=3)]
    check(TritonMatvec(), Matmul(activation=RELU), given, H200, most=2)
    given = [half(rows, 600), half(600, 21, seed=1)]
    check(TritonMatvec(), Matmul(), given, H200, most=1, pick="split")


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("result", [DType.F32, DType.U8, DType.I8])
@pytest.mark.parametrize("rounding", [None, Scaling(0.25, 7)])
def test_integers(signed, result, rounding):
    low, high, dtype = (-128, 127, np.int8) if signed else (0, 255, np.uint8)
    given = [
        integers(18, 70, low=low, high=high, dtype=dtype),
        integers(70, 24, low=-127, high=127, seed=1, dtype=np.int8),
        np.linspace(0.5, 2, 24, dtype=np.float32) / 64,
        normal(24, seed=2),
        integers(18, 24, low=0, high=255, seed=3, dtype=np.uint8),
    ]
    op = QuantizedMatmul(
        x_scaling=Scaling(0.02, -5 if signed else 117),
        residual_scaling=Scaling(0.1, 100),
        activation=RELU,
        dtype=result,
        y_scaling=None if result is DType.F32 else Scaling(0.0617, 3),
        rounding=rounding,
        rounding_dtype=DType.F32 if rounding is None else DType.U8,
    )
    check(TritonMatmul(), op, given, H200, most=1)
    if signed:
        check(TritonMatmulBoxes(), op, [np.pad(given[0], ((0, 0), (0, 10))), np.pad(
            given[1], ((0, 10), (0, 0))), *given[2:]], H200, most=1)  # fmt: skip


ACTIVATIONS = {
    ActivationKind.SILU: (1.0, 0.0), ActivationKind.ELU: (0.7, 0.0),
    ActivationKind.SELU: (1.67, 1.05), ActivationKind.CELU: (0.8, 0.0),
    ActivationKind.LEAKY_RELU: (0.1, 0.0), ActivationKind.HARD_SIGMOID: (0.2, 0.5),
    ActivationKind.THRESHOLDED_RELU: (0.4, 0.0), ActivationKind.CLIP: (-0.5, 0.7),
    ActivationKind.SCALED_TANH: (1.7, 0.6), ActivationKind.SHRINK: (0.5, 0.1),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(ActivationKind))
def test_every_activation(kind):
    op = Matmul(activation=Epilogue(kind, *ACTIVATIONS.get(kind, (0.0, 0.0))))
    check(TritonMatmul(), op, [normal(16, 8), normal(8, 16, seed=1)], H200, most=1)
