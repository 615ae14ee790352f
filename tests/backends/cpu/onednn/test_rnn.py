"""Recurrent layers against a step-by-step NumPy loop."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cpu.onednn import numpy_reference as reference

from lamina.backends.cpu.onednn.memory import Layout
from lamina.backends.cpu.onednn.rnn import BIASES, GATES, Recurrent

STEPS, BATCH, INPUTS, HIDDEN = 4, 3, 5, 6
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional_concat": 2}


def draw(rng, cell, directions):
    def normal(*shape):
        return (0.5 * rng.standard_normal(shape)).astype(np.float32)

    return {
        "src": normal(STEPS, BATCH, INPUTS),
        "weights": normal(1, directions, INPUTS, GATES[cell], HIDDEN),
        "weights_iter": normal(1, directions, HIDDEN, GATES[cell], HIDDEN),
        "bias": normal(1, directions, BIASES[cell], HIDDEN),
        "src_iter": normal(1, directions, BATCH, HIDDEN),
    }


def spec_of(cell, direction, **more):
    d = DIRECTIONS[direction]
    state = Layout.dense((1, d, BATCH, HIDDEN))
    lstm = cell == "lstm"
    return Recurrent(
        cell,
        Layout.dense((STEPS, BATCH, INPUTS)),
        Layout.any((1, d, INPUTS, GATES[cell], HIDDEN)),
        Layout.any((1, d, HIDDEN, GATES[cell], HIDDEN)),
        Layout.dense((STEPS, BATCH, d * HIDDEN)),
        bias=Layout.dense((1, d, BIASES[cell], HIDDEN)),
        src_iter=state,
        dst_iter=state,
        src_iter_c=state if lstm else None,
        dst_iter_c=state if lstm else None,
        direction=direction,
        **more,
    )


def each_direction(direction, compute):
    """Run ``compute(direction index, flip)`` per direction and join along the last axis."""
    results = []
    for d in range(DIRECTIONS[direction]):
        backwards = direction == "reverse" or d == 1
        results.append(compute(d, slice(None, None, -1 if backwards else 1)))
    sequence = np.concatenate([r[0] for r in results], -1)
    return sequence, *(np.stack([r[i] for r in results])[None] for i in range(1, len(results[0])))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("peephole", [False, True])
def test_lstm(run, rng, assert_close, direction, peephole):
    a = draw(rng, "lstm", DIRECTIONS[direction])
    a["src_iter_c"] = rng.standard_normal(a["src_iter"].shape).astype(np.float32)
    more = {}
    p = None
    if peephole:
        p = rng.standard_normal((1, DIRECTIONS[direction], 3, HIDDEN)).astype(np.float32)
        more["weights_peephole"] = Layout.dense(p.shape)
    spec = spec_of("lstm", direction, **more)

    def compute(d, flip):
        y, h, c = reference.lstm(
            a["src"][flip], a["weights"][0, d], a["weights_iter"][0, d], a["bias"][0, d],
            a["src_iter"][0, d], a["src_iter_c"][0, d], None if p is None else p[0, d],
        )  # fmt: skip
        return y[flip], h, c

    results = run(spec, **a, **({"weights_peephole": p} if peephole else {}))
    for actual, expected in zip(results, each_direction(direction, compute), strict=True):
        assert_close(actual, expected, 1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("cell", ["gru", "lbr_gru"])
def test_gru(run, rng, assert_close, cell, direction):
    a = draw(rng, cell, DIRECTIONS[direction])

    def compute(d, flip):
        y, h = reference.gru(
            a["src"][flip], a["weights"][0, d], a["weights_iter"][0, d], a["bias"][0, d],
            a["src_iter"][0, d], linear_before_reset=cell == "lbr_gru",
        )  # fmt: skip
        return y[flip], h

    results = run(spec_of(cell, direction), **a)
    for actual, expected in zip(results, each_direction(direction, compute), strict=True):
        assert_close(actual, expected, 1e-5)


@pytest.mark.parametrize("activation", ["tanh", "relu", "logistic"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_vanilla_rnn(run, rng, assert_close, direction, activation):
    a = draw(rng, "vanilla", DIRECTIONS[direction])
    functions = {
        "tanh": np.tanh, "relu": lambda v: np.maximum(v, 0), "logistic": reference.sigmoid
    }  # fmt: skip

    def compute(d, flip):
        y, h = reference.vanilla(
            a["src"][flip], a["weights"][0, d], a["weights_iter"][0, d], a["bias"][0, d],
            a["src_iter"][0, d], functions[activation],
        )  # fmt: skip
        return y[flip], h

    results = run(spec_of("vanilla", direction, activation=activation), **a)
    for actual, expected in zip(results, each_direction(direction, compute), strict=True):
        assert_close(actual, expected, 1e-5)


def test_lstm_without_states_starts_from_zero(run, rng, assert_close):
    a = draw(rng, "lstm", 1)
    del a["src_iter"]
    full = spec_of("lstm", "forward")
    spec = Recurrent("lstm", full.src, full.weights, full.weights_iter, full.dst, full.bias)
    zero = np.zeros((BATCH, HIDDEN))
    expected, _, _ = reference.lstm(
        a["src"], a["weights"][0, 0], a["weights_iter"][0, 0], a["bias"][0, 0], zero, zero
    )
    assert_close(run(spec, **a), expected, 1e-5)


def test_bf16_lstm(run, rng, needs, assert_close):
    needs("bf16")
    a = draw(rng, "lstm", 1)
    half = {k: v.astype(ml_dtypes.bfloat16) for k, v in a.items() if k != "bias"}
    spec = Recurrent(
        "lstm",
        Layout.dense((STEPS, BATCH, INPUTS), "bf16"),
        Layout.any(a["weights"].shape, "bf16"),
        Layout.any(a["weights_iter"].shape, "bf16"),
        Layout.dense((STEPS, BATCH, HIDDEN), "bf16"),
        Layout.dense(a["bias"].shape),
        Layout.dense(a["src_iter"].shape, "bf16"),
        Layout.dense(a["src_iter"].shape),
    )
    cell = np.zeros_like(a["src_iter"])
    y = run(spec, **half, bias=a["bias"], src_iter_c=cell)
    exact = {k: v.astype(np.float64) for k, v in half.items()}
    expected, _, _ = reference.lstm(
        exact["src"], exact["weights"][0, 0], exact["weights_iter"][0, 0], a["bias"][0, 0],
        exact["src_iter"][0, 0], cell[0, 0],
    )  # fmt: skip
    assert_close(y, expected, 2e-2)


def test_both_directions_may_write_onnx_order(run, rng, onednn, assert_close):
    """Y [T, D, N, H] is two one-way layers whose dst is strided over the other's rows."""
    from lamina.backends.cpu.onednn import packing, primitives

    whole = np.zeros((STEPS, 2, BATCH, HIDDEN), np.float32)
    for d, direction in enumerate(("forward", "reverse")):
        a = draw(rng, "lbr_gru", 1)
        full = spec_of("lbr_gru", direction)
        strided = Layout(full.dst.dims, strides=(2 * BATCH * HIDDEN, HIDDEN, 1))
        spec = Recurrent(
            "lbr_gru", full.src, full.weights, full.weights_iter, strided, full.bias,
            full.src_iter, direction=direction,
        )  # fmt: skip
        primitive = primitives.create(onednn, spec)
        arrays = {name: packing.pack(primitive, array, name) for name, array in a.items()}
        primitive.execute({**arrays, "dst": whole.reshape(-1)[d * BATCH * HIDDEN :]})
        flip = slice(None, None, -1 if d else 1)
        expected, _ = reference.gru(
            a["src"][flip], a["weights"][0, 0], a["weights_iter"][0, 0], a["bias"][0, 0],
            a["src_iter"][0, 0], linear_before_reset=True,
        )  # fmt: skip
        assert_close(whole[:, d], expected[flip], 1e-5)
