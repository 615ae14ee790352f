"""Where the time of a build went."""

from __future__ import annotations

import pytest

from lamina.tactics.spent import Spent


class Clock:
    """Goes on when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_phases_inside_others_count_for_themselves() -> None:
    clock = Clock()
    spent = Spent(clock)
    with spent.phase("outer"):
        clock.now += 1.0
        with spent.phase("inner"):
            clock.now += 2.0
        clock.now += 4.0
        with pytest.raises(ValueError), spent.phase("inner"):
            clock.now += 8.0
            raise ValueError
    clock.now += 100.0
    with spent.phase("outer"):
        clock.now += 16.0
    assert spent.seconds == {"outer": 21.0, "inner": 10.0}


def test_the_text_leaves_small_phases_out() -> None:
    spent = Spent(seconds={"a": 10.0, "b": 0.05, "c": 2.04})
    other = Spent(seconds={"c": 1.0})
    other.add("kernels compiled", 2)
    other.add("kernels compiled", 1)
    spent.merge(other)
    assert spent.text() == "a 10.0 s, c 3.0 s; 3 kernels compiled"
    assert Spent().text() == ""
