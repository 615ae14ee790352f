"""Candidates of each node."""

from __future__ import annotations

import dataclasses
from typing import Final

from lamina.backends.cpu.tactics import TACTICS
from lamina.backends.cpu.target import CpuTarget
from lamina.ir.graph import Node, Value
from lamina.ir.pattern import Reject
from lamina.tactics.candidate import Candidate, Draft, Placement
from lamina.tactics.choices import Choices
from lamina.tactics.signature import signature
from lamina.tactics.views import STRIDED_VIEW

_MAYBE_ALONE: Final = 60.0
_SURELY_ALONE: Final = 3.0
"""Microseconds of one thread: between the two, one thread and all are both timed."""


def enumerate_candidates(node: Node, target: CpuTarget) -> Choices:
    """Ask every tactic."""
    choices = Choices(node, [], [])
    for tactic in TACTICS:
        offered = tactic.candidates(node, target)
        if isinstance(offered, Reject):
            choices.declined.append((tactic.name, offered.reason))
        elif offered:
            choices.candidates += offered
    if target.threads > 1:
        choices.candidates = [v for c in choices.candidates for v in _thread_variants(c)]
    choices.microseconds = [c.estimate_microseconds for c in choices.candidates]
    return choices


def _thread_variants(c: Candidate) -> list[Candidate]:
    """Return a candidate as it is, on one thread, or both to be timed.

    Waking another thread takes some microseconds, and much longer when the cores are busy.
    Generated kernels know how many threads their work feeds.
    """
    if c.tactic in ("codegen", STRIDED_VIEW) or c.estimate_microseconds > _MAYBE_ALONE:
        return [c]

    def draft(p: Placement) -> Draft:
        return dataclasses.replace(c.draft(p), threads=1)

    alone = dataclasses.replace(c, tactic=f"{c.tactic} alone", draft=draft)
    return [alone] if c.estimate_microseconds < _SURELY_ALONE else [c, alone]


def problem_key(node: Node, target: CpuTarget) -> str:
    """Return what decides the time of a node: operator, types, likeliest sizes, threads."""
    types = [_type_text(v, target) for v in (*node.inputs, *node.outputs)]
    return f"{signature(node.op)}({', '.join(types)}) threads={target.threads}"


def _type_text(v: Value, target: CpuTarget) -> str:
    return str(v.type.substitute(dict(target.env)))
