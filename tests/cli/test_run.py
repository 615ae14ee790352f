from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tests.cli.conftest import FAST, Lamina


def expected(model: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return y


def test_a_plan_on_arrays_from_files(
    lamina: Lamina, model: Path, plan: Path, tmp_path: Path, x: np.ndarray
) -> None:
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "y.npz"
    done = lamina("run", plan, "--input", f"x={tmp_path}/x.npy", "--output", out)
    assert done.code == 0, done.err
    assert "y" in done.out
    with np.load(out) as results:
        np.testing.assert_allclose(results["y"], expected(model, x), rtol=1e-4, atol=1e-5)


def test_a_model_is_built_first(lamina: Lamina, model: Path, tmp_path: Path, x: np.ndarray) -> None:
    np.savez(tmp_path / "in.npz", x=x)
    out = tmp_path / "y.npy"
    done = lamina(
        "run", model, "-i", tmp_path / "in.npz", "-o", out, "--shapes", "x:2x2x6x6", *FAST
    )
    assert done.code == 0, done.err
    np.testing.assert_allclose(np.load(out), expected(model, x), rtol=1e-4, atol=1e-5)


def test_random_inputs_are_announced_and_repeatable(lamina: Lamina, plan: Path) -> None:
    first = lamina("run", plan, "--json", "--seed", 5)
    assert "random inputs, seed 5" in first.err
    assert first.json["y"]["shape"] == [2, 5]
    assert first.json["y"]["min"] < first.json["y"]["mean"] < first.json["y"]["max"]
    assert first.json == lamina("run", plan, "--json", "--seed", 5).json
    assert first.json != lamina("run", plan, "--json", "--seed", 6).json


@pytest.mark.parametrize(
    ("name", "array", "fact"),
    [
        ("z", np.ones((2, 2, 6, 6), np.float32), "input ['x'] is missing"),
        ("x", np.ones((2, 2, 6, 6), np.float64), "element type float64, expected float32"),
        ("x", np.ones((2, 6, 6), np.float32), "has shape (2, 6, 6)"),
        ("x", np.ones((3, 2, 6, 6), np.float32), "has shape (3, 2, 6, 6)"),
    ],
)
def test_wrong_inputs(
    name: str, array: np.ndarray, fact: str, lamina: Lamina, plan: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", array)
    out = tmp_path / "y.npz"
    done = lamina("run", plan, "-i", f"{name}={tmp_path}/a.npy", "-o", out)
    assert done.code == 2
    assert fact in done.err
    assert not out.exists()


def test_a_damaged_plan_is_an_error(lamina: Lamina, plan: Path, tmp_path: Path) -> None:
    data = bytearray(plan.read_bytes())
    data[60] ^= 1
    (tmp_path / "flipped.plan").write_bytes(data)
    (tmp_path / "cut.plan").write_bytes(data[:50])
    for name, fact in (("flipped.plan", "checksum differs"), ("cut.plan", "truncated")):
        done = lamina("run", tmp_path / name)
        assert done.code == 2
        assert fact in done.err


def test_an_unwritable_output(lamina: Lamina, plan: Path, tmp_path: Path) -> None:
    done = lamina("run", plan, "-o", tmp_path / "nowhere" / "y.npz")
    assert done.code == 2
    assert "cannot write" in done.err
