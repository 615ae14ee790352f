"""The arena: no two buffers that live together overlap, and little is wasted."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.runtime.arena import ALIGN_BYTES, Lifetime, aligned, plan_arena

PROFILE = settings(max_examples=200, deadline=None, derandomize=True)
LIFETIMES = st.lists(
    st.builds(
        lambda size, first, length: Lifetime(size, first, first + length),
        st.one_of(st.integers(0, 300), st.integers(0, 1 << 33)),
        st.integers(0, 25),
        st.integers(0, 10),
    ),
    max_size=25,
)


def _together(a: Lifetime, b: Lifetime) -> bool:
    return a.first <= b.last and b.first <= a.last


def _live_sum(buffers: list[Lifetime], step: int) -> int:
    return sum(b.size_bytes for b in buffers if b.first <= step <= b.last)


@PROFILE
@given(LIFETIMES)
def test_buffers_that_live_together_do_not_overlap(buffers: list[Lifetime]) -> None:
    arena = plan_arena(buffers)
    placed = list(zip(buffers, arena.offsets, strict=True))
    for (a, at), (b, other) in itertools.combinations(placed, 2):
        if _together(a, b) and a.size_bytes and b.size_bytes:
            assert at + a.size_bytes <= other or other + b.size_bytes <= at
    for b, at in placed:
        assert at % ALIGN_BYTES == 0
        assert 0 <= at
        assert at + b.size_bytes <= arena.size_bytes


@PROFILE
@given(LIFETIMES)
def test_the_lower_bound_is_the_largest_live_set(buffers: list[Lifetime]) -> None:
    arena = plan_arena(buffers)
    largest = max((_live_sum(buffers, step) for step in range(40)), default=0)
    assert arena.lower_bound_bytes == largest
    assert arena.lower_bound_bytes <= arena.size_bytes
    assert arena.size_bytes <= sum(aligned(b.size_bytes) for b in buffers)


@PROFILE
@given(LIFETIMES)
def test_planning_is_deterministic(buffers: list[Lifetime]) -> None:
    assert plan_arena(buffers) == plan_arena(list(buffers))


@PROFILE
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=40))
def test_a_chain_needs_hardly_more_than_its_largest_pair(sizes: list[int]) -> None:
    """Each value is read by the next step alone: the classical ping-pong between two ends."""
    kib = [1024 * s for s in sizes]
    buffers = [Lifetime(s, i, i + 1) for i, s in enumerate(kib)]
    arena = plan_arena(buffers)
    assert arena.lower_bound_bytes == max(
        (a + b for a, b in itertools.pairwise(kib)), default=kib[0]
    )
    assert arena.size_bytes <= 1.5 * arena.lower_bound_bytes


@pytest.mark.parametrize("width", [64, 256])
def test_a_network_with_shortcuts_is_planned_without_waste(width: int) -> None:
    """Blocks of three steps whose input lives to the block's end, as in ResNet-50."""
    buffers = []
    step, size = 0, width * 56 * 56 * 4
    for block in range(16):
        if block in (3, 7, 13):
            size //= 2
        buffers.append(Lifetime(size, step, step + 4))
        buffers.append(Lifetime(size // 4, step + 1, step + 2))
        buffers.append(Lifetime(size // 4, step + 2, step + 3))
        step += 4
    buffers.append(Lifetime(size, step, step))
    arena = plan_arena(buffers)
    assert arena.size_bytes <= 1.1 * arena.lower_bound_bytes


def test_nothing_needs_nothing() -> None:
    arena = plan_arena([])
    assert (arena.offsets, arena.size_bytes, arena.lower_bound_bytes) == ((), 0, 0)
    assert plan_arena([Lifetime(0, 0, 3)]).size_bytes == 0


def test_buffers_of_different_times_share_a_place() -> None:
    arena = plan_arena([Lifetime(1000, 0, 1), Lifetime(1000, 2, 3), Lifetime(640, 4, 4)])
    assert arena.offsets == (0, 0, 0)
    assert arena.size_bytes == 1024
