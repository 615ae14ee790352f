"""Matrix products against NumPy: batches, broadcasting, transposes, post-operations."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from lamina.backends.cpu.onednn.attributes import Attributes, BinaryPostOp, EltwisePostOp, SumPostOp
from lamina.backends.cpu.onednn.matmul import InnerProduct, MatMul
from lamina.backends.cpu.onednn.memory import Layout

SHAPES = [
    ((5, 7), (7, 9)),
    ((1, 64), (64, 33)),
    ((3, 5, 7), (3, 7, 9)),
    ((3, 5, 7), (1, 7, 9)),
    ((1, 5, 7), (4, 7, 9)),
    ((2, 3, 5, 8), (2, 3, 8, 6)),
    ((2, 3, 5, 8), (1, 3, 8, 6)),
]


def result_dims(a, b):
    batch = tuple(max(i, j) for i, j in zip(a[:-2], b[:-2], strict=True))
    return (*batch, a[-2], b[-1])


@pytest.mark.parametrize("weights", ["any", "dense"])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_f32_matmul_equals_numpy(run, rng, assert_close, shapes, weights):
    a, b = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    out = result_dims(*shapes)
    bias = rng.standard_normal((1,) * (len(out) - 1) + out[-1:]).astype(np.float32)
    spec = MatMul(
        Layout.dense(a.shape), getattr(Layout, weights)(b.shape), Layout.dense(out),
        Layout.dense(bias.shape), Attributes((EltwisePostOp("gelu_tanh"),)),
    )  # fmt: skip
    v = a.astype(np.float64) @ b + bias
    expected = 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))
    assert_close(run(spec, src=a, weights=b, bias=bias), expected, 1e-5)


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_transposed_operands_are_strides(run, rng, needs, assert_close, dtype):
    needs(dtype)
    numpy_dtype = ml_dtypes.bfloat16 if dtype == "bf16" else np.float32
    q, k = (rng.standard_normal((2, 4, 6, 8)).astype(numpy_dtype) for _ in range(2))
    key = Layout((2, 4, 8, 6), dtype, strides=(192, 48, 1, 8))
    scale = rng.standard_normal((1, 1, 1, 1)).astype(np.float32)
    mask = rng.standard_normal((2, 1, 1, 6)).astype(np.float32)
    ops = (
        BinaryPostOp("mul", Layout.dense(scale.shape)),
        BinaryPostOp("add", Layout.dense(mask.shape)),
    )
    spec = MatMul(
        Layout.dense(q.shape, dtype), key, Layout.dense((2, 4, 6, 6)), attributes=Attributes(ops)
    )
    y = run(spec, src=q, weights=k.swapaxes(2, 3), post_op_0=scale, post_op_1=mask)
    q, k = q.astype(np.float64), k.astype(np.float64)
    assert_close(y, q @ k.swapaxes(2, 3) * scale + mask, 1e-5)


def test_bf16_matmul_with_residual(run, rng, needs, assert_close):
    needs("bf16")
    a = rng.standard_normal((33, 70)).astype(ml_dtypes.bfloat16)
    b = rng.standard_normal((70, 50)).astype(ml_dtypes.bfloat16)
    old = rng.standard_normal((33, 50)).astype(ml_dtypes.bfloat16)
    spec = MatMul(
        Layout.dense(a.shape, "bf16"), Layout.any(b.shape, "bf16"), Layout.dense(old.shape, "bf16"),
        attributes=Attributes((SumPostOp(),)),
    )  # fmt: skip
    y = run(spec, src=a, weights=b, dst=old)
    assert_close(y, a.astype(np.float64) @ b.astype(np.float64) + old.astype(np.float64), 1e-2)


def test_f32_matmul_may_multiply_in_bf16(run, rng, assert_close):
    a = rng.standard_normal((64, 128)).astype(np.float32)
    b = rng.standard_normal((128, 64)).astype(np.float32)
    spec = MatMul(
        Layout.dense(a.shape), Layout.any(b.shape), Layout.dense((64, 64)),
        attributes=Attributes(fpmath_mode="bf16"),
    )  # fmt: skip
    assert_close(run(spec, src=a, weights=b), a.astype(np.float64) @ b, 2e-2)


def test_matmul_writes_a_slice_of_a_wider_matrix(run, rng, onednn, assert_close):
    from lamina.backends.cpu.onednn import packing, primitives

    a = rng.standard_normal((6, 8)).astype(np.float32)
    b = rng.standard_normal((8, 5)).astype(np.float32)
    whole = np.zeros((6, 12), np.float32)
    spec = MatMul(Layout.dense(a.shape), Layout.any(b.shape), Layout.dense((6, 5)).within((6, 12)))
    assert spec.dst.strides == (12, 1)
    primitive = primitives.create(onednn, spec)
    arrays = {"src": a, "weights": packing.pack(primitive, b), "dst": whole.reshape(-1)[3:]}
    primitive.execute(arrays)
    assert_close(whole[:, 3:8], a.astype(np.float64) @ b, 1e-5)
    assert not whole[:, :3].any() and not whole[:, 8:].any()


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("src", ["dense", "channels_last", "blocked16"])
def test_inner_product_takes_the_layout_of_a_convolution(run, rng, needs, assert_close, src, dtype):
    needs(dtype)
    numpy_dtype = ml_dtypes.bfloat16 if dtype == "bf16" else np.float32
    x = rng.standard_normal((2, 32, 3, 3)).astype(numpy_dtype)
    w = rng.standard_normal((21, 32, 3, 3)).astype(numpy_dtype)
    b = rng.standard_normal(21).astype(np.float32)
    make = {
        "dense": Layout.dense,
        "channels_last": Layout.channels_last,
        "blocked16": lambda dims, dtype: Layout.blocked(dims, 16, dtype),
    }[src]
    spec = InnerProduct(
        make(x.shape, dtype), Layout.any(w.shape, dtype), Layout.dense((2, 21)),
        Layout.dense((21,)), Attributes((EltwisePostOp("relu"),)),
    )  # fmt: skip
    y = run(spec, src=x, weights=w, bias=b)
    expected = np.einsum("nchw,ochw->no", x.astype(np.float64), w.astype(np.float64)) + b
    assert_close(y, np.maximum(expected, 0), 1e-5)
