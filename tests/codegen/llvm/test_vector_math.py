"""Vector functions against NumPy in f64, in ulp, on random and special arguments."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

from lamina.backends.cpu import image
from lamina.codegen.llvm import link, target, vector_math
from lamina.codegen.llvm.builder import F32, Module

ISAS = [target.host_isa(), target.AVX2]
_erf = np.vectorize(math.erf, otypes=[np.float64])
UNARY = {
    # name: (f64 meaning, low, high, largest error in ulp)
    "exp": (np.exp, -104, 89, 1.5),
    "log": (np.log, 0, 100, 1.5),
    "tanh": (np.tanh, -12, 12, 2),
    "erf": (_erf, -5, 5, 2.5),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), -86, 40, 3),
    "sin": (np.sin, -1e4, 1e4, 2),
    "cos": (np.cos, -1e4, 1e4, 2),
}
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, 1e-30, 3e38, 100.0, -100.0, 0.625]


def run(isa, name, *operands):
    """Apply a vector function to arrays through a compiled kernel."""
    module, lanes = Module(isa), isa.lanes(F32)
    with module.kernel("f") as k:
        pointers = [k.arg(i) for i in range(len(operands))]
        out = k.arg(len(operands))

        def body(i, mask):
            values = [k.load(F32.vector(lanes), p, i * 4, mask=mask) for p in pointers]
            k.store(getattr(vector_math, name)(k, *values), out, i * 4, mask=mask)

        k.vectorized(0, operands[0].size, lanes, body)
    built = link.link([target.compile_module(str(module), isa)])
    y = np.empty_like(operands[0])
    with image.load_image(built.code, built.symbols, built.externals) as loaded:
        args = (ctypes.c_void_p * (len(operands) + 1))(*(a.ctypes.data for a in (*operands, y)))
        kernel = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
        )(loaded.address("f"))
        kernel(args, None, 0, 1)
    return y


def ulps(got, exact):
    """Return errors in units in the last place (at least a denormal step) of the exact value."""
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    finite = np.isfinite(rounded)
    assert np.array_equal(np.isnan(got), np.isnan(rounded))
    assert np.array_equal(got[np.isinf(rounded)], rounded[np.isinf(rounded)])
    step = np.maximum(np.spacing(np.abs(rounded[finite])), 1.4e-45).astype(np.float64)
    return np.abs(got[finite].astype(np.float64) - exact[finite]) / step


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("name", UNARY)
def test_error_is_within_the_stated_ulps(isa, name):
    meaning, low, high, limit = UNARY[name]
    rng = np.random.default_rng(1)
    x = np.concatenate(
        [rng.uniform(low, high, 40003), rng.normal(size=20000), 10.0 ** rng.uniform(-6, 0, 20000)]
    ).astype(np.float32)
    x = np.clip(x, low, high)
    with np.errstate(divide="ignore"):
        errors = ulps(run(isa, name, x), meaning(x.astype(np.float64)))
    assert errors.max() <= limit


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("name", UNARY)
def test_special_arguments(isa, name):
    x = np.array(SPECIAL, np.float32)
    with np.errstate(all="ignore"):
        exact = UNARY[name][0](x.astype(np.float64))
        if name in ("sin", "cos"):
            x, exact = x[np.abs(x) != np.float32(3e38)], exact[np.abs(x) != np.float32(3e38)]
        errors = ulps(run(isa, name, x), exact)
    assert errors.max() <= 3.5 or name == "sigmoid"
    assert np.abs(errors * 1.4e-45).max() < 1e-37


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_pow_matches_numpy_on_random_and_all_pairs_of_special_arguments(isa):
    rng = np.random.default_rng(2)
    base = np.concatenate([rng.uniform(0, 50, 20000), rng.uniform(-5, 5, 2000)])
    power = np.concatenate([rng.uniform(-20, 20, 20000), rng.integers(-9, 9, 2000)])
    odd = [*SPECIAL, 2.0, 3.0, -2.0, -3.0, 0.5, -0.5]
    base = np.concatenate([base, np.repeat(odd, len(odd))]).astype(np.float32)
    power = np.concatenate([power, np.tile(odd, len(odd))]).astype(np.float32)
    with np.errstate(all="ignore"):
        exact = np.power(base.astype(np.float64), power.astype(np.float64))
    assert ulps(run(isa, "pow", base, power), exact).max() <= 1.5
