"""The builder's constructs run and compute what Python computes."""

from __future__ import annotations

import ctypes

import ml_dtypes
import numpy as np
import pytest

from lamina.backends.cpu import image
from lamina.codegen.llvm import compile_pool, link, target
from lamina.codegen.llvm.builder import BF16, F16, F32, F64, I8, I32, I64, PTR, Module
from lamina.errors import BuildError, PlanError

ISAS = [target.host_isa(), target.AVX2]
KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def run(module, name, arrays, params=(), threads=1):
    """Compile, link, map and run a kernel with each thread number in turn."""
    built = link.link([target.compile_module(str(module), module.isa)])
    args = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
    values = (ctypes.c_int64 * max(1, len(params)))(*params)
    with image.load_image(built.code, built.symbols, built.externals) as loaded:
        for tid in range(threads):
            KERNEL(loaded.address(name))(args, values, tid, threads)


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("n", [1, 15, 16, 100, 1003])
def test_vector_loop_with_tail_over_threads(isa, n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(2, n)).astype(np.float32)
    out = np.full(n + 8, 7, np.float32)
    module, lanes = Module(isa), isa.lanes(F32)
    with module.kernel("axpy") as k:
        a, b, o = (k.arg(i) for i in range(3))
        first, last = k.my_range(k.param(0), grain=lanes)

        def body(i, mask):
            left = k.load(F32.vector(lanes), a, i * 4, mask=mask)
            right = k.load(F32.vector(lanes), b, i * 4, mask=mask)
            k.store(k.max(0.0, k.fma(left, 2.0, right)), o, i * 4, mask=mask)

        k.vectorized(first, last, lanes, body, unroll=4)
    run(module, "axpy", (x, y, out), (n,), threads=3)
    np.testing.assert_allclose(out[:n], np.maximum(2 * x + y, 0), rtol=1e-6, atol=1e-6)
    assert (out[n:] == 7).all()


def test_nested_loops_carry_values_and_branches_choose():
    out = np.zeros(3, np.int64)
    module = Module(target.host_isa())
    with module.kernel("sums") as k:
        o, n = k.arg(0), k.param(0)
        with k.loop(0, n, carry=[k.const(I64, 0)]) as outer:
            with k.loop(0, outer.index, carry=outer.values) as inner:
                inner.next(inner.values[0] + inner.index)
            outer.next(*inner.results)
        k.store(outer.results[0], o)
        with k.if_(n > 5) as branch:
            k.store(n, o, 8)
        with branch.otherwise():
            k.store(n * -1, o, 8)
        k.store(k.select(n < 5, n // 2, n % 4), o, 16)
    for n in (0, 4, 11):
        run(module, "sums", (out,), (n,))
        total = sum(j for i in range(n) for j in range(i))
        assert out.tolist() == [total, n if n > 5 else -n, n // 2 if n < 5 else n % 4]


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_conversions_round_as_ieee_does(isa):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=64) * 10.0 ** rng.integers(-42, 38, 64)).astype(np.float32)
    x[:5] = [np.nan, np.inf, -np.inf, 0.0, -0.0]
    half, brain = np.zeros(64, np.float16), np.zeros(64, ml_dtypes.bfloat16)
    back, whole = np.zeros(64, np.float32), np.zeros(64, np.int8)
    module = Module(isa)
    with module.kernel("casts") as k:
        value = k.load(F32.vector(64), k.arg(0))
        k.store(k.convert(value, F16), k.arg(1))
        narrow = k.convert(value, BF16)
        k.store(narrow, k.arg(2))
        k.store(k.convert(k.convert(narrow, F64), F32), k.arg(3))
        k.store(k.convert_saturated(value, I8), k.arg(4))
    run(module, "casts", (x, half, brain, back, whole))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(half, x.astype(np.float16))
    expected = x.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(brain.view(np.uint16)[1:], expected.view(np.uint16)[1:])
    np.testing.assert_array_equal(back, expected.astype(np.float32))
    np.testing.assert_array_equal(
        whole, np.clip(np.nan_to_num(x, nan=0), -128, 127).astype(np.int8)
    )


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_gather_shuffle_reduce_and_tables(isa):
    rng = np.random.default_rng(3)
    x, index = rng.normal(size=50).astype(np.float32), rng.integers(0, 50, 16).astype(np.int32)
    out = np.zeros(16 * 3 + 2, np.float32)
    module = Module(isa)
    table = module.table("weights", F32, [0.5, 1.5, 2.5, 3.5] * 4)
    with module.kernel("f") as k:
        o = k.arg(2)
        picked = k.gather(F32, k.arg(0), k.load(I32.vector(16), k.arg(1)) * 4)
        k.store(picked, o)
        k.store(k.shuffle(picked, None, range(15, -1, -1)), o, 64)
        k.store(picked * k.load(F32.vector(16), k.value(PTR, table.text)), o, 128)
        k.store(k.reduce("add", picked), o, 192)
        k.store(k.reduce("max", picked), o, 196)
    run(module, "f", (x, index, out))
    want = x[index]
    np.testing.assert_array_equal(out[:16], want)
    np.testing.assert_array_equal(out[16:32], want[::-1])
    np.testing.assert_array_equal(out[32:48], want * np.tile([0.5, 1.5, 2.5, 3.5], 4).astype("f4"))
    np.testing.assert_allclose(out[48], want.sum(), rtol=1e-5)
    assert out[49] == want.max()


def test_private_functions_externals_and_merged_objects():
    first, second = Module(target.host_isa()), Module(target.host_isa())
    x, out = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    for module, factor in ((first, 2.0), (second, 3.0)):
        with module.function("scaled", [("x", F32)], F32) as f:
            f.ret(f.parameters[0] * factor)
        with module.kernel(f"times{factor:.0f}") as k:
            k.copy(k.arg(1), k.arg(0), k.param(0) * 4)
            k.store(k.call(module.handle("scaled"), k.load(F32, k.arg(0), 40)), k.arg(1))
    texts = [str(first), str(second)]
    with compile_pool.CompilePool(target.host_isa(), 2) as pool:
        begun = [pool.submit(text) for text in texts]
        objects = [compile_pool.compiled(b) for b in begun]
    assert objects == [target.compile_module(t, target.host_isa()) for t in texts]
    built = link.link(objects)
    assert set(built.symbols) == {"times2", "times3"}
    assert [name for name, _ in built.externals] == ["memcpy"]
    args = (ctypes.c_void_p * 2)(x.ctypes.data, out.ctypes.data)
    with image.load_image(built.code, built.symbols, built.externals) as loaded:
        for factor in (2, 3):
            KERNEL(loaded.address(f"times{factor}"))(args, (ctypes.c_int64 * 1)(64), 0, 1)
            assert out[0] == 10 * factor
            np.testing.assert_array_equal(out[1:], x[1:])


def test_link_and_load_refuse_what_cannot_run():
    module = Module(target.host_isa())
    with module.kernel("f") as k:
        k.call(module.declare("no_such_function_anywhere", I32, ()))
    made = target.compile_module(str(module), target.host_isa())
    with pytest.raises(BuildError, match="f is exported by two objects"):
        link.link([made, made])
    with pytest.raises(BuildError, match="not a relocatable"):
        link.link([made[:4] + b"\1" + made[5:]])
    built = link.link([made])
    with pytest.raises(PlanError, match="no_such_function_anywhere"):
        image.load_image(built.code, built.symbols, built.externals)
    with pytest.raises(PlanError, match="offset"):
        image.load_image(built.code, {"f": len(built.code)}, ())
    with pytest.raises(BuildError, match="malformed"):
        target.compile_module("define void @f( {", target.host_isa())
