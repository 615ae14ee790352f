"""Winograd convolution against the definition, with the accuracy stated per tile size."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cpu.kernels.running import problem, relative_errors

from lamina.backends.cpu.kernels import winograd
from lamina.backends.cpu.kernels.convolution import Epilogue
from lamina.backends.cpu.kernels.winograd_matrices import transforms
from lamina.codegen.llvm import target

LIMIT = {2: 5e-6, 3: 5e-6, 4: 2e-5, 6: 2e-4}
ISAS = [target.host_isa(), target.AVX2]
CASES = {
    "relu and residual": (
        (1, 32, 20, 20), 64, (3, 3), ("blocked", "blocked"),
        {"pads": (1, 1, 1, 1), "residual": True, "activation": Epilogue("relu")},
    ),
    "batch, odd sides, NHWC to blocked": (
        (2, 32, 13, 9), 48, (3, 3), ("last", "blocked"), {"pads": (1, 1, 1, 1)},
    ),
    "partial channel blocks, uneven padding": (
        (1, 20, 13, 9), 24, (3, 3), ("last", "last"),
        {"pads": (0, 2, 1, 0), "bias": False, "residual": True},
    ),
    "partial blocks in padded layouts": (
        (1, 20, 13, 9), 40, (3, 3), ("blocked", "blocked"), {"activation": Epilogue("silu", 1.0)},
    ),
    "5x5": ((1, 32, 13, 9), 32, (5, 5), ("blocked", "last"), {"pads": (2, 2, 2, 2)}),
    "groups": ((1, 96, 9, 7), 64, (3, 3), ("blocked", "blocked"), {"groups": 2, "pads": (1,) * 4}),
    "5x5 groups": ((1, 32, 9, 7), 96, (5, 5), ("last", "last"), {"groups": 2, "residual": True}),
    "stride 2": (
        (1, 32, 15, 14), 48, (3, 3), ("blocked", "blocked"),
        {"strides": (2, 2), "pads": (1,) * 4, "residual": True},
    ),
    "stride 2, partial, batch": (
        (2, 24, 14, 19), 40, (3, 3), ("last", "last"), {"strides": (2, 2), "pads": (0, 1, 1, 2)},
    ),
    "image smaller than a tile": ((3, 16, 3, 2), 16, (3, 3), ("last", "last"), {"pads": (1,) * 4}),
}  # fmt: skip


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("case", CASES)
def test_matches_the_definition(case, isa):
    shape, out, kernel, layouts, fields = CASES[case]
    p = problem(shape, out, kernel, layouts, **fields)
    every = [c for m in LIMIT for c in winograd.configs(p, isa, 3, sizes=(m,))]
    assert {c.m for c in winograd.configs(p, isa, 3)} <= {c.m for c in every}
    for config, error in relative_errors(winograd, p, layouts, isa, every):
        assert error <= LIMIT[config.m], config


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("case", CASES)
def test_bf16_activations_lose_one_rounding(case, isa):
    shape, out, kernel, layouts, fields = CASES[case]
    p = problem(shape, out, kernel, layouts, "bf16", **fields)
    for config, error in relative_errors(winograd, p, layouts, isa):
        assert error <= 2**-7, config


def test_deep_reductions_keep_the_stated_accuracy():
    layouts = ("blocked", "blocked")
    p = problem((1, 512, 14, 14), 32, (3, 3), layouts, pads=(1, 1, 1, 1))
    for config, error in relative_errors(winograd, p, layouts, target.host_isa()):
        assert error <= LIMIT[config.m], config


@pytest.mark.parametrize(
    ("m", "r", "s"),
    [(2, 3, 1), (4, 3, 1), (6, 3, 1), (2, 5, 1), (4, 5, 1), (2, 3, 2), (3, 3, 2), (4, 3, 2)],
)
def test_transforms_are_exact(m, r, s):
    t = transforms(m, r, s)
    rng = np.random.default_rng(0)
    d, g = rng.integers(-9, 9, (m - 1) * s + r), rng.integers(-9, 9, r)
    a, w, b = (np.array(x, object) for x in (t.output, t.weights, t.input))
    assert list(a @ ((w @ g) * (b @ d))) == [d[i * s : i * s + r] @ g for i in range(m)]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kernel": (3, 1)}, "3x1"),
        ({"kernel": (5, 5), "strides": (2, 2)}, "stride"),
        ({"kernel": (3, 3), "strides": (2, 1)}, "stride"),
        ({"kernel": (3, 3), "groups": 4}, "8 to 8"),
        ({"kernel": (3, 3), "activation": Epilogue("mish")}, "mish"),
    ],
)
def test_declines_with_a_reason(fields, reason):
    kernel = fields.pop("kernel")
    p = problem((1, 32, 8, 8), 32, kernel, **fields)
    assert reason in (winograd.why_not(p) or "")
