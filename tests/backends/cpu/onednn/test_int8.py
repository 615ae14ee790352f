"""Integer convolution, matmul and inner product: exact sums, scales, zero points, rounding."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cpu.onednn import numpy_reference as reference

from lamina.backends.cpu.onednn.attributes import (
    Attributes,
    EltwisePostOp,
    Scale,
    SumPostOp,
    ZeroPoint,
)
from lamina.backends.cpu.onednn.convolution import Convolution
from lamina.backends.cpu.onednn.matmul import InnerProduct, MatMul
from lamina.backends.cpu.onednn.memory import Layout
from lamina.backends.cpu.onednn.reorder import Reorder

RANGE = {"i8": (-128, 128, np.int8), "u8": (0, 256, np.uint8)}


def integers(rng, shape, dtype):
    low, high, numpy_dtype = RANGE[dtype]
    return rng.integers(low, high, shape).astype(numpy_dtype)


@pytest.fixture
def weights(onednn, rng):
    """Draw i8 weights: all values with VNNI, else even ones of seven bits, which stay exact."""

    def weights(shape):
        if onednn.has_exact_int8:
            return rng.integers(-128, 128, shape).astype(np.int8)
        return (2 * rng.integers(-32, 32, shape)).astype(np.int8)

    return weights


def saturate(values, dtype):
    low, high, numpy_dtype = RANGE[dtype]
    return np.clip(np.rint(values), low, high - 1).astype(numpy_dtype)


ONE = ((1, 1), (1, 1), (1, 1), (1, 1))


@pytest.mark.parametrize("src", ["u8", "i8"])
@pytest.mark.parametrize("groups", [1, 2, 32])
def test_convolution_sums_are_exact(run, rng, weights, src, groups):
    x = integers(rng, (1, 32, 7, 7), src)
    w = weights((32, 32 // groups, 3, 3))
    dims = w.shape if groups == 1 else (groups, 32 // groups, *w.shape[1:])
    spec = Convolution(
        Layout.channels_last(x.shape, src), Layout.any(dims, "i8"),
        Layout.channels_last((1, 32, 7, 7), "i32"), None, *ONE,
    )  # fmt: skip
    y = run(spec, src=x, weights=w.reshape(dims))
    assert np.array_equal(y, reference.convolution(x, w, None, *ONE, groups))


@pytest.mark.parametrize("out", ["f32", "bf16", "i8", "u8"])
@pytest.mark.parametrize("src", ["u8", "i8"])
def test_convolution_with_scales_per_channel(run, rng, weights, assert_close, src, out):
    x = integers(rng, (2, 16, 6, 6), src)
    w = weights((24, 16, 3, 3))
    bias = rng.standard_normal(24).astype(np.float32)
    src_scale = np.array([0.02], np.float32)
    weights_scale = rng.uniform(0.001, 0.01, 24).astype(np.float32)
    dst_scale = np.array([0.07], np.float32)
    integer = out in RANGE
    scales = (Scale("src"), Scale("weights", 1, 24)) + ((Scale("dst"),) if integer else ())
    spec = Convolution(
        Layout.channels_last(x.shape, src), Layout.any(w.shape, "i8"),
        Layout.channels_last((2, 24, 6, 6), out), Layout.dense((24,)), *ONE,
        attributes=Attributes((EltwisePostOp("relu"),), scales),
    )  # fmt: skip
    arrays = {"scale_src": src_scale, "scale_weights": weights_scale}
    y = run(
        spec, src=x, weights=w, bias=bias, **arrays, **({"scale_dst": dst_scale} if integer else {})
    )
    v = reference.convolution(x, w, None, *ONE) * 0.02 * weights_scale[:, None, None]
    v = np.maximum(v + bias[:, None, None], 0)
    if integer:
        assert np.abs(y.astype(int) - saturate(v / 0.07, out).astype(int)).max() <= 1
    else:
        assert_close(y, v, 1e-2 if out == "bf16" else 1e-5)


def test_convolution_with_zero_points_and_residual(run, rng, weights):
    x = integers(rng, (1, 16, 6, 6), "u8")
    w = weights((16, 16, 3, 3))
    old = integers(rng, (1, 16, 6, 6), "u8")
    ops = (SumPostOp(0.5, 3),)
    spec = Convolution(
        Layout.channels_last(x.shape, "u8"), Layout.any(w.shape, "i8"),
        Layout.channels_last(old.shape, "u8"), None, *ONE,
        attributes=Attributes(
            ops, (Scale("src"), Scale("weights")), (ZeroPoint("src"), ZeroPoint("dst"))
        ),
    )  # fmt: skip
    y = run(
        spec, src=x, weights=w, dst=old,
        scale_src=np.array([0.01], np.float32), scale_weights=np.array([0.02], np.float32),
        zero_point_src=np.array([117], np.int32), zero_point_dst=np.array([99], np.int32),
    )  # fmt: skip
    v = reference.convolution(x.astype(int) - 117, w, None, *ONE) * 0.0002
    v = v + 0.5 * (old.astype(float) - 3) + 99
    assert np.abs(y.astype(int) - saturate(v, "u8").astype(int)).max() <= 1


@pytest.mark.parametrize("src", ["u8", "i8"])
def test_matmul_sums_are_exact(run, rng, weights, src):
    a, b = integers(rng, (3, 9, 64), src), weights((1, 64, 40))
    spec = MatMul(
        Layout.dense(a.shape, src), Layout.any(b.shape, "i8"), Layout.dense((3, 9, 40), "i32")
    )
    assert np.array_equal(run(spec, src=a, weights=b), a.astype(int) @ b.astype(int))


@pytest.mark.parametrize("src", ["u8", "i8"])
def test_matmul_quantized_per_column(run, rng, weights, assert_close, src):
    a, b = integers(rng, (9, 64), src), weights((64, 40))
    columns = rng.uniform(0.001, 0.01, 40).astype(np.float32)
    bias = rng.standard_normal((1, 40)).astype(np.float32)
    spec = MatMul(
        Layout.dense(a.shape, src), Layout.any(b.shape, "i8"), Layout.dense((9, 40)),
        Layout.dense((1, 40)),
        Attributes((), (Scale("src"), Scale("weights", 2, 40)), (ZeroPoint("src"),)),
    )  # fmt: skip
    y = run(
        spec, src=a, weights=b, bias=bias, scale_src=np.array([0.05], np.float32),
        scale_weights=columns, zero_point_src=np.array([7], np.int32),
    )  # fmt: skip
    expected = (a.astype(int) - 7) @ b.astype(int) * 0.05 * columns + bias
    assert_close(y, expected, 1e-5)


def test_inner_product_sums_are_exact(run, rng, weights):
    x, w = integers(rng, (2, 48), "u8"), weights((10, 48))
    spec = InnerProduct(
        Layout.dense(x.shape, "u8"), Layout.any(w.shape, "i8"), Layout.dense((2, 10), "i32")
    )
    assert np.array_equal(run(spec, src=x, weights=w), x.astype(int) @ w.astype(int).T)


@pytest.mark.parametrize("out", ["i8", "u8"])
def test_reorder_quantizes_and_saturates(run, rng, out):
    x = (rng.standard_normal((2, 20, 5, 5)) * 100).astype(np.float32)
    spec = Reorder(
        Layout.dense(x.shape), Layout.channels_last(x.shape, out),
        Attributes((), (Scale("dst"),), (ZeroPoint("dst"),)),
    )  # fmt: skip
    y = run(
        spec, src=x, scale_dst=np.array([0.5], np.float32), zero_point_dst=np.array([5], np.int32)
    )
    assert np.array_equal(y, saturate(x / 0.5 + 5, out))


def test_reorder_dequantizes(run, rng, assert_close):
    x = integers(rng, (2, 20, 5, 5), "u8")
    spec = Reorder(
        Layout.channels_last(x.shape, "u8"), Layout.blocked(x.shape, 16),
        Attributes((), (Scale("src"),), (ZeroPoint("src"),)),
    )  # fmt: skip
    y = run(
        spec, src=x, scale_src=np.array([0.25], np.float32), zero_point_src=np.array([9], np.int32)
    )
    assert_close(y, 0.25 * (x.astype(float) - 9), 1e-6)
