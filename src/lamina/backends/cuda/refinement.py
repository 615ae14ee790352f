"""Chooses again among the best candidates, by what the whole program takes with each.

Candidates are first chosen by what they take alone.  In the program they overlap with their
neighbours, and what is fastest alone need not be fastest there: kernels with few large blocks leave
room for the next one, others fill the device.  So those that come close are tried inside the graph
of all steps, for the layers that take most of the time first.

Where the program is short, its kernels may then also let the next one start before they have waited
for the one ahead, instead of behind that: more wait at the same time, but some begin earlier.

What was found is kept in the timing cache, under the problem, the choice by times alone and a
digest of the program: a later build, also one without a device, chooses the same.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from lamina.backends.cuda.bench import TimedGraph, copy_trial
from lamina.backends.cuda.code import Drafted
from lamina.backends.cuda.compile import MachineCode
from lamina.backends.cuda.in_graph import InGraph, Rehearsed, can_rehearse
from lamina.backends.cuda.measure import Measurer
from lamina.backends.cuda.problems import forms_of, is_library
from lamina.backends.cuda.request import CudaDraft, KernelRequest, directed
from lamina.backends.cuda.timed_step import Trial
from lamina.errors import BuildError, LaminaError
from lamina.ir.graph import Node
from lamina.ir.types import TensorType
from lamina.plan.plan import Program
from lamina.tactics.candidate import Candidate, Placement
from lamina.tactics.choices import Choices, describe
from lamina.tactics.policy import Policy
from lamina.tactics.views import STRIDED_VIEW

SECONDS: Final = {3: 3.0, 4: 10.0, 5: 60.0}
"""By optimization level, how long programs are timed; at lower levels they are not."""

_MOST: Final = {3: 5, 4: 10, 5: 40}
"""By optimization level, how many other candidates of a problem are tried."""

_NEAR: Final = 1.3
"""How many times the time of the chosen candidate another's may be, alone, for it to be tried."""

_LOOKS: Final = ((3, 12, 2_500.0), (5, 40, 8_000.0))
"""Fewest and most runs of each of two graphs, by turns, and the microseconds that they may take.

All go on to the second look that win the first."""

_IN_A_ROW: Final = 2
"""Runs of which the last is timed: what the one before it left in the cache is there, as in use."""

_SURE: Final = 0.75
"""The share of runs in which a candidate must win."""

_LEAST_GAIN: Final = 0.001
_LEAST_GAIN_IN_ALL: Final = 0.005
"""What one candidate, and all together, must win of the whole time: less may be lost elsewhere."""

_SHORT: Final = 1500.0
"""Microseconds of kernels, alone, up to which it is tried when they release the next ones."""

_EARLY: Final = " early"
"""Behind the tactic of a candidate whose kernels release the next ones early."""

_SPREAD: Final = 1 / 32
"""Spread of weights: sums of a thousand products stay about as large as what is multiplied."""


@dataclass(eq=False)
class Question:
    """Nodes that pose the same problem in a program, with the same choice by times alone.

    ``rivals`` has for each node the candidates by name, the choice first.
    """

    key: str
    rivals: dict[Node, dict[str, Candidate]] = field(default_factory=dict)
    microseconds: float = 0.0
    together: bool = False
    """Whether the other candidates of all such questions are tried at once, first of all."""

    @property
    def names(self) -> list[str]:
        """The names of the candidates that all nodes have, the choice first."""
        first, *others = self.rivals.values()
        return [name for name in first if all(name in found for found in others)]


@dataclass
class Refinement:
    """What a program's nodes get in the place of what is fastest alone."""

    measurer: Measurer
    policy: Policy
    level: int
    clock: Callable[[], float] = time.monotonic
    _questions: list[Question] = field(default_factory=list)
    _releases: list[Question] = field(default_factory=list)
    _chosen: dict[Node, Candidate] = field(default_factory=dict)

    def settle(self, choices: Mapping[Node, Choices], chosen: dict[Node, Candidate]) -> None:
        """Put in place, for some nodes of a program, what was found for it earlier.

        A candidate that releases kernels early becomes one of the choices.
        """
        program = self._program(choices, chosen)
        self._questions = self._asked(choices, chosen, program)
        self._put(self._questions, chosen)
        self._releases = self._asked_of_releases(choices, chosen, program)
        for question in self._releases:
            if (name := self._winner(question)) is not None and name != question.names[0]:
                for node, rivals in question.rivals.items():
                    choices[node].candidates.append(rivals[name])
                    choices[node].microseconds.append(_microseconds(choices[node], chosen[node]))
        self._put(self._releases, chosen)
        self._chosen = chosen

    def _put(self, questions: Sequence[Question], chosen: dict[Node, Candidate]) -> None:
        for question in questions:
            winner = self._winner(question)
            for node, rivals in question.rivals.items():
                chosen[node] = rivals[winner or question.names[0]]

    def _winner(self, question: Question) -> str | None:
        """Return the name of the best candidate, None if that is not known."""
        get = self.measurer.cache.get
        times = [(us, n) for n in question.names if (us := get(question.key, n)) is not None]
        return min(times)[1] if times else None

    def _program(self, choices: Mapping[Node, Choices], chosen: Mapping[Node, Candidate]) -> str:
        """Return a digest of a program: its problems, and the forms that values have."""
        nodes = [n for n in choices if n in chosen]
        lines = [f"{self.measurer.problem_of(n)} {forms_of(chosen[n])}" for n in nodes]
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()

    def _asked(
        self, choices: Mapping[Node, Choices], chosen: Mapping[Node, Candidate], program: str
    ) -> list[Question]:
        asked: dict[str, Question] = {}
        for node in choices:
            if node not in chosen or len(rivals := self._rivals(choices[node], chosen[node])) < 2:
                continue
            self._ask(asked, choices, chosen[node], node, rivals, f"in program {program}")
        return [*asked.values()]

    def _asked_of_releases(
        self, choices: Mapping[Node, Choices], chosen: Mapping[Node, Candidate], program: str
    ) -> list[Question]:
        """Return the questions when kernels should release the next ones, in short programs."""
        nodes = [n for n in choices if n in chosen]
        if not self.policy.allows_all:  # who names tactics means those that are offered
            return []
        if sum(_microseconds(choices[n], chosen[n]) for n in nodes) > _SHORT:
            return []
        asked: dict[str, Question] = {}
        for node in nodes:
            if is_library(chosen[node]) or chosen[node].tactic == STRIDED_VIEW:
                continue
            rivals = {describe(c): c for c in (chosen[node], _early(chosen[node]))}
            what = f"released in program {program}"
            self._ask(asked, choices, chosen[node], node, rivals, what).together = True
        return [*asked.values()]

    def _ask(
        self,
        asked: dict[str, Question],
        choices: Mapping[Node, Choices],
        first: Candidate,
        node: Node,
        rivals: dict[str, Candidate],
        what: str,
    ) -> Question:
        key = f"{self.measurer.problem_of(node)} instead of {describe(first)} {what}"
        question = asked.setdefault(key, Question(key))
        question.rivals[node] = rivals
        question.microseconds += _microseconds(choices[node], first)
        return question

    def _rivals(self, offered: Choices, first: Candidate) -> dict[str, Candidate]:
        """Return what can stand for a candidate without a change to other steps, that first.

        Those that take much longer alone are no rivals.
        """
        most = _NEAR * _microseconds(offered, first)
        rows = zip(offered.microseconds, range(len(offered.candidates)), strict=True)
        near = [offered.candidates[i] for us, i in sorted(rows) if us <= most]
        alike = [first, *(c for c in near if c is not first and _ends(c) == _ends(first))]
        return {describe(c): c for c in alike[: 1 + _MOST.get(self.level, _MOST[3])]}

    def refine(self, program: Program, drafted: Sequence[Drafted]) -> bool:
        """Time the program with other candidates; returns whether any node gets another.

        It must be the program of the nodes that were settled last.
        """
        m = self.measurer
        if m.device is None or self.level not in SECONDS or not can_rehearse(program, m.target.env):
            return False
        # When kernels release others is asked of those that were chosen, so behind the choice.
        return any(self._answer(q, program, drafted) for q in (self._questions, self._releases))

    def _answer(
        self, questions: Sequence[Question], program: Program, drafted: Sequence[Drafted]
    ) -> bool:
        """Time what is not known yet; returns whether any node gets another candidate."""
        m = self.measurer
        asked = [q for q in questions if self._winner(q) is None]
        if not asked or m.time.is_up():
            return False
        asked.sort(key=lambda q: -q.microseconds)
        steps, numbers = self._rehearsed(program, drafted, asked)
        code = self._compiled(steps.values())
        try:
            with m.bench(_SPREAD) as bench:
                graph = InGraph(bench, program, steps, code)
                bench.wake()
                best = _Contest(self, graph, numbers).hold(asked)
        except LaminaError:
            if m.device is not None and m.device.lost:
                raise
            return False  # there may be no room for all weights at once: times alone decide
        for key, (name, microseconds) in best.items():
            m.cache.put(key, name, microseconds)
        return any(self._winner(q) not in (None, q.names[0]) for q in asked)

    def _rehearsed(
        self, program: Program, drafted: Sequence[Drafted], asked: Sequence[Question]
    ) -> tuple[dict[int, Rehearsed], dict[Node, int]]:
        """Return what each native step is and may be, and which step each node of a question is."""
        node_of = {id(c): n for n, c in self._chosen.items()}
        rivals = {n: found for q in asked for n, found in q.rivals.items()}
        steps: dict[int, Rehearsed] = {}
        numbers: dict[Node, int] = {}
        for i, what in enumerate(drafted):
            if what.candidate is None:
                type = program.tensors[program.steps[i].reads[0]].type
                assert isinstance(type, TensorType)
                steps[i] = Rehearsed(what, {"": copy_trial(type, what.placement, what.draft)})
                continue
            node = node_of[id(what.candidate)]
            numbers[node] = i
            others = rivals.get(node, {describe(what.candidate): what.candidate})
            trials = {name: self._trial(node, c, what) for name, c in others.items()}
            steps[i] = Rehearsed(what, {name: t for name, t in trials.items() if t is not None})
        return steps, numbers

    def _trial(self, node: Node, c: Candidate, like: Drafted) -> Trial | None:
        """Return a candidate where another one is, if it works there."""
        try:
            draft: Any = c.draft(like.placement)
        except LaminaError:
            return None
        if isinstance(draft, CudaDraft):
            draft = directed(draft, backwards=like.backwards)
        fits = self.policy.fits(draft.workspace_bytes)
        return Trial(node, c, like.placement, draft) if fits else None

    def _compiled(self, steps: Collection[Rehearsed]) -> dict[KernelRequest, MachineCode]:
        """Return the kernels of all trials; drop those of which one does not compile."""
        compiler, code = self.measurer.compiler, {}
        trials = [t for step in steps for t in step.trials.values()]
        outcomes = compiler.compile(x.kernel for t in trials for x in t.draft.launches)
        for step in steps:
            for name, trial in list(step.trials.items()):
                found = {x.kernel: outcomes[x.kernel] for x in trial.draft.launches}
                if all(isinstance(c, MachineCode) for c in found.values()):
                    code.update(found)
                else:
                    del step.trials[name]
        return code  # type: ignore[return-value]


class _Contest:
    """Tries candidate after candidate in the graph; the winner stays in it."""

    def __init__(self, refinement: Refinement, graph: InGraph, numbers: Mapping[Node, int]) -> None:
        self._refinement, self._graph, self._numbers = refinement, graph, numbers
        self._picked: dict[int, str] = {}
        self._whole = 0.0

    def hold(self, asked: Sequence[Question]) -> dict[str, tuple[str, float]]:
        """Return by key the name of the best candidate, with what the program took then.

        What there is no time for is answered as before, so that no later build asks again.  So is
        everything, should the program be no faster in the end.
        """
        refinement, m = self._refinement, self._refinement.measurer
        end = refinement.clock() + SECONDS[refinement.level]
        before = self._graph.timed({})
        best: dict[str, tuple[str, float]] = {}
        try:
            every = {q: q.names[-1] for q in asked if q.together and self._can_try(q, q.names[-1])}
            taken = every if every and self._takes_over(every) else {}
            for done, question in enumerate(asked):
                m.report("tactics", done, len(asked), str(next(iter(question.rivals)).loc))
                if m.time.is_up():
                    break
                name = taken.get(question, question.names[0])
                for rival in [n for n in question.names if n != name]:
                    open_ = refinement.clock() < end and self._can_try(question, rival)
                    if open_ and self._takes_over({question: rival}):
                        name = rival
                best[question.key] = name, self._whole
            least = _LEAST_GAIN_IN_ALL
            if self._picked and not self._is_faster(before, self._picked, least, _LOOKS[-1:]):
                best = {q.key: (q.names[0], self._whole) for q in asked if q.key in best}
        finally:
            before.close()
        return best

    def _steps(self, question: Question) -> list[int]:
        """Return the numbers of the steps that a question is about."""
        return [self._numbers[n] for n in question.rivals if n in self._numbers]

    def _can_try(self, question: Question, name: str) -> bool:
        """Whether all steps of a question may be a candidate."""
        steps = self._steps(question)
        return bool(steps) and all(name in self._graph.steps[i].trials for i in steps)

    def _takes_over(self, wanted: Mapping[Question, str]) -> bool:
        """Let candidates have their steps from now on if the program is faster with them."""
        picked = self._picked | {i: name for q, name in wanted.items() for i in self._steps(q)}
        now = self._graph.timed(self._picked)
        try:
            faster = self._is_faster(now, picked, _LEAST_GAIN)
        finally:
            now.close()
        self._picked = picked if faster else self._picked
        return faster

    def _is_faster(
        self,
        now: TimedGraph,
        picked: Mapping[int, str],
        least: float,
        looks: Sequence[tuple[int, int, float]] = _LOOKS,
    ) -> bool:
        """Whether the program is faster than a graph, by a share at ``least``; they take turns."""
        then = self._graph.timed(picked)
        try:
            then.run(_IN_A_ROW)
            for fewest, most, microseconds in looks:
                self._whole = now.run(_IN_A_ROW)
                runs = max(fewest, min(most, int(microseconds / max(self._whole, 1.0))))
                pairs = [(now.run(_IN_A_ROW), then.run(_IN_A_ROW)) for _ in range(runs)]
                gains = [a - b for a, b in pairs]
                self._whole = statistics.median(a for a, _ in pairs)
                won = sum(g > 0 for g in gains) >= _SURE * runs
                if not won or statistics.median(gains) <= least * self._whole:
                    return False
            self._whole = statistics.median(b for _, b in pairs)
            return True
        finally:
            then.close()


def _early(c: Candidate) -> Candidate:
    """Return a candidate whose kernels let the next one start before they wait themselves."""

    def draft(at: Placement) -> Any:
        given: Any = c.draft(at)
        if not isinstance(given, CudaDraft):
            raise BuildError("a library decides by itself when the next kernel starts")
        launches = [
            replace(x, kernel=replace(x.kernel, releases_early=x.kernel.dependent))
            for x in given.launches
        ]
        return replace(given, launches=tuple(launches))

    return replace(c, tactic=c.tactic + _EARLY, draft=draft)


def _ends(c: Candidate) -> tuple[Any, ...]:
    """Return what other steps see of a candidate."""
    return (*forms_of(c), c.overwrites, c.takes_strides, c.tactic == STRIDED_VIEW)


def _microseconds(offered: Choices, c: Candidate) -> float:
    return offered.microseconds[offered.candidates.index(c)]
