"""Winograd's convolution in the interpreter against its meaning, and its code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.backends.cuda.contractions import TOLERANCE, check, node_of, run_candidate
from tests.samples.sample import normal

from lamina.backends.cuda.tactics.winograd import TritonWinograd
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.ir.dims import evaluate, sym
from lamina.ir.pattern import Reject
from lamina.ops import ActivationKind, Convolution, Epilogue
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

TARGET = replace(TARGETS[90], env={"n": 2})


def convolution(pads=(1, 1, 1, 1), activation=None, strides=(1, 1)):
    return Convolution(
        strides=strides,
        dilations=(1, 1),
        pads_begin=pads[:2],
        pads_end=pads[2:],
        groups=1,
        activation=activation,
    )


@pytest.fixture(autouse=True)
def looser(monkeypatch):
    """The transforms lose a factor of a few in f32 (Lavin and Gray, table 4)."""
    monkeypatch.setitem(TOLERANCE, "f32", 5e-5)


@pytest.mark.parametrize("side", ["2x2", "4x4"])
@pytest.mark.parametrize("size, pads", [((9, 10), (1, 1, 1, 1)), ((8, 7), (0, 0, 0, 0))])
def test_sizes_and_padding(side, size, pads):
    given = [normal(2, 36, *size), normal(40, 36, 3, 3, seed=1)]
    check(TritonWinograd(), convolution(pads), given, TARGET, most=2, pick=f" {side} ", gap=8)


def test_filters_of_5x5():
    given = [normal(2, 32, 9, 8), normal(32, 32, 5, 5, seed=1), normal(32, seed=2)]
    check(TritonWinograd(), convolution((2, 2, 2, 2)), given, TARGET, most=2)
    check(TritonWinograd(), convolution((0, 1, 2, 0)), given, TARGET, most=1)


@pytest.mark.parametrize("kind", [ActivationKind.RELU, ActivationKind.SILU])
def test_bias_residual_and_activation(kind):
    given = [
        normal(*shape, seed=i)
        for i, shape in enumerate([(1, 32, 6, 6), (48, 32, 3, 3), (48,), (1, 48, 6, 6)])
    ]
    check(TritonWinograd(), convolution(activation=Epilogue(kind, 1.0)), given, TARGET, most=2)


def test_any_number_of_images():
    given = [normal(3, 32, 5, 5), normal(32, 32, 3, 3, seed=1)]
    shapes = {0: (sym("n"), 32, 5, 5)}
    check(TritonWinograd(), convolution(), given, TARGET, most=2, shapes=shapes, env={"n": 3})


def test_errors_are_those_of_the_method():
    """Beside the exact result: tiles of 2x2 are as exact as a plain sum, 4x4 a few times less."""
    given = [normal(1, 64, 8, 8), normal(32, 64, 3, 3, seed=1)]
    exact = convolution().reference(*[g.astype(np.float64) for g in given])
    node = node_of(convolution(), given)
    offered = TritonWinograd().candidates(node, TARGET)
    for side, most in (("2x2", 2e-6), ("4x4", 1e-5)):
        candidate = next(c for c in offered if f" {side} " in c.tactic)
        error = np.abs(run_candidate(node, candidate, given) - exact).max() / np.abs(exact).max()
        assert error < most


@pytest.mark.parametrize(
    "op, dtype, tf32, reason",
    [
        (convolution(strides=(2, 2)), np.float32, False, "without strides"),
        (convolution(), np.float16, False, "16-bit products"),
        (convolution(), np.float32, True, "factors of 11 bits"),
    ],
)
def test_refusals(op, dtype, tf32, reason):
    given = [normal(1, 64, 8, 8, dtype=dtype), normal(64, 64, 3, 3, dtype=dtype, seed=1)]
    offered = TritonWinograd().candidates(node_of(op, given), replace(TARGET, tf32=tf32))
    assert isinstance(offered, Reject) and reason in offered.reason


@pytest.mark.parametrize("arch", [75, 80, 90, 100])
@pytest.mark.parametrize("side", ["2x2", "4x4"])
def test_compiles(arch, side):
    given = [np.zeros(shape, np.float32) for shape in [(8, 64, 14, 14), (64, 64, 3, 3), (64,)]]
    node = node_of(convolution(), given)
    candidate = next(
        c for c in TritonWinograd().candidates(node, TARGETS[arch]) if f" {side} " in c.tactic
    )
    operands = tuple(
        layout(v.tensor, f or Form.PLAIN) for v, f in zip(node.inputs, candidate.reads, strict=True)
    )
    draft = candidate.draft(
        Placement(operands, (layout(node.output.tensor, candidate.writes[0]),), "")
    )
    assert evaluate(draft.workspace_bytes, {}) > 0
    for launch in draft.launches:
        code = compile_request(launch.kernel, arch)
        assert code.cubin and code.shared_bytes <= TARGETS[arch].shared_bytes
