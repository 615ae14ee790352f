"""Which of a node's candidates may be chosen: limits of the build, and a choice of the caller's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lamina.config import BuildConfig
from lamina.errors import BuildError, LaminaError
from lamina.ir.dims import Dim, evaluate, symbols
from lamina.ir.graph import Node
from lamina.tactics.candidate import Candidate
from lamina.tactics.choices import Choices, describe
from lamina.tactics.views import STRIDED_VIEW

Sizes = Mapping[str, tuple[int, int, int]]
"""Smallest, likeliest and largest value of each symbol."""


@dataclass(frozen=True)
class Offer:
    """A candidate as a caller may judge it.

    ``workspace_bytes`` is scratch memory for the largest shapes; ``microseconds`` is what the
    timing cache knows, None before it was timed.
    """

    candidate: Candidate
    workspace_bytes: int
    microseconds: float | None


class Selector(Protocol):
    """Chooses among the candidates of each node; see ``BuildConfig.selector``."""

    def select(self, node: Node, offers: Sequence[Offer], sizes: Sizes) -> Sequence[int]:
        """Return the numbers of the offers that may be used, none to leave it to Lamina."""

    def report(self, chosen: Sequence[tuple[Node, Offer]], sizes: Sizes) -> None:
        """Learn which offer every node got; called once, when all are decided."""


@dataclass
class Policy:
    """Narrows what tactics offer.

    ``workspace_bytes`` is the most scratch memory that a step may ask for, ``most`` the most
    candidates that are timed for a node (0: any number).
    """

    sizes: Sizes = field(default_factory=dict)
    workspace_bytes: int | None = None
    most: int = 0
    selector: Selector | None = None
    refused: dict[tuple[Node, str], str] = field(default_factory=dict)
    """Why a node must not have a candidate that was chosen for it before."""
    chosen: dict[Node, Offer] = field(default_factory=dict)
    again: bool = False
    """Whether a candidate was refused since ``begin``, so that others must be chosen."""
    _offers: dict[Node, dict[str, Offer]] = field(default_factory=dict)

    @staticmethod
    def of(config: BuildConfig, sizes: Sizes) -> Policy:
        """Return what the options of a build say."""
        return Policy(
            sizes=sizes,
            workspace_bytes=config.workspace_bytes,
            most=config.most_tactics,
            selector=config.selector,
        )

    @property
    def allows_all(self) -> bool:
        """Whether there is nothing to narrow."""
        return self.selector is None and not self.most and not self.refused

    def begin(self) -> None:
        """Forget what was chosen, not what was refused."""
        self.chosen.clear()
        self.again = False

    def narrow(
        self,
        choices: Choices,
        workspace: Callable[[Candidate], Dim],
        known: Callable[[Candidate], float | None],
    ) -> None:
        """Drop, in place, the candidates that may not be used.

        ``workspace`` returns what a candidate's step asks for (a LaminaError when it has none),
        ``known`` the microseconds that it took earlier.
        """
        self.drop_refused(choices)
        if self.most and len(choices.candidates) > self.most:
            best = sorted(range(len(choices.candidates)), key=choices.microseconds.__getitem__)
            _keep(choices, sorted(best[: self.most]))
        views = any(c.tactic == STRIDED_VIEW for c in choices.candidates)
        if self.selector is None or not choices.candidates or views:
            return  # a node that may move nothing is not asked about
        if choices.node not in self._offers:
            self._select(choices, workspace, known, self.selector)
        allowed = self._offers[choices.node]
        _keep(choices, [i for i, c in enumerate(choices.candidates) if describe(c) in allowed])

    def drop_refused(self, choices: Choices) -> None:
        """Drop, in place, the candidates that wanted too much when they were chosen."""
        gone = {
            i: why
            for i, c in enumerate(choices.candidates)
            if (why := self.refused.get((choices.node, describe(c))))
        }
        choices.declined += [(describe(choices.candidates[i]), why) for i, why in gone.items()]
        _keep(choices, [i for i in range(len(choices.candidates)) if i not in gone])

    def _select(
        self,
        choices: Choices,
        workspace: Callable[[Candidate], Dim],
        known: Callable[[Candidate], float | None],
        selector: Selector,
    ) -> None:
        node = choices.node
        offers = []
        for c in choices.candidates:
            try:
                size = self.largest(workspace(c))
            except LaminaError:
                continue  # it is dropped, with the reason, when it is timed or used
            if self.fits(size):
                offers.append(Offer(c, size, known(c)))
        picked = [*selector.select(node, offers, self.sizes)] if offers else []
        if wrong := [i for i in picked if not 0 <= i < len(offers)]:
            raise BuildError(
                f"the selector chose tactic {wrong[0]} of {len(offers)} for {node}",
                hint="return numbers of the list of choices",
            )
        kept = [offers[i] for i in picked] or offers
        self._offers[node] = {describe(o.candidate): o for o in kept}

    def largest(self, workspace: Dim) -> int:
        """Return the bytes of a workspace for the largest shapes, as far as they are known."""
        env = {name: high for name, (_, _, high) in self.sizes.items()}
        return evaluate(workspace, env) if all(s in env for s in symbols(workspace)) else 0

    def fits(self, workspace: Dim) -> bool:
        """Whether a workspace is within the limit, for the largest shapes."""
        return self.workspace_bytes is None or self.largest(workspace) <= self.workspace_bytes

    def choose(self, node: Node, chosen: Candidate, workspace: Dim, microseconds: float) -> None:
        """Note the candidate of a node; one whose workspace is too large is refused."""
        size = self.largest(workspace)
        if not self.fits(size):
            why = f"needs {size} bytes of workspace, the limit is {self.workspace_bytes}"
            self.refused[node, describe(chosen)] = why
            self.again = True
        self.chosen[node] = Offer(chosen, size, microseconds)

    def finish(self) -> None:
        """Tell the selector what was chosen for the nodes that it was asked about."""
        if self.selector is not None:
            asked = [(n, offer) for n, offer in self.chosen.items() if n in self._offers]
            self.selector.report(asked, self.sizes)


def _keep(choices: Choices, numbers: Sequence[int]) -> None:
    choices.candidates = [choices.candidates[i] for i in numbers]
    choices.microseconds = [choices.microseconds[i] for i in numbers]
