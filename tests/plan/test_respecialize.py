"""A plan that does not fit the machine is compiled again from its graph."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lamina
from lamina.config import BuildConfig
from lamina.errors import PlanError
from lamina.respecialize import plan_config, portable_graph, respecialize
from lamina.runtime.engine import Engine
from tests.plan.plans import CONVOLUTION, KINDS, edited, engine, feed, graph


@pytest.fixture(autouse=True)
def _private_cache(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))


def _target(**changes: str) -> Callable[[dict[str, Any]], None]:
    def edit(header: dict[str, Any]) -> None:
        section = header["sections"][0]
        section["target"] = sorted({**dict(section["target"]), **changes}.items())
        for name in section["symbols"]:
            section["symbols"][name] = 0  # whoever runs this code by mistake crashes

    return edit


def _same_results(kind: str, loaded: lamina.Engine) -> None:
    wanted = engine(kind).run(feed(kind))
    found = loaded.run(feed(kind))
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "target",
    [{"features": "avx512f,amx_super"}, {"device": "cuda:sm_90"}],
    ids=["other instruction set", "other device"],
)
def test_a_section_for_another_machine_is_not_run(kind: str, target: dict[str, str]) -> None:
    loaded = lamina.load(edited(kind, _target(**target)))
    _same_results(kind, loaded)
    assert loaded.plan.ranges == engine(kind).plan.ranges


def test_weights_packed_by_another_library_are_not_used() -> None:
    loaded = lamina.load(edited("dynamic", _target(onednn="1.0.0 sse41")))
    _same_results("dynamic", loaded)


def test_another_library_does_not_matter_to_a_plan_without_it() -> None:
    def edit(header: dict[str, Any]) -> None:
        section = header["sections"][0]
        section["target"] = sorted({**dict(section["target"]), "onednn": "none"}.items())

    loaded = lamina.load(edited("host", edit))
    assert dict(loaded.plan.sections[0].target)["onednn"] == "none"
    _same_results("host", loaded)


@pytest.mark.parametrize("kind", KINDS)
def test_native_code_is_ignored_on_request(kind: str) -> None:
    damaged = edited(kind, _target())
    _same_results(kind, lamina.load(damaged, native_code=False))


def test_without_a_graph_there_is_nothing_to_compile() -> None:
    bare = lamina.build(graph(CONVOLUTION), timing_cache="", keep_graph=False)
    assert bare.plan.graph == ""
    assert not bare.plan.weights
    data = bare.serialize()
    wanted = engine("convolution").run(feed("convolution"))["y"]
    found = lamina.load(data).run(feed("convolution"))["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(PlanError, match="native code is not wanted") as error:
        lamina.load(data, native_code=False)
    assert "keep_graph=False" in str(error.value)
    (section,) = bare.plan.sections
    other = dataclasses.replace(section, target=(("device", "cpu"), ("features", "sve2")))
    with pytest.raises(PlanError, match="needs sve2, which this CPU lacks"):
        Engine(dataclasses.replace(bare.plan, sections=(other,)))


def test_a_plan_without_sections_is_compiled() -> None:
    plan = dataclasses.replace(engine("dynamic").plan, sections=())
    _same_results("dynamic", Engine(plan))


def test_options_of_the_build_are_kept() -> None:
    built = lamina.build(
        graph(CONVOLUTION), timing_cache="", optimization_level=1, without=("FuseActivation",)
    )
    config = plan_config(built.plan)
    assert config == BuildConfig(optimization_level=1, without=("FuseActivation",))
    assert plan_config(built.plan, threads=1).threads == 1
    again = respecialize(built.plan)
    assert again.config == built.plan.config


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "graph(%x: f32[2]) {\n  %y = sin(%x)\n  return %y\n}", "graph() {\n}"],
)
def test_a_damaged_graph_is_a_plan_error(text: str) -> None:
    plan = dataclasses.replace(engine("convolution").plan, graph=text)
    with pytest.raises(PlanError):
        Engine(plan, native_code=False)


@pytest.mark.parametrize(
    "config",
    [
        {"precision": "fp99"},
        {"shapes": {"x": [[1, 2], [3]]}},
        {"shapes": 4},
        {"unknown": 1},
        {"threads": -1},
        {"shapes": {"nothing": [[1], [1], [1]]}},
    ],
)
def test_damaged_options_are_a_plan_error(config: dict[str, Any]) -> None:
    rows = tuple((k, json.dumps(v)) for k, v in config.items())
    plan = dataclasses.replace(engine("convolution").plan, config=rows)
    with pytest.raises(PlanError):
        Engine(plan, native_code=False)


def test_the_portable_graph_is_the_graph_as_it_was_imported() -> None:
    names = [n.op.name for n in portable_graph(engine("convolution").plan).nodes()]
    assert names == ["const", "convolution", "activation", "reduce"]
