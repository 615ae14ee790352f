"""``lamina profile``: the table, JSON, traces and wrong use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Lamina

from lamina import ceilings as ceilings_of_devices
from lamina.runtime.layers import Ceilings


@pytest.fixture(autouse=True)
def fixed_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    most = Ceilings(1e4, {"f32": 1e5})
    monkeypatch.setattr(ceilings_of_devices, "measure_ceilings", lambda *_: most)


def test_every_layer_has_rates_and_a_floor(lamina: Lamina, plan: Path) -> None:
    report = lamina("profile", plan, "--runs", 2, "--json").json
    assert report["ceilings"]["bytes_per_microsecond"] == 1e4
    assert report["microseconds"] == pytest.approx(
        sum(layer["microseconds"] for layer in report["layers"])
    )
    for layer in report["layers"]:
        floor = max(layer["bytes_moved"] / 1e4, layer["operations"] / 1e5)
        assert layer["floor_microseconds"] == pytest.approx(floor)
        assert layer["times_floor"] == pytest.approx(layer["microseconds"] / floor)
    assert any(layer["name"] == "convolution" and layer["operations"] for layer in report["layers"])


def test_the_table_lists_layers_and_their_sum(lamina: Lamina, plan: Path) -> None:
    out = lamina("profile", plan, "--runs", 2).out
    assert "conv1 + relu1" in out
    assert "x the sum of their floors" in out
    assert "ceilings: memory 10 GB/s, f32 0.1 TFLOP/s" in out
    few = lamina("profile", plan, "--runs", 2, "--top", 1, "--no-ceilings").out
    assert "ceilings" not in few
    assert len(few.splitlines()) < len(out.splitlines())


def test_a_trace_is_written(lamina: Lamina, plan: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    assert lamina("profile", plan, "--runs", 1, "--trace", path).code == 0
    events = json.loads(path.read_text())["traceEvents"]
    assert any(e["ph"] == "X" and e["name"] == "convolution" for e in events)
    done = lamina("profile", plan, "--runs", 1, "--trace", tmp_path / "none" / "t.json")
    assert done.code == 2
    assert "cannot write" in done.err


def test_models_are_built_with_the_options_of_a_build(lamina: Lamina, model: Path) -> None:
    done = lamina("profile", model, "--batch", 3, "--runs", 1, "--optimization-level", 0, "--json")
    assert done.code == 0
    assert done.json["layers"]
