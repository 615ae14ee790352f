"""Times candidates on the device, or takes their times from the timing cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lamina.backends.cuda.bench import Bench
from lamina.backends.cuda.compile import Compiler, MachineCode
from lamina.backends.cuda.device import Device, current
from lamina.backends.cuda.request import AnyDraft
from lamina.backends.cuda.target import CudaTarget
from lamina.errors import DeviceError, LaminaError
from lamina.ir.attributes import attribute_symbols
from lamina.ir.graph import Node
from lamina.tactics.cache import TimingCache
from lamina.tactics.candidate import Candidate, Placement
from lamina.tactics.choices import Choices, dense_layouts, describe
from lamina.tactics.views import STRIDED_VIEW

Report = Callable[[str, int, int, str], None]

_FIRST: Final = 3
"""Configurations of each tactic that are timed first."""

_NEAR: Final = 1.15
"""How many times the best time a tactic's may be for its other configurations to be timed."""


@dataclass(frozen=True)
class Measurer:
    """Fills in the times of candidates: what a device measures, or what the cache knows."""

    device: Device | None
    target: CudaTarget
    cache: TimingCache
    compiler: Compiler
    report: Report

    def measure(self, choices: Sequence[Choices]) -> None:
        """Put times in the place of estimates; a candidate that fails is dropped, with its reason.

        Without a device the candidates that the cache knows win over those that it does not.
        """
        problems: dict[str, list[Choices]] = {}
        for c in choices:
            if len(c.candidates) > 1:
                problems.setdefault(problem_key(c.node, self.target), []).append(c)
        if self.device is not None:
            self._fill_cache(problems)
        for problem, alike in problems.items():
            for c in alike:
                self._look_up(problem, c)

    def _look_up(self, problem: str, c: Choices) -> None:
        known = [self.cache.get(problem, describe(x)) for x in c.candidates]
        if all(us is None for us in known):
            return
        kept = [(x, us) for x, us in zip(c.candidates, known, strict=True) if us is not None]
        c.candidates = [x for x, _ in kept]
        c.microseconds = [us for _, us in kept]

    def _fill_cache(self, problems: Mapping[str, list[Choices]]) -> None:
        """Time what the cache does not know, in two rounds.

        The first round has the few most promising configurations of every tactic; the second the
        others of those tactics that came close to the best.  What is timed follows from the cache
        alone, so that a later build with its times finds nothing missing.
        """
        known = {
            problem: alike
            for problem, alike in problems.items()
            if _sizes_known(alike[0].node, self.target.env)
        }
        self._time_all(known, {p: _first(a[0].candidates) for p, a in known.items()})
        self._time_all(known, {p: self._second(p, a[0].candidates) for p, a in known.items()})

    def _second(self, problem: str, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return what deserves the second round: configurations of the tactics that are close."""
        best: dict[Any, float] = {}
        times: dict[Any, float] = {}
        for c in _first(candidates):
            us = self.cache.get(problem, describe(c))
            if us is not None:
                best[_forms(c)] = min(us, best.get(_forms(c), us))
                times[_family(c)] = min(us, times.get(_family(c), us))
        near = {f for f, us in times.items() if us <= _NEAR * best[f[1:]]}
        return [c for c in candidates if _family(c) in near]

    def _time_all(
        self, problems: Mapping[str, list[Choices]], wanted: Mapping[str, Sequence[Candidate]]
    ) -> None:
        missing: list[tuple[str, Choices, Candidate, AnyDraft]] = []
        for problem, candidates in wanted.items():
            alike = problems[problem]
            for c in candidates:
                if c.tactic == STRIDED_VIEW:
                    self.cache.put(problem, describe(c), 0.0)
                elif self.cache.get(problem, describe(c)) is None:
                    missing += [(problem, alike[0], c, d) for d in self._draft(alike, c)]
        if not missing:
            return
        compiled = self.compiler.compile(
            [launch.kernel for *_, d in missing for launch in d.launches],
            lambda done, total: self.report("compile", done, total, ""),
        )
        assert self.device is not None
        with current(self.device), Bench(self.device, self.target) as bench:
            best: dict[str, float] = {}
            for i, (problem, offered, candidate, draft) in enumerate(missing):
                node = offered.node
                self.report("tactics", i, len(missing), str(node.loc))
                try:
                    code = {r: _code(compiled[r]) for r in (x.kernel for x in draft.launches)}
                    us = bench.time(node, candidate, draft, code, best.get(problem))
                except LaminaError as e:
                    if self.device.lost:
                        raise
                    for other in problems[problem]:
                        other.declined.append((describe(candidate), str(e).splitlines()[0]))
                    continue
                best[problem] = min(us, best.get(problem, us))
                self.cache.put(problem, describe(candidate), us)

    def _draft(self, alike: Iterable[Choices], candidate: Candidate) -> list[AnyDraft]:
        """Return the launches of a candidate on dense operands, or record why there are none."""
        node = next(iter(alike)).node
        try:
            draft: Any = candidate.draft(Placement(*dense_layouts(node, candidate), ""))
        except (DeviceError, LaminaError) as e:
            for c in alike:
                c.declined.append((describe(candidate), str(e).splitlines()[0]))
            return []
        return [draft]


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


def problem_key(node: Node, target: CudaTarget) -> str:
    """Return what decides the time of a node: operator, types, likeliest sizes."""
    types = [str(v.type.substitute(dict(target.env))) for v in (*node.inputs, *node.outputs)]
    return f"{node.op}({', '.join(types)})" + (" tf32" if target.tf32 else "")


def _sizes_known(node: Node, env: Mapping[str, int]) -> bool:
    values = (*node.inputs, *node.outputs)
    return all(s in env for v in values for s in attribute_symbols(v.type))
