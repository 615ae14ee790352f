"""Convolutions against the operators' meaning, in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import check, node_of
from tests.samples.sample import integers, normal

from lamina.backends.cuda.tactics.convolution import TritonConvolution, TritonConvolutionBoxes
from lamina.backends.cuda.tactics.direct import TritonDirect
from lamina.backends.cuda.tactics.few_channels import TritonFewChannels
from lamina.backends.cuda.target import TARGETS
from lamina.ir.dims import sym
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import (
    ActivationKind,
    Convolution,
    Deconvolution,
    Epilogue,
    QuantizedConvolution,
    Scaling,
)
from lamina.tactics.form import Form

H200 = TARGETS[90]
RELU = Epilogue(ActivationKind.RELU)


def half(*shape, seed=0):
    return normal(*shape, seed=seed, dtype=np.float16)


def op_of(kind, rank=2, strides=1, dilations=1, begin=1, end=1, **more):
    def fill(v):
        return v if isinstance(v, tuple) else (v,) * rank

    return kind(
        strides=fill(strides), dilations=fill(dilations), pads_begin=fill(begin),
        pads_end=fill(end), **more,
    )  # fmt: skip


def operands(op, x, w, dtype=np.float16, bias=True, residual=False):
    """Return operands of the shapes ``x`` and ``w``."""
    given = [normal(*x, dtype=dtype), normal(*w, seed=1, dtype=dtype)]
    transposed = isinstance(op, Deconvolution)
    filters = w[1] * op.groups if transposed else w[0]
    if bias:
        given.append(normal(filters, seed=2, dtype=dtype))
    if residual:
        given.append(normal(*op.reference(*given).shape, seed=3, dtype=dtype))
    return given


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_bias_residual_activation(dtype):
    op = op_of(Convolution, activation=RELU)
    given = operands(op, (2, 16, 6, 5), (24, 16, 3, 3), dtype, residual=True)
    check(TritonConvolution(), op, given, H200, most=2)


WINDOWS = [
    (op_of(Convolution, strides=(2, 1), dilations=(1, 2), begin=(1, 0), end=(0, 2)),
     (1, 16, 9, 8), (18, 16, 3, 2)),
    (op_of(Convolution, rank=1, strides=2, dilations=2, begin=3, end=1), (2, 16, 11), (20, 16, 4)),
    (op_of(Convolution, rank=3, begin=1, end=0), (1, 16, 5, 4, 4), (17, 16, 2, 3, 1)),
    (op_of(Convolution, begin=0, end=0, strides=2), (2, 16, 5, 5), (16, 16, 1, 1)),
    (op_of(Convolution, begin=(-1, 0), end=(0, -1)), (1, 16, 6, 6), (16, 16, 3, 3)),
    (op_of(Convolution, groups=2), (1, 32, 5, 5), (34, 16, 3, 3)),
    (op_of(Convolution), (1, 19, 4, 4), (21, 19, 3, 3)),
    (op_of(Convolution, begin=(0, 0), end=(2, 1)), (1, 16, 4, 4), (16, 16, 1, 1)),
]  # fmt: skip


@pytest.mark.parametrize("op, x, w", WINDOWS)
def test_windows(op, x, w):
    given = operands(op, x, w)
    check(TritonConvolution(), op, given, H200, most=1, gap=8)
    check(TritonDirect(), op, given, H200, most=1, pick="-direct 0x", gap=8)


def test_depth_split_between_programs():
    op = op_of(Convolution, strides=(2, 1), activation=RELU)
    given = operands(op, (1, 32, 7, 6), (24, 32, 3, 3), residual=True)
    check(TritonConvolution(), op, given, H200, most=2, pick="split", gap=8)


def test_pointwise_is_a_product():
    op = op_of(Convolution, begin=0, end=0, activation=RELU)
    given = operands(op, (2, 32, 6, 5), (24, 32, 1, 1), residual=True)
    (chosen,) = check(TritonConvolution(), op, given, H200, most=1, gap=8)
    assert "1x1" in chosen.tactic
    (chosen,) = check(TritonConvolutionBoxes(), op, given, H200, most=1, gap=8)
    assert "1x1" in chosen.tactic


def test_runtime_filters():
    op = op_of(Convolution)
    given = operands(op, (1, 16, 5, 4), (18, 16, 3, 3))
    check(TritonConvolution(), op, given, H200, most=1, constants=())
    check(TritonDirect(), op, given, H200, most=1, constants=())


@pytest.mark.parametrize("strides", [1, 2, (2, 1)])
def test_boxes(strides):
    op = op_of(Convolution, strides=strides, activation=RELU)
    given = operands(op, (2, 16, 8, 6), (24, 16, 3, 3), residual=True)
    check(TritonConvolutionBoxes(), op, given, H200, most=2, gap=8)


def test_boxes_behind_filters():
    op = op_of(Convolution, activation=RELU)
    given = operands(op, (2, 16, 8, 6), (72, 16, 3, 3), residual=True)
    (chosen,) = check(TritonConvolutionBoxes(), op, given, H200, most=1, pick=" 64x64x", gap=8)
    op, given = quantized((2, 32, 4, 6), (72, 32, 3, 3), signed=True, residual=True)
    op = replace(op, x_scaling=Scaling(0.02, 0))
    check(TritonConvolutionBoxes(), op, given, H200, most=1, pick=" 64x128x")


def test_boxes_of_one_axis_and_dilated():
    op = op_of(Convolution, rank=1, dilations=2, begin=2, end=1)
    check(TritonConvolutionBoxes(), op, operands(op, (2, 16, 11), (16, 16, 3)), H200, most=1)
    op = op_of(Convolution, dilations=(2, 1), begin=(3, 0))
    given = operands(op, (1, 16, 7, 6), (16, 16, 3, 2))
    check(TritonConvolutionBoxes(), op, given, H200, most=1)


def test_symbolic_sizes():
    batch, height = sym("n"), sym("h")
    env = {"n": 2, "h": 7}
    target = replace(H200, env=env)
    op = op_of(Convolution, strides=2, activation=RELU)
    given = operands(op, (2, 16, 7, 6), (24, 16, 3, 3))
    how = {"most": 1, "env": env}
    check(TritonConvolution(), op, given, target, shapes={0: (batch, 16, height, 6)}, **how)
    check(TritonDirect(), op, given, target, shapes={0: (batch, 16, height, 6)}, **how)
    given = operands(op, (2, 16, 8, 6), (24, 16, 3, 3))
    check(TritonConvolutionBoxes(), op, given, target, shapes={0: (batch, 16, 8, 6)}, **how)
    given = operands(op, (2, 3, 8, 6), (24, 3, 3, 3))
    check(TritonFewChannels(), op, given, target, shapes={0: (batch, 3, 8, 6)}, **how)
    unit = op_of(Convolution, begin=0, end=0)
    given = operands(unit, (2, 16, 7, 6), (24, 16, 1, 1))
    check(TritonConvolution(), unit, given, target, shapes={0: (batch, 16, height, 6)}, **how)


@pytest.mark.parametrize("words", ["", "words"])
@pytest.mark.parametrize("pads", [(3, 2), (2, 3), (0, 0)])
def test_few_channels(pads, words):
    op = op_of(Convolution, strides=2, begin=pads[0], end=pads[1], activation=RELU)
    given = operands(op, (2, 3, 14, 12), (20, 3, 7, 7), residual=True)
    check(TritonFewChannels(), op, given, H200, most=1, pick=words, gap=8)


def test_few_channels_of_other_ranks_and_types():
    op = op_of(Convolution, rank=1, strides=3, begin=2, dilations=2)
    given = operands(op, (2, 2, 20), (17, 2, 4), np.float32)
    check(TritonFewChannels(), op, given, H200, most=1)
    op = op_of(Convolution, rank=3)
    check(TritonFewChannels(), op, operands(op, (1, 2, 4, 4, 4), (16, 2, 3, 3, 3)), H200, most=1)


def test_few_channels_take_either_form():
    op = op_of(Convolution)
    given = operands(op, (1, 3, 6, 6), (16, 3, 3, 3))
    offered = TritonFewChannels().candidates(node_of(op, given), H200)
    assert {c.reads[0] for c in offered} == {Form.PLAIN, Form.CHANNELS_LAST}
    assert {c.writes for c in offered} == {(Form.CHANNELS_LAST,)}


@pytest.mark.parametrize("rows", [0, 1, 2, 4])
@pytest.mark.parametrize("strides, dilations", [(1, 1), (2, 1), (1, 2), ((2, 1), (1, 3))])
def test_depthwise(rows, strides, dilations):
    op = op_of(
        Convolution, strides=strides, dilations=dilations, begin=2, groups=20, activation=RELU
    )
    given = operands(op, (1, 20, 9, 8), (20, 1, 3, 3), np.float64, residual=True)
    check(TritonDirect(), op, given, H200, most=1, pick=f"direct {rows}x8x32 ", gap=8)


def test_small_groups():
    op = op_of(Convolution, groups=5)
    check(TritonDirect(), op, operands(op, (1, 15, 5, 4), (20, 3, 3, 3)), H200, most=1)


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_types_without_matrix_units(dtype):
    op = op_of(Convolution, activation=RELU)
    given = [integers(1, 4, 5, 4, dtype=dtype), integers(6, 4, 3, 3, seed=1, dtype=dtype)]
    check(TritonDirect(), op, given, H200, most=1)
    assert isinstance(TritonConvolution().candidates(node_of(op, given), H200), Reject)


@pytest.mark.parametrize(
    "x, w, options",
    [
        ((2, 16, 4, 5), (16, 17, 3, 3), {"strides": 2, "output_padding": (1, 1)}),
        ((1, 32, 3, 3), (32, 9, 2, 3), {"dilations": 2, "groups": 2, "output_padding": (0, 0)}),
        ((2, 16, 6), (16, 18, 4), {"rank": 1, "strides": 3, "end": 2, "output_padding": (0,)}),
        ((1, 16, 4, 4), (16, 16, 2, 2), {"strides": 3, "begin": 0, "end": 0,
                                         "output_padding": (1, 0)}),
        ((1, 16, 3, 3), (16, 16, 3, 3), {"strides": 2, "dilations": (2, 3),
                                         "output_padding": (0, 0)}),
    ],
)  # fmt: skip
def test_transposed(x, w, options):
    op = op_of(Deconvolution, activation=RELU, **options)
    given = operands(op, x, w, residual=True)
    check(TritonConvolution(), op, given, H200, most=1, gap=8)
    check(TritonDirect(), op, given, H200, most=1, gap=8)


SCALINGS = {"x_scaling": Scaling(0.02, 117), "dtype": DType.U8, "y_scaling": Scaling(0.0617, 99)}


def quantized(x, w, signed=False, residual=False, **options):
    """Return a quantized convolution and its operands; padding stands for the number 0."""
    more = dict(SCALINGS)
    if signed:
        more |= {"x_scaling": Scaling(0.02, -3), "dtype": DType.I8, "y_scaling": Scaling(0.06, 5)}
    if residual:
        more["residual_scaling"] = Scaling(0.05, 110)
    op = op_of(QuantizedConvolution, activation=RELU, **options, **more)
    low, high, dtype = (-128, 127, np.int8) if signed else (0, 255, np.uint8)
    filters = w[0]
    given = [
        integers(*x, low=low, high=high, dtype=dtype),
        integers(*w, low=-127, high=127, seed=1, dtype=np.int8),
        np.linspace(0.5, 2, filters, dtype=np.float32) / 64 / np.sqrt(np.float32(w[1])),
        normal(filters, seed=2),
    ]
    if residual:
        shape = replace(op, residual_scaling=None).reference(*given).shape
        given.append(integers(*shape, low=0, high=255, seed=3, dtype=np.uint8))
    return op, given


@pytest.mark.parametrize("signed", [False, True])
def test_integers(signed):
    op, given = quantized((2, 16, 6, 6), (24, 16, 3, 3), signed, residual=True)
    check(TritonConvolution(), op, given, H200, most=1)
    check(TritonConvolution(), op, given, H200, most=1, pick="split")
    check(TritonDirect(), op, given, H200, most=1)
    if signed:
        boxed = replace(op, x_scaling=Scaling(0.02, 0))
        given = [np.repeat(given[0], 2, 1), np.repeat(given[1], 2, 1), *given[2:]]
        check(TritonConvolutionBoxes(), boxed, given, H200, most=1)


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
def test_sums_that_are_rounded_before_the_residual(dtype):
    rounding = {"rounding": Scaling(0.3, 4), "rounding_dtype": dtype}
    op, given = quantized((1, 16, 6, 6), (24, 16, 3, 3), residual=True)
    op = replace(op, **rounding)
    check(TritonConvolution(), op, given, H200, most=1)
    check(TritonDirect(), op, given, H200, most=1)
    op, given = quantized((1, 3, 8, 8), (24, 3, 5, 5), strides=2, begin=2, end=2)
    check(TritonFewChannels(), replace(op, **rounding), given, H200, most=1)


def test_integers_elsewhere():
    op, given = quantized((2, 3, 8, 8), (24, 3, 5, 5), strides=2, begin=2, end=2)
    check(TritonFewChannels(), op, given, H200, most=1)
    op, given = quantized((1, 20, 6, 6), (20, 1, 3, 3), groups=20)
    check(TritonDirect(), op, given, H200, most=2)
    op, given = quantized((1, 32, 4, 5), (24, 32, 1, 1), begin=0, end=0)
    check(TritonConvolution(), op, given, H200, most=1)


def test_boxes_refuse_padding_that_is_not_zero():
    op, given = quantized((1, 32, 4, 4), (16, 32, 3, 3), signed=True)
    assert isinstance(TritonConvolutionBoxes().candidates(node_of(op, given), H200), Reject)
