"""The matmul of last resort against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cpu.candidates import run_candidate

from lamina.backends.cpu.driver import CpuDriver
from lamina.backends.cpu.tactics.plain_matmul import PlainMatmul
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm import target as llvm_target
from lamina.ir.graph import Graph, emit_node
from lamina.ir.loc import Loc
from lamina.ir.pattern import Reject
from lamina.ir.types import DType, TensorType
from lamina.ops import Epilogue, Matmul
from lamina.ops.kinds import ActivationKind

HOST = llvm_target.host_isa()
WITHOUT_LIBRARY = CpuTarget(None, HOST, 1, {})

# options, shapes
CASES = [
    ({}, ((5, 7), (7, 9))),
    ({"transpose_b": True}, ((2, 3, 5, 7), (3, 33, 7))),
    ({"transpose_a": True}, ((4, 1, 7, 5), (3, 7, 20))),
    ({"transpose_a": True, "transpose_b": True}, ((7, 5), (9, 7), (9,))),
    ({}, ((2, 5, 7), (7, 17), (17,), (2, 5, 17))),
    ({}, ((2, 5, 7), (7, 17), (5, 1))),
    ({}, ((1, 1), (1, 1))),
]


def _node(op, shapes, dtype):
    rng = np.random.default_rng(3)
    scale = 1 if dtype.is_float else 4
    arrays = [(rng.standard_normal(s) * scale).astype(dtype.numpy) for s in shapes]
    graph = Graph()
    operands = [graph.input(f"i{k}", TensorType(dtype, s)) for k, s in enumerate(shapes)]
    return emit_node(op, operands, loc=Loc("test")), arrays


def _check(node, arrays, target, tolerance):
    (candidate,) = PlainMatmul().candidates(node, target)
    (got,) = run_candidate(node, candidate, target, arrays)
    want = node.op.reference(*arrays)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(
        got.astype(np.float64), want.astype(np.float64), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(("options", "shapes"), CASES)
@pytest.mark.parametrize("isa", [HOST, llvm_target.AVX2], ids=lambda isa: isa.name)
def test_f32_without_library(options, shapes, isa):
    node, arrays = _node(Matmul(**options), shapes, DType.F32)
    _check(node, arrays, CpuTarget(None, isa, 1, {}), 2e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (DType.F64, 1e-14), (DType.F16, 2e-3), (DType.BF16, 2e-2),
        (DType.I32, 0), (DType.I64, 0), (DType.U8, 0), (DType.U32, 0),
    ],
)  # fmt: skip
def test_types(dtype, tolerance):
    node, arrays = _node(Matmul(transpose_b=True), ((2, 5, 40), (2, 19, 40), (19,)), dtype)
    _check(node, arrays, WITHOUT_LIBRARY, tolerance)


def test_activation():
    op = Matmul(activation=Epilogue(ActivationKind.GELU))
    node, arrays = _node(op, ((3, 7), (7, 9), (9,)), DType.F32)
    _check(node, arrays, WITHOUT_LIBRARY, 2e-6)


def test_leaves_to_the_library_what_it_takes():
    node, _ = _node(Matmul(), ((3, 7), (7, 9)), DType.F32)
    library = CpuDriver(2).library
    assert library is not None
    assert isinstance(PlainMatmul().candidates(node, CpuTarget(library, HOST, 2, {})), Reject)
