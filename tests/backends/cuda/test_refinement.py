"""Choices by what the whole program takes: what is tried, what wins, what a later build does."""

from __future__ import annotations

import ctypes
import dataclasses
import random

import numpy as np
import pytest
from tests.backends.cuda.simulation import SIMULATED_ARCH, Requests
from tests.backends.cuda.test_measure import JOINED
from tests.backends.cuda.test_measure import small_tiles_mind_gaps as mind_gaps

import lamina.backends.cuda.compiler as compiler_of_cuda
import lamina.backends.cuda.measure as measure_of_cuda
import lamina.backends.cuda.refinement as refinement_of_cuda
from lamina import ops
from lamina.backends.cuda.bench import Bench
from lamina.backends.cuda.compiler import CudaCompiler
from lamina.backends.cuda.in_graph import InGraph, can_rehearse
from lamina.backends.cuda.simulated import SimulatedDevice
from lamina.backends.cuda.tactics.convolution import TritonConvolution
from lamina.backends.cuda.tactics.generated import Generated
from lamina.backends.cuda.target import TARGETS
from lamina.builder import make_plan
from lamina.config import BuildConfig
from lamina.errors import DeviceError
from lamina.ir.text import parse_graph
from lamina.plan.format import write_plan
from lamina.tactics.cache import TimingCache
from lamina.tactics.policy import Policy

TWO_EQUAL = """graph(%x: f16[2,32,8,8]) {
  %w = const() type=f16[32,32,1,1] seed=1
  %v = const() type=f16[32,32,1,1] seed=2
  %u = const() type=f16[64,32,1,1] seed=3
  %a = convolution(%x, %w) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
  %b = convolution(%a, %v) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
  %y = convolution(%b, %u) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
  return %y
}"""
DIAMOND = """graph(%x: f32[4,8]) {
  %a = unary(%x) kind=neg
  %b = transpose(%x) perm=(1,0)
  %c = transpose(%a) perm=(1,0)
  %d = matmul(%b, %a)
  %e = matmul(%c, %x)
  %y = binary(%d, %e) kind=sub
  return %y
}"""
INDEXED = """graph(%x: f32[4,8], %i: i64[4]) {
  %n = cast(%x) dtype=i64
  return %n
}"""
WIDE = " 16x32x16 "
SMALL = " 16x16x16 "
EARLY = " early"


@pytest.fixture(autouse=True)
def only_candidates(monkeypatch):
    """Ask only which candidates to take, as in programs that are long."""
    monkeypatch.setattr(refinement_of_cuda, "_SHORT", 0.0)


class Graph:
    """A graph that takes as long as a rule says."""

    def __init__(self, rule, tactics):
        self.rule, self.tactics, self.open = rule, tactics, True

    def run(self, times):
        assert self.open and times > 1
        return self.rule(self.tactics)

    def close(self):
        assert self.open
        self.open = False


class Timed(Bench):
    """Gives times of candidates alone: the smallest tile is best, by little."""

    asked = 0

    def time(self, trial, code, best):
        Timed.asked += 1
        return 1.0 if SMALL in trial.candidate.tactic else 1.1


class Watch:
    """Patches the device's times, and notes what became of the graphs."""

    def __init__(self, monkeypatch, rule):
        self.graphs = []

        def timed(graph, picked):
            steps = {i: picked.get(i) or next(iter(of.trials)) for i, of in graph.steps.items()}
            self.graphs.append(Graph(rule, list(steps.values())))
            return self.graphs[-1]

        monkeypatch.setattr(refinement_of_cuda, "SECONDS", {3: 3.0, 4: 10.0})
        monkeypatch.setattr(measure_of_cuda, "Bench", Timed)
        monkeypatch.setattr(InGraph, "timed", timed)
        monkeypatch.setattr(compiler_of_cuda, "TACTICS", (TritonConvolution(), Generated()))


def build(cache, *, device=True, text=TWO_EQUAL, kernels=Requests, **options):
    """Return the tactics of the convolutions, and the bytes of the plan."""
    config = BuildConfig(target=f"cuda:sm_{SIMULATED_ARCH}", keep_graph=False, **options)
    at = SimulatedDevice() if device else None
    policy = Policy.of(config, {})
    compiler = CudaCompiler(config, TARGETS[SIMULATED_ARCH], lambda *_: None, at, policy)
    compiler.kernels = kernels
    cache.machine, cache.toolchain = compiler.machine, compiler.toolchain
    compiled = compiler.compile(parse_graph(text, ops.BY_NAME), cache)
    assert at is None or not (at.faults or at.used_bytes)
    steps = compiled.section.program.steps
    tactics = [s.tactic for s in steps if s.name == "convolution"]
    return tactics, write_plan(make_plan([compiled], [], config, None))


def wide_overlap(tactics):
    """Each wide tile makes the program faster by 1 of 100 us."""
    return 100.0 - sum(WIDE in t for t in tactics)


def answers(cache):
    return {k: v for k, v in cache.times[cache.machine].items() if " in program " in k}


def test_what_is_faster_in_the_program_wins_and_later_builds_know(monkeypatch):
    watch, cache = Watch(monkeypatch, wide_overlap), TimingCache(None, "")
    tactics, plan = build(cache)
    assert len(tactics) == 3 and all(WIDE in t for t in tactics)
    assert len(answers(cache)) == 2  # the first two convolutions pose one problem
    assert not any(g.open for g in watch.graphs)
    asked, graphs = Timed.asked, len(watch.graphs)
    assert build(cache) == (tactics, plan)
    assert build(cache, device=False)[0] == tactics
    assert (Timed.asked, len(watch.graphs)) == (asked, graphs)


def test_a_choice_in_place_and_then_in_the_program_is_repeated(monkeypatch):
    """The steps are put together twice in the first build, once in later ones."""
    watch, cache = Watch(monkeypatch, wide_overlap), TimingCache(None, "")
    monkeypatch.setattr(Timed, "time", lambda self, trial, code, best: mind_gaps(trial))
    options = {"text": JOINED, "optimization_level": 4}
    tactics, plan = build(cache, **options)
    assert any(WIDE in t for t in tactics) and any(" in place(" in key for key in answers(cache))
    graphs = len(watch.graphs)
    assert build(cache, **options) == (tactics, plan)
    assert build(cache, device=False, **options)[0] == tactics
    assert len(watch.graphs) == graphs


@pytest.mark.parametrize("level", [3, 4])
def test_noise_changes_nothing_and_is_not_asked_again(monkeypatch, level):
    noise = random.Random(level)
    watch = Watch(monkeypatch, lambda _: 100.0 + noise.gauss(0.0, 1.0))
    cache = TimingCache(None, "")
    tactics, plan = build(cache, optimization_level=level)
    assert all(SMALL in t for t in tactics)
    graphs = len(watch.graphs)
    assert graphs
    assert build(cache, optimization_level=level) == (tactics, plan)
    assert len(watch.graphs) == graphs


def test_winners_that_are_slower_together_lose(monkeypatch):
    seen = set()

    def deceives(tactics):
        wide = sum(WIDE in t for t in tactics)
        seen.add(wide)
        return 10.0 if wide == 0 and 3 in seen else 100.0 - wide

    Watch(monkeypatch, deceives)
    cache = TimingCache(None, "")
    assert all(SMALL in t for t in build(cache)[0])
    assert all(SMALL in name for row in answers(cache).values() for name in row)


@pytest.mark.parametrize("options", [{"optimization_level": 2}, {"most_tactics": 1}])
def test_nothing_is_tried_where_there_is_no_choice(monkeypatch, options):
    watch, cache = Watch(monkeypatch, wide_overlap), TimingCache(None, "")
    build(cache, **options)
    assert not watch.graphs and not answers(cache)


def test_time_that_is_up_answers_as_before(monkeypatch):
    Watch(monkeypatch, wide_overlap)
    monkeypatch.setattr(refinement_of_cuda, "SECONDS", {3: 0.0})
    cache = TimingCache(None, "")
    assert all(SMALL in t for t in build(cache)[0])
    assert len(answers(cache)) == 2


def test_a_graph_that_fails_leaves_times_alone_to_decide(monkeypatch):
    def fails(tactics):
        raise DeviceError("no luck")

    watch, cache = Watch(monkeypatch, fails), TimingCache(None, "")
    assert all(SMALL in t for t in build(cache)[0])
    assert not answers(cache) and not any(g.open for g in watch.graphs)


def test_a_better_candidate_alone_asks_again(monkeypatch):
    Watch(monkeypatch, wide_overlap)
    cache = TimingCache(None, "")
    build(cache)
    for row in cache.times[cache.machine].values():
        for name in row:
            if " 32x16x16 " in name:
                row[name] = 0.5
    assert all(" 32x16x16 " in t for t in build(cache, device=False)[0])


def test_the_program_runs_as_in_an_engine(monkeypatch):
    kept = []
    monkeypatch.setattr(refinement_of_cuda, "SECONDS", {3: 3.0})
    monkeypatch.setattr(measure_of_cuda, "Bench", Timed)

    def check(contest, asked):
        graph = contest._graph
        timed = graph.timed({})
        for _ in range(5):  # the nodes run in another order each time
            assert timed.run() > 0
            kept.append(_results(graph))
        timed.close()
        return {}

    monkeypatch.setattr(refinement_of_cuda._Contest, "hold", check)
    build(TimingCache(None, ""), text=DIAMOND)
    assert len(kept) == 5
    for x, y in kept:
        np.testing.assert_allclose(y, -(x.T @ x) - (-x.T @ x), atol=1e-4)


class Descriptive(Requests):
    """Makes kernels that write to global memory of their own, as those with descriptors do."""

    def outcome(self, request):
        return dataclasses.replace(super().outcome(request), scratch_bytes=128)


def test_each_launch_has_scratch_memory_of_its_own(monkeypatch):
    """A launch that starts early writes its descriptors while the one ahead uses its own."""
    seen = []

    def check(contest, asked):
        for of in contest._graph._launches.values():
            first = next(iter(of.values()))
            seen.extend(launch.values[-2] for launch in first)
        return {}

    watch = Watch(monkeypatch, wide_overlap)
    monkeypatch.setattr(refinement_of_cuda._Contest, "hold", check)
    build(TimingCache(None, ""), kernels=Descriptive)
    assert len(set(seen)) == len(seen) > 3 and 0 not in seen and not watch.graphs


def _results(graph):
    """Return the input and the result of ``DIAMOND`` where they lie."""
    found = []
    for number, shape in zip(sorted(graph._ports), ((4, 8), (8, 8)), strict=True):
        raw = (ctypes.c_float * (shape[0] * shape[1])).from_address(graph._ports[number])
        found.append(np.frombuffer(raw, np.float32).reshape(shape).copy())
    return found


def test_indices_from_other_numbers_are_not_rehearsed():
    config = BuildConfig(target=f"cuda:sm_{SIMULATED_ARCH}", keep_graph=False)

    def program(text):
        compiler = CudaCompiler(config, TARGETS[SIMULATED_ARCH], lambda *_: None)
        compiler.kernels = Requests
        graph = parse_graph(text, ops.BY_NAME)
        return compiler.compile(graph, TimingCache(None, "")).section.program

    assert can_rehearse(program(TWO_EQUAL), {})
    assert not can_rehearse(program(INDEXED), {})
    unknown = TWO_EQUAL.replace("%x: f16[2,", "%x: f16[batch,")
    assert not can_rehearse(program(unknown), {})
    assert can_rehearse(program(unknown), {"batch": 2})
    hosted = program(TWO_EQUAL)
    steps = (dataclasses.replace(hosted.steps[0], kind="host"), *hosted.steps[1:])
    assert not can_rehearse(dataclasses.replace(hosted, steps=steps), {})


def early_overlap(tactics):
    """Kernels that release others early make the program faster, but for the smallest tiles."""
    gains = [(-1 if SMALL in t else 1) for t in tactics if t.split(" [")[0].endswith(EARLY)]
    return 100.0 - sum(gains) - 2 * sum(WIDE in t for t in tactics[:2])


def test_kernels_release_the_next_ones_early_where_that_is_faster(monkeypatch):
    watch, cache = Watch(monkeypatch, early_overlap), TimingCache(None, "")
    monkeypatch.setattr(refinement_of_cuda, "_SHORT", 1e3)
    tactics, plan = build(cache)
    assert [WIDE in t for t in tactics] == [True, True, False]
    assert [t.endswith(EARLY) for t in tactics] == [True, True, False]
    assert not any(g.open for g in watch.graphs)
    graphs = len(watch.graphs)
    assert build(cache) == (tactics, plan)
    assert build(cache, device=False)[0] == tactics
    assert len(watch.graphs) == graphs


def test_all_kernels_release_early_together_where_none_alone_gains(monkeypatch):
    def rule(tactics):
        early = [t.split(" [")[0].endswith(EARLY) for t in tactics]
        return 90.0 if sum(early) == 3 else 100.0

    Watch(monkeypatch, rule)
    monkeypatch.setattr(refinement_of_cuda, "_SHORT", 1e3)
    tactics, _ = build(TimingCache(None, ""))
    assert len(tactics) == 3 and all(t.endswith(EARLY) for t in tactics)
