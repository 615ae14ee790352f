"""Transposed convolutions whose windows are apart: meaning, code of Hopper, what is declined."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import check, node_of
from tests.backends.cuda.test_contractions_compile import assembly
from tests.backends.cuda.test_convolution import op_of, operands

from lamina.backends.cuda.tactics.spread import TritonSpread
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.ir.dims import sym
from lamina.ir.pattern import Reject
from lamina.ops import ActivationKind, Convolution, Deconvolution, Epilogue
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

H200 = TARGETS[90]
RELU = Epilogue(ActivationKind.RELU)


def apart(rank=2, strides=2, **more):
    more.setdefault("output_padding", (0,) * rank)
    return op_of(Deconvolution, rank=rank, strides=strides, begin=0, end=0, **more)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize(
    "x, w",
    [
        ((2, 24, 5, 7), (24, 32, 2, 2)),
        ((1, 70, 3, 5), (70, 48, 3, 1)),
        ((2, 64, 9), (64, 16, 4)),
        ((1, 32, 2, 3, 5), (32, 64, 2, 1, 2)),
    ],
)
def test_bias_and_activation(x, w, dtype):
    op = apart(rank=len(x) - 2, strides=w[2:], activation=RELU)
    check(TritonSpread(), op, operands(op, x, w, dtype), H200, most=1, pick="deconv ", gap=8)


@pytest.mark.parametrize("bias", [False, True])
def test_boxes(bias):
    op = apart(activation=RELU)
    given = operands(op, (2, 72, 9, 8), (72, 64, 2, 2), bias=bias)
    check(TritonSpread(), op, given, H200, most=2, pick="-tma", gap=8)


def test_symbolic_sizes():
    target = replace(H200, env={"n": 2, "h": 5})
    op = apart(activation=RELU)
    given = operands(op, (2, 64, 5, 6), (64, 64, 2, 2))
    shapes = {0: (sym("n"), 64, sym("h"), 6)}
    for pick in ("deconv ", "-tma"):
        check(TritonSpread(), op, given, target, most=1, pick=pick, shapes=shapes, env=target.env)


@pytest.mark.parametrize("arch", [75, 80, 90, 100])
def test_compiles_without_spilling(arch, tmp_path):
    op = apart()
    given = [np.zeros(s, np.float16) for s in ((16, 128, 64, 64), (128, 64, 2, 2), (64,))]
    node = node_of(op, given)
    found = TritonSpread().candidates(node, TARGETS[arch])
    forms = [f or Form.PLAIN for f in found[0].reads]
    operands = [layout(v.tensor, f) for v, f in zip(node.inputs, forms, strict=True)]
    dense = Placement(tuple(operands), (layout(node.output.tensor, found[0].writes[0]),), "")
    assert any("-tma" in c.tactic for c in found) == (arch >= 90)
    for kind in ("deconv ", "-tma"):
        offered = [c for c in found if kind in c.tactic]
        for c in [c for c in offered if arch != 90 or " 128x64x64 w4" in c.tactic][:1]:
            (launch,) = c.draft(dense).launches
            _, spilled, text = assembly(compile_request(launch.kernel, arch), tmp_path)
            assert not spilled or arch != 90, c.tactic
            assert arch != 90 or ("UTMALDG" in text) == (kind == "-tma")


@pytest.mark.parametrize(
    "op, w, why",
    [
        (apart(groups=2), (32, 16, 2, 2), "group"),
        (apart(output_padding=(1, 0)), (32, 32, 2, 2), "cover"),
        (apart(), (32, 32, 3, 3), "overlap"),
        (apart(), (32, 9, 2, 2), "9 filters"),
    ],
)
def test_declines(op, w, why):
    given = operands(op, (1, 32, 4, 4), w)
    reason = TritonSpread().candidates(node_of(op, given), H200)
    assert isinstance(reason, Reject) and why in str(reason)


def test_other_operators_are_not_meant():
    op = op_of(Convolution)
    node = node_of(op, operands(op, (1, 32, 4, 4), (32, 32, 3, 3)))
    assert TritonSpread().candidates(node, H200) is None
