"""Direct and depthwise convolution against the definition."""

from __future__ import annotations

import pytest
from tests.backends.cpu.kernels.running import problem, relative_errors

from lamina.backends.cpu.kernels import depthwise, direct
from lamina.backends.cpu.kernels.convolution import Epilogue
from lamina.codegen.llvm import target

LIMIT = 4e-6
ISAS = [target.host_isa(), target.AVX2]
PAD = {"pads": (1, 1, 1, 1)}
RELU = {"activation": Epilogue("relu")}
DIRECT = {
    "3x3": ((1, 64, 14, 14), 64, (3, 3), "blocked", "blocked", PAD | RELU | {"residual": True}),
    "1x1": ((2, 64, 7, 6), 96, (1, 1), "blocked", "blocked", {"activation": Epilogue("silu", 1.0)}),
    "strided 1x1": ((1, 64, 7, 7), 128, (1, 1), "blocked", "blocked", {"strides": (2, 2)}),
    "NHWC partial": ((2, 20, 13, 9), 36, (3, 3), "last", "last", PAD | {"strides": (2, 2)}),
    "dilated": (
        (1, 20, 13, 9), 36, (3, 3), "blocked", "blocked",
        {"pads": (2, 0, 1, 1), "strides": (2, 2), "dilations": (2, 1)},
    ),
    "first layer NCHW": (
        (1, 3, 30, 31), 64, (7, 7), "planar", "blocked",
        {"pads": (3, 3, 3, 3), "strides": (2, 2)} | RELU,
    ),
    "first layer NHWC": ((1, 3, 30, 31), 24, (3, 3), "last", "last", PAD | {"strides": (2, 2)}),
    "first layer dilated": ((1, 3, 12, 13), 24, (3, 3), "planar", "blocked", {"dilations": (1, 2)}),
    "grouped NHWC": (
        (1, 24, 11, 12), 12, (3, 3), "last", "last", PAD | {"groups": 3, "residual": True}
    ),
    "grouped blocked": ((1, 64, 9, 8), 128, (3, 3), "blocked", "blocked", PAD | {"groups": 4}),
    "one pixel": ((1, 32, 1, 1), 1000, (1, 1), "blocked", "last", {"bias": False}),
    "large padding": ((1, 5, 4, 3), 7, (5, 5), "last", "blocked", {"pads": (2, 4, 4, 2)}),
}  # fmt: skip
DEPTHWISE = {
    "3x3": ((1, 32, 14, 14), (3, 3), "blocked", "blocked", PAD | RELU | {"residual": True}),
    "strided NHWC": ((2, 32, 13, 9), (3, 3), "last", "last", PAD | {"strides": (2, 2)}),
    "partial": (
        (2, 20, 13, 9), (3, 3), "last", "last",
        {"pads": (0, 1, 2, 1), "strides": (1, 2), "activation": Epilogue("silu", 1.0)},
    ),
    "dilated 5x5": (
        (1, 20, 13, 9), (5, 5), "blocked", "blocked", {"pads": (2,) * 4, "dilations": (2, 1)}
    ),
    "9x11": ((1, 20, 23, 19), (9, 11), "blocked", "last", {"pads": (4, 5, 4, 5)}),
    "filter larger than the image": (
        (1, 20, 7, 7), (31, 31), "last", "blocked", {"pads": (15,) * 4, "bias": False}
    ),
}  # fmt: skip


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("case", DIRECT)
def test_direct_matches_the_definition(case, isa):
    shape, out, kernel, src, dst, fields = DIRECT[case]
    p = problem(shape, out, kernel, (src, dst), **fields)
    errors = dict(relative_errors(direct, p, (src, dst), isa))
    assert errors and max(errors.values()) <= LIMIT


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise_matches_the_definition(case, isa):
    shape, kernel, src, dst, fields = DEPTHWISE[case]
    p = problem(shape, shape[1], kernel, (src, dst), groups=shape[1], **fields)
    errors = dict(relative_errors(depthwise, p, (src, dst), isa))
    assert errors and max(errors.values()) <= LIMIT


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise_on_bf16_activations_loses_one_rounding(case, isa):
    shape, kernel, src, dst, fields = DEPTHWISE[case]
    p = problem(shape, shape[1], kernel, (src, dst), "bf16", groups=shape[1], **fields)
    errors = dict(relative_errors(depthwise, p, (src, dst), isa))
    assert errors and max(errors.values()) <= 2**-7


def test_declines_with_a_reason():
    odd = problem((1, 60, 8, 8), 60, (1, 1), groups=3)
    assert "20 to 20" in (direct.why_not(odd) or "")
    assert "60 channels" in (depthwise.why_not(odd) or "")
    half = problem((1, 32, 8, 8), 32, (1, 1), ("last", "last"), "bf16")
    assert "bf16" in (direct.why_not(half) or "")
    planar = problem((1, 3, 8, 8), 16, (3, 3), ("planar", "planar"))
    assert "planar" in (direct.why_not(planar) or "")
