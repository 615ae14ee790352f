"""Weights that kernels of a plan make constants of, and what many small ones have in common."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

import lamina
from lamina import ops
from lamina.backends.cpu.features import cpu_features
from lamina.backends.cpu.weights.native import NativeFunctions
from lamina.ir.graph import Graph, Value, emit
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import ActivationKind
from lamina.plan.named import NamedWeights
from lamina.plan.plan import Plan
from lamina.plan.recipes import recipes_of
from lamina.precision.pipeline import missing_feature
from lamina.refit.evaluate import Evaluation
from tests.refit.test_recipes import built_again, refuse_to_build, same_constants

CHANNELS = (32, 64, 128, 64, 128, 96)
SIDES = (3, 1, 3, 1, 3)
STATISTICS = ("scale", "shift", "mean", "variance")
Arrays = dict[str, np.ndarray]


def arrays(seed: int) -> Arrays:
    """Filters with normalizations, three matrices with one operand, and one behind them."""
    rng = np.random.default_rng(seed)
    made: Arrays = {}
    for i, (inputs, outputs, side) in enumerate(zip(CHANNELS, CHANNELS[1:], SIDES, strict=False)):
        made[f"filters{i}"] = rng.standard_normal((outputs, inputs, side, side)) / side
        for name in STATISTICS:
            made[f"{name}{i}"] = rng.uniform(0.5, 1.5, outputs)
    for name in "qkv":
        made[name] = rng.standard_normal((CHANNELS[-1], 320))
    made["last"] = rng.standard_normal((600, 960))
    return {name: array.astype(np.float32) for name, array in made.items()}


def network(given: Arrays) -> Graph:
    g = Graph()
    y = g.input("x", TensorType(DType.F32, (1, CHANNELS[0], 12, 12)))
    c = {n: emit(ops.Const.of(w, n), (), loc=Loc(n)) for n, w in given.items()}

    def add(op: ops.Op, *operands: Value) -> Value:
        return emit(op, operands, loc=Loc("layer"))

    for i, side in enumerate(SIDES):
        pads = (side // 2,) * 2
        ones = {"strides": (1, 1), "dilations": (1, 1), "pads_begin": pads, "pads_end": pads}
        y = add(ops.Convolution(**ones), y, c[f"filters{i}"])
        y = add(ops.BatchNorm(epsilon=1e-5), y, *(c[f"{name}{i}"] for name in STATISTICS))
        y = add(ops.Activation(kind=ActivationKind.RELU), y)
    y = add(ops.Reduce(kind=ops.ReduceKind.MEAN, axes=(2, 3), keepdims=False), y)
    y = add(ops.Concat(axis=1), *(add(ops.Matmul(), y, c[name]) for name in "qkv"))
    g.output(add(ops.Matmul(transpose_b=True), y, c["last"]), "y")
    return g


@functools.cache
def built(precision: str, level: int, target: str = "cpu") -> Plan:
    options: dict[str, Any] = {"precision": precision, "optimization_level": level}
    return lamina.build(network(arrays(1)), target=target, **options).plan


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("level", [0, 2])
def test_constants_are_those_of_a_build(
    precision: str, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing := missing_feature(precision, cpu_features()):  # type: ignore[arg-type]
        pytest.skip(f"no {missing}")
    plan = built(precision, level)
    wanted = built_again(plan, arrays(2))
    engine = lamina.Engine(plan)
    called = set()
    whole = NativeFunctions._call

    def noted(self: NativeFunctions, name: str, *operands: Any) -> None:
        called.add(name)
        whole(self, name, *operands)

    monkeypatch.setattr(NativeFunctions, "_call", noted)
    refuse_to_build(monkeypatch)
    engine.refit(arrays(2))
    assert any("_move_" in name for name in called), called
    same_constants(engine.plan, wanted)
    x = np.random.default_rng(3).standard_normal((1, 32, 12, 12)).astype(np.float32)
    np.testing.assert_array_equal(engine(x), lamina.Engine(wanted)(x))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_constants_for_a_gpu_are_those_of_a_build(precision: str) -> None:
    pytest.importorskip("triton")
    plan = built(precision, 0, "cuda:sm_90")
    wanted = built_again(plan, arrays(2))
    engine = lamina.Engine(plan, device="none")
    engine.refit(arrays(2))
    made_there = [bool(blob.movements) for blob in engine.plan.sections[0].blobs]
    assert sum(made_there) >= 7
    same_constants(engine.plan, wanted)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_infinite_numbers_leave_no_trace_of_shortcuts(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = built("fp32", 2)
    odd = arrays(2)
    for name in ("filters0", "filters2", "filters4", "q"):
        odd[name].reshape(-1)[[0, 77, -1]] = [np.inf, np.nan, -np.inf]
    wanted = built_again(plan, odd)
    refuse_to_build(monkeypatch)
    engine = lamina.Engine(plan)
    engine.refit(odd)
    same_constants(engine.plan, wanted)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_steps_together_are_those_one_by_one(precision: str) -> None:
    plan = built(precision, 0)
    section, named = plan.sections[0], NamedWeights(plan)
    recipes = recipes_of(section)

    def source(name: str) -> np.ndarray:
        return named[name].contents

    together = Evaluation(recipes, section.literals, source, named)
    alone = Evaluation(recipes, section.literals, source, [])
    results = together._results
    assert results is not None and alone._results is None
    known = [n for n in range(len(recipes.steps)) if results.get(n) is not None]
    assert len(known) > 100
    for number in known:
        found, wanted = results.get(number), np.asarray(alone._value(number))
        assert found is not None and found.dtype == wanted.dtype and found.shape == wanted.shape
        assert found.tobytes() == wanted.tobytes()


def test_what_nothing_refers_to_goes_at_once() -> None:
    """The weights of the refit before are given back without the garbage collector."""
    import gc
    import weakref

    engine = lamina.Engine(built("fp32", 0))
    engine.refit(arrays(2))
    section = weakref.ref(engine.section)
    gc.disable()
    try:
        engine.refit(arrays(3))
        assert section() is None
    finally:
        gc.enable()
