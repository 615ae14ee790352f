"""Convolution and transposed convolution against NumPy in every layout and kind."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cpu.onednn import numpy_reference as reference

from lamina.backends.cpu.onednn.attributes import (
    Attributes,
    BinaryPostOp,
    DepthwisePostOp,
    EltwisePostOp,
    PReluPostOp,
    SumPostOp,
)
from lamina.backends.cpu.onednn.convolution import Convolution, Deconvolution
from lamina.backends.cpu.onednn.memory import Layout

LAYOUTS = {
    "dense": Layout.dense,
    "channels_last": Layout.channels_last,
    "blocked16": lambda dims, dtype="f32": Layout.blocked(dims, 16, dtype),
    "blocked8": lambda dims, dtype="f32": Layout.blocked(dims, 8, dtype),
    "any": Layout.any,
}


@dataclass(frozen=True)
class Case:
    x: tuple[int, ...]
    w: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    groups: int = 1

    def output(self):
        sizes = []
        for axis, k in enumerate(self.w[2:]):
            size = self.x[2 + axis] + self.begin[axis] + self.end[axis]
            reach = (k - 1) * self.dilations[axis] + 1
            sizes.append((size - reach) // self.strides[axis] + 1)
        return (self.x[0], self.w[0], *sizes)

    def transposed_output(self):
        sizes = []
        for axis, k in enumerate(self.w[2:]):
            full = (self.x[2 + axis] - 1) * self.strides[axis] + (k - 1) * self.dilations[axis] + 1
            sizes.append(full - self.begin[axis] - self.end[axis])
        return (self.x[0], self.w[0], *sizes)

    def grouped(self):
        if self.groups == 1:
            return self.w
        return (self.groups, self.w[0] // self.groups, *self.w[1:])

    def geometry(self):
        return self.strides, self.dilations, self.begin, self.end


CASES = {
    "3x3": Case((2, 16, 9, 8), (32, 16, 3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "odd_channels": Case((1, 5, 7, 7), (19, 5, 3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "1x1": Case((2, 24, 6, 5), (40, 24, 1, 1), (1, 1), (1, 1), (0, 0), (0, 0)),
    "first": Case((1, 3, 17, 17), (16, 3, 7, 7), (2, 2), (1, 1), (3, 3), (3, 3)),
    "asymmetric": Case((1, 8, 9, 10), (8, 8, 3, 2), (2, 3), (1, 1), (0, 1), (2, 0)),
    "dilated": Case((1, 16, 12, 12), (16, 16, 3, 3), (1, 1), (2, 3), (2, 3), (2, 3)),
    "groups": Case((2, 12, 6, 6), (18, 4, 3, 3), (1, 1), (1, 1), (1, 1), (1, 1), 3),
    "depthwise": Case((2, 35, 8, 8), (35, 1, 3, 3), (2, 2), (1, 1), (1, 1), (1, 1), 35),
    "1d": Case((2, 16, 20), (16, 16, 5), (2,), (1,), (2,), (1,)),
    "3d": Case((1, 8, 5, 6, 4), (16, 8, 3, 3, 2), (1, 2, 1), (1, 1, 1), (1, 1, 0), (1, 1, 1)),
}


def conv_spec(case, layout, dtype="f32", out=None, **extra):
    make = LAYOUTS[layout]
    bias = extra.pop("bias", Layout.dense((case.w[0],)))
    return Convolution(
        make(case.x, dtype),
        Layout.any(case.grouped(), "i8" if dtype == "u8" else dtype),
        make(case.output(), out or dtype),
        bias,
        *case.geometry(),
        **extra,
    )


def draw(rng, case, dtype=np.float32):
    x = rng.standard_normal(case.x).astype(dtype)
    w = rng.standard_normal(case.w).astype(dtype)
    b = rng.standard_normal(case.w[0]).astype(np.float32)
    return x, w, b


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_f32_convolution_equals_numpy(run, rng, assert_close, name, layout):
    case = CASES[name]
    x, w, b = draw(rng, case)
    y = run(conv_spec(case, layout), src=x, weights=w.reshape(case.grouped()), bias=b)
    assert_close(y, reference.convolution(x, w, b, *case.geometry(), case.groups), 1e-5)


@pytest.mark.parametrize("layout", ["dense", "channels_last", "blocked16"])
@pytest.mark.parametrize("name", ["3x3", "1x1", "depthwise", "first"])
def test_bf16_convolution_equals_numpy(run, rng, needs, assert_close, name, layout):
    needs("bf16")
    case = CASES[name]
    x, w, b = draw(rng, case, ml_dtypes.bfloat16)
    y = run(conv_spec(case, layout, "bf16"), src=x, weights=w.reshape(case.grouped()), bias=b)
    assert_close(y, reference.convolution(x, w, b, *case.geometry(), case.groups), 1e-2)


def test_winograd_and_auto_are_answered_clearly(run, rng, assert_close):
    from lamina.backends.cpu.onednn.library import OneDnnError

    case = CASES["3x3"]
    x, w, b = draw(rng, case)
    expected = reference.convolution(x, w, b, *case.geometry())
    assert_close(
        run(conv_spec(case, "any", algorithm="auto"), src=x, weights=w, bias=b), expected, 1e-4
    )
    try:
        y = run(conv_spec(case, "any", algorithm="winograd"), src=x, weights=w, bias=b)
    except OneDnnError as e:
        assert e.status == "unimplemented"
    else:
        assert_close(y, expected, 1e-3)


ELTWISE = {
    "relu": (0.0, 0.0, lambda v: np.maximum(v, 0)),
    "relu_leaky": (0.1, 0.0, lambda v: np.where(v > 0, v, 0.1 * v)),
    "clip": (0.0, 6.0, lambda v: np.clip(v, 0, 6)),
    "tanh": (0.0, 0.0, np.tanh),
    "logistic": (0.0, 0.0, reference.sigmoid),
    "elu": (1.5, 0.0, lambda v: np.where(v > 0, v, 1.5 * np.expm1(v))),
    "gelu_tanh": (
        0.0,
        0.0,
        lambda v: 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))),
    ),
    "swish": (1.0, 0.0, lambda v: v * reference.sigmoid(v)),
    "hardswish": (1 / 6, 0.5, lambda v: v * np.clip(v / 6 + 0.5, 0, 1)),
    "hardsigmoid": (0.2, 0.5, lambda v: np.clip(0.2 * v + 0.5, 0, 1)),
    "linear": (2.0, -1.0, lambda v: 2 * v - 1),
    "mish": (0.0, 0.0, lambda v: v * np.tanh(np.log1p(np.exp(v)))),
    "soft_relu": (1.0, 0.0, lambda v: np.log1p(np.exp(v))),
    "abs": (0.0, 0.0, np.abs),
    "square": (0.0, 0.0, np.square),
    "round": (0.0, 0.0, np.rint),
}


@pytest.mark.parametrize("name", ELTWISE)
def test_eltwise_post_op(run, rng, assert_close, name):
    case = CASES["1x1"]
    alpha, beta, function = ELTWISE[name]
    x, w, b = draw(rng, case)
    op = EltwisePostOp(name.split("_leaky")[0], alpha, beta)
    y = run(
        conv_spec(case, "channels_last", attributes=Attributes((op,))), src=x, weights=w, bias=b
    )
    expected = function(reference.convolution(x, w, b, *case.geometry()))
    assert_close(y, expected, 0.3 if name == "round" else 1e-4)


def test_gelu_erf_post_op(run, rng, assert_close):
    from math import erf

    case = CASES["1x1"]
    x, w, b = draw(rng, case)
    spec = conv_spec(case, "any", attributes=Attributes((EltwisePostOp("gelu_erf"),)))
    v = reference.convolution(x, w, b, *case.geometry())
    expected = 0.5 * v * (1 + np.vectorize(erf)(v / np.sqrt(2)))
    assert_close(run(spec, src=x, weights=w, bias=b), expected, 1e-4)


@pytest.mark.parametrize("layout", ["dense", "channels_last", "blocked16"])
def test_chain_of_sum_relu_and_binaries(run, rng, assert_close, layout):
    case = CASES["3x3"]
    x, w, b = draw(rng, case)
    out = case.output()
    old, full = (rng.standard_normal(out).astype(np.float32) for _ in range(2))
    channel = rng.standard_normal((1, out[1], 1, 1)).astype(np.float32)
    one = rng.standard_normal((1, 1, 1, 1)).astype(np.float32)
    slopes = rng.standard_normal((1, out[1], 1, 1)).astype(np.float32)
    ops = (
        SumPostOp(0.5),
        EltwisePostOp("relu"),
        BinaryPostOp("mul", Layout.dense(channel.shape)),
        BinaryPostOp("add", LAYOUTS[layout](out)),
        BinaryPostOp("sub", Layout.dense(one.shape)),
        PReluPostOp(Layout.dense(slopes.shape)),
    )
    y = run(
        conv_spec(case, layout, attributes=Attributes(ops)),
        src=x, weights=w, bias=b, dst=old, post_op_2=channel, post_op_3=full, post_op_4=one,
        post_op_weights_5=slopes,
    )  # fmt: skip
    v = np.maximum(reference.convolution(x, w, b, *case.geometry()) + 0.5 * old, 0)
    v = v * channel + full - one
    assert_close(y, np.where(v > 0, v, v * slopes), 1e-5)


def test_fused_depthwise_post_op(run, rng, assert_close):
    case = Case((1, 32, 10, 10), (64, 32, 1, 1), (1, 1), (1, 1), (0, 0), (0, 0))
    x, w, b = draw(rng, case)
    taps = rng.standard_normal((64, 1, 3, 3)).astype(np.float32)
    shift = rng.standard_normal(64).astype(np.float32)
    ops = (EltwisePostOp("relu"), DepthwisePostOp(3, 1, 1), EltwisePostOp("relu"))
    spec = conv_spec(case, "blocked16", attributes=Attributes(ops))
    y = run(
        spec, src=x, weights=w, bias=b, depthwise_weights=taps.reshape(64, 1, 1, 3, 3),
        depthwise_bias=shift,
    )  # fmt: skip
    v = np.maximum(reference.convolution(x, w, b, *case.geometry()), 0)
    ones = (1, 1)
    v = reference.convolution(v, taps, shift, ones, ones, ones, ones, 64)
    assert_close(y, np.maximum(v, 0), 1e-5)


@pytest.mark.parametrize("layout", ["channels_last", "blocked16", "dense"])
def test_convolution_writes_its_slice_of_a_concat(run, rng, onednn, assert_close, layout):
    from lamina.backends.cpu.onednn import memory, packing, primitives

    case = CASES["3x3"]
    x, w, b = draw(rng, case)
    out = case.output()
    parent = (out[0], 64, *out[2:])
    whole = rng.standard_normal(parent).astype(np.float32)
    make = LAYOUTS[layout]
    spec = Convolution(
        make(case.x), Layout.any(case.w), make(out).within(parent), Layout.dense((32,)),
        *case.geometry(),
    )  # fmt: skip
    primitive = primitives.create(onednn, spec)
    buffer = packing.pack_as(onednn, whole, make(parent))
    spatial = out[2] * out[3]
    first = 16 if layout == "channels_last" else 16 * spatial
    arrays = {
        "src": packing.pack(primitive, x, "src"),
        "weights": packing.pack(primitive, w),
        "bias": b,
        "dst": buffer[first * 4 :],
    }
    primitive.execute(arrays)
    whole[:, 16:48] = reference.convolution(x, w, b, *case.geometry())
    assert_close(packing.unpack_from(onednn, buffer, make(parent)), whole, 1e-5)
    assert isinstance(memory.as_request(onednn, primitive.layout("src")), Layout)


DECONVOLUTIONS = {
    "2x": Case((1, 16, 5, 6), (8, 16, 4, 4), (2, 2), (1, 1), (1, 1), (1, 1)),
    "overlap": Case((2, 6, 4, 4), (10, 6, 3, 3), (1, 1), (1, 1), (0, 0), (0, 0)),
    "groups": Case((1, 8, 4, 5), (12, 4, 3, 3), (2, 1), (1, 1), (1, 0), (0, 1), 2),
    "dilated": Case((1, 4, 5, 5), (4, 4, 3, 3), (1, 2), (2, 1), (1, 1), (1, 1)),
    "depthwise": Case((1, 16, 5, 5), (16, 1, 3, 3), (2, 2), (1, 1), (1, 1), (1, 1), 16),
    "1d": Case((2, 8, 9), (4, 8, 4), (3,), (1,), (1,), (2,)),
    "3d": Case((1, 4, 3, 4, 3), (4, 4, 2, 3, 2), (1, 2, 1), (1, 1, 1), (0, 1, 0), (0, 1, 1)),
}


@pytest.mark.parametrize("layout", ["dense", "channels_last", "any"])
@pytest.mark.parametrize("name", DECONVOLUTIONS)
def test_transposed_convolution_equals_numpy(run, rng, assert_close, name, layout):
    case = DECONVOLUTIONS[name]
    x, w, b = draw(rng, case)
    make = LAYOUTS[layout]
    relu = Attributes((EltwisePostOp("relu"),))
    spec = Deconvolution(
        make(case.x), Layout.any(case.grouped()), make(case.transposed_output()),
        Layout.dense((case.w[0],)), *case.geometry(), attributes=relu,
    )  # fmt: skip
    y = run(spec, src=x, weights=w.reshape(case.grouped()), bias=b)
    expected = reference.transposed_convolution(x, w, b, *case.geometry(), case.groups)
    assert_close(y, np.maximum(expected, 0), 1e-5)
