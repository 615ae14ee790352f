"""Candidates of each node, the most promising first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from lamina.backends.cpu.selection import Choices
from lamina.backends.cpu.tactics.candidate import Candidate
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject

MOST_TIMED: Final = {0: 1, 1: 3, 2: 6, 3: 12, 4: 24, 5: 1 << 30}
"""Configurations of one tactic that are compiled and timed for a node, by optimization level."""


class Tactic(Protocol):
    """One source of kernels."""

    name: str

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Return what it offers for a node, a reason why not, or None for foreign operators."""


def enumerate_candidates(
    node: Node, target: CudaTarget, tactics: Sequence[Tactic], level: int
) -> Choices:
    """Ask every tactic; of each one's configurations those with the best estimates stay."""
    choices = Choices(node, [], [])
    for tactic in tactics:
        offered = tactic.candidates(node, target)
        if isinstance(offered, Reject):
            choices.declined.append((tactic.name, offered.reason))
        elif offered:
            choices.candidates += _promising(offered, MOST_TIMED[level])
    choices.microseconds = [c.estimate_microseconds for c in choices.candidates]
    return choices


def _promising(offered: list[Candidate], most: int) -> list[Candidate]:
    """Keep the best of each combination of forms: which forms win is decided over the graph."""
    kept: list[Candidate] = []
    counts: dict[Any, int] = {}
    for c in sorted(offered, key=lambda c: c.estimate_microseconds):
        forms = (c.reads, c.writes)
        if counts.get(forms, 0) < most:
            counts[forms] = counts.get(forms, 0) + 1
            kept.append(c)
    return kept


def without(choices: Choices, failed: Mapping[int, str]) -> Choices:
    """Return choices less the candidates, by ``id``, that cannot be had, with the reasons."""
    kept = [
        (c, us)
        for c, us in zip(choices.candidates, choices.microseconds, strict=True)
        if id(c) not in failed
    ]
    gone = [(c.tactic, failed[id(c)]) for c in choices.candidates if id(c) in failed]
    return dataclasses.replace(
        choices,
        candidates=[c for c, _ in kept],
        microseconds=[us for _, us in kept],
        declined=[*choices.declined, *gone],
    )
