"""Choices by measured times: where values lie inside larger ones, failures, limited time."""

from __future__ import annotations

import dataclasses

import pytest
from tests.backends.cuda.simulation import SIMULATED_ARCH, Requests

import lamina.backends.cuda.compiler as compiler_of_cuda
import lamina.backends.cuda.measure as measure_of_cuda
import lamina.backends.cuda.refinement as refinement_of_cuda
from lamina import ops
from lamina.backends.cuda.compiler import CudaCompiler
from lamina.backends.cuda.device import OutOfMemory
from lamina.backends.cuda.problems import has_gaps
from lamina.backends.cuda.request import MODULE
from lamina.backends.cuda.simulated import SimulatedDevice
from lamina.backends.cuda.tactics.convolution import TritonConvolution
from lamina.backends.cuda.tactics.generated import Generated
from lamina.backends.cuda.target import TARGETS
from lamina.builder import make_plan
from lamina.config import BuildConfig
from lamina.errors import ConfigError, DeviceError
from lamina.ir.text import parse_graph
from lamina.plan.format import write_plan
from lamina.tactics.cache import TimingCache
from lamina.tactics.tuning_time import TuningTime

JOINED = """graph(%x: f16[2,32,8,8]) {
  %w = const() type=f16[32,32,1,1] seed=1
  %v = const() type=f16[32,32,1,1] seed=2
  %u = const() type=f16[64,64,1,1] seed=3
  %a = convolution(%x, %w) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
  %b = convolution(%a, %v) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
  %c = concat(%a, %b) axis=1
  %y = convolution(%c, %u) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
  return %y
}"""


SMALL = " 16x16x16 "


class Times:
    """Stands for the bench: gives times by a rule and keeps what it was asked for."""

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def __call__(self, *_, **__):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def time(self, trial, code, best):
        self.asked.append(trial)
        return self.rule(trial)


def in_place(trial):
    values = (*trial.node.inputs, *trial.node.outputs)
    at = (*trial.placement.operands, *trial.placement.results)
    return any(has_gaps(v, where) for v, where in zip(values, at, strict=True))


def small_tiles_mind_gaps(trial):
    """The smallest tile takes 1 us, but 9 us where a value has gaps; others take 1.3 us."""
    forms = {str(f) for f in (*trial.candidate.writes, trial.candidate.reads[0])}
    if trial.node.op.name != "convolution" or forms != {"channels_last"}:
        return 50.0
    return (9.0 if in_place(trial) else 1.0) if SMALL in trial.candidate.tactic else 1.3


def build(monkeypatch, bench, cache, *, device=True, text=JOINED, **options):
    """Return the section of a build in which ``bench`` gives the times, and its plan's bytes."""
    monkeypatch.setattr(measure_of_cuda, "Bench", bench)
    monkeypatch.setattr(refinement_of_cuda, "SECONDS", {})
    monkeypatch.setattr(compiler_of_cuda, "TACTICS", (TritonConvolution(), Generated()))
    options = {"optimization_level": 4, **options}
    config = BuildConfig(target=f"cuda:sm_{SIMULATED_ARCH}", keep_graph=False, **options)
    at = SimulatedDevice() if device else None
    compiler = CudaCompiler(config, TARGETS[SIMULATED_ARCH], lambda *_: None, at)
    compiler.kernels = Requests
    cache.machine, cache.toolchain = compiler.machine, compiler.toolchain
    compiled = compiler.compile(parse_graph(text, ops.BY_NAME), cache)
    return compiled, write_plan(make_plan([compiled], [], config, None))


def convolutions(compiled):
    return [s for s in compiled.section.program.steps if s.name == "convolution"]


def test_what_is_written_into_a_larger_value_is_timed_there(monkeypatch):
    bench = Times(small_tiles_mind_gaps)
    cache = TimingCache(None, "")
    compiled, first = build(monkeypatch, bench, cache)
    assert not any(s.name == "concat" for s in compiled.section.program.steps)
    a, b, y = convolutions(compiled)
    assert (a.microseconds, b.microseconds, y.microseconds) == (1.3, 1.3, 1.0)
    assert y.tactic not in (a.tactic, b.tactic)
    assert any(SMALL in m.tactic and m.microseconds == 9.0 for m in a.tried)
    assert any(map(in_place, bench.asked))
    asked = len(bench.asked)
    assert build(monkeypatch, bench, cache)[1] == first
    assert len(bench.asked) == asked  # a warm build times nothing
    elsewhere, _ = build(monkeypatch, bench, cache, device=False)  # a cross-build with the cache
    assert [s.tactic for s in convolutions(elsewhere)] == [s.tactic for s in (a, b, y)]
    assert len(bench.asked) == asked


@pytest.mark.parametrize("stage", ["draft", "launch"])
def test_a_failure_is_remembered_with_its_reason(monkeypatch, stage):
    def fails(trial):
        if trial.candidate.tactic.startswith("triton") and SMALL in trial.candidate.tactic:
            raise DeviceError("launch failed: no luck\nmore")
        return 1.0

    bench, cache = Times(fails), TimingCache(None, "")
    if stage == "draft":
        fail_in_drafts(monkeypatch)
    compiled, first = build(monkeypatch, bench, cache)
    (reasons,) = {why for s in convolutions(compiled) for _, why in s.declined if "luck" in why}
    assert reasons in ("launch failed: no luck", "no luck at all")
    tried = [m.tactic for s in convolutions(compiled) for m in s.tried]
    assert not any(SMALL in t for t in tried if t.startswith("triton"))
    asked = len(bench.asked)
    assert build(monkeypatch, bench, cache)[1] == first
    assert len(bench.asked) == asked
    build_again = Times(lambda trial: 1.0)
    monkeypatch.setattr(CudaCompiler, "toolchain", "a later version")
    build(monkeypatch, build_again, cache)
    assert any(SMALL in t.candidate.tactic for t in build_again.asked) is (stage == "launch")


def fail_in_drafts(monkeypatch):
    offered = TritonConvolution.candidates

    def candidates(self, node, target):
        def draft(_):
            raise DeviceError("no luck at all")

        found = offered(self, node, target)
        if not isinstance(found, list):
            return found
        return [dataclasses.replace(c, draft=draft) if SMALL in c.tactic else c for c in found]

    monkeypatch.setattr(TritonConvolution, "candidates", candidates)


def test_memory_that_is_short_now_is_no_failure_for_ever(monkeypatch):
    def short(trial):
        if SMALL in trial.candidate.tactic:
            raise OutOfMemory("allocate failed: out of memory")
        return 1.0

    cache = TimingCache(None, "")
    compiled, _ = build(monkeypatch, Times(short), cache)
    assert any("out of memory" in why for s in convolutions(compiled) for _, why in s.declined)
    assert not cache.failures


def test_what_failed_is_not_chosen_though_nothing_else_is_known(monkeypatch):
    def fails(trial):
        raise DeviceError("no luck")

    bench = Times(fails)
    compiled, _ = build(monkeypatch, bench, TimingCache(None, ""))
    failed = {t.candidate.tactic for t in bench.asked}
    assert failed and not failed & {s.tactic for s in convolutions(compiled)}


def test_limited_time_ends_timing_and_the_build_says_so(monkeypatch):
    bench, cache = Times(lambda trial: 1.0), TimingCache(None, "")
    clock = lambda: float(len(bench.asked))  # noqa: E731
    monkeypatch.setattr(compiler_of_cuda, "TuningTime", lambda s: TuningTime(s, clock))
    compiled, _ = build(monkeypatch, bench, cache, time_budget=4.0)
    assert len(bench.asked) == 4
    assert "the 4 s for timing were up: " in compiled.untuned
    compiled, whole = build(monkeypatch, bench, cache)
    assert compiled.untuned == ""
    _, again = build(monkeypatch, bench, cache, time_budget=1e9)
    assert again == whole  # the budget itself is not in the plan


def test_limited_time_goes_to_what_counts_most(monkeypatch):
    monkeypatch.setattr(measure_of_cuda, "_AT_ONCE", 1)
    seen = []
    portions = measure_of_cuda.Measurer._portions

    def watched(self, jobs, first):
        order = []
        seen.append(order)
        for some in portions(self, jobs, first):
            order += [j.microseconds for j in some]
            yield some

    monkeypatch.setattr(measure_of_cuda.Measurer, "_portions", watched)
    build(monkeypatch, Times(lambda trial: 1.0), TimingCache(None, ""), time_budget=1e9)
    assert max(map(len, seen)) > 1
    assert all(order == sorted(order, reverse=True) for order in seen)


@pytest.mark.parametrize("seconds", [-1, "3", float("nan")])
def test_a_budget_is_a_number_of_seconds(seconds):
    with pytest.raises(ConfigError, match="time budget"):
        BuildConfig(time_budget=seconds)


def test_a_choice_that_does_not_compile_is_not_tried_again(monkeypatch):
    refused, asked = set(), []

    class Refuses(Requests):
        """Refuses the first convolution that it is asked for, from then on."""

        def outcome(self, request):
            if not refused and request.source.startswith(MODULE):
                refused.add(request)
            if request in refused:
                asked.append(request)
                return "too many registers"
            return super().outcome(request)

    def plan(cache):
        config = BuildConfig(target="cuda:sm_90", keep_graph=False)
        compiler = CudaCompiler(config, TARGETS[SIMULATED_ARCH], lambda *_: None)
        compiler.kernels = Refuses
        cache.machine, cache.toolchain = compiler.machine, compiler.toolchain
        return compiler.compile(parse_graph(JOINED, ops.BY_NAME), cache)

    monkeypatch.setattr(compiler_of_cuda, "TACTICS", (TritonConvolution(), Generated()))
    cache = TimingCache(None, "")
    first = plan(cache)
    assert asked
    assert any("registers" in why for s in convolutions(first) for _, why in s.declined)
    asked.clear()
    again = plan(cache)
    assert not asked
    assert [s.tactic for s in convolutions(again)] == [s.tactic for s in convolutions(first)]
