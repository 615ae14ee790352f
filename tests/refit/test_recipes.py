"""Recipes in plans: a refit gives the constants of a build with the same weights, bit by bit."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lamina
from lamina.backends.cpu.features import cpu_features
from lamina.backends.cpu.weights.native import CONVERSIONS, NativeFunctions
from lamina.ir.weight import Weight
from lamina.plan.named import NamedWeights
from lamina.plan.plan import Plan
from lamina.precision.pipeline import missing_feature
from lamina.refit import refit
from lamina.refit.rebuild import rebuild
from tests.refit.models import X, graph, weights, wide, wide_weights

DATA = Path(lamina.__file__).parent / "cli" / "data"
DIGITS = {"shapes": {"image": (2, 1, 8, 8)}, "optimization_level": 0}


def build(seed: int, **options: Any) -> lamina.Engine:
    return lamina.build(graph(weights(seed)), **{"optimization_level": 0, **options})


def built_again(plan: Plan, new: dict[str, np.ndarray]) -> Plan:
    """Return what the pipeline makes of new weights."""
    kept = NamedWeights(plan).described
    return rebuild(plan, {n: Weight(a.astype(kept[n].dtype), n) for n, a in new.items()}, 0)


def refuse_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("lamina.refit.rebuild.rebuild", refuse)


def same_constants(plan: Plan, other: Plan) -> None:
    for section, wanted in zip(plan.sections, other.sections, strict=True):
        assert section.halves == wanted.halves
        for a, b in zip(section.blobs, wanted.blobs, strict=True):
            assert a.contents.dtype == b.contents.dtype
            assert a.contents.tobytes() == b.contents.tobytes()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("level", [0, 3])
def test_constants_are_those_of_a_build(
    precision: str, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing := missing_feature(precision, cpu_features()):  # type: ignore[arg-type]
        pytest.skip(f"no {missing}")
    engine = build(1, precision=precision, optimization_level=level)
    wanted = built_again(engine.plan, weights(2))
    refuse_to_build(monkeypatch)
    engine.refit(weights(2))
    same_constants(engine.plan, wanted)
    np.testing.assert_array_equal(engine(X), lamina.Engine(wanted)(X))
    again = lamina.load(engine.serialize())
    again.refit(weights(1))
    again.refit(weights(2))
    same_constants(again.plan, wanted)


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_90"])
@pytest.mark.parametrize(("model", "precision"), [("digits", "fp32"), ("digits_int8", "int8")])
def test_models_from_files(
    model: str, precision: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With batch normalization, quantized weights and their scales, here or for another machine."""
    if target != "cpu":
        pytest.importorskip("triton")
    options = {**DIGITS, "precision": precision, "target": target}
    engine = lamina.build(DATA / f"{model}.onnx", **options)
    rng = np.random.default_rng(1)
    new = {}
    for name, array in engine.weights().items():
        if array.size > 1 and array.dtype == np.float32:
            new[name] = np.abs(array) * rng.uniform(1, 2, array.shape).astype(np.float32)
        elif array.size > 1 and array.dtype == np.int8 and "zero_point" not in name:
            new[name] = rng.integers(-100, 100, array.shape).astype(np.int8)
    wanted = built_again(engine.plan, new)
    refuse_to_build(monkeypatch)
    engine.refit(new)
    assert len(new) > 5
    same_constants(engine.plan, wanted)


def test_only_constants_that_depend_on_a_weight_are_made() -> None:
    plan = build(1).plan
    new = refit(plan, {"last": weights(2)["last"]})
    pairs = zip(plan.sections[0].blobs, new.sections[0].blobs, strict=True)
    assert sum(a is not b for a, b in pairs) == 1
    assert new.sections[0].program is plan.sections[0].program
    assert new.sections[0].image is plan.sections[0].image


def test_weights_in_several_constants_and_folded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build(1)
    refuse_to_build(monkeypatch)
    mixed = weights(1)
    for name in ("variance", "second", "gain"):
        mixed[name] = weights(2)[name]
        engine.refit({name: mixed[name]})
    np.testing.assert_array_equal(engine(X), lamina.build(graph(mixed), optimization_level=0)(X))


def test_values_that_decided_are_detected() -> None:
    """A scale of ones is dropped; with other numbers the plan has to be another one."""
    ones = {**weights(1), "gain": np.ones(20, np.float32)}
    engine = lamina.build(graph(ones), optimization_level=0)
    before = engine.plan.sections[0].program
    engine.refit({"gain": weights(2)["gain"]})
    mixed = {**weights(1), "gain": weights(2)["gain"]}
    wanted = lamina.build(graph(mixed), optimization_level=0)
    np.testing.assert_array_equal(engine(X), wanted(X))
    assert engine.plan.sections[0].program is not before


def test_values_decide_nothing_in_a_refittable_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = {n: np.zeros_like(a) for n, a in weights(1).items()}
    engine = lamina.build(graph(zeros), optimization_level=0, refittable=True)
    refuse_to_build(monkeypatch)
    engine.refit(weights(2))
    expected = build(2, refittable=True)(X)
    np.testing.assert_array_equal(engine(X), expected)


def test_a_plan_that_cannot_be_built_again_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = lamina.build(graph({**weights(1), "gain": np.ones(20, np.float32)}))
    expected, plan = engine(X), engine.plan

    def fail(*_: object) -> None:
        raise lamina.BuildError("there is no compiler")

    monkeypatch.setattr("lamina.refit.rebuild.rebuild", fail)
    with pytest.raises(lamina.PlanError, match=r"values of 'gain' decided .*no compiler"):
        engine.refit(weights(2))
    assert engine.plan is plan
    np.testing.assert_array_equal(engine(X), expected)


@pytest.mark.parametrize("given", [np.float16, np.float32])
def test_kernels_of_the_plan_convert_halves(given: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refit of large f16 constants calls them, and gives the constants of a build."""
    new = wide_weights(2)
    engine = lamina.build(wide(wide_weights(1)), precision="fp16", optimization_level=0)
    (section,) = engine.plan.sections
    assert set(CONVERSIONS.values()) <= section.image.symbols.keys()
    wanted = built_again(engine.plan, new)
    called = []
    whole = NativeFunctions._call

    def counted(self: NativeFunctions, name: str, *arguments: Any) -> None:
        called.append(name)
        whole(self, name, *arguments)

    monkeypatch.setattr(NativeFunctions, "_call", counted)
    refuse_to_build(monkeypatch)
    engine.refit(new | {"wide": new["wide"].astype(given)})
    assert set(called) >= set(CONVERSIONS.values())
    same_constants(engine.plan, wanted)
    x = np.random.default_rng(3).standard_normal((2, 640)).astype(np.float32)
    np.testing.assert_array_equal(engine(x), lamina.Engine(wanted)(x))


def test_nothing_of_the_compiler_is_needed(tmp_path: Path) -> None:
    build(1).save(tmp_path / "plan")
    for name, array in weights(2).items():
        np.save(tmp_path / f"{name}.npy", array)
    program = """if True:
        import pathlib, sys, lamina, numpy
        engine = lamina.load("plan")
        engine.refit({p.stem: numpy.load(p) for p in pathlib.Path().glob("*.npy")})
        compiler = ("builder", "codegen", "passes", "importers", "backends.cpu.kernels")
        loaded = [n for n in compiler if f"lamina.{n}" in sys.modules]
        assert not loaded and "llvmlite" not in sys.modules, loaded
        engine.save("other")
    """
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(lamina.load(tmp_path / "other")(X), build(2)(X))


def test_a_plan_without_weights_gets_them_back(tmp_path: Path) -> None:
    whole = build(1)
    whole.save(tmp_path / "plan", weights=False)
    assert (tmp_path / "plan").stat().st_size < len(whole.serialize()) / 2
    engine = lamina.load(tmp_path / "plan")
    context = engine.create_context()
    with pytest.raises(lamina.PlanError, match="saved without its weights: first.*\n.*refit"):
        engine(X)
    missing = engine.missing_weights()
    assert {"first", "second", "matrix"} <= set(missing)
    with pytest.raises(lamina.InputError, match="not given: second"):
        engine.refit({n: weights(1)[n] for n in missing if n != "second"})
    engine.refit({n: weights(1)[n] for n in missing})
    assert engine.missing_weights() == []
    same_constants(engine.plan, whole.plan)
    np.testing.assert_array_equal(context(X), whole(X))
    np.testing.assert_array_equal(lamina.load(engine.serialize())(X), whole(X))
    engine.refit({"last": weights(2)["last"]})
    assert not np.array_equal(context(X), whole(X))


def _called(data: Any, step: Any) -> None:
    """Let the first constant be the result of a call."""
    data["steps"].append(step)
    data["blobs"][0][1] = len(data["steps"]) - 1


DAMAGE = {
    "no text": lambda d: d.clear(),
    "function": lambda d: _called(d, ["system", [["$", 0]], {}]),
    "step ahead": lambda d: d["steps"][-1].__setitem__(1, [["$", 10_000]]),
    "source": lambda d: d["steps"].insert(0, ["source", "unknown"]),
    "literal": lambda d: _called(d, ["absolute", [["#", 99]], {}]),
    "blob": lambda d: d["blobs"].append([9999, 0]),
    "size": lambda d: _called(d, ["pad", [["$", 0], 1], {}]),
    "kind": lambda d: _called(d, ["absolute", [["!", 0]], {}]),
    "argument": lambda d: _called(d, ["absolute", [["$", 0]], {"nonsense": 1}]),
    "type": lambda d: _called(d, ["astype", [["$", 0], ["d", "object"]], {}]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_recipes_are_refused(name: str) -> None:
    plan = build(1).plan
    data = json.loads(plan.sections[0].recipes)
    DAMAGE[name](data)
    section = dataclasses.replace(plan.sections[0], recipes=json.dumps(data))
    with pytest.raises(lamina.PlanError, match="recipes of the plan"):
        refit(dataclasses.replace(plan, sections=(section,)), weights(2))


def _places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to everything in JSON data."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    found = []
    for key, value in items:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += _places(value, (*path, key))
    return found


def test_recipes_of_any_form_end_in_an_error_or_a_plan() -> None:
    plan = build(1).plan
    text, rng = plan.sections[0].recipes, random.Random(1)
    places = _places(json.loads(text))
    values = [None, True, -1, 0, 3, 10**9, 1e300, "", "w", "add", [], ["$", 0], ["(", 1], {}]
    refused = 0
    for _ in range(300):
        data = json.loads(text)
        *path, last = rng.choice(places)
        place = data
        for key in path:
            place = place[key]
        place[last] = rng.choice(values)
        section = dataclasses.replace(plan.sections[0], recipes=json.dumps(data))
        try:
            refit(dataclasses.replace(plan, sections=(section,)), weights(2))
        except lamina.LaminaError:
            refused += 1
    assert refused > 100


def test_large_numbers_do_not_fit_a_plan_of_halves() -> None:
    engine = build(1, precision="fp16")
    large = weights(2)["matrix"] * np.float32(1e6)
    with pytest.raises(lamina.InputError, match=r"'matrix' is kept as f16.*65504"):
        engine.refit({"matrix": large})
