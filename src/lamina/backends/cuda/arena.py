"""Where the buffers of a program lie in its arena on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lamina.backends.cuda.hazards import Range, dependencies, lengthened
from lamina.backends.cuda.memory import aligned
from lamina.backends.cuda.residency import NATIVE, base_of, native_tensors
from lamina.ir.attributes import attribute_symbols
from lamina.ir.dims import Dim, evaluate
from lamina.plan.plan import Place, Program, Step
from lamina.runtime.arena import Arena, Lifetime, plan_arena

_AMPLE_BYTES: Final = 64 << 20
_MOST_GROWTH: Final = 1.5
"""Branches may run side by side when that takes no more of these; else buffers are shared."""


class ArenaPlan:
    """Offsets of the tensors and workspaces whose sizes are known.

    A buffer is not used again before every step that could run beside its users is done, unless
    that takes too much memory; then sharing it holds such steps up, which is slower but right.
    The workspace of step n has the number -1 - n.
    """

    def __init__(
        self, program: Program, resident: frozenset[int], env: Mapping[str, int], *, branches: bool
    ) -> None:
        self._program, self._env = program, env
        tensors = program.tensors
        self._users = _users(program, resident)
        last_step = len(program.steps)
        results = {base_of(program, port.tensor) for port in program.outputs}
        planned = [
            t
            for t in sorted(self._users)
            if tensors[t].place is Place.ARENA and is_known(tensors[t].size_bytes, env)
        ]
        self._sizes = {t: evaluate(tensors[t].size_bytes, env) for t in planned}
        ends = {t: last_step if t in results else max(self._users[t]) for t in planned}
        for number, step in enumerate(program.steps):
            if step.kind in NATIVE and is_known(step.workspace_bytes, env):
                key = -1 - number
                self._users[key], ends[key] = [number], number
                self._sizes[key] = evaluate(step.workspace_bytes, env)
        arena = self._place(ends)
        if branches and (later := self._beside(ends)) != ends:
            wide = self._place(later)
            if wide.size_bytes <= max(_AMPLE_BYTES, _MOST_GROWTH * arena.size_bytes):
                arena = wide
        self.size_bytes = arena.size_bytes
        self.lower_bound_bytes = arena.lower_bound_bytes
        self.offsets = dict(zip(ends, arena.offsets, strict=True))

    def _place(self, ends: Mapping[int, int]) -> Arena:
        return plan_arena(
            [Lifetime(aligned(self._sizes[k]), min(self._users[k]), ends[k]) for k in ends]
        )

    def _beside(self, ends: Mapping[int, int]) -> dict[int, int]:
        needed = self._data_dependencies()
        if all(i - 1 in before for i, before in enumerate(needed) if i):
            return dict(ends)  # a chain
        later = lengthened(needed, {k: self._users[k] for k in ends})
        return {k: max(ends[k], later[k]) for k in ends}

    def _data_dependencies(self) -> list[set[int]]:
        """Return which earlier steps each step needs, if no memory were used twice."""
        needed: list[set[int]] = [set() for _ in self._program.steps]
        touched = [self._touched(step) for step in self._program.steps]
        for number, before in enumerate(dependencies(touched)):
            needed[number] |= before
        barrier = 0
        for number, step in enumerate(self._program.steps):
            if step.kind in NATIVE:
                if barrier:
                    needed[number].add(barrier - 1)
            else:  # a step of the host runs alone
                needed[number] |= set(range(max(0, barrier - 1), number))
                barrier = number + 1
        return needed

    def _touched(self, step: Step) -> list[Range]:
        ranges = []
        for tensor in {*step.reads, *step.writes}:
            base, begin = tensor, 0
            sized = self._program.tensors[tensor].size_bytes
            known = is_known(sized, self._env)
            while known and self._program.tensors[base].place is Place.VIEW:
                offset = self._program.tensors[base].offset
                known = is_known(offset, self._env)
                begin += evaluate(offset, self._env) if known else 0
                base = self._program.tensors[base].index
            if known:
                end = begin + evaluate(sized, self._env)
            else:
                base, begin, end = base_of(self._program, tensor), 0, 1 << 62
            ranges.append(Range(base, begin, end, tensor in step.writes))
        return ranges


def is_known(size: Dim, env: Mapping[str, int]) -> bool:
    """Whether ``env`` tells all symbols of a size."""
    return all(s in env for s in attribute_symbols(size))


def _users(program: Program, resident: frozenset[int]) -> dict[int, list[int]]:
    """Return the steps that touch each tensor that owns device memory."""
    users: dict[int, list[int]] = {}
    for number, step in enumerate(program.steps):
        native = native_tensors(step) if step.kind in NATIVE else ()
        for tensor in {*step.reads, *step.writes, *native}:
            base = base_of(program, tensor)
            if base in resident:
                users.setdefault(base, []).append(number)
    return users
