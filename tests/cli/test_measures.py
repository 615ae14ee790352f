from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from lamina.cli.differences import EQUAL, difference, worst
from lamina.cli.origins import origins
from lamina.cli.progress import BuildProgress, item_name
from lamina.cli.tables import show_bytes, show_seconds, to_json
from lamina.cli.timing import Budget, Samples, measure, speedup
from lamina.config import ProgressEvent


def test_difference_is_relative_to_the_largest_value() -> None:
    wanted = np.array([1.0, -4.0, 2.0])
    d = difference(wanted + [0, 0, 0.02], wanted)
    assert d.absolute == pytest.approx(0.02)
    assert d.relative == pytest.approx(0.005)
    assert d.sqnr_db == pytest.approx(10 * math.log10(21 / 0.0004))
    assert d.within(0.006)
    assert not d.within(0.004)


def test_equal_results_have_no_error() -> None:
    special = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert difference(special, special) == EQUAL
    assert difference([special], [special.copy()]) == EQUAL
    assert difference(np.array(["a"], object), np.array(["a"])) == EQUAL
    assert difference(None, None) == EQUAL


@pytest.mark.parametrize(
    ("given", "wanted", "reason"),
    [
        (np.ones(3), np.ones((3, 1)), "shape (3,) instead of (3, 1)"),
        (np.array([np.nan, 1.0]), np.ones(2), "1 NaN instead of 0"),
        (np.array([np.inf, 1.0]), np.ones(2), "infinities differ"),
        ([np.ones(1)], [], "the lists have different lengths"),
        (None, np.ones(1), "one of the two is absent"),
        (np.array(["a"]), np.array(["b"]), "texts differ"),
    ],
)
def test_what_cannot_be_compared_says_why(given: object, wanted: object, reason: str) -> None:
    d = difference(given, wanted)
    assert d.reason == reason
    assert not d.within(1e9)
    assert worst([EQUAL, d]) is d


def test_runs_are_counted_exactly_and_engines_take_turns() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    samples = measure(calls, Budget(runs=7, block_seconds=1e-9, warm_seconds=0))
    assert {name: len(s.runs) for name, s in samples.items()} == {"a": 7, "b": 7}
    assert [len(block) for block in samples["a"].rounds] == [3, 3, 1]
    turns = "".join(name for name, _ in itertools.groupby(order[4:]))
    assert turns == "abab"[: len(turns)] or "ba" in turns


def test_speedup_is_taken_within_rounds() -> None:
    fast = Samples(((1.0, 1.0, 9.0), (2.0, 2.0, 2.0), (3.0, 3.0, 3.0)))
    slow = Samples(((2.0, 2.0, 2.0), (4.0, 4.0, 4.0), (9.0, 9.0, 9.0)))
    assert speedup(fast, slow) == 2.0
    assert fast.median == 2.0
    assert fast.percentile(100) == 9.0


def test_origins_are_the_nodes_of_the_source_model() -> None:
    scale = "Scale(bn.mean, bn1 (Bn))"
    loc = f"FuseActivation(FoldBias(conv1 (Conv), {scale}), Scale(bn1 (Bn)), r (Relu))"
    assert origins(loc) == ["conv1 (Conv)", "bn1 (Bn)", "r (Relu)"]
    assert origins("w1") == ["w1"]
    assert origins("ShareWeights(w1, w2)") == ["w1", "w2"]


def test_progress_has_stage_layer_and_time_left() -> None:
    progress = BuildProgress("building net")
    progress.stage_started = 100.0
    event = ProgressEvent("tactics", 5, 20, "FuseActivation(conv1 (Conv), relu1 (Relu))")
    line = progress.line(event, now=102.0)
    assert line == "building net: tactics 5/20, about 6 s left, conv1 (Conv) + relu1 (Relu)"
    assert len(item_name(ProgressEvent("tactics", 0, 1, "x" * 200))) == 60


def test_progress_of_a_short_build_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with BuildProgress("building net") as progress:
        progress(ProgressEvent("import", 0, 1))
        progress(ProgressEvent("tactics", 1, 2, "conv1"))
    assert capsys.readouterr() == ("", "")


def test_progress_of_a_long_build_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with BuildProgress("building net") as progress:
        progress.started = progress.spoke = -1e9
        progress(ProgressEvent("tactics", 1, 2, "conv1 (Conv)"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("building net: tactics 1/2")


def test_units() -> None:
    assert [show_bytes(n) for n in (0, 1023, 1536, 3 << 20, 5 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 MiB",
        "5.00 GiB",
    ]
    assert [show_seconds(s) for s in (8.3e-6, 0.0352, 1.42)] == ["8.3 us", "35.20 ms", "1.42 s"]
    assert (
        to_json({"a": [math.inf, 1.5], 2: None}) == '{\n "a": [\n  null,\n  1.5\n ],\n "2": null\n}'
    )
