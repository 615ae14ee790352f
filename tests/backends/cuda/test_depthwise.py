"""Depthwise convolutions, alone and with the pointwise ones behind them."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda import fused
from tests.backends.cuda.contractions import check, compare
from tests.backends.cuda.fused import SIX, Network, offered
from tests.backends.cuda.simulation import simulated
from tests.backends.cuda.test_convolution import op_of, operands

import lamina
from lamina.backends.cuda import bindings
from lamina.backends.cuda import compiler as compiler_of_cuda
from lamina.backends.cuda.pricing import Pricing
from lamina.backends.cuda.tactics.convolution import TritonConvolution
from lamina.backends.cuda.tactics.depthwise import TritonDepthwise
from lamina.backends.cuda.tactics.generated import Generated
from lamina.backends.cuda.tactics.separable import TritonSeparable
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.errors import DeviceError
from lamina.ir.dims import sym
from lamina.ir.interpret import interpret
from lamina.ir.pattern import Reject
from lamina.ops import Convolution, Deconvolution, Region
from lamina.passes.fusion import FuseConvolutions, Price
from lamina.tactics.candidate import Placement
from lamina.tactics.choices import dense_layouts

H200 = TARGETS[90]
HALVES = [np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", [*HALVES, np.float32])
@pytest.mark.parametrize("block", ["2x2x", "1x1x", "4x2x", "3x5x"])
def test_blocks(dtype, block):
    """Blocks that divide the result, and others, with all that is done to sums."""
    op = op_of(Convolution, groups=24, activation=SIX)
    given = operands(op, (2, 24, 8, 6), (24, 1, 3, 3), dtype, residual=True)
    check(TritonDepthwise(), op, given, H200, most=1, pick=f" {block}", gap=8)


WINDOWS = {
    "strides": (op_of(Convolution, groups=8, strides=2), (1, 8, 12, 11), (8, 1, 3, 3)),
    "dilations": (
        op_of(Convolution, groups=8, strides=(2, 1), dilations=(1, 3), end=0),
        (1, 8, 9, 11), (8, 1, 3, 2),
    ),
    "five": (op_of(Convolution, groups=8, strides=2, begin=2, end=2), (1, 8, 9, 9), (8, 1, 5, 5)),
    "seven": (op_of(Convolution, groups=8, begin=3, end=3), (1, 8, 8, 9), (8, 1, 7, 7)),
    "depth": (op_of(Convolution, rank=3, groups=8), (1, 8, 4, 4, 6), (8, 1, 3, 3, 3)),
    "one axis": (op_of(Convolution, rank=1, groups=6), (1, 6, 19), (6, 1, 3)),
    "cut": (op_of(Convolution, groups=8, begin=(-1, 0), end=(0, -1)), (1, 8, 8, 8), (8, 1, 3, 3)),
    "transposed": (
        op_of(Deconvolution, groups=8, strides=2, output_padding=(0, 0)),
        (1, 8, 5, 6), (8, 1, 3, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", WINDOWS)
def test_windows(which):
    op, x, w = WINDOWS[which]
    given = operands(op, x, w)
    check(TritonDepthwise(), op, given, H200, most=1, gap=8)
    check(TritonDepthwise(), op, given, H200, most=1, pick=" 2x" if len(x) > 3 else " 1x")


def test_filters_that_do_not_stay_in_registers():
    op = op_of(Convolution, groups=8, begin=5, end=5)
    given = operands(op, (1, 8, 8, 8), (8, 1, 11, 11))
    check(TritonDepthwise(), op, given, H200, most=1)


def test_any_size():
    op = op_of(Convolution, groups=8, strides=2)
    given = operands(op, (2, 8, 7, 6), (8, 1, 3, 3))
    env = {"n": 2, "h": 7}
    shapes = {0: (sym("n"), 8, sym("h"), 6)}
    check(TritonDepthwise(), op, given, replace(H200, env=env), most=2, shapes=shapes, env=env)


def reason(tactic, node):
    found = tactic.candidates(node, H200)
    return found.reason if isinstance(found, Reject) else ""


def test_declines():
    net = Network()
    together = net.convolution(net.image(1, 8, 6, 6), 8, 3)
    assert "meet each other" in reason(TritonDepthwise(), together.node)
    wide = Network(np.float64)
    assert "f64" in reason(TritonDepthwise(), wide.depthwise(wide.image(1, 8, 6, 6)).node)
    exact = block(16, 24, dtype=np.float32)[1]
    assert "f16 and bf16" in reason(TritonSeparable(), exact)
    assert "meet each other" in reason(TritonSeparable(), fused.chain(1, 5, 16, 16, 0, front=3)[1])
    assert "in front" in reason(TritonSeparable(), fused.chain(1, 5, 16, 16, 16)[1])
    assert TritonSeparable().candidates(together.node, H200) is None


def block(channels, filters, back=0, size=6, n=1, residual=False, dtype=np.float16, **how):
    """Return a network and its region: depthwise, pointwise and, with ``back``, pointwise."""
    symbolic = how.pop("symbolic", None)

    def image(channels, size):
        shape = None if symbolic is None else (symbolic, channels, size, size)
        return net.image(n, channels, size, size, symbolic=shape)

    net = Network(dtype)
    y = net.depthwise(image(channels, size), **how)
    rest = image(filters, y.tensor.shape[2]) if residual else None
    middle = net.convolution(y, filters, activation=None, residual=rest)
    if not back:
        return net, net.region(middle)
    last = net.convolution(middle, back, activation=SIX)
    return net, net.region(*([middle, last] if residual else [last]))


BLOCKS = {
    "two": {"channels": 16, "filters": 24},
    "three": {"channels": 32, "filters": 16, "back": 40},
    "stored": {"channels": 48, "filters": 24, "back": 40, "residual": True},
    "strides": {"channels": 32, "filters": 20, "back": 32, "stride": 2, "size": 7},
    "five": {"channels": 16, "filters": 24, "taps": 5, "n": 2},
    "last step": {"channels": 144, "filters": 24, "size": 4},
    "dilated": {"channels": 16, "filters": 24, "dilation": 2},
    "whole": {"channels": 64, "filters": 32, "back": 64, "size": 8, "n": 2},
}


@pytest.mark.parametrize("which", BLOCKS)
@pytest.mark.parametrize("dtype", HALVES)
def test_separable(which, dtype):
    net, node = block(dtype=dtype, **BLOCKS[which])
    found = offered(TritonSeparable(), node, H200)
    for candidate in (found[0], found[-1]):
        fused.check(net, node, candidate, gap=8)


def test_separable_of_any_batch():
    net, node = block(16, 24, 40, n=3, symbolic=sym("n"))
    found = offered(TritonSeparable(), node, replace(H200, env={"n": 2}))
    fused.check(net, node, found[0], env={"n": 3})


COMPILED = {
    "depthwise": (TritonDepthwise, lambda: block(64, 32, size=28, n=8)[0].nodes[0]),
    "separable": (TritonSeparable, lambda: block(64, 32, 64, size=28, n=8, residual=True)[1]),
}


@pytest.mark.parametrize("which", COMPILED)
@pytest.mark.parametrize("arch", [75, 80, 90, 100, 120])
def test_compiles(which, arch):
    tactic, build = COMPILED[which]
    node = build()
    found = tactic().candidates(node, TARGETS[arch])
    if (which, arch) == ("separable", 75):
        assert isinstance(found, Reject)
        return
    best = min(found, key=lambda c: c.estimate_microseconds)
    (launch,) = best.draft(Placement(*dense_layouts(node, best), "")).launches
    code = compile_request(launch.kernel, arch)
    assert code.shared_bytes <= TARGETS[arch].shared_bytes


def residuals(dtype=np.float16):
    """Return two inverted residual blocks behind an expansion, and an array for the input."""
    net = Network(dtype)
    x = net.image(2, 16, 14, 14)
    y = net.depthwise(net.convolution(x, 32, activation=SIX))
    x = net.convolution(y, 16, activation=None, residual=x)
    y = net.depthwise(net.convolution(x, 64, activation=SIX), taps=5, stride=2)
    net.graph.output(net.convolution(y, 24, activation=None), "y")
    return net.graph, [net.arrays[v] for v in net.graph.inputs]


def regions_first(pricing, nodes, most):
    return [Price(None, 1 if isinstance(n.op, Region) else 90) for n in nodes]


def check_engine(build, monkeypatch, together):
    monkeypatch.setattr(
        compiler_of_cuda,
        "TACTICS",
        (TritonConvolution(), TritonDepthwise(), TritonSeparable(), Generated()),
    )
    if together:
        monkeypatch.setattr(Pricing, "prices", regions_first)
    graph, given = residuals()
    wanted = interpret(graph, given)[0]
    engine = build(graph)
    tactics = [s.tactic.split()[0] for s in engine.plan.sections[0].program.steps]
    assert ("triton-separable" if together else "triton-depthwise") in tactics, tactics
    compare(engine(*given), wanted, "the engine")


@pytest.mark.parametrize("together", [False, True])
def test_engine(monkeypatch, together):
    without = () if together else (FuseConvolutions().name,)
    check_engine(lambda g: simulated(g, level=1, without=without), monkeypatch, together)


@pytest.mark.gpu
@pytest.mark.parametrize("together", [False, True])
def test_a_gpu_computes_them(monkeypatch, together):
    try:
        bindings.open_device(0)
    except DeviceError as e:
        pytest.skip(str(e))
    without = () if together else (FuseConvolutions().name,)

    def build(graph):
        return lamina.build(
            graph, target="cuda", optimization_level=1, timing_cache="", without=without
        )

    check_engine(build, monkeypatch, together)
