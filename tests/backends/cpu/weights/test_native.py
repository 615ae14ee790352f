"""Winograd's transform of filters as a kernel, against NumPy's products in f64."""

from __future__ import annotations

import numpy as np
import pytest

from lamina.backends.cpu.image import load_image
from lamina.backends.cpu.kernels.winograd_matrices import weights_matrix
from lamina.backends.cpu.kernels.winograd_weights import module_text
from lamina.backends.cpu.weights.native import NativeFunctions
from lamina.backends.cpu.weights.winograd import transformed
from lamina.codegen.llvm import target
from lamina.codegen.llvm.link import link
from lamina.ir.blocks import cache_aligned


@pytest.fixture(scope="module", params=[target.host_isa(), target.AVX2], ids=["host", "avx2"])
def native(request: pytest.FixtureRequest) -> NativeFunctions:
    linked = link([target.compile_module(module_text(request.param), request.param)])
    return NativeFunctions(load_image(linked.code, dict(linked.symbols), linked.externals))


CASES = {
    "F(4, 3)": ((64, 20, 3, 3), weights_matrix(4, 3), 32, 32),
    "F(6, 3)": ((32, 16, 3, 3), weights_matrix(6, 3), 16, 16),
    "F(2, 5)": ((32, 9, 5, 5), weights_matrix(2, 5), 32, 16),
    "F(3, 3), stride 2": ((48, 5, 3, 3), weights_matrix(3, 3, 2), 16, 16),
}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_equal_up_to_one_rounding(native: NativeFunctions, name: str, scaled: bool) -> None:
    shape, transform, width, padded = CASES[name]
    rng = np.random.default_rng(2)
    w = rng.standard_normal(shape).astype(np.float32)
    factor = rng.standard_normal((shape[0], 1, 1, 1)).astype(np.float32) if scaled else None
    arguments = (transform, 1, width, padded)
    expected = transformed(w if factor is None else w * factor, *arguments)
    out = cache_aligned((expected.nbytes,), np.uint8)
    out[:] = 255
    assert native.winograd(w, factor, arguments, out)
    found = out.view(np.float32).reshape(expected.shape)
    # Sums of up to 25 products in f64, in any order, rounded to f32 once.
    np.testing.assert_allclose(found, expected, rtol=2**-23, atol=1e-12)


def test_what_it_cannot_do_is_left_alone(native: NativeFunctions) -> None:
    w = np.ones((32, 4, 3, 3), np.float32)
    transform = weights_matrix(2, 3)
    out = cache_aligned((16 * 16 * 32 * 4,), np.uint8)
    out[:] = 7
    refused = [
        (w.astype(np.float64), (transform, 1, 32, 16), out),
        (w[:, :, :2, :2].copy(), (transform, 1, 32, 16), out),
        (w.transpose(1, 0, 2, 3), (transform, 1, 32, 16), out),
        (w, (transform, 2, 32, 16), out),
        (w[:24].copy(), (transform, 1, 32, 16), out),
        (w, (transform.astype(np.float32), 1, 32, 16), out),
        (w, (transform, 1, 32, 3), out),
        (w, (transform, 1, 32, 16), out[:-64]),
        (w, (transform, 1, 32, 16), out[4:]),
    ]
    for array, arguments, place in refused:
        assert not native.winograd(array, None, arguments, place)
    assert (out == 7).all()
