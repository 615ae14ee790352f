from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import FAST, Lamina

BRIEF = ["--runs", "6", "--threads", "1"]


def test_a_plan_gives_every_figure(lamina: Lamina, plan: Path) -> None:
    done = lamina("bench", plan, "--json", "-", *BRIEF)
    assert done.code == 0, done.err
    report = done.json
    own = report["engines"]["lamina"]
    latency = own["latency_ms"]
    assert 0 < latency["min"] <= latency["median"]
    assert latency["p90"] <= latency["p95"] <= latency["p99"]
    assert own["throughput"] == pytest.approx(2 / latency["median"] * 1e3)
    assert (own["runs"], report["batch"], report["inputs"]) == (6, 2, {"x": [2, 2, 6, 6]})
    assert own["build_seconds"] is None
    assert own["load_seconds"] > 0
    assert report["memory"]["arena"] >= report["memory"]["lower_bound"] > 0
    assert report["plan_bytes"] == plan.stat().st_size


def test_engines_are_compared_in_one_run(lamina: Lamina, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--batch", 3, "--compare", "onnxruntime", "--json", out]
    done = lamina("bench", model, *arguments, *BRIEF, *FAST[:2])
    assert done.code == 0, done.err
    assert "onnxruntime" in done.out
    report = json.loads(out.read_text())
    peer = report["engines"]["onnxruntime"]
    assert report["inputs"] == {"x": [3, 2, 6, 6]}
    assert peer["lamina_is_times_as_fast"] > 0
    assert peer["difference"]["relative"] < 1e-4
    assert report["engines"]["lamina"]["build_seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["--compare", "onnxruntime"], "a plan holds no ONNX model"),
        (["--compare", "caffe", "--model", "x"], "no engine 'caffe'"),
        (["--json", "/nowhere/x.json"], "cannot write '/nowhere/x.json'"),
    ],
)
def test_wrong_use(arguments: list[str], fact: str, lamina: Lamina, plan: Path) -> None:
    done = lamina("bench", plan, *arguments, *BRIEF)
    assert done.code == 2
    assert fact in done.err


def test_batch_needs_a_symbolic_axis(lamina: Lamina, folder: Path) -> None:
    import onnx
    from tests.cli.conftest import tiny_model

    onnx.save(tiny_model(batch=1), folder / "static.onnx")
    done = lamina("bench", folder / "static.onnx", "--batch", 4, *BRIEF)
    assert done.code == 2
    assert "no input has a symbolic first axis (x: f32[1,2,6,6])" in done.err
