"""Which configurations are timed, round by round, and which tactics are offered at all."""

from __future__ import annotations

import pytest

from lamina.backends.cuda.problems import ROUNDS, worth_timing
from lamina.backends.cuda.selection import _promising
from lamina.tactics.candidate import Candidate
from lamina.tactics.form import Form

PLAIN, LAST = (Form.PLAIN,), (Form.CHANNELS_LAST,)


def candidate(family, number, estimate, form=PLAIN):
    return Candidate(f"{family} {number}", form, form, estimate, lambda _: None)


def family(name, count, estimate, form=PLAIN):
    return [candidate(name, i, estimate + 0.01 * i, form) for i in range(count)]


def timed(candidates, times, *, number=len(ROUNDS) - 1, limit=float("inf")):
    found = worth_timing(candidates, number, lambda c: times.get(c.tactic), limit)
    return [c.tactic for c in found]


def test_the_first_round_has_one_of_each_tactic():
    offered = [*family("a", 4, 1.0), *family("b", 2, 1.1), *family("a", 2, 1.2, LAST)]
    assert timed(offered, {}, number=0) == ["a 0", "b 0", "a 0"]


def test_of_a_library_three_are_tried_where_the_first_is_not_far_behind():
    offered = [*family("a", 1, 1.0), *family("cudnn-conv", 5, 1.0)]
    assert timed(offered, {}, number=0) == ["a 0", "cudnn-conv 0"]
    assert len(timed(offered, {"a 0": 10.0, "cudnn-conv 0": 12.9})) == 4
    assert len(timed(offered, {"a 0": 10.0, "cudnn-conv 0": 13.1})) == 2
    assert len(timed(offered, {"a 0": 10.0, "cudnn-conv 0": 9.0})) == 6


def test_tactics_that_are_close_go_on():
    offered = [*family("a", 8, 1.0), *family("b", 8, 1.0), *family("c", 8, 1.0)]
    times = {"a 0": 10.0, "b 0": 10.9, "c 0": 11.1}
    assert timed(offered, times, number=1) == ["a 0", "a 1", "a 2", "b 0", "b 1", "b 2", "c 0"]
    times |= {"a 1": 9.0, "b 1": 9.1, "b 2": 9.3}
    found = timed(offered, times)
    assert [t for t in found if t[0] == "a"] == [f"a {i}" for i in range(8)]
    assert len([t for t in found if t[0] == "b"]) == 8
    times["b 1"] = 9.3
    assert len([t for t in timed(offered, times) if t[0] == "b"]) == 3


def test_what_later_rounds_found_changes_nothing():
    offered = [*family("a", 8, 1.0), *family("b", 8, 1.0)]
    times = {"a 0": 10.0, "b 0": 10.5, "a 1": 10.0, "b 1": 10.5}
    before = timed(offered, times)
    later = times | {"a 7": 1.0, "a 5": 30.0}
    assert timed(offered, later) == before


def test_forms_that_are_far_behind_get_one_try():
    offered = [*family("a", 4, 1.0), *family("a", 4, 1.0, LAST)]
    seen = iter((10.0, 13.0))
    first = {id(c): next(seen) for c in worth_timing(offered, 0, lambda _: None)}
    found = worth_timing(offered, 2, lambda c: first.get(id(c)))
    assert [c.writes for c in found].count(LAST) == 1
    assert [c.writes for c in found].count(PLAIN) == 4


def test_a_kernel_far_from_its_limit_gets_one_try():
    offered = family("a", 4, 1.0)
    assert timed(offered, {"a 0": 10.0}, limit=11.0) == ["a 0"]
    assert len(timed(offered, {"a 0": 10.0}, limit=12.0)) == 4


def test_where_the_first_failed_others_are_tried():
    offered = [*family("a", 4, 1.0), *family("b", 1, 1.0)]
    assert timed(offered, {"b 0": 1.0}, number=1) == ["a 0", "a 1", "a 2", "b 0"]


@pytest.mark.parametrize("far", ["triton-far", "cudnn-conv"])
def test_a_tactic_far_from_two_others_is_not_offered_unless_a_library_s(far):
    near = [candidate("a", 0, 1.0), candidate("b", 0, 1.1)]
    kept = _promising([*near, candidate(far, 0, 5.0)], 6, 1.25)
    assert (far in {c.tactic.split()[0] for c in kept}) is (far == "cudnn-conv")
    assert len(_promising([near[0], candidate(far, 0, 5.0)], 6, 1.25)) == 2
