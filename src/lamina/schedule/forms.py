"""Which memory layout each value has: chosen over the whole graph, with reorders counted.

A *form* is the name of a layout family (row-major, channels last, channel blocks).  Each node has
options: the forms that an implementation reads and writes, and its time.  A value is kept in one
form; a node that needs another pays for a reorder.  The total is minimized by coordinate descent
over the values, from several uniform starts: exact minimization is NP-hard on graphs with joins,
while on networks the neighbours of a value decide its form almost alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

_SWEEPS: Final = 8

ReorderCost = Callable[[int, str, str], float]
"""Microseconds to bring value number ``v`` from one form to another."""


@dataclass(frozen=True)
class Option:
    """One way to run a node: forms of operands (None: not constrained) and results, its time."""

    reads: tuple[str | None, ...]
    writes: tuple[str, ...]
    microseconds: float


@dataclass(frozen=True)
class NodeOptions:
    """A node as the scheduler sees it: numbers of its operands and results, and its options."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Assignment:
    """The option of each node, the form of each value, and the total in microseconds."""

    chosen: tuple[int, ...]
    forms: tuple[str, ...]
    microseconds: float


def assign_forms(
    nodes: Sequence[NodeOptions],
    possible: Sequence[Sequence[str]],
    fixed: Mapping[int, str],
    reorder: ReorderCost,
) -> Assignment:
    """Choose a form for each value and an option for each node.

    ``possible`` lists the forms that each value may have, the default first; ``fixed`` holds the
    values whose form is given from outside (inputs and outputs).
    """
    problem = _Problem(nodes, possible, fixed, reorder)
    starts = list(dict.fromkeys(form for forms in possible for form in forms)) or [""]
    return min((problem.descend(start) for start in starts), key=lambda a: a.microseconds)


class _Problem:
    def __init__(
        self,
        nodes: Sequence[NodeOptions],
        possible: Sequence[Sequence[str]],
        fixed: Mapping[int, str],
        reorder: ReorderCost,
    ) -> None:
        self.nodes, self.possible, self.fixed = nodes, possible, fixed
        self.reorder = cache(reorder)
        self.touching: list[list[int]] = [[] for _ in possible]
        for i, node in enumerate(nodes):
            for v in {*node.inputs, *node.outputs}:
                self.touching[v].append(i)

    def descend(self, start: str) -> Assignment:
        """Improve the assignment that prefers form ``start`` until no single change helps."""
        forms = [
            self.fixed.get(v) or (start if start in options else options[0])
            for v, options in enumerate(self.possible)
        ]
        for _ in range(_SWEEPS):
            if not self._sweep(forms):
                break
        best = [self.best(node, forms) for node in self.nodes]
        return Assignment(tuple(i for _, i in best), tuple(forms), sum(c for c, _ in best))

    def _sweep(self, forms: list[str]) -> bool:
        changed = False
        for v, options in enumerate(self.possible):
            if v in self.fixed or len(options) < 2:
                continue
            before = forms[v]
            costs = []
            for form in options:
                forms[v] = form
                cost = sum(self.best(self.nodes[i], forms)[0] for i in self.touching[v])
                costs.append((cost, form != before, form))
            forms[v] = min(costs)[2]
            changed |= forms[v] != before
        return changed

    def best(self, node: NodeOptions, forms: Sequence[str]) -> tuple[float, int]:
        """Return the cheapest option of a node, reorders included."""
        return min(
            (
                option.microseconds
                + sum(
                    self.reorder(v, forms[v], need)
                    for v, need in zip(node.inputs, option.reads, strict=True)
                    if need is not None and need != forms[v]
                )
                + sum(
                    self.reorder(v, made, forms[v])
                    for v, made in zip(node.outputs, option.writes, strict=True)
                    if made != forms[v]
                ),
                i,
            )
            for i, option in enumerate(node.options)
        )
