"""Kernels that make constants of weights, against NumPy, bit by bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lamina.backends.cpu.image import load_image
from lamina.backends.cpu.kernels.moving import module_text
from lamina.backends.cpu.weights.native import NativeFunctions
from lamina.codegen.llvm import target
from lamina.codegen.llvm.link import link
from lamina.ir.blocks import blocked, cache_aligned
from lamina.ir.movement import CHAINS, TYPES, Course, Movement, conversions

PRECISIONS = ("int8", "fp16", "bf16")
LAYOUTS: dict[str, tuple[Any, ...]] = {
    # shape, blocks, order: as packed for matrix products and convolutions
    "columns": ((64, 96, 1, 1), ((32,), (16,), (), ()), (0, 2, 4, 5, 3, 1)),
    "columns of filters": ((48, 32, 3, 3), ((16,), (16,), (), ()), (0, 2, 4, 5, 3, 1)),
    "pairs": ((64, 96, 1, 1), ((32,), (8, 2), (), ()), (0, 5, 6, 2, 3, 1, 4)),
    "pairs of filters": ((48, 32, 3, 3), ((16,), (8, 2), (), ()), (0, 2, 5, 6, 3, 1, 4)),
    "fours": ((64, 96, 1, 1), ((32,), (4, 4), (), ()), (0, 5, 6, 2, 3, 1, 4)),
    "fours of filters": ((64, 96, 3, 3), ((16,), (4,), (), ()), (0, 4, 5, 2, 1, 3)),
    "rows": ((40, 72), ((), (8,)), (1, 0, 2)),
    "as it is": ((37, 50), ((), ()), (0, 1)),
    "padded": ((50, 70), ((16,), ()), (0, 2, 1)),
    "padded pairs": ((50, 70), ((16,), (2,)), (0, 2, 1, 3)),
}
"""Padded axes have sizes that no block divides."""


ISAS = {"host": target.host_isa(), "avx2": target.AVX2}


def compiled(isa: str, precision: str) -> NativeFunctions:
    text = module_text(ISAS[isa], precision)
    linked = link([target.compile_module(text, ISAS[isa])])
    return NativeFunctions(load_image(linked.code, dict(linked.symbols), linked.externals))


@pytest.fixture(scope="module", params=[(i, p) for i in ISAS for p in PRECISIONS], ids="-".join)
def kernels(request: pytest.FixtureRequest) -> tuple[str, NativeFunctions]:
    return request.param[1], compiled(*request.param)


def course(chain: str, shape: Any, blocks: Any, order: Any) -> Course:
    inner = [int(np.prod(b)) for b in blocks]
    padded = tuple(-(-n // b) * b for n, b in zip(shape, inner, strict=True))
    steps = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    factors = (1, *[0] * (len(shape) - 1)) if "*" in chain else (0,) * len(shape)
    return Course(chain, 0, shape, steps, factors, blocks, order, padded)


def converted(chain: str, x: np.ndarray, factors: np.ndarray) -> np.ndarray:
    converts = conversions(chain)
    if converts is None:
        return x
    with np.errstate(all="ignore"):
        for name in converts.before[1:]:
            x = x.astype(TYPES[name])
        if converts.multiplies:
            x = x * factors.reshape(-1, *[1] * (x.ndim - 1))
        for name in converts.after:
            x = x.astype(TYPES[name])
    return x


def numbers(chain: str, shape: tuple[int, ...], *, odd: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    converts = conversions(chain)
    if converts is None:
        x = rng.integers(0, 1 << 7, (*shape, int(chain)), np.uint8)
        return x.view(f"u{chain}")[..., 0], np.ones(shape[0], np.float32)
    dtype = TYPES[converts.source]
    x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-8, 4, shape)).astype(dtype)
    x.reshape(-1)[:5] = [0, -0.0, 6e-8, -65504, 1.00048828125]
    if odd:
        x.reshape(-1)[5:9] = [np.nan, np.inf, -np.inf, -np.nan]
    factors = rng.uniform(0.5, 2, shape[0]).astype(np.float32)
    return x, factors


@pytest.mark.parametrize("layout", LAYOUTS)
def test_movements(kernels: tuple[str, NativeFunctions], layout: str) -> None:
    precision, native = kernels
    shape, blocks, order = LAYOUTS[layout]
    together = 2 if "pairs" in layout else 4 if "fours" in layout else 1
    for chain in CHAINS["cpu"][precision]:
        # Kernels for f16 are for numbers alone.
        x, factors = numbers(chain, shape, odd="float16" not in chain.replace("bfloat16", ""))
        own = course(chain, shape, blocks, order)
        out = cache_aligned((own.elements * own.result_size,), np.uint8)
        out[:] = 77
        given = factors if "*" in chain else None
        done = native.moved([Movement(own, x, given)], out)
        assert done == (together == 1 or together * own.result_size == 4)
        if done:
            wanted = blocked(converted(chain, x, factors), blocks, order, own.padded)
            assert out.tobytes() == wanted.tobytes(), chain


def test_parts_of_the_first_axis(kernels: tuple[str, NativeFunctions]) -> None:
    precision, native = kernels
    for chain in CHAINS["cpu"][precision]:
        x, factors = numbers(chain, (48, 20, 9), odd=False)
        whole = course(chain, (48, 20, 9), ((), (), ()), (0, 1, 2))
        movement = Movement(whole, x, factors if "*" in chain else None).rows(16, 24)
        out = cache_aligned((movement.course.elements * whole.result_size,), np.uint8)
        assert native.moved([movement], out)
        assert out.tobytes() == converted(chain, x, factors)[16:40].tobytes()


@pytest.mark.parametrize("isa", ISAS)
def test_sums_of_bytes(isa: str) -> None:
    native = compiled(isa, "int8")
    x = np.random.default_rng(2).integers(-128, 128, (13, 5, 9)).astype(np.int8)
    found = native.sums(Movement(course("1", x.shape, ((), (), ()), (0, 1, 2)), x, None))
    assert found is not None
    np.testing.assert_array_equal(found, x.sum(axis=(1, 2), dtype=np.int64))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("last", [0.25, 1e-9, 65504, 65536, np.inf, -np.nan])
def test_what_is_known_of_numbers(isa: str, last: float) -> None:
    native = compiled(isa, "fp16")
    for chain in ("float16>float32", "float16>float32*"):
        for shape in ((20, 48), (5, 7, 9)):
            with np.errstate(all="ignore"):
                x = np.random.default_rng(1).integers(-9, 9, shape).astype(np.float16)
                factors = np.full(shape[0], 0.5, np.float32)
                x.reshape(-1)[-1] = last
                factors[-1] *= 1.0 if np.isfinite(x.reshape(-1)[-1]) else 2.0
            axes = tuple(range(len(shape)))
            own = course(chain, shape, tuple(() for _ in axes), axes)
            found = native.measured(Movement(own, x, factors if "*" in chain else None))
            values = converted(chain, x, factors)
            with np.errstate(all="ignore"):
                again = values.astype(np.float16).astype(np.float32)
            assert found is not None
            np.testing.assert_array_equal(found.largest, np.abs(values).max())
            assert found.fits_half == bool((again == values).all())
            rounded = found.rounded()
            np.testing.assert_array_equal(rounded.largest, np.abs(again).max())
            assert rounded.fits_half == (not np.isnan(again).any())


def test_what_no_kernel_can_do(kernels: tuple[str, NativeFunctions]) -> None:
    _, native = kernels
    x = np.ones((64, 64), np.float32)
    own = course("4", (64, 64), ((), ()), (0, 1))
    out = cache_aligned((x.nbytes + 64,), np.uint8)
    assert native.moved([Movement(own, x, None)], out[: x.nbytes])
    assert not native.moved([Movement(own, x, None)], out[1 : 1 + x.nbytes]), "unaligned"
    assert not native.moved([Movement(own, x, None)], out), "of another size"
    unknown = replace(own, chain="bfloat16>float16")
    assert not native.moved([Movement(unknown, x.view(ml_dtypes.bfloat16), None)], out[:8192])
