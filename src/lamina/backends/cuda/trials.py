"""Trials on the device: kernels are compiled beside it, problem by problem is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lamina.backends.cuda.bench import Bench
from lamina.backends.cuda.compile import Awaited, MachineCode
from lamina.backends.cuda.problems import ROUNDS, is_library
from lamina.backends.cuda.timed_step import Trial
from lamina.errors import DeviceError, LaminaError
from lamina.tactics.candidate import Candidate
from lamina.tactics.choices import describe

if TYPE_CHECKING:
    from lamina.backends.cuda.measure import Job, Measurer


class _Problem:
    """A problem on its way: what is offered in this round, and what it waits for."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.rounds = 0
        self.trials: list[Trial] = []
        self.libraries: list[Candidate] = []
        self.missing: set[Awaited] = set()
        self.best: float | None = None


class Trials:
    """Times what is offered for a problem in a row, once all of it is compiled.

    A device that waits lowers its clocks, so times are compared that were taken one right after
    the other.  The processor's cores compile for other problems meanwhile: no problem waits for
    another's rounds to begin its own.
    """

    def __init__(
        self, measurer: Measurer, bench: Bench, later: Callable[[Job, int], Sequence[Candidate]]
    ) -> None:
        """Ask ``later`` what is to be timed of a problem until a round."""
        self._measurer, self._bench, self._later = measurer, bench, later
        self._batch = measurer.compiler.begin()
        self._waiting: dict[Awaited, list[_Problem]] = {}
        self._done, self._count = 0, 0

    def run(self, wanted: Sequence[tuple[Job, Sequence[Candidate]]]) -> None:
        """Time candidates of each problem, those that count most first."""
        m = self._measurer
        if any(is_library(c) for job, _ in wanted for c in job.candidates):
            self._bench.begin_early_start()
        problems = [_Problem(job) for job, _ in wanted]
        for problem, (_, candidates) in sorted(
            zip(problems, wanted, strict=True), key=lambda x: -x[0].job.microseconds
        ):
            self._offer(problem, candidates)
        for problem in problems:
            if not problem.missing:
                self._proceed(problem)
        with m.spent.phase("waiting for kernels"):
            for what in self._batch.finished(m.time.is_up):
                for problem in self._waiting.pop(what, ()):
                    problem.missing.discard(what)
                    if not problem.missing:
                        self._proceed(problem)
        for problem in problems:
            if problem.missing:
                self._leave_out(problem)

    def _offer(self, problem: _Problem, candidates: Sequence[Candidate]) -> None:
        """Begin to compile what is to be timed next of a problem."""
        m, job = self._measurer, problem.job
        candidates = [c for c in candidates if not m.is_known(job.problem, c)]
        if candidates:
            m.time.begin(job.problem)
            if m.time.is_up():
                self._leave_out(problem)
                candidates = []
        problem.rounds += 1
        problem.libraries = [c for c in candidates if is_library(c)]
        own = [c for c in candidates if not is_library(c)]
        problem.trials = [t for c in own for t in m.trials(job, c)]
        self._count += len(problem.trials) + len(problem.libraries)
        problem.missing = {x.kernel for t in problem.trials for x in t.draft.launches}
        for c in problem.libraries:
            if (answer := m.begin(job, c)) is not None:
                plan = (job.problem, describe(c))
                problem.missing.add(plan)
                self._batch.expect(plan, answer)
        for what in problem.missing:
            self._waiting.setdefault(what, []).append(problem)
        self._batch.add(x.kernel for t in problem.trials for x in t.draft.launches)

    def _proceed(self, problem: _Problem) -> None:
        """Time what is ready, and go on to the next round, until one waits for kernels."""
        while not problem.missing:
            while problem.libraries:
                self._plan(problem)
            with self._measurer.spent.phase("trials"):
                for trial in problem.trials:
                    self._time(problem, trial)
            if problem.rounds == len(ROUNDS):
                return
            self._offer(problem, self._later(problem.job, problem.rounds))

    def _plan(self, problem: _Problem) -> None:
        """Add what a library offers next."""
        m, job = self._measurer, problem.job
        m.report("tactics", self._done, self._count, str(job.node.loc))
        candidate = problem.libraries.pop(0)
        if m.time.is_up():
            self._leave_out(problem)
            return
        with m.spent.phase("plans of libraries"):
            problem.trials += m.trials(job, candidate)

    def _leave_out(self, problem: _Problem) -> None:
        self._measurer.time.leave_out(problem.job.problem, problem.job.microseconds)

    def _time(self, problem: _Problem, trial: Trial) -> None:
        m, job = self._measurer, problem.job
        m.report("tactics", self._done, self._count, str(job.node.loc))
        self._done += 1
        if m.time.is_up():
            self._leave_out(problem)
            return
        try:
            kernels = [launch.kernel for launch in trial.draft.launches]
            code = {k: _code(m.compiler.known[k]) for k in kernels}
            us = self._bench.time(trial, code, problem.best)
        except LaminaError as e:
            m.failed_trial(job, trial.candidate, e)
            return
        m.spent.add("candidates timed", 1)
        problem.best = us if problem.best is None else min(us, problem.best)
        m.cache.put(job.problem, describe(trial.candidate), us)


def _code(outcome: MachineCode | str) -> MachineCode:
    if isinstance(outcome, str):
        raise DeviceError(outcome)
    return outcome
