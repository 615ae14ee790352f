"""Times of candidates on this machine.

First every kernel that a graph might need is written, while worker processes compile them; then
they are timed, one at a time, with nothing else running.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from lamina.backends.cpu.code import Code, Objects
from lamina.backends.cpu.native import Words, address, aligned_bytes
from lamina.backends.cpu.resources import Resources
from lamina.backends.cpu.segment import Location, Segment
from lamina.backends.cpu.selection import problem_key
from lamina.backends.cpu.target import CpuTarget
from lamina.errors import LaminaError
from lamina.ir.dims import evaluate
from lamina.ir.graph import Node
from lamina.ir.types import DType
from lamina.plan.plan import WORKSPACE, Program, Section, Step
from lamina.tactics.cache import TimingCache
from lamina.tactics.candidate import (
    Blob,
    Candidate,
    Count,
    Draft,
    Packed,
    Read,
    Scratch,
    Write,
    constant,
)
from lamina.tactics.choices import Choices, dense_layouts, describe
from lamina.tactics.form import Form, size_bytes
from lamina.tactics.tuning_time import TuningTime
from lamina.tactics.views import STRIDED_VIEW

_ENOUGH_SECONDS: Final = 0.004
_FEWEST_RUNS: Final = 3
_MOST_RUNS: Final = 40
_AT_ONCE: Final = 4
"""Problems whose candidates are compiled together where the time for tuning is limited."""
_CLOSE: Final = 1.25
_RANDOM_NUMBERS: Final = 1 << 16

Report = Callable[[int, int, str], None]
Job = tuple[str, Node, list[Candidate]]
"""A problem, the first node that poses it, and the candidates to be timed."""


class Measurer:
    """Runs candidates on random data; remembers times in the timing cache."""

    def __init__(
        self,
        target: CpuTarget,
        cache: TimingCache,
        objects: Objects,
        report: Report,
        *,
        average: int = 1,
        least: int = 1,
        time: TuningTime | None = None,
    ) -> None:
        """``average`` runs are timed at once, ``least`` times or more; the least mean counts."""
        self.average, self.least = average, max(_FEWEST_RUNS, least)
        self.target, self.cache, self.objects, self.report = target, cache, objects, report
        self.time = time or TuningTime(0)
        self._buffers = _Buffers()

    def measure(self, offered: Sequence[Choices]) -> None:
        """Fill in the time of every candidate; one that fails is dropped with its reason.

        A configuration is timed in the first form that it takes; in its other forms only when it
        came close to the best there, since a form changes its time little.  Where the time for
        tuning is up before anything was timed, estimates stay.
        """
        views = [_take_views(choices) for choices in offered]
        firsts = [_first_forms(choices) for choices in offered]
        times = self._times(offered, firsts)
        others = [_close(o, first, t) for o, first, t in zip(offered, firsts, times, strict=True)]
        more = self._times(offered, others)
        for choices, known, added, free in zip(offered, times, more, views, strict=True):
            known |= added | {describe(c): 0.0 for c in free}
            if not known:
                self._keep_estimates(choices)
                continue
            timed = [c for c in choices.candidates if describe(c) in known]
            choices.candidates = [*free, *timed]
            choices.microseconds = [known[describe(c)] for c in choices.candidates]

    def _keep_estimates(self, choices: Choices) -> None:
        """Drop what is known to fail."""
        problem = problem_key(choices.node, self.target)
        rows = zip(choices.candidates, choices.microseconds, strict=True)
        kept = [(c, us) for c, us in rows if self.cache.failure(problem, describe(c)) is None]
        choices.candidates = [c for c, _ in kept]
        choices.microseconds = [us for _, us in kept]

    def _times(
        self, offered: Sequence[Choices], wanted: Sequence[list[Candidate]]
    ) -> list[dict[str, float]]:
        """Return the times of those that run, from the cache or measured now."""
        problems = [problem_key(o.node, self.target) for o in offered]
        jobs: dict[str, Job] = {}
        for problem, choices, candidates in zip(problems, offered, wanted, strict=True):
            names = (describe(c) for c in candidates)
            missing = [
                c
                for c, name in zip(candidates, names, strict=True)
                if self.cache.get(problem, name) is None
                and self.cache.failure(problem, name) is None
            ]
            if missing:
                job = jobs.setdefault(problem, (problem, choices.node, []))
                planned = {describe(c) for c in job[2]}
                job[2].extend(c for c in missing if describe(c) not in planned)
        self._run(list(jobs.values()))
        rows = []
        for problem, choices, candidates in zip(problems, offered, wanted, strict=True):
            row = {}
            for name in map(describe, candidates):
                if (known := self.cache.get(problem, name)) is not None:
                    row[name] = known
                elif why := self.cache.failure(problem, name):
                    choices.declined.append((name, why))
            rows.append(row)
        return rows

    def _run(self, jobs: Sequence[Job]) -> None:
        """Put the time of each candidate into the cache, or the reason why it failed."""
        for some in self._portions(jobs):
            self._time_all(some)

    def _portions(self, jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
        """Yield what is compiled together: everything, or as long as there is time, a few."""
        if not self.time.is_limited:
            yield from (jobs,) if jobs else ()
            return
        valuable = sorted(jobs, key=lambda j: -min(c.estimate_microseconds for c in j[2]))
        for problem, *_ in valuable:
            self.time.begin(problem)
        while valuable and not self.time.is_up():
            yield valuable[:_AT_ONCE]
            valuable = valuable[_AT_ONCE:]
        for problem, _, candidates in valuable:
            self.time.leave_out(problem, min(c.estimate_microseconds for c in candidates))

    def _time_all(self, jobs: Sequence[Job]) -> None:
        code, steps = Code(self.objects), 2 * len(jobs)
        drafts = []
        for number, (problem, node, candidates) in enumerate(jobs):
            self.report(number, steps, str(node.loc))
            drafts.append(self._drafts(code, problem, node, candidates))
        empty = Program(inputs=(), outputs=(), tensors=(), steps=())
        section = Section(target=(), program=empty, image=code.image(), blobs=())
        resources = Resources(section, self.target.library, self.target.threads)
        for number, ((problem, node, _), row) in enumerate(zip(jobs, drafts, strict=True)):
            self.report(len(jobs) + number, steps, str(node.loc))
            for c, draft in row:
                try:
                    self.cache.put(problem, describe(c), self._time(resources, node, c, draft))
                except LaminaError as e:
                    self.cache.fail(problem, describe(c), str(e).splitlines()[0])

    def _drafts(
        self, code: Code, problem: str, node: Node, candidates: Sequence[Candidate]
    ) -> list[tuple[Candidate, Draft]]:
        found: list[tuple[Candidate, Draft]] = []
        for c in candidates:
            try:
                found.append((c, code.draft(c, *dense_layouts(node, c))))
            except LaminaError as e:
                self.cache.fail(problem, describe(c), str(e).splitlines()[0])
        if all(draft.is_reference for _, draft in found):
            return found
        for c, draft in found:
            if draft.is_reference:
                why = "oneDNN has only reference code for it"
                self.cache.fail(problem, describe(c), why)
        return [(c, draft) for c, draft in found if not draft.is_reference]

    def _time(self, resources: Resources, node: Node, c: Candidate, draft: Draft) -> float:
        memory = _Bench(node, c, self.target, self._buffers)
        step = Step(
            kind=draft.kind,
            name="measured",
            tactic=c.tactic,
            loc="",
            reads=(),
            writes=(),
            arguments=memory.number(draft),
            names=draft.names,
            symbols=draft.symbols,
            parameters=draft.parameters,
            threads=draft.threads,
            workspace_bytes=draft.workspace_bytes,
            spec=draft.spec,
        )
        pointers: Words = np.zeros(1, np.int64)
        segment = Segment(resources, [step], memory, pointers, dict(self.target.env))
        segment.run()
        best, spent, runs = float("inf"), 0.0, 0
        while runs < self.least or (spent < _ENOUGH_SECONDS and runs < _MOST_RUNS):
            begin = time.perf_counter()
            for _ in range(self.average):
                segment.run()
            seconds = time.perf_counter() - begin
            best, spent, runs = min(best, seconds / self.average), spent + seconds, runs + 1
        return best * 1e6


def _take_views(choices: Choices) -> list[Candidate]:
    """Remove the candidates that do nothing, and return them."""
    views = [c for c in choices.candidates if c.tactic == STRIDED_VIEW]
    choices.candidates = [c for c in choices.candidates if c.tactic != STRIDED_VIEW]
    return views


def _first_forms(choices: Choices) -> list[Candidate]:
    """Return each configuration in the first form that it takes."""
    firsts: dict[str, Candidate] = {}
    for c in choices.candidates:
        firsts.setdefault(c.tactic, c)
    return list(firsts.values())


def _close(
    choices: Choices, timed: Sequence[Candidate], times: dict[str, float]
) -> list[Candidate]:
    """Return the candidates that differ only in their form from one near the best."""
    best = min(times.values(), default=0.0)
    near = {c.tactic for c in timed if times.get(describe(c), 0.0) < best * _CLOSE}
    return [c for c in choices.candidates if c not in timed and c.tactic in near]


class _Buffers:
    """Memory by use and element type, kept from candidate to candidate: new pages cost time."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, DType], np.ndarray] = {}

    def get(
        self, use: str, dtype: DType, size_bytes: int, make: Callable[[DType, int], np.ndarray]
    ) -> np.ndarray:
        """Return ``size_bytes`` of a buffer that ``make`` made for this use."""
        have = self._arrays.get((use, dtype))
        if have is None or have.size < size_bytes:
            have = self._arrays[use, dtype] = make(dtype, size_bytes)
        return have[:size_bytes]


def _operand(dtype: DType, size_bytes: int) -> np.ndarray:
    """Return random numbers, or zeros for integers, which may be indices and lengths."""
    return _packed(dtype, size_bytes) if dtype.is_float else _result(dtype, size_bytes)


def _result(_: DType, size_bytes: int) -> np.ndarray:
    array = aligned_bytes(size_bytes)
    array[:] = 0
    return array


def _packed(dtype: DType, size_bytes: int) -> np.ndarray:
    """Return small random numbers."""
    array = aligned_bytes(size_bytes)
    typed = array[: size_bytes // dtype.itemsize * dtype.itemsize].view(dtype.numpy)
    scale = 1 if dtype.is_float else 16
    normal = np.random.default_rng(0).standard_normal(min(typed.size, _RANDOM_NUMBERS))
    random = (normal * scale).astype(dtype.numpy)
    for begin in range(0, typed.size, _RANDOM_NUMBERS):
        part = typed[begin : begin + _RANDOM_NUMBERS]
        part[:] = random[: part.size]
    return array


class _Bench:
    """Where the operands, results and constants of one candidate are."""

    def __init__(
        self, node: Node, candidate: Candidate, target: CpuTarget, buffers: _Buffers
    ) -> None:
        self.node, self.candidate, self.target = node, candidate, target
        self.buffers = buffers
        self.arrays: list[np.ndarray] = []

    def number(self, draft: Draft) -> tuple[int, ...]:
        """Return the tensor number of each argument."""
        numbers = []
        for role in draft.arguments:
            if isinstance(role, Scratch | Count):  # a kernel that counts has no rivals
                numbers.append(WORKSPACE)
                continue
            self.arrays.append(self._array(role))
            numbers.append(len(self.arrays) - 1)
        return tuple(numbers)

    def _array(self, role: Read | Write | Blob | Packed) -> np.ndarray:
        if isinstance(role, Blob):
            return _copy(role.weight.contents)
        place = len(self.arrays)
        if isinstance(role, Packed):
            return self.buffers.get(f"packed {place}", role.dtype, role.size_bytes, _packed)
        read = isinstance(role, Read)
        value = (self.node.inputs if read else self.node.outputs)[role.index]
        form = (self.candidate.reads if read else self.candidate.writes)[role.index]
        if read and (weight := constant(value)) is not None and not value.tensor.dtype.is_float:
            return _copy(weight.contents)
        size = evaluate(size_bytes(value.tensor, form or Form.PLAIN), dict(self.target.env))
        dtype, make = value.tensor.dtype, _operand if read else _result
        if self.candidate.overwrites is not None:
            return make(dtype, size)
        return self.buffers.get(f"{make.__name__} {place}", dtype, size, make)

    def locate(self, tensor: int) -> Location:
        """Return where a buffer is."""
        return Location(address(self.arrays[tensor]))


def _copy(array: np.ndarray) -> np.ndarray:
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    copy = aligned_bytes(raw.size)
    copy[:] = raw
    return copy
