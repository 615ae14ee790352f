"""Convolutions down strips of an image: meaning, code of Hopper, what is declined."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import check, node_of
from tests.backends.cuda.test_contractions_compile import assembly
from tests.backends.cuda.test_convolution import op_of, operands

from lamina.backends.cuda.tactics.rolling import RollingConvolution
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.ir.dims import sym
from lamina.ir.pattern import Reject
from lamina.ops import ActivationKind, Convolution, Epilogue
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

H200 = TARGETS[90]
RELU = Epilogue(ActivationKind.RELU)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "options, x, w",
    [
        ({}, (2, 64, 9, 11), (64, 64, 3, 3)),
        ({"begin": (0, 2), "end": (1, 0), "dilations": (1, 2)}, (3, 64, 7, 20), (64, 64, 3, 2)),
        ({"begin": (1, 0), "end": (1, 0)}, (1, 128, 5, 9), (128, 128, 3, 1)),
    ],
)
def test_bias_residual_activation(options, x, w, dtype):
    op = op_of(Convolution, activation=RELU, **options)
    for more in ({"residual": True}, {"bias": False}):
        check(RollingConvolution(), op, operands(op, x, w, dtype, **more), H200, most=1, gap=8)


def test_symbolic_batch():
    target = replace(H200, env={"n": 2})
    op = op_of(Convolution, activation=RELU)
    given = operands(op, (2, 64, 7, 6), (64, 64, 3, 3))
    shapes = {0: (sym("n"), 64, 7, 6)}
    check(RollingConvolution(), op, given, target, most=1, env=target.env, shapes=shapes)


@pytest.mark.parametrize("channels", [64, 128])
def test_compiles_without_spilling(channels, tmp_path):
    op = op_of(Convolution, activation=RELU)
    shapes = ((16, channels, 128, 128), (64, channels, 3, 3), (64,))
    node = node_of(op, [np.zeros(s, np.float16) for s in shapes])
    found = RollingConvolution().candidates(node, H200)
    forms = [f or Form.PLAIN for f in found[0].reads]
    laid = [layout(v.tensor, f) for v, f in zip(node.inputs, forms, strict=True)]
    dense = Placement(tuple(laid), (layout(node.output.tensor, found[0].writes[0]),), "")
    for c in found:
        (launch,) = c.draft(dense).launches
        _, spilled, text = assembly(compile_request(launch.kernel, 90), tmp_path)
        assert not spilled, c.tactic
        # The assembler makes products wait for each other where it does not see that they need not.
        assert text.count("WARPGROUP.DEPBAR") < text.count("HGMMA") / 2
        assert text.count("STSM") >= 8


@pytest.mark.parametrize(
    "options, w, why",
    [
        ({"strides": 2}, (64, 64, 3, 3), "advance"),
        ({}, (64, 64, 5, 5), "three"),
        ({}, (48, 64, 3, 3), "64"),
        ({}, (64, 256, 3, 3), "room"),
    ],
)
def test_declines(options, w, why):
    op = op_of(Convolution, **options)
    node = node_of(op, operands(op, (1, w[1], 8, 8), w))
    reason = RollingConvolution().candidates(node, H200)
    assert isinstance(reason, Reject) and why in str(reason)
    assert isinstance(RollingConvolution().candidates(node, TARGETS[100]), Reject)
