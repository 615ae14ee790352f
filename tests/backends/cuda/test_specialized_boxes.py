"""Convolutions by specialized warps: meaning, code of Hopper, what is declined."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import check, node_of
from tests.backends.cuda.test_contractions_compile import assembly
from tests.backends.cuda.test_convolution import op_of, operands

from lamina.backends.cuda.tactics import specialized_boxes
from lamina.backends.cuda.tactics.specialized_boxes import SpecializedConvolution
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.ir.dims import sym
from lamina.ir.pattern import Reject
from lamina.ops import ActivationKind, Convolution, Epilogue
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

H200 = TARGETS[90]
RELU = Epilogue(ActivationKind.RELU)


@pytest.fixture
def few_tiles(monkeypatch):
    monkeypatch.setattr(specialized_boxes, "FEWEST_TILES", 1)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "options, x, w",
    [
        ({}, (2, 64, 9, 11), (96, 64, 3, 3)),
        ({"strides": (2, 1), "begin": (0, 2), "end": (1, 0)}, (3, 64, 8, 20), (128, 64, 2, 3)),
        ({"dilations": 2, "begin": 2, "end": 2}, (1, 128, 7, 9), (136, 128, 3, 1)),
    ],
)
def test_bias_residual_activation(few_tiles, options, x, w, dtype):
    op = op_of(Convolution, activation=RELU, **options)
    for more in ({"residual": True}, {"bias": False}):
        given = operands(op, x, w, dtype, **more)
        check(SpecializedConvolution(), op, given, H200, most=2, gap=8)


def test_programs_go_on_to_other_tiles(few_tiles):
    target = replace(H200, sms=3, env={"n": 5})
    op = op_of(Convolution, activation=RELU)
    given = operands(op, (5, 64, 16, 12), (256, 64, 3, 3), residual=True)
    shapes = {0: (sym("n"), 64, 16, 12), 3: (sym("n"), 256, 16, 12)}
    for how in ({}, {"shapes": shapes, "env": target.env}):
        check(SpecializedConvolution(), op, given, target, most=2, **how)


@pytest.mark.parametrize("operands", [3, 4])
def test_compiles_without_spilling(operands, tmp_path):
    op = op_of(Convolution, activation=RELU)
    shapes = ((16, 128, 128, 128), (128, 128, 3, 3), (128,), (16, 128, 128, 128))[:operands]
    node = node_of(op, [np.zeros(s, np.float16) for s in shapes])
    found = SpecializedConvolution().candidates(node, H200)
    assert len(found) == 2
    forms = [f or Form.PLAIN for f in found[0].reads]
    laid = [layout(v.tensor, f) for v, f in zip(node.inputs, forms, strict=True)]
    dense = Placement(tuple(laid), (layout(node.output.tensor, found[0].writes[0]),), "")
    for c in found:
        (launch,) = c.draft(dense).launches
        _, spilled, text = assembly(compile_request(launch.kernel, 90), tmp_path)
        assert not spilled, c.tactic
        # The assembler makes products wait for each other where it does not see that they need not.
        assert text.count("WARPGROUP.DEPBAR") <= text.count("HGMMA") / 2


@pytest.mark.parametrize(
    "dtype, w, why",
    [
        (np.float32, (128, 64, 3, 3), "16 bits"),
        (np.float16, (64, 64, 3, 3), "few filters"),
        (np.float16, (128, 48, 3, 3), "multiple of 64"),
        (np.float16, (128, 64, 3, 3), "few tiles"),
    ],
)
def test_declines(dtype, w, why):
    op = op_of(Convolution)
    node = node_of(op, operands(op, (1, w[1], 8, 8), w, dtype))
    reason = SpecializedConvolution().candidates(node, H200)
    assert isinstance(reason, Reject) and why in str(reason)
    assert isinstance(SpecializedConvolution().candidates(node, TARGETS[100]), Reject)
