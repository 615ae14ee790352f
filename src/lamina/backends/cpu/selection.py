"""Candidates of each node, and their times on this machine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from lamina.backends.cpu.code import Code
from lamina.backends.cpu.form import Form, layout, size_bytes
from lamina.backends.cpu.native import Words, address, aligned_bytes
from lamina.backends.cpu.resources import Resources
from lamina.backends.cpu.segment import Location, Segment
from lamina.backends.cpu.tactics import TACTICS
from lamina.backends.cpu.tactics.candidate import (
    Blob,
    Candidate,
    CpuTarget,
    Draft,
    Placement,
    Read,
    Scratch,
    Write,
)
from lamina.codegen.layout import Layout
from lamina.codegen.llvm.compile_pool import CompilePool
from lamina.errors import DeviceError, LaminaError
from lamina.ir.dims import evaluate
from lamina.ir.graph import Node, Value
from lamina.ir.pattern import Reject
from lamina.ir.types import TensorType
from lamina.plan.plan import Program as PlanProgram
from lamina.plan.plan import Section, Step
from lamina.tactics.cache import TimingCache

_ENOUGH_SECONDS: Final = 0.004
_MOST_RUNS: Final = 40
_CLOSE: Final = 1.25
_MAYBE_ALONE: Final = 60.0
_SURELY_ALONE: Final = 3.0
"""Microseconds of one thread: between the two, one thread and all are both timed."""


@dataclass
class Choices:
    """What was offered for a node, with times, and what declined."""

    node: Node
    candidates: list[Candidate]
    microseconds: list[float]
    declined: list[tuple[str, str]] = field(default_factory=list)


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
    if c.tactic == "codegen" or c.estimate_microseconds > _MAYBE_ALONE:
        return [c]

    def draft(p: Placement) -> Draft:
        return dataclasses.replace(c.draft(p), threads=1)

    alone = dataclasses.replace(c, tactic=f"{c.tactic} alone", draft=draft)
    return [alone] if c.estimate_microseconds < _SURELY_ALONE else [c, alone]


def describe(candidate: Candidate) -> str:
    """Return the tactic with the forms it works on, as the timing cache names it."""
    reads = ",".join(form or "-" for form in candidate.reads)
    return f"{candidate.tactic} [{reads}>{','.join(candidate.writes)}]"


def problem_key(node: Node, target: CpuTarget) -> str:
    """Return what decides the time of a node: operator, types, likeliest sizes, threads."""
    types = [_type_text(v, target) for v in (*node.inputs, *node.outputs)]
    return f"{node.op}({', '.join(types)}) threads={target.threads}"


def _type_text(v: Value, target: CpuTarget) -> str:
    return str(v.type.substitute(dict(target.env)))


class Measurer:
    """Runs candidates on random data; remembers times in the timing cache."""

    def __init__(self, target: CpuTarget, cache: TimingCache, pool: CompilePool | None) -> None:
        self.target, self.cache, self.pool = target, cache, pool
        self._buffers: dict[int, np.ndarray] = {}

    def measure(self, choices: Choices) -> None:
        """Fill in the time of every candidate; one that fails is dropped with its reason.

        A configuration is timed in the first form that it takes; in its other forms only when it
        came close to the best there, since a form changes its time little.
        """
        first: dict[str, Candidate] = {}
        for c in choices.candidates:
            first.setdefault(c.tactic, c)
        times = self._times(choices, list(first.values()))
        best = min(times.values(), default=0.0)
        rest = [
            c
            for c in choices.candidates
            if c is not first[c.tactic]
            and times.get(describe(first[c.tactic]), 0.0) < best * _CLOSE
        ]
        times |= self._times(choices, rest)
        choices.candidates = [c for c in choices.candidates if describe(c) in times]
        choices.microseconds = [times[describe(c)] for c in choices.candidates]

    def _times(self, choices: Choices, candidates: list[Candidate]) -> dict[str, float]:
        """Return the times of those that run, from the cache or measured now."""
        problem = problem_key(choices.node, self.target)
        known = {n: self.cache.get(problem, n) for n in map(describe, candidates)}
        times = {n: t for n, t in known.items() if t is not None}
        missing = [c for c in candidates if known[describe(c)] is None]
        for c, (t, why) in zip(missing, self._run(missing, choices.node), strict=True):
            if why:
                choices.declined.append((describe(c), why))
            else:
                times[describe(c)] = t
                self.cache.put(problem, describe(c), t)
        return times

    def _run(self, candidates: Sequence[Candidate], node: Node) -> list[tuple[float, str]]:
        """Return (microseconds, "") or (inf, reason) of each candidate."""
        if not candidates:
            return []
        code = Code(self.target.isa, self.pool)
        drafts: list[Draft | str] = []
        for c in candidates:
            try:
                drafts.append(code.draft(c, *dense_layouts(node, c)))
            except (DeviceError, LaminaError) as e:
                drafts.append(str(e).splitlines()[0])
        if any(isinstance(d, Draft) and not d.is_reference for d in drafts):
            drafts = [
                "oneDNN has only reference code for it"
                if isinstance(d, Draft) and d.is_reference
                else d
                for d in drafts
            ]
        if not any(isinstance(d, Draft) for d in drafts):
            return [(float("inf"), str(d)) for d in drafts]
        empty = PlanProgram(inputs=(), outputs=(), tensors=(), steps=())
        section = Section(target=(), program=empty, image=code.image(), blobs=())
        resources = Resources(section, self.target.library, self.target.threads)
        results = []
        for c, d in zip(candidates, drafts, strict=True):
            if isinstance(d, str):
                results.append((float("inf"), d))
                continue
            try:
                results.append((self._time(resources, node, c, d), ""))
            except LaminaError as e:
                results.append((float("inf"), str(e).splitlines()[0]))
        return results

    def _time(self, resources: Resources, node: Node, c: Candidate, draft: Draft) -> float:
        memory = _Bench(node, c, self.target)
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
        while runs < 3 or (spent < _ENOUGH_SECONDS and runs < _MOST_RUNS):
            begin = time.perf_counter()
            segment.run()
            seconds = time.perf_counter() - begin
            best, spent, runs = min(best, seconds), spent + seconds, runs + 1
        return best * 1e6


def dense_layouts(
    node: Node, candidate: Candidate
) -> tuple[tuple[Layout, ...], tuple[Layout, ...]]:
    """Return the layouts of operands and results when nothing is a view of anything else."""
    operands = tuple(
        layout(v.type, form or Form.PLAIN)
        for v, form in zip(node.inputs, candidate.reads, strict=True)
    )
    results = tuple(
        layout(v.type, form) for v, form in zip(node.outputs, candidate.writes, strict=True)
    )
    return operands, results


class _Bench:
    """Buffers with random contents for one candidate."""

    def __init__(self, node: Node, candidate: Candidate, target: CpuTarget) -> None:
        self.node, self.candidate, self.target = node, candidate, target
        self.arrays: list[np.ndarray] = []

    def number(self, draft: Draft) -> tuple[int, ...]:
        """Return the tensor number of each argument."""
        numbers = []
        for role in draft.arguments:
            if isinstance(role, Scratch):
                numbers.append(-1)
                continue
            self.arrays.append(self._array(role))
            numbers.append(len(self.arrays) - 1)
        return tuple(numbers)

    def _array(self, role: Read | Write | Blob) -> np.ndarray:
        if isinstance(role, Blob):
            raw = np.ascontiguousarray(role.weight.array).reshape(-1).view(np.uint8)
            copy = aligned_bytes(raw.size)
            copy[:] = raw
            return copy
        read = isinstance(role, Read)
        value = (self.node.inputs if read else self.node.outputs)[role.index]
        form = (self.candidate.reads if read else self.candidate.writes)[role.index]
        type: TensorType = value.tensor
        size = evaluate(size_bytes(type, form or Form.PLAIN), dict(self.target.env))
        array = aligned_bytes(size)
        _fill(array, type, value)
        return array

    def locate(self, tensor: int) -> Location:
        """Return where a buffer is."""
        return Location(address(self.arrays[tensor]))


def _fill(array: np.ndarray, type: TensorType, value: Value) -> None:
    """Fill with small random numbers: integers stay valid as indices and lengths."""
    dtype = type.dtype.numpy
    typed = array[: array.size // dtype.itemsize * dtype.itemsize].view(dtype)
    if value.node is not None and hasattr(value.node.op, "weight"):
        contents = np.asarray(value.node.op.weight.array).reshape(-1)
        typed[: contents.size] = contents
    elif type.dtype.is_float:
        random = np.random.default_rng(0).standard_normal(min(typed.size, 1 << 16))
        typed[:] = np.resize(random, typed.size).astype(dtype)
    else:
        typed[:] = np.zeros(1, dtype)
