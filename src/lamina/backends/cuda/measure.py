"""Times candidates on the device, or takes their times from the timing cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lamina.backends.cuda.bench import Bench, Trial
from lamina.backends.cuda.compile import Compiler, MachineCode
from lamina.backends.cuda.device import Device, OutOfMemory, current
from lamina.backends.cuda.problems import (
    family_of,
    first_of_each,
    forms_of,
    is_library,
    problem_key,
)
from lamina.backends.cuda.request import KernelRequest, LibraryDraft
from lamina.backends.cuda.target import CudaTarget
from lamina.errors import DeviceError, LaminaError
from lamina.ir.graph import Node
from lamina.tactics.cache import TimingCache
from lamina.tactics.candidate import Candidate, Placement, sizes_known
from lamina.tactics.choices import Choices, dense_layouts, describe
from lamina.tactics.tuning_time import TuningTime
from lamina.tactics.views import STRIDED_VIEW

Report = Callable[[str, int, int, str], None]

_NEAR: Final = 1.1
"""How many times the best time a tactic's may be for its other configurations to be timed."""

_NEAR_IN_PLACE: Final = 1.6
"""How many times the best time a candidate's may be with dense operands and results, for it to be
timed where it will work on parts of larger values: a library may be three times slower there."""

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

    def measure(self, choices: Sequence[Choices]) -> None:
        """Put times in the place of estimates; a candidate that fails is dropped, with its reason.

        Without a device the candidates that the cache knows win over those that it does not.
        """
        problems: dict[str, list[Choices]] = {}
        for c in choices:
            if len(c.candidates) > 1:
                problems.setdefault(problem_key(c.node, self.target), []).append(c)
        jobs = [_dense_job(problem, alike) for problem, alike in problems.items()]
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
                if any(self._is_known(problem, x) for x in near.candidates):
                    self._look_up(problem, near)
                if near.candidates:
                    c.candidates, c.microseconds = near.candidates, near.microseconds
                    c.declined += near.declined

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
        """Time what the cache does not know, in two rounds.

        The first round has the few most promising configurations of every tactic; the second the
        others of those tactics that came close to the best.  What is timed follows from the cache
        alone, so that a later build with its times finds nothing missing.
        """
        first = {j.problem: first_of_each(j.candidates) for j in jobs}
        for some in self._portions(jobs, first):
            self._time_all([(j, first[j.problem]) for j in some], [(j, j.candidates) for j in some])
            self._time_all([(j, self._second(j)) for j in some])

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

    def _second(self, job: Job) -> list[Candidate]:
        """Return what deserves the second round: configurations of the tactics that are close.

        So do those of a tactic that nothing is known of, as what was tried first failed.
        """
        best: dict[Any, float] = {}
        times: dict[Any, float] = {}
        for c in first_of_each(job.candidates):
            us = self.cache.get(job.problem, describe(c))
            if us is not None:
                best[forms_of(c)] = min(us, best.get(forms_of(c), us))
                times[family_of(c)] = min(us, times.get(family_of(c), us))
        near = {f for f, us in times.items() if us <= _NEAR * best[f[1:]]}
        failed = {family_of(c) for c in job.candidates} - times.keys()
        return [c for c in job.candidates if family_of(c) in near | failed]

    def _time_all(
        self,
        wanted: Iterable[tuple[Job, Sequence[Candidate]]],
        next: Sequence[tuple[Job, Sequence[Candidate]]] = (),
    ) -> None:
        """Time what neither a time nor a failure is known of.

        What may be wanted ``next`` is compiled while there is nothing else to compile.
        """
        own: list[tuple[Job, Trial]] = []
        libraries: list[tuple[Job, Candidate]] = []
        for job, candidates in wanted:
            unknown = [c for c in candidates if not self._is_known(job.problem, c)]
            if unknown:
                self.time.begin(job.problem)
            if unknown and self.time.is_up():
                self.time.leave_out(job.problem, job.microseconds)
                continue
            for c in unknown:
                if is_library(c):
                    libraries.append((job, c))
                else:
                    own += [(job, t) for t in self.trials(job, c)]
        if not own and not libraries:
            return
        assert self.device is not None
        with (
            current(self.device),
            Bench(
                self.device,
                self.target,
                self.compiler,
                launches=self.average,
                replays=self.least,
            ) as bench,
        ):
            if libraries:
                bench.early_start()
            trials = _Trials(self, bench, own)
            kernels = [launch.kernel for _, t in own for launch in t.draft.launches]
            arriving = self.compiler.begin(kernels, self.time.is_up)
            if not self.time.is_limited:
                self._prepare(next)
            trials.plan(libraries)
            for kernel in arriving:
                trials.ready(kernel)
            trials.give_up()

    def _prepare(self, next: Sequence[tuple[Job, Sequence[Candidate]]]) -> None:
        """Let kernels be compiled that may be timed next."""
        candidates = [
            (job, c)
            for job, offered in next
            for c in offered
            if not is_library(c) and not self._is_known(job.problem, c)
        ]
        drafts = [t.draft for job, c in candidates for t in self.trials(job, c)]
        self.compiler.prepare(launch.kernel for d in drafts for launch in d.launches)

    def _is_known(self, problem: str, c: Candidate) -> bool:
        """Whether the cache has a time or a failure; views take no time."""
        name = describe(c)
        known = self.cache.get(problem, name) is not None
        if c.tactic == STRIDED_VIEW and not known:
            self.cache.put(problem, name, 0.0)
            return True
        return known or self.cache.failure(problem, name) is not None

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


class _Trials:
    """Times what is offered for a problem in a row, once all of it is compiled.

    A device that waits lowers its clocks, so times are compared that were taken one right after
    the other.  The processor's cores compile for other problems meanwhile.
    """

    def __init__(
        self, measurer: Measurer, bench: Bench, trials: Sequence[tuple[Job, Trial]]
    ) -> None:
        self._measurer, self._bench = measurer, bench
        self._offered: dict[str, list[tuple[Job, Trial]]] = {}
        self._missing: dict[str, set[KernelRequest]] = {}
        self._best: dict[str, float] = {}
        self._done, self._count = 0, 0
        for job, trial in trials:
            self._add(job, trial)

    def _add(self, job: Job, trial: Trial) -> None:
        self._offered.setdefault(job.problem, []).append((job, trial))
        missing = self._missing.setdefault(job.problem, set())
        if not isinstance(trial.draft, LibraryDraft):
            missing.update(launch.kernel for launch in trial.draft.launches)
        self._count += 1

    def plan(self, candidates: Sequence[tuple[Job, Candidate]]) -> None:
        """Add what libraries offer, which may take them long; time what waits for no kernel."""
        m = self._measurer
        for number, (job, candidate) in enumerate(candidates):
            m.report("tactics", 0, self._count + len(candidates) - number, str(job.node.loc))
            if m.time.is_up():
                m.time.leave_out(job.problem, job.microseconds)
                continue
            for trial in m.trials(job, candidate):
                self._add(job, trial)
        for problem, kernels in self._missing.items():
            if not kernels:
                self._time_all(problem)

    def ready(self, kernel: KernelRequest) -> None:
        """Time the problems that waited for this kernel alone."""
        for problem, kernels in self._missing.items():
            if kernel in kernels:
                kernels.discard(kernel)
                if not kernels:
                    self._time_all(problem)

    def give_up(self) -> None:
        """Leave out what still waits for kernels: the time is up."""
        for problem, kernels in self._missing.items():
            if kernels:
                job, _ = self._offered[problem][0]
                self._measurer.time.leave_out(problem, job.microseconds)

    def _time_all(self, problem: str) -> None:
        for job, trial in self._offered[problem]:
            self._time(job, trial)

    def _time(self, job: Job, trial: Trial) -> None:
        m = self._measurer
        m.report("tactics", self._done, self._count, str(job.node.loc))
        self._done += 1
        if m.time.is_up():
            m.time.leave_out(job.problem, job.microseconds)
            return
        try:
            kernels = [launch.kernel for launch in trial.draft.launches]
            code = {k: _code(m.compiler.known[k]) for k in kernels}
            us = self._bench.time(trial, code, self._best.get(job.problem))
        except LaminaError as e:
            m.failed_trial(job, trial.candidate, e)
            return
        self._best[job.problem] = min(us, self._best.get(job.problem, us))
        m.cache.put(job.problem, describe(trial.candidate), us)


def _dense_job(problem: str, alike: Sequence[Choices]) -> Job:
    node = alike[0].node
    return Job(problem, tuple(alike), lambda c: Placement(*dense_layouts(node, c), ""))


def _near_in_place(c: Choices, chosen: Candidate) -> Choices:
    """Return the few best candidates of each tactic with the forms of the chosen one."""
    rows = sorted(zip(c.candidates, c.microseconds, strict=True), key=lambda row: row[1])
    like = [row for row in rows if forms_of(row[0]) == forms_of(chosen) and row[0].takes_strides]
    first = {id(x) for x in first_of_each([x for x, _ in like])}
    near = [row for row in like if id(row[0]) in first and row[1] <= _NEAR_IN_PLACE * like[0][1]]
    return Choices(c.node, [x for x, _ in near], [us for _, us in near])


def _code(outcome: MachineCode | str) -> MachineCode:
    if isinstance(outcome, str):
        raise DeviceError(outcome)
    return outcome
