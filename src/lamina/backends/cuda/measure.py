"""Times candidates on the device, or takes their times from the timing cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lamina.backends.cuda.bench import Bench, Trial
from lamina.backends.cuda.compile import Compiler, MachineCode
from lamina.backends.cuda.device import Device, OutOfMemory, current
from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.layout import Layout
from lamina.errors import DeviceError, LaminaError
from lamina.ir.dims import evaluate
from lamina.ir.graph import Node, Value
from lamina.tactics.cache import TimingCache
from lamina.tactics.candidate import Candidate, Placement, sizes_known
from lamina.tactics.choices import Choices, dense_layouts, describe
from lamina.tactics.signature import signature
from lamina.tactics.tuning_time import TuningTime
from lamina.tactics.views import STRIDED_VIEW

Report = Callable[[str, int, int, str], None]

_FIRST: Final = 3
"""Configurations of each tactic that are timed first."""

_NEAR: Final = 1.15
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
        first = {j.problem: _first(j.candidates) for j in jobs}
        for some in self._portions(jobs, first):
            self._time_all([(j, first[j.problem]) for j in some])
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
        for c in _first(job.candidates):
            us = self.cache.get(job.problem, describe(c))
            if us is not None:
                best[_forms(c)] = min(us, best.get(_forms(c), us))
                times[_family(c)] = min(us, times.get(_family(c), us))
        near = {f for f, us in times.items() if us <= _NEAR * best[f[1:]]}
        failed = {_family(c) for c in job.candidates} - times.keys()
        return [c for c in job.candidates if _family(c) in near | failed]

    def _time_all(self, wanted: Iterable[tuple[Job, Sequence[Candidate]]]) -> None:
        """Time what neither a time nor a failure is known of."""
        missing: list[tuple[Job, Trial]] = []
        for job, candidates in wanted:
            unknown = [c for c in candidates if not self._is_known(job.problem, c)]
            if unknown:
                self.time.begin(job.problem)
            if unknown and self.time.is_up():
                self.time.leave_out(job.problem, job.microseconds)
                continue
            missing += [(job, t) for c in unknown for t in self._trials(job, c)]
        if not missing:
            return
        compiled = self.compiler.compile(
            [launch.kernel for _, t in missing for launch in t.draft.launches],
            lambda done, total: self.report("compile", done, total, ""),
        )
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
            best: dict[str, float] = {}
            for i, (job, trial) in enumerate(missing):
                self.report("tactics", i, len(missing), str(job.node.loc))
                if self.time.is_up():
                    self.time.leave_out(job.problem, job.microseconds)
                    continue
                try:
                    kernels = [launch.kernel for launch in trial.draft.launches]
                    code = {k: _code(compiled[k]) for k in kernels}
                    us = bench.time(trial, code, best.get(job.problem))
                except LaminaError as e:
                    self._failed(job, trial.candidate, e)
                    continue
                best[job.problem] = min(us, best.get(job.problem, us))
                self.cache.put(job.problem, describe(trial.candidate), us)

    def _is_known(self, problem: str, c: Candidate) -> bool:
        """Whether the cache has a time or a failure; views take no time."""
        name = describe(c)
        known = self.cache.get(problem, name) is not None
        if c.tactic == STRIDED_VIEW and not known:
            self.cache.put(problem, name, 0.0)
            return True
        return known or self.cache.failure(problem, name) is not None

    def _trials(self, job: Job, candidate: Candidate) -> list[Trial]:
        """Return what is to be timed of a candidate, or remember why it makes no step."""
        placement = job.place(candidate)
        try:
            draft: Any = candidate.draft(placement)
        except LaminaError as e:
            self._failed(job, candidate, e)
            return []
        return [Trial(job.node, candidate, placement, draft)]

    def _failed(self, job: Job, candidate: Candidate, error: LaminaError) -> None:
        """Remember a failure; memory that others hold now, and a lost device, say nothing of it."""
        if self.device is not None and self.device.lost:
            raise error
        reason = str(error).splitlines()[0]
        if isinstance(error, OutOfMemory):
            for c in job.alike:
                c.declined.append((describe(candidate), reason))
        else:
            self.cache.fail(job.problem, describe(candidate), reason)


def _dense_job(problem: str, alike: Sequence[Choices]) -> Job:
    node = alike[0].node
    return Job(problem, tuple(alike), lambda c: Placement(*dense_layouts(node, c), ""))


def _near_in_place(c: Choices, chosen: Candidate) -> Choices:
    """Return the few best candidates of each tactic with the forms of the chosen one."""
    rows = sorted(zip(c.candidates, c.microseconds, strict=True), key=lambda row: row[1])
    like = [row for row in rows if _forms(row[0]) == _forms(chosen) and row[0].takes_strides]
    first = {id(x) for x in _first([x for x, _ in like])}
    near = [row for row in like if id(row[0]) in first and row[1] <= _NEAR_IN_PLACE * like[0][1]]
    return Choices(c.node, [x for x, _ in near], [us for _, us in near])


def _forms(c: Candidate) -> tuple[Any, ...]:
    return (c.reads, c.writes)


def _family(c: Candidate) -> tuple[Any, ...]:
    """Return what configurations of one tactic with the same forms have in common."""
    return (c.tactic.split(" ")[0], *_forms(c))


def _first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the most promising candidates of each family; they come in the order of estimates."""
    counts: dict[Any, int] = {}
    found = []
    for c in candidates:
        counts[_family(c)] = counts.get(_family(c), 0) + 1
        if counts[_family(c)] <= _FIRST:
            found.append(c)
    return found


def _code(outcome: MachineCode | str) -> MachineCode:
    if isinstance(outcome, str):
        raise DeviceError(outcome)
    return outcome


def problem_key(node: Node, target: CudaTarget, placement: Placement | None = None) -> str:
    """Return what decides the time of a node: operator, types, likeliest sizes.

    With a ``placement`` the key also has the strides of what is a part of a larger value.
    """
    values = (*node.inputs, *node.outputs)
    types = [str(v.type.substitute(dict(target.env))) for v in values]
    key = f"{signature(node.op)}({', '.join(types)})" + (" tf32" if target.tf32 else "")
    if placement is None:
        return key
    layouts = (*placement.operands, *placement.results)
    strides = [_strides(v, at, target.env) for v, at in zip(values, layouts, strict=True)]
    return f"{key} in place({', '.join(strides)})"


def _strides(v: Value, at: Layout, env: Mapping[str, int]) -> str:
    if not has_gaps(v, at):
        return "dense"
    return f"[{','.join(str(evaluate(s, env)) for s in at.strides)}]"


def has_gaps(v: Value, at: Layout) -> bool:
    """Whether a value does not fill the memory from its first to its last element."""
    return at.span(v.tensor.shape) - at.offset != v.tensor.size and not at.is_blocked
