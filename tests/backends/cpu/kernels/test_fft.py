"""FFT convolution against the definition, with its accuracy stated."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cpu.kernels.running import problem, relative_errors

from lamina.backends.cpu.kernels import fft
from lamina.backends.cpu.kernels.convolution import Epilogue
from lamina.backends.cpu.kernels.fft_lines import FACTORS
from lamina.codegen.llvm import target

LIMIT = 1e-6
ISAS = [target.host_isa(), target.AVX2]
CASES = {
    "relu and residual": (
        (1, 32, 40, 25), 48, (7, 7), ("blocked", "blocked"),
        {"pads": (3, 3, 3, 3), "residual": True, "activation": Epilogue("relu")},
    ),
    "batch, NHWC to blocked, stride 2": (
        (2, 32, 23, 38), 32, (9, 9), ("last", "blocked"), {"pads": (4,) * 4, "strides": (2, 2)},
    ),
    "partial channel blocks, uneven padding": (
        (1, 20, 33, 19), 24, (11, 5), ("last", "last"),
        {"pads": (0, 2, 7, 0), "bias": False, "residual": True},
    ),
    "partial blocks in padded layouts": (
        (1, 20, 13, 19), 40, (8, 6), ("blocked", "blocked"), {"activation": Epilogue("silu", 1.0)},
    ),
    "groups, stride 3 and 1": (
        (1, 96, 29, 17), 64, (7, 9), ("blocked", "last"),
        {"groups": 2, "pads": (1, 4, 2, 4), "strides": (3, 1)},
    ),
    "depthwise": (
        (2, 40, 28, 20), 40, (13, 13), ("blocked", "blocked"),
        {"groups": 40, "pads": (6,) * 4, "activation": Epilogue("relu")},
    ),
    "depthwise, dilated, NHWC": (
        (1, 24, 30, 34), 24, (5, 4), ("last", "last"),
        {"groups": 24, "pads": (6, 3, 6, 6), "dilations": (3, 3), "residual": True},
    ),
    "filter larger than the image": (
        (1, 16, 9, 6), 16, (15, 13), ("last", "blocked"), {"pads": (7, 6, 7, 6)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("case", CASES)
def test_matches_the_definition(case, isa):
    shape, out, kernel, layouts, fields = CASES[case]
    p = problem(shape, out, kernel, layouts, **fields)
    every = fft.configs(p, isa, 3, sizes=tuple(FACTORS))
    assert every
    for config, error in relative_errors(fft, p, layouts, isa, every):
        assert error <= LIMIT, config


@pytest.mark.parametrize("case", ["relu and residual", "depthwise"])
def test_bf16_activations_lose_one_rounding(case):
    shape, out, kernel, layouts, fields = CASES[case]
    p = problem(shape, out, kernel, layouts, "bf16", **fields)
    for config, error in relative_errors(fft, p, layouts, ISAS[0], fft.configs(p, ISAS[0], 3)):
        assert error <= 2**-7, config


def test_large_filters_keep_the_stated_accuracy():
    layouts = ("blocked", "blocked")
    p = problem((1, 16, 56, 56), 16, (31, 31), layouts, groups=16, pads=(15,) * 4)
    for config, error in relative_errors(fft, p, layouts, ISAS[0]):
        assert error <= LIMIT, config
    p = problem((1, 256, 28, 28), 16, (11, 11), layouts, pads=(5,) * 4)
    for config, error in relative_errors(fft, p, layouts, ISAS[0]):
        assert error <= LIMIT, config


@pytest.mark.parametrize("n", FACTORS)
def test_spectra_count_no_number_twice(n):
    w = np.random.default_rng(1).normal(size=(16, 16, 5, 5)).astype(np.float32)
    p = problem((1, 16, 40, 40), 16, (5, 5))
    (config,) = fft.configs(p, ISAS[0], 1, sizes=(n,))
    packed = fft.pack_weights(w, p, config, ISAS[0])
    assert packed.size == 16 * 16 * (n * n + 4)
    edges = (n // 2 - 1) * n
    # The sum of a filter is its spectrum's number 0; factors of the transforms are in it.
    sums = packed.reshape(-1, n * n // 2 + 2, 16, 2, ISAS[0].lanes(fft.F32))[:, edges, :, 0]
    expected = w.sum((2, 3)).T / (2 * n * n)
    assert np.allclose(np.concatenate(list(sums), axis=1), expected, rtol=1e-4, atol=1e-7)


def test_small_filters_are_left_to_other_kernels():
    p = problem((1, 64, 56, 56), 64, (3, 3), pads=(1,) * 4)
    assert fft.configs(p, ISAS[0]) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kernel": (7, 7), "groups": 4}, "8 to 8"),
        ({"kernel": (70, 1)}, "70"),
        ({"kernel": (9, 9), "activation": Epilogue("mish")}, "mish"),
    ],
)
def test_declines_with_a_reason(fields, reason):
    kernel = fields.pop("kernel")
    p = problem((1, 32, 80, 80), 32, kernel, **fields)
    assert reason in (fft.why_not(p) or "")
