"""The image quantizer against the operator's NumPy meaning."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cpu.candidates import run_candidate

from lamina.backends.cpu.onednn import library
from lamina.backends.cpu.tactics.own_quantize import OwnQuantize
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm import target as llvm_target
from lamina.ir.graph import Graph, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.pattern import Reject
from lamina.ir.types import DType, TensorType
from lamina.ops import Const, Quantize

HERE = Loc("test")


def node_of(op, x, *parameters):
    graph = Graph()
    v = graph.input("x", TensorType(DType.F32, x.shape))
    return emit_node(op, [v, *(emit(Const.of(p), (), loc=HERE) for p in parameters)], loc=HERE)


@pytest.mark.parametrize("isa", [llvm_target.AVX2, llvm_target.host_isa()], ids=["avx2", "host"])
@pytest.mark.parametrize("shape", [(1, 3, 8, 16), (2, 3, 7, 5), (3, 2, 1, 1), (2, 4, 5, 9)])
@pytest.mark.parametrize(("dtype", "zero"), [(DType.U8, 117), (DType.U8, 0), (DType.I8, -3)])
def test_images(isa, shape, dtype, zero):
    target = CpuTarget(library.load(None), isa, 2)
    x = (np.random.default_rng(0).standard_normal(shape) * 40).astype(np.float32)
    x.flat[0], x.flat[-1] = 1e9, -np.inf
    scale, zero_point = np.float32(0.3), np.asarray(zero, dtype.numpy)
    op = Quantize(dtype=dtype)
    node = node_of(op, x, scale, zero_point)
    offered = OwnQuantize().candidates(node, target)
    assert isinstance(offered, list), offered
    (got,) = run_candidate(node, offered[0], target, [x, scale, zero_point])
    np.testing.assert_array_equal(got, op.reference(x, scale, zero_point))


def test_what_it_declines():
    target = CpuTarget(None, llvm_target.host_isa(), 2)
    x = np.ones((1, 64, 4, 4), np.float32)
    node = node_of(Quantize(dtype=DType.U8), x, np.float32(1))
    offered = OwnQuantize().candidates(node, target)
    assert isinstance(offered, Reject)
    assert "64" in offered.reason
