from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.conftest import FAST, Lamina

from lamina.runtime.load import load


def test_a_plan_is_written_and_described(lamina: Lamina, model: Path, tmp_path: Path) -> None:
    plan = tmp_path / "net.plan"
    done = lamina("build", model, "-o", plan, "--shapes", "x:1x2x6x6", "--json", *FAST)
    assert done.code == 0
    report = done.json
    assert report["plan_bytes"] == plan.stat().st_size
    assert report["inputs"] == {"x": "f32[1,2,6,6]"}
    assert report["outputs"] == {"y": "f32[1,5]"}
    assert report["layers"] >= 2
    assert load(plan)(np.ones((1, 2, 6, 6), np.float32)).shape == (1, 5)


def test_without_json_people_read_layers_and_size(
    lamina: Lamina, model: Path, tmp_path: Path
) -> None:
    done = lamina("build", model, "-o", tmp_path / "net.plan", "--shapes", "x:1x2x6x6", *FAST)
    assert done.code == 0
    assert "layers" in done.out
    assert "x: f32[1,2,6,6]" in done.out


def test_a_range_of_shapes_is_kept(lamina: Lamina, model: Path, tmp_path: Path) -> None:
    shapes = "x:1x2x6x6..2x2x6x6..4x2x6x6"
    done = lamina("build", model, "-o", tmp_path / "r.plan", "--shapes", shapes, "--json", *FAST)
    assert done.code == 0, done.err
    ((symbol, sizes),) = done.json["ranges"].items()
    assert sizes == [1, 2, 4]
    told = lamina("build", model, "-o", tmp_path / "r.plan", "--shapes", shapes, *FAST).out
    assert f"{symbol}: 1 to 4, tuned for 2" in told
    told = lamina("build", model, "-o", tmp_path / "s.plan", *FAST).out
    assert f"{symbol}: 1 or more, tuned for 1" in told
    engine = load(tmp_path / "r.plan")
    for batch in (1, 3, 4):
        assert engine(np.ones((batch, 2, 6, 6), np.float32)).shape == (batch, 5)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["--shapes", "x=1x2"], "cannot be read"),
        (["--shapes", "nope:1x2x6x6"], "no input 'nope'"),
        (["--shapes", "x:1x2x6"], "the shape given is (1, 2, 6)"),
        (["--shapes", "x:1x3x6x6"], "axis 1 of input 'x' is 2 in the model, the shape says 3"),
        (["--shapes", "x:4x2x6x6..2x2x6x6..8x2x6x6"], "not in order"),
        (["--without", "NoSuchPass"], "there is no pass NoSuchPass"),
        (["--precision", "fp7"], "precision 'fp7' is not known"),
        (["--target", "toaster"], "target 'toaster' is not available"),
        (["--optimization-level", "9"], "optimization level 9 is not between 0 and 5"),
    ],
)
def test_wrong_options(
    arguments: list[str], fact: str, lamina: Lamina, model: Path, tmp_path: Path
) -> None:
    done = lamina("build", model, "-o", tmp_path / "net.plan", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert fact in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (None, "cannot read the model"),
        (b"just some text, no model at all\n", "is not an ONNX model"),
        (b"", "is empty"),
        (b"PK\x03\x04zip", "zip archive"),
    ],
)
def test_wrong_files(content: bytes | None, fact: str, lamina: Lamina, tmp_path: Path) -> None:
    source = tmp_path / "net.onnx"
    if content is not None:
        source.write_bytes(content)
    done = lamina("build", source, "-o", tmp_path / "net.plan")
    assert done.code == 2
    assert fact in done.err
    assert not (tmp_path / "net.plan").exists()


def test_a_cut_model_is_an_error(lamina: Lamina, model: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(model.read_bytes()[:-40])
    done = lamina("build", cut, "-o", tmp_path / "net.plan")
    assert done.code == 2
    assert done.err.startswith("error: ")


def test_an_unwritable_place_is_found_before_the_build(
    lamina: Lamina, model: Path, tmp_path: Path
) -> None:
    done = lamina("build", model, "-o", tmp_path / "nowhere" / "net.plan")
    assert done.code == 2
    assert "there is no folder" in done.err
    done = lamina("build", model, "-o", tmp_path)
    assert done.code == 2
    assert "it is a folder" in done.err


def test_what_limited_time_left_out_is_said(lamina: Lamina, model: Path, tmp_path: Path) -> None:
    plan = tmp_path / "net.plan"
    arguments = ["-o", plan, "--shapes", "x:1x2x6x6", "--timing-cache", ""]
    done = lamina("build", model, *arguments, "--time-budget", "1e-6", "--json")
    assert done.code == 0, done.err
    assert "were up" in done.json["untuned"]
    assert "were up" in lamina("build", model, *arguments, "--time-budget", "1e-6").err
    assert "tuning  the 1e-06 s" in lamina("inspect", plan).out
    whole = lamina("build", model, *arguments, "--json")
    assert whole.json["untuned"] == ""
