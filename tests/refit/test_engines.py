"""Refitting plans: the same plan as a build with the new weights, all of them or none."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import lamina
from lamina import ops
from lamina.ir.graph import Graph, emit
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType


def graph(weights: dict[str, np.ndarray]) -> Graph:
    """A convolution with a scale, a bias and an activation, then a matrix product."""
    g = Graph()
    x = g.input("x", TensorType(DType.F32, (2, 3, 8, 8)))
    here = Loc("layer")
    const = {n: emit(ops.Const.of(w, n), (), loc=Loc(n)) for n, w in weights.items()}
    op = ops.Convolution(strides=(1, 1), dilations=(1, 1), pads_begin=(1, 1), pads_end=(1, 1))
    y = emit(op, (x, const["kernel"]), loc=here)
    y = emit(ops.Binary(kind=ops.BinaryKind.MUL), (y, const["scale"]), loc=here)
    y = emit(ops.Binary(kind=ops.BinaryKind.ADD), (y, const["shift"]), loc=here)
    y = emit(ops.Activation(kind=ops.ActivationKind.RELU), (y,), loc=here)
    y = emit(ops.Reshape(shape=(2, 4 * 64)), (y,), loc=here)
    g.output(emit(ops.Matmul(), (y, const["matrix"]), loc=here), "y")
    return g


def weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (4, 3, 3, 3), "scale": (1, 4, 1, 1), "shift": (1, 4, 1, 1)}
    made = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    made["matrix"] = rng.standard_normal((256, 5)).astype(np.float32)
    return made


X = np.random.default_rng(5).standard_normal((2, 3, 8, 8)).astype(np.float32)


def build(seed: int) -> lamina.Engine:
    return lamina.build(graph(weights(seed)), optimization_level=0)


def test_folded_and_packed_weights_are_made_again() -> None:
    engine, wanted = build(1), build(2)
    context = engine.create_context()
    assert not np.allclose(engine(X), wanted(X))
    engine.refit(weights(2))
    for run in (engine, context, engine.create_context()):
        np.testing.assert_array_equal(run(X), wanted(X))
    np.testing.assert_array_equal(lamina.load(engine.serialize())(X), wanted(X))
    steps, others = (e.plan.sections[0].program.steps for e in (engine, wanted))
    assert [(s.name, s.tactic, s.symbols) for s in steps] == [
        (s.name, s.tactic, s.symbols) for s in others
    ]


def test_some_weights_and_those_of_the_last_refit_stay() -> None:
    engine = build(1)
    assert set(engine.weights()) == {"kernel", "scale", "shift", "matrix"}
    engine.refit({"scale": weights(2)["scale"]})
    engine.refit({"matrix": weights(2)["matrix"]})
    mixed = {**weights(1), "scale": weights(2)["scale"], "matrix": weights(2)["matrix"]}
    wanted = lamina.build(graph(mixed), optimization_level=0)
    np.testing.assert_array_equal(engine(X), wanted(X))
    np.testing.assert_array_equal(engine.weights()["scale"], mixed["scale"])


def test_equal_weights_keep_their_own_names() -> None:
    same = {**weights(1), "shift": weights(1)["scale"]}
    engine = lamina.build(graph(same), optimization_level=0)
    engine.refit({"shift": weights(2)["shift"]})
    wanted = lamina.build(graph({**same, "shift": weights(2)["shift"]}), optimization_level=0)
    np.testing.assert_array_equal(engine(X), wanted(X))


def test_values_may_change_what_folding_does() -> None:
    ones = {**weights(1), "scale": np.ones((1, 4, 1, 1), np.float32)}
    engine = lamina.build(graph(ones), optimization_level=0)
    engine.refit(weights(1))
    np.testing.assert_array_equal(engine(X), build(1)(X))


def test_all_change_or_none() -> None:
    engine = build(1)
    before, bytes_before = engine(X), engine.serialize()
    new = weights(2)
    with pytest.raises(lamina.InputError, match="no weight 'kernle'.*\n.*nearest are kernel"):
        engine.refit({"matrix": new["matrix"], "kernle": new["kernel"]})
    with pytest.raises(lamina.InputError, match=r"float32\[256, 5\].*float32\[5, 256\]"):
        engine.refit({"kernel": new["kernel"], "matrix": new["matrix"].T})
    with pytest.raises(lamina.InputError, match="float64"):
        engine.refit({"kernel": new["kernel"].astype(np.float64)})
    np.testing.assert_array_equal(engine(X), before)
    assert engine.serialize() == bytes_before


def test_the_callers_arrays_may_change_afterwards() -> None:
    engine, new = build(1), weights(2)
    engine.refit(new)
    wanted = engine(X)
    for array in new.values():
        array[...] = 0
    np.testing.assert_array_equal(engine(X), wanted)
    np.testing.assert_array_equal(lamina.load(engine.serialize())(X), wanted)


def test_runs_that_go_on_meanwhile_have_old_or_new_weights() -> None:
    engine = build(1)
    context = engine.create_context()
    expected = [build(seed)(X) for seed in (1, 2)]
    ended, wrong, runs = threading.Event(), [], [0]

    def run() -> None:
        while not ended.is_set():
            y = context(X)
            runs[0] += 1
            if not any(np.array_equal(y, e) for e in expected):
                wrong.append(y)

    thread = threading.Thread(target=run)
    thread.start()
    for seed in (2, 1) * 60:
        engine.refit(weights(seed))
    ended.set()
    thread.join()
    assert runs[0] > 5 and not wrong


def test_a_plan_without_its_graph_has_no_names() -> None:
    engine = lamina.build(graph(weights(1)), optimization_level=0, keep_graph=False)
    with pytest.raises(lamina.PlanError, match="no portable graph"):
        engine.refit({"kernel": weights(2)["kernel"]})
