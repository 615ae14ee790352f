from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import FAST, Lamina


@pytest.mark.parametrize("against", ["onnxruntime", "reference"])
def test_a_model_is_equal_in_every_layer(against: str, lamina: Lamina, model: Path) -> None:
    arguments = ["--shapes", "x:2x2x6x6", "--against", against, "--per-layer", "--json"]
    done = lamina("compare", model, *arguments, *FAST)
    assert done.code == 0, done.err
    report = done.json
    assert report["equal"] is True
    assert report["against"] == against
    assert [o["output"] for o in report["outputs"]] == ["y"]
    layers = {row["value"]: row for row in report["layers"]}
    assert {"relu_out", "y"} <= layers.keys()
    assert layers["relu_out"]["against"] == against
    assert layers["relu_out"]["from"] == "conv1 (Conv) + relu1 (Relu)"
    assert all(0 <= row["relative"] < 1e-5 for row in report["layers"])


def test_a_plan_is_compared_with_its_own_graph(lamina: Lamina, plan: Path) -> None:
    done = lamina("compare", plan, "--per-layer", "--threads", 1)
    assert done.code == 0, done.err
    assert "against reference" in done.out
    assert done.out.rstrip().endswith("equal")


def test_a_wrong_result_exits_1_and_names_the_first_layer(
    lamina: Lamina, plan: Path, other_model: Path
) -> None:
    done = lamina("compare", plan, "--model", other_model, "--json")
    assert done.code == 1
    assert done.json["equal"] is False
    assert done.json["outputs"][0]["relative"] > 0.01
    shown = lamina("compare", plan, "--model", other_model, "--per-layer", "--threads", 1)
    assert shown.code == 1
    assert "layers differ, the first is" in shown.out
    assert shown.out.rstrip().endswith("different")


def test_the_tolerance_decides(lamina: Lamina, plan: Path, model: Path) -> None:
    assert lamina("compare", plan, "--model", model, "--tolerance", 1e-4).code == 0
    assert lamina("compare", plan, "--model", model, "--tolerance", 1e-30).code == 1


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["--against", "onnxruntime"], "a plan holds no ONNX model"),
        (["--against", "luck"], "nothing called 'luck'"),
    ],
)
def test_wrong_use(arguments: list[str], fact: str, lamina: Lamina, plan: Path) -> None:
    done = lamina("compare", plan, *arguments)
    assert done.code == 2
    assert fact in done.err
