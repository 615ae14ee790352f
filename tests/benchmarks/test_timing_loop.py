"""The interleaved timing loop, its statistics, the comparison of outputs and the summary."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from benchmarks import cpu_bench, cpu_case, machine, peers, summary, timing

QUICK = timing.Budget(
    seconds=0.05, block_seconds=0.004, warm_seconds=0.0, min_rounds=3, max_rounds=4, min_runs=2
)


def test_samples_statistics() -> None:
    samples = timing.Samples(((1.0, 2.0, 9.0), (4.0, 4.0, 4.0), (3.0, 3.0, 3.0)))
    assert samples.round_medians.tolist() == [2.0, 4.0, 3.0]
    assert samples.median == 3.0
    figures = samples.milliseconds()
    assert figures["median_ms"] == 3000 and figures["min_ms"] == 1000
    assert figures["runs"] == 9 and figures["rounds"] == 3
    assert figures["p90_ms"] <= figures["p95_ms"] <= figures["p99_ms"] <= 9000


def test_speedup_is_the_median_of_ratios_within_rounds() -> None:
    ours = timing.Samples(((1.0,), (2.0,), (10.0,)))
    theirs = timing.Samples(((2.0,), (4.0,), (5.0,)))
    assert timing.speedup(ours, theirs) == 2.0
    assert timing.faster({"ours": ours, "theirs": theirs}) == "ours"


def test_interleave_alternates_blocks_and_orders_by_speed() -> None:
    order: list[str] = []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    samples = timing.interleave(
        {"fast": lambda: call("fast", 0.0005), "slow": lambda: call("slow", 0.003)}, QUICK
    )
    assert timing.faster(samples) == "fast"
    assert timing.speedup(samples["fast"], samples["slow"]) > 1
    assert {len(s.rounds) for s in samples.values()} <= {3, 4}
    assert all(len(s.rounds) == len(s.other_cores) for s in samples.values())
    assert all(len(block) >= 2 for s in samples.values() for block in s.rounds)
    changes = sum(a != b for a, b in zip(order, order[1:]))
    assert changes >= 3, "engines must take turns"


def test_settle_waits_for_a_busy_thread() -> None:
    started = time.perf_counter()
    timing.settle(0.005, limit_seconds=0.2)
    assert 0.004 < time.perf_counter() - started < 0.3


def test_compare_measures_the_worst_output() -> None:
    reference = {"a": np.array([1.0, -2.0]), "b": np.array([4.0])}
    same = peers.compare(reference, reference)
    assert same.max_relative == 0 and math.isinf(same.sqnr_db)
    off = peers.compare({"a": np.array([1.0, -1.8]), "b": np.array([4.0])}, reference)
    assert off.max_relative == pytest.approx(0.1)
    assert off.sqnr_db == pytest.approx(10 * math.log10(5 / 0.04))
    bad = peers.compare({"a": np.array([np.nan, 0]), "b": np.array([4.0])}, reference)
    assert bad.max_relative == math.inf and bad.sqnr_db == -math.inf
    with pytest.raises(ValueError, match="expected output 'b'"):
        peers.compare({"a": reference["a"]}, reference)


def test_summary_names_the_slowest_case_and_failures() -> None:
    cases = [
        {"workload": "x", "batch": 1, "precision": "f32", "speedup": 2.0, "engines": {}},
        {"workload": "y", "batch": 8, "precision": "f32", "speedup": 0.5, "engines": {}},
        {"workload": "z", "batch": 1, "precision": "f32", "error": "exit status -11"},
    ]
    entry = summary.summarize(cases)["f32"]
    assert entry["geometric_mean"] == pytest.approx(1.0)
    assert (entry["minimum"], entry["minimum_case"], entry["below_one"]) == (0.5, "y b8", ["y b8"])
    assert entry["not_measured"] == ["z b1"]
    text = summary.table(cases, ["lamina"])
    assert "crashed" in text and "0.50" in text
    with pytest.raises(ValueError, match="undefined"):
        summary.geometric_mean([])


class Failing(peers.Installed):
    def load(self, file: object, precision: str) -> peers.Loaded:
        raise RuntimeError("no kernel")


def test_a_failing_engine_does_not_lose_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing(1, "openvino", ("f32",))
    monkeypatch.setitem(peers.PEERS, "openvino", lambda threads: failing)
    case = cpu_case.Case("digits", 2, "f32", 1, ("openvino", "onnxruntime"), 0.1, "")
    engines = cpu_case.measure(case)["engines"]
    assert engines["openvino"] == {"error": "RuntimeError: no kernel"}
    assert engines["onnxruntime"]["median_ms"] > 0
    assert engines["onnxruntime"]["sqnr_db"] is None, "equal to its own reference"


def test_a_failing_process_gives_a_result_with_its_error() -> None:
    case = cpu_case.Case("no such", 1, "f32", 1, ("onnxruntime",), 0.1, "")
    result = cpu_bench.run_case(case)
    assert "exit status 1" in result["error"] and "no workload 'no such'" in result["error"]
    assert cpu_bench.report_line(result).startswith("FAILED")


def test_machine_is_described() -> None:
    told = machine.describe()
    assert told["packages"]["onnxruntime"][0].isdigit() and told["cores"] >= 1
    assert machine.OthersWatch().cores() >= 0
    assert machine.wait_for_quiet(1.0, cores=1e9, window_seconds=0.01)
    assert not machine.wait_for_quiet(0.05, cores=-1.0, window_seconds=0.01)
