"""Convolutions whose windows a thread gathers by itself, against their meaning."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import check, node_of
from tests.backends.cuda.fused import SIX, Network
from tests.backends.cuda.test_convolution import op_of, operands

import lamina
from lamina.backends.cuda import bindings
from lamina.backends.cuda import compiler as compiler_of_cuda
from lamina.backends.cuda.tactics.few_taps import TritonFewTaps
from lamina.backends.cuda.tactics.generated import Generated
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.errors import DeviceError
from lamina.ir.dims import sym
from lamina.ir.interpret import interpret
from lamina.ir.pattern import Reject
from lamina.ops import Convolution
from lamina.tactics.candidate import Placement
from lamina.tactics.choices import dense_layouts
from lamina.tactics.form import Form

H200 = TARGETS[90]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_bias_residual_activation(dtype):
    op = op_of(Convolution, strides=2, activation=SIX)
    given = operands(op, (2, 3, 9, 8), (24, 3, 3, 3), dtype, residual=True)
    chosen = check(TritonFewTaps(), op, given, H200, most=40, pick=" 128x32x", gap=8)
    assert {c.reads[0] for c in chosen} == {Form.PLAIN, Form.CHANNELS_LAST}


WINDOWS = [
    (op_of(Convolution, strides=(2, 1), dilations=(1, 2), begin=2, end=3),
     (1, 3, 12, 11), (16, 3, 5, 5)),
    (op_of(Convolution, rank=3, begin=1, end=0), (1, 2, 5, 4, 4), (17, 2, 2, 3, 1)),
    (op_of(Convolution, rank=1, begin=0, end=0), (2, 1, 19), (8, 1, 4)),
    (op_of(Convolution, begin=(-1, 0), end=(0, -1)), (1, 4, 8, 8), (16, 4, 3, 3)),
]  # fmt: skip


@pytest.mark.parametrize("op, x, w", WINDOWS)
def test_windows(op, x, w):
    check(TritonFewTaps(), op, operands(op, x, w), H200, most=2)


def test_any_size():
    op = op_of(Convolution, strides=2)
    env = {"n": 2, "h": 7}
    given = operands(op, (2, 3, 7, 6), (16, 3, 3, 3))
    shapes = {0: (sym("n"), 3, sym("h"), 6)}
    check(TritonFewTaps(), op, given, replace(H200, env=env), most=1, shapes=shapes, env=env)


@pytest.mark.parametrize(
    "groups, x, w, reason",
    [
        (1, (1, 32, 5, 5), (8, 32, 3, 3), "32 channels and 9 taps"),
        (1, (1, 3, 9, 9), (8, 3, 7, 7), "3 channels and 49 taps"),
        (2, (1, 4, 5, 5), (8, 2, 3, 3), "one group"),
    ],
)
def test_declines(groups, x, w, reason):
    op = op_of(Convolution, groups=groups)
    found = TritonFewTaps().candidates(node_of(op, operands(op, x, w)), H200)
    assert isinstance(found, Reject) and reason in found.reason


@pytest.mark.parametrize("arch", [75, 80, 90, 100, 120])
def test_compiles(arch):
    op = op_of(Convolution, strides=2, activation=SIX)
    node = node_of(op, operands(op, (8, 3, 32, 32), (32, 3, 3, 3)))
    best = min(
        TritonFewTaps().candidates(node, TARGETS[arch]), key=lambda c: c.estimate_microseconds
    )
    (launch,) = best.draft(Placement(*dense_layouts(node, best), "")).launches
    assert compile_request(launch.kernel, arch).shared_bytes <= TARGETS[arch].shared_bytes


@pytest.mark.gpu
def test_a_gpu_computes_them(monkeypatch):
    try:
        bindings.open_device(0)
    except DeviceError as e:
        pytest.skip(str(e))
    monkeypatch.setattr(compiler_of_cuda, "TACTICS", (TritonFewTaps(), Generated()))
    net = Network()
    y = net.convolution(net.image(4, 3, 30, 28), 24, taps=3, stride=2, activation=SIX)
    net.graph.output(y, "y")
    given = [net.arrays[v] for v in net.graph.inputs]
    wanted = interpret(net.graph, given)[0]
    engine = lamina.build(net.graph, target="cuda", optimization_level=1, timing_cache="")
    tactics = {s.tactic.split(" ")[0] for s in engine.plan.sections[0].program.steps}
    assert TritonFewTaps.name in tactics
    np.testing.assert_allclose(engine(*given), wanted, atol=4e-3 * np.abs(wanted).max())
