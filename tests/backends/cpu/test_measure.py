"""Timing of candidates: what is timed, how often, and what is not made for it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from lamina import ops
from lamina.backends.cpu.code import Code, Objects
from lamina.backends.cpu.kernels import winograd
from lamina.backends.cpu.measure import Measurer
from lamina.backends.cpu.onednn import library, packing
from lamina.backends.cpu.selection import enumerate_candidates, problem_key
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm import target as llvm_target
from lamina.errors import DeviceError
from lamina.ir.graph import Graph, emit_node
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ir.weight import Weight
from lamina.tactics.cache import TimingCache
from lamina.tactics.candidate import Packed
from lamina.tactics.choices import Choices, dense_layouts, describe
from lamina.tactics.tuning_time import TuningTime


def _target() -> CpuTarget:
    return CpuTarget(library.load(), llvm_target.host_isa(), 2)


@cache
def _objects() -> Objects:
    """Return what the tests compiled so far."""
    return Objects(_target().isa)


def _convolution(seed: int = 0):
    """Return a 3x3 convolution that oneDNN and the own kernels compute."""
    w = np.random.default_rng(seed).standard_normal((32, 32, 3, 3)).astype(np.float32)
    type = TensorType(DType.F32, w.shape)
    x = Graph().input("x", TensorType(DType.F32, (1, 32, 14, 14)))
    weights = emit_node(ops.Const(type=type, weight=Weight(w)), (), loc=Loc("w")).output
    op = ops.Convolution(strides=(1, 1), dilations=(1, 1), pads_begin=(1, 1), pads_end=(1, 1))
    return emit_node(op, [x, weights], loc=Loc("test"))


def _measurer(cache: TimingCache, events: list | None = None) -> Measurer:
    seen: list = [] if events is None else events
    return Measurer(_target(), cache, _objects(), lambda *event: seen.append(event))


def test_no_weights_are_packed_to_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("packed")

    monkeypatch.setattr(winograd, "pack_weights", refuse)
    monkeypatch.setattr(packing, "pack", refuse)
    choices = enumerate_candidates(_convolution(), _target())
    offered = {c.tactic for c in choices.candidates}
    assert "onednn" in offered
    assert any(tactic.startswith("winograd") for tactic in offered)
    _measurer(TimingCache(None, "here")).measure([choices])
    assert {c.tactic for c in choices.candidates} == offered
    assert all(0 < us < 1e6 for us in choices.microseconds)


def test_packed_weights_have_the_size_that_was_promised() -> None:
    node, target = _convolution(), _target()
    code = Code(_objects())
    for candidate in enumerate_candidates(node, target).candidates:
        draft = code.draft(candidate, *dense_layouts(node, candidate))
        packed = [role for role in draft.arguments if isinstance(role, Packed)]
        assert packed, candidate.tactic
        for role in packed:
            assert role.make().array.nbytes == role.size_bytes, candidate.tactic


def test_equal_problems_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def time(self: Measurer, _: object, node: object, candidate: object, draft: object) -> float:
        timed.append(describe(candidate))  # type: ignore[arg-type]
        return 1.0

    monkeypatch.setattr(Measurer, "_time", time)
    both = [enumerate_candidates(_convolution(seed), _target()) for seed in (0, 1)]
    events: list = []
    _measurer(TimingCache(None, "here"), events).measure(both)
    assert len(timed) == len(set(timed)) == len(both[0].candidates)
    assert both[0].microseconds == both[1].microseconds == [1.0] * len(timed)
    assert all(0 <= done <= total for done, total, _ in events)


def test_a_configuration_far_from_the_best_is_not_timed_in_its_other_forms() -> None:
    choices = enumerate_candidates(_convolution(), _target())
    cache = TimingCache(None, "here")
    problem = problem_key(choices.node, _target())
    firsts = {}
    for c in choices.candidates:
        firsts.setdefault(c.tactic, describe(c))
    for tactic, name in firsts.items():
        cache.put(problem, name, 10.0 if tactic == "onednn" else 20.0)
    for c in choices.candidates:
        if c.tactic == "onednn":
            cache.put(problem, describe(c), 10.0)
    _measurer(cache).measure([choices])
    kept = [describe(c) for c in choices.candidates if c.tactic != "onednn"]
    assert kept == [name for tactic, name in firsts.items() if tactic != "onednn"]


def test_what_fails_is_declined_for_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def time(self: Measurer, _: object, node: object, candidate: object, draft: object) -> float:
        if candidate.tactic == "onednn":  # type: ignore[attr-defined]
            raise DeviceError("it does not run here\nsecond line")
        return 1.0

    monkeypatch.setattr(Measurer, "_time", time)
    both: list[Choices] = [enumerate_candidates(_convolution(s), _target()) for s in (0, 1)]
    _measurer(TimingCache(None, "here")).measure(both)
    for choices in both:
        assert "onednn" not in {c.tactic for c in choices.candidates}
        reasons = [why for name, why in choices.declined if name.startswith("onednn [")]
        assert reasons
        assert set(reasons) == {"it does not run here"}


def test_equal_kernels_are_kept_and_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    target = _target()
    objects = Objects(target.isa)
    node = _convolution()
    own = [
        c for c in enumerate_candidates(node, target).candidates if c.tactic.startswith("winograd")
    ]
    codes = [Code(objects), Code(objects)]
    drafts = [
        code.draft(own[0], *dense_layouts(node, own[0])) for code in (codes[0], codes[0], codes[1])
    ]
    assert drafts[0].symbols == drafts[1].symbols == drafts[2].symbols
    assert [len(code.modules) for code in codes] == [1, 1]
    first = codes[0].image()
    monkeypatch.setattr("lamina.backends.cpu.code.compile_module", None)
    assert codes[1].image() == first
    assert set(drafts[0].symbols) <= set(first.symbols)


def test_what_failed_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def time(self: Measurer, _: object, node: object, candidate: object, draft: object) -> float:
        nonlocal asked
        asked = [*asked, candidate.tactic]  # type: ignore[attr-defined]
        if candidate.tactic == "onednn":  # type: ignore[attr-defined]
            raise DeviceError("it does not run here")
        return 1.0

    monkeypatch.setattr(Measurer, "_time", time)
    cache = TimingCache(None, "here", "one version")
    for _ in range(2):
        first, asked = asked, []
        choices = enumerate_candidates(_convolution(), _target())
        _measurer(cache).measure([choices])
        assert "onednn" not in {c.tactic for c in choices.candidates}
        assert any(why == "it does not run here" for _, why in choices.declined)
    assert "onednn" in first and not asked
    cache.toolchain = "another version"
    _measurer(cache).measure([enumerate_candidates(_convolution(), _target())])
    assert set(asked) == {"onednn"}


def test_without_time_estimates_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Measurer, "_time", lambda *_: pytest.fail("timed"))
    time = TuningTime(1.0, iter([0.0, *[2.0] * 9]).__next__)
    choices = enumerate_candidates(_convolution(), _target())
    estimates = dict(zip(map(describe, choices.candidates), choices.microseconds, strict=True))
    measurer = Measurer(
        _target(), TimingCache(None, "here"), _objects(), lambda *_: None, time=time
    )
    measurer.measure([choices])
    found = dict(zip(map(describe, choices.candidates), choices.microseconds, strict=True))
    assert found == estimates
    assert "1 of 1 kinds of layers" in time.note()
