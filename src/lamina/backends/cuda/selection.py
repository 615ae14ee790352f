"""Candidates of each node, the most promising first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lamina.backends.cuda.problems import is_library
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.tactics.candidate import Candidate, Tactic
from lamina.tactics.choices import Choices

_FURTHEST: Final = 1.6
"""How many times further from the best estimate a tactic's first configuration may be than its
others.  Of 39 on an H200 that were estimated at 1.35 times the best or more none was fastest."""

_ALTERNATIVES: Final = 2
"""Tactics that are offered in any case: one may fail."""

TIMED: Final = {
    0: (1, 1.0),
    1: (2, 1.2),
    2: (4, 1.2),
    3: (6, 1.25),
    4: (12, 2.5),
    5: (1 << 30, float("inf")),
}
"""By optimization level, how many configurations of one tactic are compiled and timed for a node,
and how many times the best estimate theirs may be.  Against twelve of each tactic, level 3 made the
sum of all layers on an H200 slower by 0.5 % (ResNet-50, batch 1), 2.7 % (batch 128) and not at all
(BERT-base, batch 1)."""


def enumerate_candidates(
    node: Node,
    target: CudaTarget,
    tactics: Sequence[Tactic[CudaTarget]],
    level: int,
    last_resorts: Sequence[Tactic[CudaTarget]] = (),
) -> Choices:
    """Ask every tactic; of each one's configurations those with the best estimates stay.

    Last resorts are asked while there is no candidate.
    """
    choices = Choices(node, [], [])
    offered: list[Candidate] = []
    for tactic in (*tactics, *last_resorts):
        if offered and tactic in last_resorts:
            continue
        found = tactic.candidates(node, target)
        if isinstance(found, Reject):
            choices.declined.append((tactic.name, found.reason))
        elif found:
            offered += found
    choices.candidates = _promising(offered, *TIMED[level])
    choices.microseconds = [c.estimate_microseconds for c in choices.candidates]
    return choices


def _promising(offered: list[Candidate], most: int, factor: float) -> list[Candidate]:
    """Keep the best of each combination of forms: which forms win is decided over the graph.

    Where there are two tactics, others that are far from the best go, but for libraries', whose
    estimates are coarse.
    """
    kept: list[Candidate] = []
    best: dict[Any, float] = {}
    counts: dict[Any, int] = {}
    tactics: dict[Any, int] = {}
    for c in sorted(offered, key=lambda c: c.estimate_microseconds):
        forms, family = (c.reads, c.writes), (c.tactic.split(" ")[0], c.reads, c.writes)
        limit = factor * best.setdefault(forms, c.estimate_microseconds)
        count = counts.get(family, 0)
        if not count:
            needed = is_library(c) or tactics.get(forms, 0) < _ALTERNATIVES
            limit = float("inf") if needed else _FURTHEST * limit
            tactics[forms] = tactics.get(forms, 0) + 1
        if count >= most or c.estimate_microseconds > limit:
            continue
        counts[family] = count + 1
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
