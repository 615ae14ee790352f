"""Offsets of buffers in one arena, from their sizes and lifetimes."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ALIGN_BYTES: Final = 64


@dataclass(frozen=True)
class Lifetime:
    """A buffer of ``size_bytes`` that is needed from step ``first`` to step ``last`` inclusive."""

    size_bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Arena:
    """Where each buffer lies, what all of them need, and the largest sum alive at one step."""

    offsets: tuple[int, ...]
    size_bytes: int
    lower_bound_bytes: int


def aligned(size_bytes: int) -> int:
    """Round up to whole cache lines."""
    return -(-size_bytes // ALIGN_BYTES) * ALIGN_BYTES


def plan_arena(buffers: Sequence[Lifetime]) -> Arena:
    """Place each buffer at the lowest offset free during its life.

    Buffers are placed from large to small (greedy by size; Pisarchyk and Lee, "Efficient Memory
    Management for Deep Neural Net Inference", 2020) and also in order of time; the better of the
    two counts.
    """
    lower_bound = _largest_live_set(buffers)
    by_size = sorted(range(len(buffers)), key=lambda i: (-buffers[i].size_bytes, buffers[i].first))
    offsets, total = _place(buffers, by_size)
    if total > lower_bound:
        by_time = sorted(by_size, key=lambda i: buffers[i].first)
        offsets, total = min((offsets, total), _place(buffers, by_time), key=lambda r: r[1])
    return Arena(tuple(offsets), total, lower_bound)


def _place(buffers: Sequence[Lifetime], order: Sequence[int]) -> tuple[list[int], int]:
    offsets = [0] * len(buffers)
    placed: list[tuple[int, int, int, int]] = []  # begin, end, first, last; sorted by begin
    total = 0
    for i in order:
        b = buffers[i]
        size = aligned(b.size_bytes)
        at = 0
        best: tuple[int, int] | None = None
        for begin, end, first, last in placed:
            if last < b.first or first > b.last:
                continue
            gap = begin - at
            if gap >= size and (best is None or gap < best[0]):
                best = (gap, at)
            at = max(at, end)
        at = best[1] if best is not None else at
        offsets[i] = at
        total = max(total, at + size)
        insort(placed, (at, at + size, b.first, b.last))
    return offsets, total


def _largest_live_set(buffers: Sequence[Lifetime]) -> int:
    if not buffers:
        return 0
    change = [0] * (max(b.last for b in buffers) + 2)
    for b in buffers:
        change[b.first] += b.size_bytes
        change[b.last + 1] -= b.size_bytes
    live = best = 0
    for c in change:
        live += c
        best = max(best, live)
    return best
