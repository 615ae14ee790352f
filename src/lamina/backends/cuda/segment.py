"""Consecutive native steps as launches, for known sizes and memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Protocol

from lamina.backends.cuda.device import KernelLaunch
from lamina.backends.cuda.hazards import CALLERS, OWN, Range, dependencies
from lamina.backends.cuda.launches import (
    BoxesArgument,
    CounterArgument,
    KernelStep,
    LaunchDescription,
    ScalarArgument,
)
from lamina.backends.cuda.library.steps import LibraryStep
from lamina.backends.cuda.primitive import LibraryCall
from lamina.backends.cuda.residency import base_of, native_tensors
from lamina.backends.cuda.resources import Resources
from lamina.errors import PlanError, where
from lamina.ir.dims import evaluate
from lamina.plan.plan import Place, Program, Step

WORKSPACE = -1


@dataclass(frozen=True)
class Location:
    """Where bytes are: at an absolute address, or at an offset in the caller's array ``caller``."""

    address: int
    size_bytes: int
    caller: int = -1

    def range(self, *, writes: bool) -> Range:
        """Return the bytes as what a step touches."""
        space = OWN if self.caller < 0 else CALLERS + self.caller
        return Range(space, self.address, self.address + self.size_bytes, writes)


class Places(Protocol):
    """Tells where things of a program are."""

    def locate(self, tensor: int) -> Location:
        """Return where a tensor is."""

    def workspace(self, step: int) -> Location:
        """Return the workspace of a step."""

    def counters(self, step: int, number: int) -> int:
        """Return the address of counters of a step."""

    def scratch(self, step: int, launch: int, size_bytes: int) -> int:
        """Return the address of global scratch memory that is one launch's own."""


@dataclass(frozen=True)
class Patch:
    """Argument ``position`` is ``offset`` bytes behind the begin of the caller's array."""

    position: int
    caller: int
    offset: int


@dataclass(frozen=True)
class Prepared:
    """A launch of step ``step`` (its number in the program) that lacks the callers' addresses.

    It is one of a kernel, or a library's work.
    """

    launch: KernelLaunch | LibraryCall
    patches: tuple[Patch, ...]
    step: int

    def bound(self, pointers: Sequence[int]) -> KernelLaunch | LibraryCall:
        """Return the launch with the addresses of the caller's arrays."""
        if not self.patches:
            return self.launch
        values = list(self.launch.values)
        for p in self.patches:
            values[p.position] = pointers[p.caller] + p.offset
        return dataclasses.replace(self.launch, values=tuple(values))


class _Maker:
    """Makes the launches of steps; a segment does not keep what it takes to make them."""

    def __init__(
        self, resources: Resources, program: Program, places: Places, env: Mapping[str, int]
    ) -> None:
        self._resources, self._program, self._places, self._env = resources, program, places, env
        self.launches: list[Prepared] = []

    def add(self, number: int, kernel: KernelStep) -> None:
        """Add the launches of a step."""
        for position, description in enumerate(kernel.launches):
            grid = description.sizes(self._env)
            if not grid[0]:
                continue
            values, types, patches = self._values(number, description)
            boxes = [a for a in description.arguments if isinstance(a, BoxesArgument)]
            scratch = description.scratch_bytes * prod(grid)
            # Compiled kernels take two more pointers: global scratch, and the profiler's.
            values += [self._places.scratch(number, position, scratch) if scratch else 0, 0]
            launch = KernelLaunch(
                function=self._resources.function(
                    description.kernel, description.function, description.shared_bytes
                ),
                grid=grid,
                threads=description.threads,
                more_threads=description.more_threads,
                shared_bytes=description.shared_bytes,
                values=tuple(values),
                types=(*types, "p", "p"),
                dependent=description.dependent,
                cluster=description.cluster,
                maps=tuple(a.map(self._env) for a in boxes),
            )
            self.launches.append(Prepared(launch, tuple(patches), number))

    def add_call(self, number: int, step: LibraryStep) -> None:
        """Add what a library does for a step."""
        places = [self._places.locate(t) for t in step.tensors]
        patches = [Patch(i, p.caller, p.address) for i, p in enumerate(places) if p.caller >= 0]
        workspace = self._places.workspace(number)
        operation = self._resources.operation(step, self._env)
        if operation.workspace_bytes > workspace.size_bytes:
            raise PlanError(
                f"a library needs {operation.workspace_bytes} bytes of workspace, the plan has "
                f"{workspace.size_bytes}",
                hint="build the plan again with the version of the library that is installed here",
            )
        call = LibraryCall(operation, tuple(p.address for p in places), workspace.address)
        self.launches.append(Prepared(call, tuple(patches), number))

    def _values(
        self, number: int, description: LaunchDescription
    ) -> tuple[list[int], list[str], list[Patch]]:
        values: list[int] = []
        types: list[str] = []
        patches: list[Patch] = []
        for position, argument in enumerate(description.arguments):
            if isinstance(argument, ScalarArgument):
                values.append(_fitting(evaluate(argument.value, self._env), argument.type))
                types.append(argument.type)
                continue
            types.append("m" if isinstance(argument, BoxesArgument) else "p")
            if isinstance(argument, CounterArgument):
                values.append(self._places.counters(number, argument.number))
            elif argument.number == WORKSPACE:
                values.append(self._places.workspace(number).address)
            else:
                place = self._places.locate(argument.number)
                values.append(place.address)
                if place.caller >= 0:
                    patches.append(Patch(position, place.caller, place.address))
        return values, types, patches

    def touched(self, number: int) -> list[Range]:
        """Return the memory that a step reads and writes; constants never change."""
        step, tensors = self._program.steps[number], self._program.tensors
        ranges = [
            self._places.locate(t).range(writes=t in step.writes)
            for t in set(native_tensors(step))
            if tensors[base_of(self._program, t)].place is not Place.CONSTANT
        ]
        return [*ranges, self._places.workspace(number).range(writes=True)]


class Segment:
    """Launches in order, and which must wait for which.

    ``after`` has the numbers of the launches that each launch waits for; ``callers`` are the
    caller's arrays that any of them touches.
    """

    def __init__(
        self,
        resources: Resources,
        program: Program,
        steps: range,
        places: Places,
        env: Mapping[str, int],
    ) -> None:
        self.program, self.steps = program, steps
        made = _Maker(resources, program, places, env)
        facts = resources.of(program)
        self.of_step: dict[int, range] = {}
        for number in steps:
            with in_step(program.steps[number]):
                begin = len(made.launches)
                if number in facts.primitives:
                    made.add_call(number, facts.primitives[number])
                else:
                    made.add(number, facts.kernels[number])
                self.of_step[number] = range(begin, len(made.launches))
        self.launches = made.launches
        self.callers = tuple(sorted({p.caller for x in self.launches for p in x.patches}))
        waits = _in_turn(len(steps))
        if resources.options.branches:
            waits = dependencies([made.touched(number) for number in steps])
        self.after = self._edges(waits)

    def _edges(self, before: Sequence[frozenset[int]]) -> list[tuple[int, ...]]:
        """Return what each launch waits for; the launches of one step run one after the other."""
        after: list[tuple[int, ...]] = [()] * len(self.launches)
        last: list[tuple[int, ...]] = []  # the launches whose end is the end of each step
        for number, waits in zip(self.steps, before, strict=True):
            ends = tuple(sorted({n for w in waits for n in last[w]}))
            for launch in self.of_step[number]:
                after[launch] = ends
                ends = (launch,)
            last.append(ends)
        return after

    def describe(self) -> str:
        """Return which steps these are, for people."""
        first, last = self.program.steps[self.steps[0]], self.program.steps[self.steps[-1]]
        if first is last:
            return f"step {first.name} ({first.tactic}) from {first.loc}"
        return f"one of {len(self.steps)} steps, from {first.name} to {last.name}"


def _in_turn(count: int) -> list[frozenset[int]]:
    return [frozenset({i - 1} if i else ()) for i in range(count)]


def _fitting(value: int, type: str) -> int:
    """Return a number that an integer type holds; raises PlanError for one beyond it."""
    bits = int(type[1:])
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if type[0] == "i" else (0, 1 << bits)
    if not low <= value < high:
        raise PlanError(f"the size {value} does not fit {type}", hint="use smaller shapes")
    return value


@contextmanager
def in_step(step: Step) -> Iterator[None]:
    """Add a step's name, tactic and source to errors."""
    with where(f"in step {step.name} ({step.tactic}) from {step.loc}"):
        yield
