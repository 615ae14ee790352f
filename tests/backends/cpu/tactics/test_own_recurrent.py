"""The recurrent kernels against the operator's meaning."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cpu.candidates import run_candidate

from lamina import ops
from lamina.backends.cpu.driver import CpuDriver
from lamina.backends.cpu.tactics.own_recurrent import OwnRecurrent
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm import target as llvm_target
from lamina.ir.graph import Graph, emit_node
from lamina.ir.loc import Loc
from lamina.ir.pattern import Reject
from lamina.ir.types import DType, TensorType
from lamina.ir.weight import Weight
from lamina.ops import Direction, Epilogue, Recurrent, RecurrentKind
from lamina.ops.kinds import ActivationKind

HOST = llvm_target.host_isa()
ISAS = sorted({HOST, llvm_target.AVX2}, key=lambda isa: isa.name)
TOLERANCE = 3e-6

SIGMOID, TANH = Epilogue(ActivationKind.SIGMOID, 0, 0), Epilogue(ActivationKind.TANH, 0, 0)
RELU = Epilogue(ActivationKind.RELU, 0, 0)
FUNCTIONS = {
    RecurrentKind.RNN: (TANH,),
    RecurrentKind.LSTM: (SIGMOID, TANH, TANH),
    RecurrentKind.GRU: (SIGMOID, TANH),
}
FORWARD, REVERSE, BOTH = Direction.FORWARD, Direction.REVERSE, Direction.BIDIRECTIONAL
LSTM, GRU, RNN = RecurrentKind.LSTM, RecurrentKind.GRU, RecurrentKind.RNN

# kind, direction, (time, batch, inputs, hidden), with lengths, options
CASES = [
    (LSTM, FORWARD, (7, 1, 20, 32), False, {}),
    (LSTM, BOTH, (7, 3, 20, 37), True, {}),
    (LSTM, REVERSE, (5, 9, 4, 16), False, {"clip": 0.5}),
    (LSTM, FORWARD, (5, 13, 4, 70), False, {"input_forget": True}),
    (LSTM, FORWARD, (3, 2, 5, 1), False, {}),
    (LSTM, BOTH, (3, 33, 5, 20), False, {}),
    (RNN, BOTH, (6, 1, 20, 33), False, {}),
    (RNN, FORWARD, (6, 11, 20, 130), True, {"activations": (RELU,)}),
    (GRU, BOTH, (6, 1, 20, 33), False, {}),
    (GRU, REVERSE, (1, 8, 20, 33), True, {}),
    (GRU, FORWARD, (7, 1, 20, 32), False, {"linear_before_reset": False}),
    (GRU, BOTH, (6, 3, 20, 33), True, {"linear_before_reset": False}),
    (GRU, REVERSE, (5, 9, 4, 130), False, {"linear_before_reset": False, "clip": 0.5}),
    (LSTM, BOTH, (6, 3, 20, 37), True, {"peephole": True}),
    (LSTM, FORWARD, (5, 9, 4, 16), True, {"peephole": True, "input_forget": True}),
]


def layer(kind, direction, sizes, lengths, options):
    rng = np.random.default_rng(sum(sizes))
    time, batch, inputs, hidden = sizes
    passes, rows = direction.passes, kind.gates * hidden
    cells = rng.standard_normal if kind is LSTM else np.zeros
    arrays = [
        rng.standard_normal((time, batch, inputs)),
        rng.standard_normal((passes, rows, inputs)) / np.sqrt(inputs),
        rng.standard_normal((passes, rows, hidden)) / np.sqrt(hidden),
        rng.standard_normal((passes, 2 * rows)) * 0.3,
        rng.standard_normal((passes, batch, hidden)),
        cells((passes, batch, hidden)),
    ]
    arrays = [a.astype(np.float32) for a in arrays]
    if lengths:
        arrays.append(rng.integers(0, time + 1, batch).astype(np.int32))
    options = dict(options)
    if options.pop("peephole", False):
        arrays.append(rng.standard_normal((passes, 3 * hidden)).astype(np.float32))
    graph = Graph()
    operands = []
    for k, a in enumerate(arrays):
        type = TensorType(DType.of(a.dtype), a.shape)
        if k in (1, 2, 3, 7):
            const = ops.Const(type=type, weight=Weight(a))
            operands.append(emit_node(const, (), loc=Loc("test")).output)
        else:
            operands.append(graph.input(f"i{k}", type))
    options = {"activations": FUNCTIONS[kind], "linear_before_reset": True} | options
    options["activations"] *= passes
    op = Recurrent(kind=kind, hidden_size=hidden, direction=direction, **options)
    return emit_node(op, operands, loc=Loc("test")), arrays


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1]}-{c[2]}")
@pytest.mark.parametrize("threads", [1, 2])
def test_results(case, isa, threads):
    node, arrays = layer(*case)
    target = CpuTarget(CpuDriver(threads).library, isa, threads, {})
    candidates = OwnRecurrent().candidates(node, target)
    want = node.op.reference(*arrays)
    for candidate in candidates:
        results = run_candidate(node, candidate, target, arrays)
        for a, b in zip(results, want, strict=True):
            np.testing.assert_allclose(
                a, b, rtol=TOLERANCE, atol=TOLERANCE, err_msg=candidate.tactic
            )


@pytest.mark.skipif(not HOST.has("avx512bf16"), reason="needs avx512_bf16")
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1]}-{c[2]}")
def test_products_of_bf16(case):
    kind, direction, sizes, lengths, options = case
    node, arrays = layer(kind, direction, sizes, lengths, options | {"factors": DType.BF16})
    target = CpuTarget(CpuDriver(2).library, HOST, 2, {})
    want = node.op.reference(*arrays)
    for candidate in OwnRecurrent().candidates(node, target):
        assert "bf16" in candidate.tactic
        results = run_candidate(node, candidate, target, arrays)
        for a, b in zip(results, want, strict=True):
            # Sums differ in their last bits, so states now and then round to the neighbour.
            np.testing.assert_allclose(a, b, rtol=0, atol=4e-3, err_msg=candidate.tactic)
            assert np.abs(a - b).mean() < 2e-4


def test_products_stay_f32_where_the_cpu_has_no_bf16():
    node, _ = layer(LSTM, FORWARD, (3, 2, 4, 5), False, {"factors": DType.BF16})
    candidates = OwnRecurrent().candidates(node, CpuTarget(None, llvm_target.AVX2, 2, {}))
    assert candidates
    assert not any("bf16" in c.tactic for c in candidates)


def test_declines_what_the_kernels_lack():
    target = CpuTarget(None, HOST, 2, {})
    softsign = (Epilogue(ActivationKind.SOFTSIGN, 0, 0),)
    node, _ = layer(RNN, FORWARD, (2, 2, 3, 4), False, {"activations": softsign})
    assert isinstance(OwnRecurrent().candidates(node, target), Reject)
