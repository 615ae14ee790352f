from __future__ import annotations

import numpy as np
import pytest
from tests.cli.conftest import Lamina

from lamina.backends.cpu.features import cpu_features
from lamina.cli import demo
from lamina.cli.timing import Budget


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_BUDGET", Budget(runs=3, warm_seconds=0))


def test_every_precision_classifies_the_held_out_digits(lamina: Lamina) -> None:
    done = lamina("demo", "--json")
    assert done.code == 0, done.err
    rows = {(row["precision"], row["engine"]): row for row in done.json}
    assert {p for p, _ in rows} == {"fp32", "bf16", "int8"}
    accuracy = rows["fp32", "lamina"]["accuracy"]
    assert accuracy >= 0.98
    assert rows["fp32", "onnxruntime"]["accuracy"] == accuracy
    needs_bf16 = "this CPU has no avx512bf16"
    for row in rows.values():
        if row["precision"] != "bf16" or "avx512bf16" in cpu_features():
            assert row["error"] == ""
            assert row["accuracy"] >= accuracy - 0.01
            assert row["images_per_second"] > 0
            assert row["other_cores"] >= 0
        else:
            assert row["error"] == needs_bf16


def test_digits_are_drawn_with_their_labels() -> None:
    images, labels = demo.held_out()
    assert images.shape[1:] == (1, 8, 8)
    assert len(images) == len(labels) >= 300
    guesses = labels.copy()
    guesses[7] = (guesses[7] + 1) % 10
    drawn = demo.draw(images, labels, guesses, 112).splitlines()
    assert len(drawn) == 9
    assert f"read as {guesses[7]}, is {labels[7]}" in drawn[-1]
    assert drawn[-1].count("read as") == 6
    assert len(demo.draw(images, labels, guesses, 80).splitlines()[0]) <= 80
    assert "@" in "".join(drawn[:8])
    assert np.all([len(line) == len(drawn[0]) for line in drawn[:8]])
