"""Normalization, pointwise operations, reductions, concatenation and shuffles against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from lamina.backends.cpu.onednn import elementwise, normalization
from lamina.backends.cpu.onednn.memory import Layout

D = Layout.dense
LAYOUTS = {
    "dense": Layout.dense,
    "channels_last": Layout.channels_last,
    "blocked16": lambda dims, dtype="f32": Layout.blocked(dims, 16, dtype),
}


@pytest.mark.parametrize("axis", [-1, 1, 0])
@pytest.mark.parametrize("algorithm", ["softmax", "logsoftmax"])
def test_softmax(run, rng, assert_close, algorithm, axis):
    x = rng.standard_normal((3, 20, 7)).astype(np.float32)
    y = run(normalization.Softmax(D(x.shape), D(x.shape), axis, algorithm), src=x)
    v = x.astype(np.float64) - np.log(np.exp(x.astype(np.float64)).sum(axis, keepdims=True))
    assert_close(y, v if algorithm == "logsoftmax" else np.exp(v), 1e-5)


@pytest.mark.parametrize("parameters", ["both", "scale", "shift", "neither"])
def test_layer_normalization(run, rng, assert_close, parameters):
    x = rng.standard_normal((2, 5, 40)).astype(np.float32)
    scale, shift = (rng.standard_normal(40).astype(np.float32) for _ in range(2))
    has_scale, has_shift = parameters in ("both", "scale"), parameters in ("both", "shift")
    spec = normalization.LayerNormalization(D(x.shape), D(x.shape), 1e-3, has_scale, has_shift)
    given = {"scale": scale} if has_scale else {}
    given |= {"shift": shift} if has_shift else {}
    v = x.astype(np.float64)
    v = (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-3)
    v = v * (scale if has_scale else 1) + (shift if has_shift else 0)
    assert_close(run(spec, src=x, **given), v, 1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_normalization_with_relu(run, rng, assert_close, layout):
    x = rng.standard_normal((2, 19, 5, 6)).astype(np.float32)
    mean, scale, shift = (rng.standard_normal(19).astype(np.float32) for _ in range(3))
    variance = rng.uniform(0.5, 2, 19).astype(np.float32)
    make = LAYOUTS[layout]
    spec = normalization.BatchNormalization(make(x.shape), make(x.shape), 1e-3, fuse_relu=True)
    y = run(spec, src=x, mean=mean, variance=variance, scale=scale, shift=shift)
    column = (slice(None), None, None)
    v = (x - mean[column]) / np.sqrt(variance[column].astype(np.float64) + 1e-3)
    assert_close(y, np.maximum(v * scale[column] + shift[column], 0), 1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_local_response_normalization(run, rng, assert_close, layout):
    x = rng.standard_normal((2, 32, 5, 6)).astype(np.float32)
    make = LAYOUTS[layout]
    spec = normalization.LocalResponseNormalization(
        make(x.shape), make(x.shape), 5, alpha=0.1, beta=0.75, k=2.0
    )
    squares = np.pad(np.square(x.astype(np.float64)), ((0, 0), (2, 2), (0, 0), (0, 0)))
    total = sum(squares[:, i : i + 32] for i in range(5))
    assert_close(run(spec, src=x), x * (2 + 0.1 / 5 * total) ** -0.75, 1e-4)


BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum,
    "min": np.minimum, "ge": np.greater_equal, "lt": np.less,
}  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 16, 4, 4), (1, 16, 1, 1), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_binary(run, rng, assert_close, name, shape):
    a = rng.standard_normal((2, 16, 4, 4)).astype(np.float32)
    b = rng.uniform(0.5, 2, shape).astype(np.float32)
    spec = elementwise.Binary(name, D(a.shape), D(shape), D(a.shape))
    assert_close(run(spec, src=a, src_1=b), BINARY[name](a, b).astype(np.float64), 1e-6)


def test_eltwise_and_prelu(run, rng, assert_close):
    x = rng.standard_normal((2, 16, 4, 4)).astype(np.float32)
    slopes = rng.standard_normal((1, 16, 1, 1)).astype(np.float32)
    y = run(elementwise.Eltwise("clip", D(x.shape), D(x.shape), -0.5, 0.75), src=x)
    assert np.array_equal(y, np.clip(x, -0.5, 0.75))
    y = run(elementwise.PRelu(D(x.shape), D(slopes.shape), D(x.shape)), src=x, weights=slopes)
    assert_close(y, np.where(x > 0, x, x * slopes), 1e-6)


def test_sum_concat_and_shuffle(run, rng, assert_close):
    a, b, c = (rng.standard_normal((2, 16, 3, 3)).astype(np.float32) for _ in range(3))
    four = Layout.blocked(a.shape, 16)
    spec = elementwise.Sum((D(a.shape), four, D(a.shape)), D(a.shape), (1.0, -2.0, 0.5))
    assert_close(run_many(run, spec, a, b, c), a - 2.0 * b + 0.5 * c, 1e-6)
    spec = elementwise.Concat((four, D(a.shape), four), Layout.channels_last((2, 48, 3, 3)), 1)
    assert np.array_equal(run_many(run, spec, a, b, c), np.concatenate([a, b, c], 1))
    spec = elementwise.Shuffle(Layout.channels_last(a.shape), Layout.channels_last(a.shape), 1, 4)
    expected = a.reshape(2, 4, 4, 3, 3).swapaxes(1, 2).reshape(a.shape)
    assert np.array_equal(run(spec, src=a), expected)


def run_many(run, spec, *arrays):
    return run(spec, **{f"src[{i}]": array for i, array in enumerate(arrays)})


REDUCTIONS = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min, "mul": np.prod}


@pytest.mark.parametrize("axes", [(1,), (2, 3), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction(run, rng, assert_close, name, axes):
    x = rng.uniform(0.9, 1.1, (2, 16, 4, 4)).astype(np.float32)
    expected = REDUCTIONS[name](x.astype(np.float64), axis=axes, keepdims=True)
    spec = elementwise.Reduction(name, D(x.shape), D(expected.shape))
    assert_close(run(spec, src=x), expected, 1e-4)
