"""Functions for results of 16 bits against their meaning in f64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import triton
import triton.language as tl

from lamina.backends.cuda.interpret import run_kernel
from lamina.backends.cuda.kernels import quick
from lamina.backends.cuda.request import MODULE, KernelRequest

BLOCK = 1 << 15


@triton.jit
def apply(x, y, KIND: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i)
    if KIND == "gelu":
        v = quick.gelu(v)
    elif KIND == "gelu_tanh":
        v = quick.gelu_tanh(v)
    elif KIND == "sigmoid":
        v = quick.sigmoid(v)
    elif KIND == "exp2":
        v = quick.exp2(v)
    else:
        v = quick.reciprocal(v)
    tl.store(y + i, v)


def applied(kind, x):
    x = np.ascontiguousarray(np.resize(x, BLOCK), np.float32)
    y = np.full_like(x, np.nan)
    request = KernelRequest(
        function="apply",
        source=MODULE + __name__,
        parameters=(("x", "*fp32"), ("y", "*fp32")),
        constants=(("BLOCK", BLOCK), ("KIND", kind)),
    )
    run_kernel(request, (1, 1, 1), [x.ctypes.data, y.ctypes.data])
    return x.astype(np.float64), y.astype(np.float64)


def gelu(x):
    return x * 0.5 * np.vectorize(math.erfc)(-x / math.sqrt(2))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    "kind, meaning, absolute",
    [("gelu", gelu, 6e-6), ("gelu_tanh", gelu_tanh, 2e-6), ("sigmoid", None, 2e-7)],
)
def test_activations(kind, meaning, absolute):
    x, y = applied(kind, np.linspace(-20, 20, BLOCK))
    wanted = 1 / (1 + np.exp(-x)) if meaning is None else meaning(x)
    assert np.abs(y - wanted).max() < absolute
    # A number near zero keeps its digits.
    x, y = applied(kind, np.geomspace(1e-6, 0.03, BLOCK))
    wanted = 1 / (1 + np.exp(-x)) if meaning is None else meaning(x)
    np.testing.assert_allclose(y, wanted, rtol=2e-5)


def test_what_gelu_makes_of_extremes():
    x, y = applied("gelu", np.array([0.0, 300.0, 6e4, -300.0, -np.inf, np.inf, np.nan]))
    np.testing.assert_array_equal(y[:5].astype(np.float16), [0.0, 300.0, 6e4, 0.0, 0.0])
    assert y[5] == np.inf and np.isnan(y[6])


def test_powers_and_reciprocals():
    x, y = applied("exp2", np.linspace(-120, 120, BLOCK))
    np.testing.assert_allclose(y, np.exp2(x), rtol=1e-6)
    x, y = applied("reciprocal", np.geomspace(1e-30, 1e30, BLOCK))
    np.testing.assert_allclose(y, 1 / x, rtol=1e-6)
