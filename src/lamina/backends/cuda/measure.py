"""Times candidates on the device, or takes their times from the timing cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from lamina.backends.cuda.bench import Bench
from lamina.backends.cuda.compile import Compiler
from lamina.backends.cuda.device import Device, OutOfMemory, current
from lamina.backends.cuda.kernel_versions import KernelVersions
from lamina.backends.cuda.primitive import Answer
from lamina.backends.cuda.problems import (
    ROUNDS,
    first_of_each,
    forms_of,
    is_library,
    problem_key,
    worth_timing,
)
from lamina.backends.cuda.request import PlannedAhead
from lamina.backends.cuda.target import CudaTarget
from lamina.backends.cuda.timed_step import Trial
from lamina.backends.cuda.trials import Trials
from lamina.errors import LaminaError
from lamina.ir.graph import Node
from lamina.ops import Concat
from lamina.tactics.cache import TimingCache
from lamina.tactics.candidate import Candidate, Placement, sizes_known
from lamina.tactics.choices import Choices, dense_layouts, describe
from lamina.tactics.spent import Spent
from lamina.tactics.tuning_time import TuningTime
from lamina.tactics.views import STRIDED_VIEW

Report = Callable[[str, int, int, str], None]

_NEAR_IN_PLACE: Final = 1.6
"""How many times the best time a candidate's may be with dense operands and results, for it to be
timed where it will work on parts of larger values: a library may be three times slower there."""

_NEAR_LIBRARY_IN_PLACE: Final = 1.1
"""The same for a library's, which gaps make no faster."""

_MOST_IN_PLACE: Final = 3
"""Configurations of each tactic that are timed there."""

_AT_ONCE: Final = 32
"""Candidates that are compiled together where the time for tuning is limited."""


@dataclass(frozen=True)
class Job:
    """A problem: where its operands and results lie, who poses it, and what is to be timed.

    ``place`` gives the placement of a candidate.
    """

    problem: str
    alike: tuple[Choices, ...]
    place: Callable[[Candidate], Placement]
    limit: float = inf
    """Microseconds from which on it is not worth a look."""
    share: float = 1.0
    """What is estimated for it, over that of all layers."""

    @property
    def node(self) -> Node:
        """The first node that poses the problem."""
        return self.alike[0].node

    @property
    def candidates(self) -> list[Candidate]:
        """What is offered for it."""
        return self.alike[0].candidates

    @property
    def microseconds(self) -> float:
        """The best estimate, over all nodes: what can be won here."""
        return len(self.alike) * min(c.estimate_microseconds for c in self.candidates)


@dataclass(frozen=True)
class Measurer:
    """Fills in the times of candidates: what a device measures, or what the cache knows.

    Each time comes from ``least`` averages or more, each over ``average`` runs or more.
    """

    device: Device | None
    target: CudaTarget
    cache: TimingCache
    compiler: Compiler
    report: Report
    time: TuningTime
    average: int = 1
    least: int = 1
    in_place: dict[Node, str] = field(default_factory=dict)
    """The problems of nodes that were chosen again in place."""
    problems: dict[Node, str] = field(default_factory=dict)
    """The problems of nodes for which there was a choice."""
    worth: dict[str, tuple[float, float]] = field(default_factory=dict)
    """What each problem was worth when it was measured first: it stays what it is, so that nothing
    is timed after it was decided by."""
    spent: Spent = field(default_factory=Spent)
    versions: KernelVersions = field(default_factory=KernelVersions)

    def __post_init__(self) -> None:
        self.cache.version = self.versions.of

    def measure(
        self, choices: Sequence[Choices], worth: Mapping[str, tuple[float, float]] | None = None
    ) -> None:
        """Put times in the place of estimates; a candidate that fails is dropped, with its reason.

        ``worth`` gives, by problem, the microseconds from which on kernels are not worth a look,
        and its share in the time of all layers (otherwise of these ``choices``).
        Without a device the candidates that the cache knows win over those that it does not.
        """
        problems: dict[str, list[Choices]] = {}
        for c in choices:
            self.versions.learn(c.node, c.candidates)
            if len(c.candidates) > 1:
                self.problems[c.node] = problem = problem_key(c.node, self.target)
                problems.setdefault(problem, []).append(c)
        whole = sum(min(c.microseconds, default=0.0) for c in choices)
        jobs = []
        for p, alike in problems.items():
            asked = worth[p] if worth else (inf, _estimate(alike) / max(whole, 1e-9))
            jobs.append(_dense_job(p, alike, *self.worth.setdefault(p, asked)))
        if self.device is not None:
            self._fill_cache([j for j in jobs if sizes_known(j.node, self.target.env)])
        for job in jobs:
            for c in job.alike:
                self._look_up(job.problem, c)

    def measure_in_place(self, placed: Sequence[tuple[Choices, Candidate, Placement]]) -> None:
        """Choose again where operands or results are parts of larger values, by times there.

        Each comes with the candidate that was chosen; those of its forms alone stay, as which
        values are parts of which depends on them.
        """
        problems: dict[str, list[tuple[Choices, Choices]]] = {}
        jobs: dict[str, Job] = {}
        for c, chosen, placement in placed:
            near = _near_in_place(c, chosen)
            if len(near.candidates) < 2 or not sizes_known(c.node, self.target.env):
                continue
            problem = problem_key(c.node, self.target, placement)
            problems.setdefault(problem, []).append((c, near))
            alike = tuple(few for _, few in problems[problem])
            jobs[problem] = Job(problem, alike, lambda _, at=placement: at)  # type: ignore[misc]
        if self.device is not None:
            for some in self._portions(list(jobs.values()), {}):
                self._time_all([(j, j.candidates) for j in some])
        for problem, pairs in problems.items():
            for c, near in pairs:
                self.in_place[c.node] = problem
                if any(self.is_known(problem, x) for x in near.candidates):
                    self._look_up(problem, near)
                if near.candidates:
                    c.candidates, c.microseconds = near.candidates, near.microseconds
                    c.declined += near.declined

    def problem_of(self, node: Node) -> str:
        """Return what the times of a node's candidates are kept under; its operator where none are.

        That is the problem in place, if the node was chosen again there.
        """
        return self.in_place.get(node) or self.problems.get(node) or node.op.name

    def failed(self, c: Choices, failures: Mapping[int, str]) -> None:
        """Remember which candidates, by ``id``, gave no step where they were to be used."""
        problem = self.in_place.get(c.node) or problem_key(c.node, self.target)
        for x in c.candidates:
            if id(x) in failures:
                self.cache.fail(problem, describe(x), failures[id(x)])

    def _look_up(self, problem: str, c: Choices) -> None:
        """Keep the candidates whose times are known; where none is, all that did not fail."""
        rows = list(zip(c.candidates, c.microseconds, strict=True))
        failed = {id(x): self.cache.failure(problem, describe(x)) for x in c.candidates}
        c.declined += [(describe(x), why) for x, _ in rows if (why := failed[id(x)])]
        times = [(x, self.cache.get(problem, describe(x))) for x, _ in rows]
        kept = [(x, us) for x, us in times if us is not None]
        if not kept:
            kept = [(x, us) for x, us in rows if failed[id(x)] is None]
        c.candidates, c.microseconds = [x for x, _ in kept], [us for _, us in kept]

    def _fill_cache(self, jobs: Sequence[Job]) -> None:
        """Time what the cache does not know, in rounds: see :func:`worth_timing`.

        What is timed follows from the cache alone, so that a later build with its times finds
        nothing missing.
        """
        first = {j.problem: self._round(j, 0) for j in jobs}
        for some in self._portions(jobs, first):
            self._time_all([(j, first[j.problem]) for j in some], self._round)

    def _portions(
        self, jobs: Sequence[Job], first: Mapping[str, Sequence[Candidate]]
    ) -> Iterator[Sequence[Job]]:
        """Yield what is timed together: everything, or little by little, what counts most first."""
        if not self.time.is_limited:
            yield jobs
            return
        some: list[Job] = []
        count = 0
        for job in sorted(jobs, key=lambda j: -j.microseconds):
            some.append(job)
            count += len(first.get(job.problem, job.candidates))
            if count >= _AT_ONCE:
                yield some
                some, count = [], 0
        yield some

    def _round(self, job: Job, number: int) -> Sequence[Candidate]:
        """Return what is to be timed until a round.

        A concatenation gets one: most are no kernel, as their parts are written where they belong.
        """
        number = 0 if isinstance(job.node.op, Concat) else number

        def known(c: Candidate) -> float | None:
            return self.cache.get(job.problem, describe(c))

        return worth_timing(job.candidates, number, known, job.limit, job.share)

    def _time_all(
        self,
        wanted: Sequence[tuple[Job, Sequence[Candidate]]],
        later: Callable[[Job, int], Sequence[Candidate]] = lambda _job, _round: (),
    ) -> None:
        """Time what neither a time nor a failure is known of, and what is to be timed ``later``."""
        last = len(ROUNDS) - 1
        if all(self.is_known(j.problem, c) for j, some in wanted for c in (*some, *later(j, last))):
            return
        with self.bench() as bench:
            Trials(self, bench, later).run(wanted)

    @contextmanager
    def bench(self, spread: float = 1.0) -> Iterator[Bench]:
        """Return what times steps on random numbers with a standard deviation of ``spread``."""
        assert self.device is not None
        with (
            current(self.device),
            Bench(
                self.device,
                self.target,
                self.compiler,
                launches=self.average,
                replays=self.least,
                spread=spread,
            ) as bench,
        ):
            yield bench

    def is_known(self, problem: str, c: Candidate) -> bool:
        """Whether the cache has a time or a failure; views take no time."""
        name = describe(c)
        known = self.cache.get(problem, name) is not None
        if c.tactic == STRIDED_VIEW and not known:
            self.cache.put(problem, name, 0.0)
            return True
        return known or self.cache.failure(problem, name) is not None

    def begin(self, job: Job, candidate: Candidate) -> Future[Answer] | None:
        """Have what takes long of a candidate's step made beside; None where there is no such."""
        if not isinstance(candidate.draft, PlannedAhead):
            return None
        try:
            return candidate.draft.begin(job.place(candidate), self.compiler.plan)
        except LaminaError:
            return None  # its trials will say why

    def trials(self, job: Job, candidate: Candidate) -> list[Trial]:
        """Return what is to be timed of a candidate, or remember why it makes no step."""
        placement = job.place(candidate)
        try:
            draft: Any = candidate.draft(placement)
        except LaminaError as e:
            self.failed_trial(job, candidate, e)
            return []
        return [Trial(job.node, candidate, placement, draft)]

    def failed_trial(self, job: Job, candidate: Candidate, error: LaminaError) -> None:
        """Remember a failure; memory that others hold now, and a lost device, say nothing of it."""
        if self.device is not None and self.device.lost:
            raise error
        reason = str(error).splitlines()[0]
        if isinstance(error, OutOfMemory):
            for c in job.alike:
                c.declined.append((describe(candidate), reason))
        else:
            self.cache.fail(job.problem, describe(candidate), reason)


def _estimate(alike: Sequence[Choices]) -> float:
    return sum(min(c.microseconds) for c in alike)


def _dense_job(problem: str, alike: Sequence[Choices], limit: float, share: float) -> Job:
    node = alike[0].node
    place = lambda c: Placement(*dense_layouts(node, c), "")  # noqa: E731
    return Job(problem, tuple(alike), place, limit, share)


def _near_in_place(c: Choices, chosen: Candidate) -> Choices:
    """Return the few best candidates of each tactic with the forms of the chosen one."""
    rows = sorted(zip(c.candidates, c.microseconds, strict=True), key=lambda row: row[1])
    like = [row for row in rows if forms_of(row[0]) == forms_of(chosen) and row[0].takes_strides]
    first = {id(x) for x in first_of_each([x for x, _ in like], _MOST_IN_PLACE)}
    near = [
        (x, us)
        for x, us in like
        if id(x) in first
        and us <= like[0][1] * (_NEAR_LIBRARY_IN_PLACE if is_library(x) else _NEAR_IN_PLACE)
    ]
    return Choices(c.node, [x for x, _ in near], [us for _, us in near])
