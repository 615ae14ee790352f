"""Times candidates on the device, or takes their times from the timing cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lamina.backends.cpu.selection import Choices, dense_layouts, describe
from lamina.backends.cpu.tactics.candidate import Candidate, Placement
from lamina.backends.cpu.views import STRIDED_VIEW
from lamina.backends.cuda.bench import Bench
from lamina.backends.cuda.compile import Compiler, MachineCode
from lamina.backends.cuda.device import Device, current
from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.target import CudaTarget
from lamina.errors import DeviceError, LaminaError
from lamina.ir.attributes import attribute_symbols
from lamina.ir.graph import Node
from lamina.tactics.cache import TimingCache

Report = Callable[[str, int, int, str], None]


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
        """Time what the cache does not know."""
        missing: list[tuple[str, Choices, Candidate, CudaDraft]] = []
        for problem, alike in problems.items():
            first = alike[0]
            if not _sizes_known(first.node, self.target.env):
                continue
            for c in first.candidates:
                if c.tactic == STRIDED_VIEW:
                    self.cache.put(problem, describe(c), 0.0)
                elif self.cache.get(problem, describe(c)) is None:
                    missing += [(problem, first, c, d) for d in self._draft(alike, c)]
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

    def _draft(self, alike: Iterable[Choices], candidate: Candidate) -> list[CudaDraft]:
        """Return the launches of a candidate on dense operands, or record why there are none."""
        node = next(iter(alike)).node
        try:
            draft: Any = candidate.draft(Placement(*dense_layouts(node, candidate), ""))
        except (DeviceError, LaminaError) as e:
            for c in alike:
                c.declined.append((describe(candidate), str(e).splitlines()[0]))
            return []
        return [draft]


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
