"""Random numbers are the same in NumPy, in the CPU's kernels and in those of a GPU."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from tests.backends.cuda.simulation import simulated

import lamina
from lamina.backends.cuda.interpret import run_kernel
from lamina.backends.cuda.request import KernelRequest
from lamina.importers.onnx import load
from lamina.ir.interpret import interpret
from lamina.ops.random import philox

WORDS = """import triton
import triton.language as tl


@triton.jit
def words(y, low, high, COUNT: tl.constexpr):
    i = tl.arange(0, COUNT)
    key = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
    a, b, c, d = tl.philox(key, i, 0, 0, 0)
    tl.store(y + i, a.to(tl.uint32, bitcast=True))
    tl.store(y + COUNT + i, b.to(tl.uint32, bitcast=True))
    tl.store(y + 2 * COUNT + i, c.to(tl.uint32, bitcast=True))
    tl.store(y + 3 * COUNT + i, d.to(tl.uint32, bitcast=True))
"""


@pytest.mark.parametrize("key", [0, 7, 0x0123456789ABCDEF, (1 << 64) - 1])
def test_the_words_are_those_of_tritons_own_generator(key):
    count = 256
    request = KernelRequest(
        function="words",
        source=WORDS,
        parameters=(("y", "*u32"), ("low", "u32"), ("high", "u32")),
        constants=(("COUNT", count),),
    )
    theirs = np.zeros((4, count), np.uint32)
    run_kernel(request, (1, 1, 1), (theirs.ctypes.data, key & 0xFFFFFFFF, key >> 32))
    ours = philox(np.arange(count, dtype=np.uint64), key)
    np.testing.assert_array_equal(np.stack(ours), theirs)


def model(text):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\ng {text}')


DRAWS = {
    "normal": "y = RandomNormalLike<mean = 2.0, scale = 3.0, seed = 1.0>(x)",
    "uniform": "y = RandomUniformLike<low = -1.0, high = 3.0, seed = 9.5>(x)",
    "bernoulli": "p = Sigmoid(x) y = Bernoulli<seed = 4.0>(p)",
    "dropout": "r = Constant<value_float = 0.25>() t = Constant<value = bool {1}>() "
    "y = Dropout<seed = 3>(x, r, t)",
}


@pytest.mark.parametrize("type", ["float", "double", "float16", "bfloat16"])
@pytest.mark.parametrize("draws", DRAWS.values(), ids=list(DRAWS))
def test_draws_are_the_same_everywhere(draws, type):
    if "Constant" in draws and type != "float":
        draws = draws.replace("y = ", "z = ").replace("(x, r", "(f, r")
        draws = f"f = Cast<to = 1>(x) {draws} y = CastLike(z, x)"
    network = model(f"({type}[17,33] x) => ({type}[17,33] y) {{ {draws} }}")
    dtypes = {"float": "float32", "double": "float64", "bfloat16": "bfloat16"}
    import ml_dtypes  # noqa: F401  # gives NumPy the name

    x = np.random.default_rng(0).standard_normal((17, 33)).astype(dtypes.get(type, type))
    (wanted,) = interpret(load(network), [x])
    tolerance = {"double": 1e-14, "float": 2e-6}.get(type, 1e-2)
    for engine in (lamina.build(network, optimization_level=0), simulated(network)):
        assert engine.plan.fallbacks == ()
        for _ in range(2):
            y = engine(x)
            assert y.dtype == wanted.dtype
            np.testing.assert_allclose(
                y.astype(np.float64), wanted.astype(np.float64), rtol=tolerance, atol=tolerance
            )


def test_without_a_seed_every_run_and_node_draws_others():
    network = model(
        "(float[64] x) => (float[64] y, float[64] z) "
        "{ y = RandomUniformLike(x) z = RandomUniformLike(x) }"
    )
    x = np.zeros(64, np.float32)
    for engine in (lamina.build(network, optimization_level=0), simulated(network)):
        assert engine.plan.fallbacks == ()
        seen = [y for _ in range(3) for y in engine(x)]
        for i, a in enumerate(seen):
            assert 0 <= a.min() and a.max() < 1
            assert all(not np.array_equal(a, b) for b in seen[:i])


def test_classes_are_drawn_by_their_probabilities():
    network = model(
        "(float[2,4] x) => (int64[2,6000] y) "
        "{ y = Multinomial<sample_size = 6000, dtype = 7, seed = 1.0>(x) }"
    )
    p = np.array([[0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.0, 0.5]])
    with np.errstate(divide="ignore"):
        x = np.log(p).astype(np.float32)
    results = [e(x) for e in (lamina.build(network, optimization_level=0), simulated(network))]
    np.testing.assert_array_equal(*results)
    for row, wanted in zip(results[0], p, strict=True):
        np.testing.assert_allclose(np.bincount(row, minlength=4) / 6000, wanted, atol=0.03)


def test_dropout_whose_mode_is_data():
    network = model(
        "(float[100,100] x, bool t) => (float[100,100] y, bool[100,100] m) "
        "{ r = Constant<value_float = 0.25>() y, m = Dropout<seed = 5>(x, r, t) }"
    )
    x = np.random.default_rng(0).standard_normal((100, 100)).astype(np.float32)
    for engine in (lamina.build(network, optimization_level=0), simulated(network)):
        y, kept = engine(x, np.array(True))
        assert kept.mean() == pytest.approx(0.75, abs=0.02)
        np.testing.assert_allclose(y, np.where(kept, x / np.float32(0.75), 0), rtol=1e-6)
        y, kept = engine(x, np.array(False))
        np.testing.assert_array_equal(y, x)
        assert kept.all()
