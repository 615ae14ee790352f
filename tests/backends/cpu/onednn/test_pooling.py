"""Pooling and resampling against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cpu.onednn import numpy_reference as reference

from lamina.backends.cpu.onednn.attributes import Attributes, BinaryPostOp
from lamina.backends.cpu.onednn.memory import Layout
from lamina.backends.cpu.onednn.pooling import Pooling, Resampling

LAYOUTS = {
    "dense": Layout.dense,
    "channels_last": Layout.channels_last,
    "blocked16": lambda dims, dtype="f32": Layout.blocked(dims, 16, dtype),
}
CASES = {
    "2x2": ((2, 16, 8, 8), (2, 2), (2, 2), (1, 1), (0, 0), (0, 0)),
    "padded": ((1, 19, 9, 7), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    "asymmetric": ((1, 8, 8, 9), (3, 2), (2, 1), (1, 1), (0, 1), (1, 0)),
    "dilated": ((1, 8, 9, 9), (3, 3), (1, 1), (2, 2), (0, 0), (0, 0)),
    "global": ((2, 32, 7, 7), (7, 7), (1, 1), (1, 1), (0, 0), (0, 0)),
    "1d": ((2, 8, 11), (3,), (2,), (1,), (1,), (1,)),
    "3d": ((1, 8, 5, 6, 4), (2, 3, 2), (1, 2, 1), (1, 1, 1), (0, 1, 0), (1, 1, 0)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("algorithm", ["max", "average_include_padding", "average_exclude_padding"])
@pytest.mark.parametrize("name", CASES)
def test_pooling_equals_numpy(run, rng, assert_close, name, algorithm, layout):
    dims, *geometry = CASES[name]
    x = rng.standard_normal(dims).astype(np.float32)
    axes = tuple(range(-len(dims) + 2, 0))
    if algorithm == "max":
        expected = reference.windows(x, *geometry, fill=-np.inf).max(axes)
    else:
        expected = reference.windows(x.astype(np.float64), *geometry).mean(axes)
        if algorithm == "average_exclude_padding":
            expected = expected / reference.windows(np.ones_like(x), *geometry).mean(axes)
    make = LAYOUTS[layout]
    spec = Pooling(make(dims), make(expected.shape), *geometry, algorithm=algorithm)
    assert_close(run(spec, src=x), expected, 0 if algorithm == "max" else 1e-6)


@pytest.mark.parametrize("dtype", ["u8", "i8"])
def test_integer_maximum_is_exact(run, rng, dtype):
    x = rng.integers(0, 120, (2, 16, 8, 8)).astype(np.uint8 if dtype == "u8" else np.int8)
    out = (2, 16, 4, 4)
    spec = Pooling(
        Layout.channels_last(x.shape, dtype), Layout.channels_last(out, dtype), (2, 2), (2, 2)
    )
    assert np.array_equal(run(spec, src=x), x.reshape(2, 16, 4, 2, 4, 2).max((3, 5)))


def test_pooling_with_a_binary_post_op(run, rng, assert_close):
    x = rng.standard_normal((1, 16, 8, 8)).astype(np.float32)
    factor = rng.standard_normal((1, 16, 1, 1)).astype(np.float32)
    spec = Pooling(
        Layout.channels_last(x.shape), Layout.channels_last((1, 16, 4, 4)), (2, 2), (2, 2),
        attributes=Attributes((BinaryPostOp("mul", Layout.dense(factor.shape)),)),
    )  # fmt: skip
    expected = x.reshape(1, 16, 4, 2, 4, 2).max((3, 5)) * factor
    assert_close(run(spec, src=x, post_op_0=factor), expected, 1e-6)


def linear_axis(x, axis, size):
    old = x.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.floor(at).astype(int)
    part = (at - low).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    high = np.minimum(low + 1, old - 1)
    return np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part


@pytest.mark.parametrize("layout", LAYOUTS)
def test_linear_resampling_uses_half_pixel_centres(run, rng, assert_close, layout):
    x = rng.standard_normal((2, 16, 5, 6)).astype(np.float32)
    make = LAYOUTS[layout]
    spec = Resampling(make(x.shape), make((2, 16, 10, 9)), "linear")
    expected = linear_axis(linear_axis(x.astype(np.float64), 2, 10), 3, 9)
    assert_close(run(spec, src=x), expected, 1e-5)


def test_nearest_resampling_repeats(run, rng):
    x = rng.standard_normal((1, 16, 4, 5)).astype(np.float32)
    spec = Resampling(Layout.dense(x.shape), Layout.dense((1, 16, 8, 15)), "nearest")
    assert np.array_equal(run(spec, src=x), x.repeat(2, 2).repeat(3, 3))
