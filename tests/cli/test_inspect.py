from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Lamina

from lamina.cli.inspect import next_best, shorten
from lamina.runtime.report import LayerReport


def test_json_holds_layers_tactics_and_memory(lamina: Lamina, plan: Path) -> None:
    report = lamina("inspect", plan, "--json").json
    assert report["inputs"] == {"x": "f32[2,2,6,6]"}
    assert report["target"]["device"] == "cpu"
    assert report["memory"]["arena"] >= report["memory"]["lower_bound"]
    locs = " ".join(layer["loc"] for layer in report["layers"])
    for node in ("conv1 (Conv)", "relu1 (Relu)", "gemm1 (Gemm)"):
        assert node in locs
    assert all(layer["tactic"] or layer["kind"] == "host" for layer in report["layers"])
    assert report["fallbacks"] == []


def test_the_table_shows_fused_origins_and_the_lower_bound(lamina: Lamina, plan: Path) -> None:
    done = lamina("inspect", plan)
    assert done.code == 0
    assert "conv1 + relu1" in done.out
    assert "x the lower bound" in done.out


def test_layers_show_operands_and_refusals(lamina: Lamina, plan: Path) -> None:
    out = lamina("inspect", plan, "--layers").out
    assert "FuseActivation(conv1 (Conv), relu1 (Relu))" in out
    assert out.count("  tactic  ") == len(lamina("inspect", plan, "--json").json["layers"])


def test_a_profile_has_a_time_for_each_layer(lamina: Lamina, plan: Path) -> None:
    report = lamina("inspect", plan, "--profile", "--json").json
    assert len(report["profile_microseconds"]) == len(report["layers"])
    assert all(t > 0 for t in report["profile_microseconds"])
    assert "us in all layers" in lamina("inspect", plan, "--profile").out


def test_a_file_that_is_neither_plan_nor_model(lamina: Lamina, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("These are my notes, and no network.\n")
    done = lamina("inspect", tmp_path / "notes.txt")
    assert done.code == 2
    assert "is not an ONNX model" in done.err


def layer(tactic: str, us: float, tried: tuple[tuple[str, float], ...]) -> LayerReport:
    return LayerReport("conv", "conv1", "kernel", tactic, us, (), (), tried, ())


def test_the_next_best_is_never_the_chosen_one() -> None:
    tried = (("a [plain>plain]", 1.0), ("a [blocked>blocked]", 2.0), ("b(m=4,n=2) [x>y]", 1.5))
    assert next_best(layer("a", 1.0, tried)) == "b(m=4, ..) (y) 1.5"
    assert next_best(layer("a", 2.0, tried)) == "a (plain) 1.0"
    assert next_best(layer("a", 1.0, tried[:1])) == "-"
    assert shorten("winograd(m=4)") == "winograd(m=4)"


def test_a_part_for_a_gpu_elsewhere_is_shown_as_it_is(
    lamina: Lamina, model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("triton")
    plan = tmp_path / "both.plan"
    level = ("--optimization-level", "0")
    lamina("build", model, "-o", plan, "--target", "cpu,cuda:sm_90", *level)
    assert lamina("inspect", plan, "--json").json["target"]["device"] == "cpu"
    report = lamina("inspect", plan, "--target", "cuda:sm_90", "--json").json
    assert report["target"]["arch"] == "sm_90"
    assert any(layer["tactic"].startswith("triton") for layer in report["layers"])
    done = lamina("inspect", plan, "--target", "cuda:sm_80")
    assert done.code == 2 and "it has cpu, cuda:sm_90" in done.err
    lamina("build", model, "-o", plan, "--target", "cuda:sm_90", *level)
    assert lamina("inspect", plan, "--json").json["target"]["arch"] == "sm_90"
