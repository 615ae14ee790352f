"""The kernel for depthwise convolutions of bytes against the operator's NumPy meaning."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cpu.candidates import run_candidate

from lamina.backends.cpu.tactics.own_quantized import OwnQuantized
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm import target as llvm_target
from lamina.ir.graph import Graph, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.pattern import Reject
from lamina.ir.types import DType, TensorType
from lamina.ops import ActivationKind, Const, Epilogue, QuantizedConvolution, Scaling

HERE = Loc("test")
TARGET = CpuTarget(None, llvm_target.host_isa(), 2)
needs_vnni = pytest.mark.skipif(not TARGET.isa.has("avx512vnni"), reason="needs AVX-512 VNNI")


def convolution(channels, kernel, stride, pad, **more):
    options = dict(x_scaling=Scaling(0.02, 117), dtype=DType.U8, y_scaling=Scaling(0.0617, 99))
    return QuantizedConvolution(
        strides=(stride, stride), dilations=(1, 1), pads_begin=(pad, pad), pads_end=(pad, pad),
        groups=channels, **(options | more),
    )  # fmt: skip


def operands(channels, kernel, size, bias=True):
    rng = np.random.default_rng(channels)
    x = rng.integers(0, 256, (2, channels, *size)).astype(np.uint8)
    w = rng.integers(-128, 128, (channels, 1, kernel, kernel)).astype(np.int8)
    scales = rng.uniform(0.5, 2, channels).astype(np.float32) / np.float32(64 * kernel)
    biases = rng.standard_normal(channels).astype(np.float32)
    return [x, w, scales, *([biases] if bias else [])]


def node_of(op, given):
    graph = Graph()
    x = graph.input("x", TensorType(DType.of(given[0].dtype), given[0].shape))
    return emit_node(op, [x, *(emit(Const.of(a), (), loc=HERE) for a in given[1:])], loc=HERE)


def check(op, given):
    node = node_of(op, given)
    offered = OwnQuantized().candidates(node, TARGET)
    assert isinstance(offered, list), offered
    (got,) = run_candidate(node, offered[0], TARGET, given)
    wanted = op.reference(*given)
    assert got.dtype == wanted.dtype
    # The scale and the bias are applied in another order, so that ties may fall to the other side.
    steps = np.abs(got.astype(int) - wanted.astype(int))
    assert steps.max() <= 1
    assert (steps > 0).mean() < 0.002
    assert len(np.unique(wanted)) > 20, "the scale leaves too little to compare"


@needs_vnni
@pytest.mark.parametrize("channels", [16, 24, 32, 40, 48, 64, 96, 120, 144, 200])
@pytest.mark.parametrize("stride", [1, 2])
def test_channels(channels, stride):
    check(convolution(channels, 3, stride, 1), operands(channels, 3, (9, 8)))


@needs_vnni
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (1, 1), (2, 2), (3, 0)])
@pytest.mark.parametrize("size", [(7, 7), (8, 13)])
def test_windows(kernel, stride, pad, size):
    op = convolution(80, kernel, stride, min(pad, kernel // 2))
    check(op, operands(80, kernel, size, bias=False))


@needs_vnni
@pytest.mark.parametrize("y_type", [DType.U8, DType.I8])
@pytest.mark.parametrize(
    "activation",
    [Epilogue(ActivationKind.RELU), Epilogue(ActivationKind.CLIP, -2.0, 2.0)],
    ids=["relu", "clip"],
)
def test_epilogues(y_type, activation):
    scaling = Scaling(0.0617, 99 if y_type is DType.U8 else -9)
    op = convolution(64, 3, 1, 1, activation=activation, dtype=y_type, y_scaling=scaling)
    check(op, operands(64, 3, (9, 9)))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(dtype=DType.F32, y_scaling=None), "f32"),
        (dict(rounding=Scaling(0.5), rounding_dtype=DType.U8), "rounding"),
        (dict(activation=Epilogue(ActivationKind.GELU)), "gelu"),
    ],
)
def test_what_it_declines(change, word):
    given = operands(64, 3, (9, 9))
    offered = OwnQuantized().candidates(node_of(convolution(64, 3, 1, 1, **change), given), TARGET)
    assert isinstance(offered, Reject)
    assert word in offered.reason
