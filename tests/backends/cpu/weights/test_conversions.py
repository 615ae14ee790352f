"""Conversions between f16 and f32 as kernels, bit by bit against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from lamina.backends.cpu.image import load_image
from lamina.backends.cpu.kernels.conversions import module_text
from lamina.backends.cpu.weights.native import NativeFunctions
from lamina.codegen.llvm import target
from lamina.codegen.llvm.link import link

F16, F32 = np.dtype(np.float16), np.dtype(np.float32)


@pytest.fixture(scope="module", params=[target.host_isa(), target.AVX2], ids=["host", "avx2"])
def native(request: pytest.FixtureRequest) -> NativeFunctions:
    linked = link([target.compile_module(module_text(request.param), request.param)])
    assert not linked.externals
    return NativeFunctions(load_image(linked.code, dict(linked.symbols), linked.externals))


def bits(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a).view(f"u{a.itemsize}")


def test_every_f16(native: NativeFunctions) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(F16)
    np.testing.assert_array_equal(bits(native.converted(halves, F32)), bits(halves.astype(F32)))


def narrow_cases() -> dict[str, np.ndarray]:
    """Return f32 numbers: all exponents, what lies beside and between f16 numbers, NaNs."""
    with np.errstate(all="ignore"):
        finite = np.arange(0x7C00, dtype=np.uint16).view(F16).astype(F32)
        between = (finite[1:] + finite[:-1]) / 2  # ties, exact in f32
        beside = np.concatenate([np.nextafter(between, np.float32(s * 1e38)) for s in (1, -1)])
    exponents = np.arange(0, 1 << 32, (1 << 23) // 37, dtype=np.uint64).astype(np.uint32)
    payloads = np.concatenate([[1], 1 << np.arange(23), np.arange(1, 1 << 23, 1 << 11)])
    nans = np.uint32(0x7F800000) + payloads.astype(np.uint32)
    limits = np.array([65504, 65519.996, 65520, 65536, 3.4e38, np.inf, 0, 2**-24, 2**-25], F32)
    return {
        "ties": np.concatenate([between, -between]),
        "beside ties": np.concatenate([beside, -beside]),
        "all exponents": exponents.view(F32),
        "NaNs": np.concatenate([nans, nans | np.uint32(1 << 31)]).view(F32),
        "limits": np.tile(np.concatenate([limits, -limits]), 512),
    }


@pytest.mark.parametrize("name", narrow_cases())
def test_f32_rounds_to_nearest_even(native: NativeFunctions, name: str) -> None:
    numbers = narrow_cases()[name]
    assert numbers.size >= 4096  # fewer are left to NumPy
    with np.errstate(all="ignore"):
        expected = numbers.astype(F16)
    np.testing.assert_array_equal(bits(native.converted(numbers, F16)), bits(expected))


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 4111, 10000])
def test_sizes(native: NativeFunctions, size: int) -> None:
    numbers = np.random.default_rng(3).standard_normal(size + 1).astype(F32)[1:]
    halves = native.converted(numbers, F16)
    np.testing.assert_array_equal(bits(halves), bits(numbers.astype(F16)))
    np.testing.assert_array_equal(native.converted(halves, F32), halves.astype(F32))


def test_orders_and_other_types(native: NativeFunctions) -> None:
    numbers = np.random.default_rng(4).standard_normal((96, 64, 3)).astype(F32)
    for view in (numbers.T, numbers[::2], numbers[:, ::-1], numbers.transpose(1, 0, 2)):
        found = native.converted(view, F16)
        assert found.shape == view.shape
        np.testing.assert_array_equal(found, view.astype(F16))
    np.testing.assert_array_equal(native.converted(numbers.astype(">f4"), F16), numbers.astype(F16))
    wide = native.converted(numbers, np.dtype(np.float64))
    np.testing.assert_array_equal(wide, numbers.astype(np.float64))
    assert native.converted(numbers, F32) is numbers
