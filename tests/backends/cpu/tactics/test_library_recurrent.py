"""oneDNN's LSTM as a tactic, against the operator's meaning."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cpu.candidates import run_candidate
from tests.backends.cpu.tactics.test_own_recurrent import (
    BOTH,
    FORWARD,
    GRU,
    LSTM,
    RELU,
    REVERSE,
    SIGMOID,
    TANH,
    layer,
)

from lamina import ops
from lamina.backends.cpu.driver import CpuDriver
from lamina.backends.cpu.tactics.library_recurrent import LibraryRecurrent
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm import target as llvm_target
from lamina.ir.graph import emit_node
from lamina.ir.loc import Loc
from lamina.ir.weight import Weight

TOLERANCE = 3e-6
DRIVER = CpuDriver(2)
TARGET = CpuTarget(DRIVER.library, llvm_target.host_isa(), 2, {})
pytestmark = pytest.mark.skipif(DRIVER.library is None, reason="needs oneDNN")


@pytest.mark.parametrize("direction", [FORWARD, REVERSE])
@pytest.mark.parametrize("sizes", [(7, 1, 20, 32), (5, 9, 4, 37)])
def test_results(direction, sizes):
    node, arrays = layer(LSTM, direction, sizes, False, {})
    (candidate,) = LibraryRecurrent().candidates(node, TARGET)
    results = run_candidate(node, candidate, TARGET, arrays)
    for a, b in zip(results, node.op.reference(*arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def test_peepholes_with_constant_whole_lengths():
    node, arrays = layer(LSTM, FORWARD, (5, 3, 4, 16), True, {"peephole": True})
    arrays[6] = np.full(3, 5, np.int32)
    const = ops.Const(type=node.inputs[6].tensor, weight=Weight(arrays[6]))
    lengths = emit_node(const, (), loc=Loc("test")).output
    node = emit_node(node.op, [*node.inputs[:6], lengths, node.inputs[7]], loc=Loc("test"))
    (candidate,) = LibraryRecurrent().candidates(node, TARGET)
    results = run_candidate(node, candidate, TARGET, arrays)
    for a, b in zip(results, node.op.reference(*arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("kind", "direction", "lengths", "options", "reason"),
    [
        (GRU, FORWARD, False, {}, "gru"),
        (LSTM, BOTH, False, {}, "both directions"),
        (LSTM, FORWARD, True, {}, "not constant"),
        (LSTM, FORWARD, False, {"clip": 1.0}, "clips"),
        (LSTM, FORWARD, False, {"input_forget": True}, "couples"),
        (LSTM, FORWARD, False, {"activations": (SIGMOID, TANH, RELU)}, "sigmoid and tanh"),
    ],
)
def test_declines_with_a_reason(kind, direction, lengths, options, reason):
    node, _ = layer(kind, direction, (3, 2, 4, 5), lengths, options)
    assert reason in LibraryRecurrent().candidates(node, TARGET).reason
