"""First layers of networks: meaning, code of Hopper, what is declined, new weights."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda import contractions
from tests.backends.cuda.contractions import node_of
from tests.backends.cuda.fused import SIX, Network, check, offered
from tests.backends.cuda.test_contractions_compile import assembly
from tests.backends.cuda.test_convolution import op_of, operands

from lamina.backends.cuda.tactics.stem import StemConvolution, problem_of
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.ir.dims import sym
from lamina.ir.pattern import Reject
from lamina.ir.recipe import Recording
from lamina.ir.traced import Traced
from lamina.ops import ActivationKind, Convolution, Epilogue
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

H200 = TARGETS[90]
RELU = Epilogue(ActivationKind.RELU)
SILU = Epilogue(ActivationKind.SILU)
POOL = {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1)}


def pooled(shape, filters, taps=7, dtype=np.float16, activation=RELU, pad=None,
           pool_pad=(1, 1), **pool):  # fmt: skip
    """Return a network and the region of its convolution and of the maximum behind it."""
    net = Network(dtype)
    y = net.convolution(net.image(*shape), filters, taps, 2, activation=activation, pad=pad)
    return net, net.region(net.maximum(y, **POOL | {"pad": pool_pad} | pool))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "shape, filters, how",
    [
        ((2, 3, 16, 24), 24, {}),
        ((1, 3, 11, 236), 72, {"activation": SIX}),
        ((1, 1, 13, 20), 16, {"taps": 3, "pad": 0, "pool_pad": (0, 0), "ceil_mode": True}),
        ((3, 4, 9, 12), 64, {"taps": 5, "activation": None}),
    ],
)
def test_maxima(shape, filters, how, dtype):
    net, node = pooled(shape, filters, dtype=dtype, **how)
    found = offered(StemConvolution(), node, H200)
    for candidate in (found[0], found[-1]):
        check(net, node, candidate, gap=8)


def test_symbolic_batch():
    net = Network()
    x = net.image(2, 3, 14, 16, symbolic=(sym("n"), 3, 14, 16))
    node = net.region(net.maximum(net.convolution(x, 32, 7, 2), **POOL))
    target = replace(H200, env={"n": 2})
    check(net, node, offered(StemConvolution(), node, target)[0], env=target.env)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "options, x, w",
    [
        ({"strides": 2, "begin": (1, 1), "end": (1, 1)}, (2, 3, 10, 12), (32, 3, 3, 3)),
        ({"strides": 2, "begin": (0, 2), "end": (1, 0)}, (1, 2, 9, 270), (64, 2, 6, 5)),
        ({"strides": (3, 2), "begin": (2, 0)}, (1, 1, 17, 14), (80, 1, 4, 2)),
    ],
)
def test_alone(options, x, w, dtype):
    for activation, bias in ((SILU, True), (None, False)):
        op = op_of(Convolution, activation=activation, **options)
        given = operands(op, x, w, dtype, bias=bias)
        contractions.check(StemConvolution(), op, given, H200, most=1, gap=8)


def test_filters_are_packed_by_a_recipe():
    """So that an engine can be refitted."""
    problem = problem_of(pooled((2, 3, 16, 24), 24)[1], H200)
    filters = problem.case.filters
    traced = problem.packed(Traced(filters, Recording().source("filters")))
    assert isinstance(traced, Traced)
    np.testing.assert_array_equal(traced.value, problem.packed(filters))


def test_compiles_without_spilling(tmp_path):
    whole = pooled((128, 3, 224, 224), 64)[1]
    shapes = ((64, 3, 224, 224), (32, 3, 3, 3), (32,))
    op = op_of(Convolution, strides=2, begin=(1, 1), end=(1, 1), activation=SILU)
    alone = node_of(op, [np.zeros(s, np.float16) for s in shapes])
    for node in (whole, alone):
        for c in offered(StemConvolution(), node, H200):
            forms = [f or Form.PLAIN for f in c.reads]
            laid = [layout(v.tensor, f) for v, f in zip(node.inputs, forms, strict=True)]
            dense = Placement(tuple(laid), (layout(node.output.tensor, c.writes[0]),), "")
            (launch,) = c.draft(dense).launches
            _, spilled, text = assembly(compile_request(launch.kernel, 90), tmp_path)
            assert not spilled, c.tactic
            # Filters come from registers, and no product waits for the one before it.
            assert text.count("WARPGROUP.DEPBAR") <= text.count("HGMMA") / 3


def with_stride(stride, width=24, taps=3, channels=3):
    op = op_of(Convolution, strides=stride)
    return node_of(op, operands(op, (1, channels, 16, width), (32, channels, taps, taps)))


@pytest.mark.parametrize(
    "node, why",
    [
        (lambda: with_stride(1), "two columns"),
        (lambda: with_stride(2, width=23), "multiples"),
        (lambda: with_stride(2, taps=9, channels=8), "too large"),
        (lambda: pooled((1, 3, 16, 24), 16, activation=SILU)[1], "order of numbers"),
        (lambda: pooled((1, 3, 16, 24), 16, kernel=(2, 2))[1], "three rows"),
    ],
)
def test_declines(node, why):
    reason = StemConvolution().candidates(node(), H200)
    assert isinstance(reason, Reject) and why in reason.reason
    assert isinstance(StemConvolution().candidates(node(), TARGETS[100]), Reject)
