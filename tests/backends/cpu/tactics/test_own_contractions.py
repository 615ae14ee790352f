"""Our own convolutions and matrix products as tactics, against the operators' meaning."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tests.backends.cpu.candidates import run_candidate

from lamina import ops
from lamina.backends.cpu.onednn import library
from lamina.backends.cpu.tactics.own_convolution import OwnConvolution
from lamina.backends.cpu.tactics.own_matmul import OwnMatmul
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm import target as llvm_target
from lamina.ir.graph import Graph, emit_node
from lamina.ir.loc import Loc
from lamina.ir.pattern import Reject
from lamina.ir.types import DType, TensorType
from lamina.ir.weight import Weight
from lamina.ops import Convolution, Epilogue, Matmul
from lamina.ops.kinds import ActivationKind

RELU = Epilogue(ActivationKind.RELU, 0, 0)
PADDED = {"strides": (1, 1), "dilations": (1, 1), "pads_begin": (1, 1), "pads_end": (1, 1)}
TOLERANCE = {DType.F32: 2e-4, DType.BF16: 2**-6}
# operator, operand shapes; constants are the second and third
PRODUCTS = [
    (Matmul(), [(1, 40), (40, 70)]),
    (Matmul(transpose_b=True, activation=RELU), [(2, 3, 33), (64, 33), (64,)]),
    (Matmul(), [(8, 32), (32, 48), (48,), (8, 48)]),
    (Matmul(), [(4, 32), (32, 48), (1, 48), (4, 48)]),
]
CONVOLUTIONS = [
    (Convolution(**PADDED, activation=RELU), [(1, 32, 11, 9), (48, 32, 3, 3), (48,)]),
    (Convolution(**PADDED), [(2, 16, 8, 8), (32, 16, 3, 3), (32,), (2, 32, 8, 8)]),
    (Convolution(**PADDED, groups=24), [(1, 24, 9, 9), (24, 1, 3, 3)]),
    (Convolution(**PADDED, groups=2), [(1, 64, 9, 9), (32, 32, 3, 3)]),
]


def _target(threads=2):
    return CpuTarget(library=None, isa=llvm_target.host_isa(), threads=threads)


def _node(op, shapes, dtype=DType.F32, constants=(1, 2)):
    rng = np.random.default_rng(3)
    graph, operands, arrays = Graph(), [], []
    for i, shape in enumerate(shapes):
        scale = np.sqrt(np.prod(shape[1:])) if i == 1 else 1
        array = (rng.normal(size=shape) / scale).astype(dtype.numpy)
        type = TensorType(dtype, shape)
        if i in constants:
            value = emit_node(ops.Const(type=type, weight=Weight(array)), (), loc=Loc("w")).output
        else:
            value = graph.input(f"x{i}", type)
        operands.append(value)
        arrays.append(array)
    return emit_node(op, operands, loc=Loc("test")), arrays


def _check(node, arrays, tactic, dtype):
    expected = node.op.reference(*arrays).astype(np.float32)
    candidates = tactic.candidates(node, _target())
    assert isinstance(candidates, list), candidates
    for candidate in candidates:
        (y,) = run_candidate(node, candidate, _target(), arrays)
        error = np.abs(y.astype(np.float32) - expected).max() / np.abs(expected).max()
        assert error <= TOLERANCE[dtype], candidate.tactic


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16], ids=str)
@pytest.mark.parametrize(("op", "shapes"), PRODUCTS)
def test_matrix_products_match_the_meaning(op, shapes, dtype):
    _check(*_node(op, shapes, dtype), OwnMatmul(), dtype)


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16], ids=str)
@pytest.mark.parametrize(("op", "shapes"), CONVOLUTIONS)
def test_convolutions_match_the_meaning(op, shapes, dtype):
    _check(*_node(op, shapes, dtype), OwnConvolution(), dtype)


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16], ids=str)
@pytest.mark.parametrize(("channels", "groups", "side"), [(32, 1, 9), (32, 32, 17)])
def test_large_filters_go_through_fourier_transforms(channels, groups, side, dtype):
    pads = (side // 2, side // 2)
    op = Convolution(
        strides=(1, 1), dilations=(1, 1), pads_begin=pads, pads_end=pads, groups=groups
    )
    shapes = [(1, channels, 30, 28), (channels, channels // groups, side, side), (channels,)]
    node, arrays = _node(op, shapes, dtype)
    assert any("fft" in c.tactic for c in OwnConvolution().candidates(node, _target()))
    _check(node, arrays, OwnConvolution(), dtype)


@pytest.mark.parametrize(
    ("shapes", "constants", "reason"),
    [
        ([(1, 8), (8, 8)], (), "no constant matrix"),
        ([(2, 8), (8, 8), (2, 1)], (1,), "cannot add shape (2, 1)"),
    ],
)
def test_matrix_products_decline_with_a_reason(shapes, constants, reason):
    node, _ = _node(Matmul(), shapes, constants=constants)
    refused = OwnMatmul().candidates(node, _target())
    assert isinstance(refused, Reject) and reason in refused.reason


def test_many_rows_are_left_to_the_library_where_there_is_one():
    node, _ = _node(Matmul(), [(9, 8), (8, 8)], constants=(1,))
    assert not isinstance(OwnMatmul().candidates(node, _target()), Reject)
    with_library = dataclasses.replace(_target(), library=library.load())
    refused = OwnMatmul().candidates(node, with_library)
    assert isinstance(refused, Reject) and "9 rows" in refused.reason
