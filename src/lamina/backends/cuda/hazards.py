"""Which launches must wait for which, and how that lengthens the lives of buffers.

Two steps may run at the same time unless one writes memory that the other reads or writes.  The
rule looks at addresses, so that buffers which share memory in turn need no thought of their own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

CALLERS: Final = 0
"""Spaces from here on are the caller's arrays, by number."""
OWN: Final = -1
"""The space of absolute addresses."""


@dataclass(frozen=True)
class Range:
    """Bytes ``begin`` to ``end`` of a space that a step touches."""

    space: int
    begin: int
    end: int
    writes: bool


@dataclass
class _Cell:
    """Memory between two neighbouring boundaries: who wrote it last, and who read it since."""

    writer: int = -1
    readers: list[int] = field(default_factory=list)


def dependencies(steps: Sequence[Sequence[Range]]) -> list[frozenset[int]]:
    """Return for each step the earlier steps that must have ended, without implied ones."""
    cuts: dict[int, list[int]] = {}
    for ranges in steps:
        for r in ranges:
            cuts.setdefault(r.space, []).extend((r.begin, r.end))
    places = {space: sorted(set(at)) for space, at in cuts.items()}
    cells = {space: [_Cell() for _ in at] for space, at in places.items()}
    needed: list[set[int]] = []
    for number, ranges in enumerate(steps):
        before: set[int] = set()
        for r in ranges:
            places_of = places[r.space]
            first, last = bisect_left(places_of, r.begin), bisect_left(places_of, r.end)
            for cell in cells[r.space][first:last]:
                _touch(cell, number, before, writes=r.writes)
        before.discard(number)
        needed.append(before)
    return reduced(needed)


def _touch(cell: _Cell, step: int, before: set[int], *, writes: bool) -> None:
    if cell.writer >= 0:
        before.add(cell.writer)
    if writes:
        before.update(cell.readers)
        cell.writer, cell.readers = step, []
    else:
        cell.readers.append(step)


def ancestors(needed: Sequence[Iterable[int]]) -> list[int]:
    """Return for each step, as a set of bits, all steps before it."""
    masks: list[int] = []
    for before in needed:
        mask = 0
        for p in before:
            mask |= masks[p] | 1 << p
        masks.append(mask)
    return masks


def reduced(needed: Sequence[set[int]]) -> list[frozenset[int]]:
    """Drop what follows from the rest: a step that another needed step waits for itself."""
    masks = ancestors(needed)
    kept: list[frozenset[int]] = []
    for before in needed:
        implied = 0
        for p in before:
            implied |= masks[p]
        kept.append(frozenset(p for p in before if not implied >> p & 1))
    return kept


def lengthened(
    needed: Sequence[Iterable[int]], users: Mapping[int, Iterable[int]]
) -> dict[int, int]:
    """Return for each buffer the last step during which it must not be used for another.

    ``needed`` are the data dependencies between steps, ``users`` the steps that touch each buffer.
    A later step may take a buffer's memory without being held up by that when it comes after all
    of the buffer's users anyway.
    """
    masks = ancestors(needed)
    last_beside: dict[int, int] = {}
    for step in {u for users_of in users.values() for u in users_of}:
        beside = (s for s in range(len(masks) - 1, step, -1) if not masks[s] >> step & 1)
        last_beside[step] = next(beside, step)
    return {b: max(last_beside[u] for u in users_of) for b, users_of in users.items()}
