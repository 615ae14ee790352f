"""Casts in threads give what NumPy's ``astype`` gives."""

from __future__ import annotations

import warnings

import ml_dtypes
import numpy as np
import pytest

from lamina.ir.threads import LEAST_BYTES, cast

SIDE = 1 + int((LEAST_BYTES / 4) ** 0.5)


def numbers(*shape):
    return np.random.default_rng(0).normal(0.0, 100.0, shape).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 3, 8])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int32])
def test_large_arrays(threads, dtype):
    x = numbers(SIDE, SIDE)
    for a in (x, x.T, x[:, 1:], np.broadcast_to(x[0], x.shape)):
        found = cast(a, dtype, threads)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, a.astype(dtype))
    assert cast(x.T, dtype, threads).strides == x.T.astype(dtype).strides


def test_few_rows_and_small_arrays():
    wide = numbers(2, LEAST_BYTES)
    np.testing.assert_array_equal(cast(wide, np.float16, 8), wide.astype(np.float16))
    for small in (numbers(3), numbers(), numbers(0, 5)):
        np.testing.assert_array_equal(cast(small, np.float16, 8), small.astype(np.float16))
    assert cast(wide, np.float32) is wide


def test_what_overflows_warns_as_the_caller_wants():
    x = numbers(SIDE, SIDE) * 1e6
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isinf(cast(x, np.float16, 4)).any()
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        cast(x, np.float16, 4)
