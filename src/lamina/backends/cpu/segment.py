"""Turns consecutive native steps into the tables of the step loop, for known sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lamina.backends.cpu.native import (
    CONTEXT_WORDS,
    RECORD_WORDS,
    Kind,
    Word,
    Words,
    address,
)
from lamina.backends.cpu.onednn import primitives, serialization
from lamina.backends.cpu.resources import Resources
from lamina.errors import ExecutionError, PlanError, where
from lamina.ir.dims import evaluate, parse_dim
from lamina.plan.plan import WORKSPACE, Step, StepKind


@dataclass(frozen=True)
class Location:
    """Where a tensor is: an absolute address, or an offset in the caller's array ``pointer``.

    ``memory_bytes`` is the size of the memory that it is a part of, -1 where nobody counts.
    """

    address: int
    pointer: int = -1
    memory_bytes: int = -1


class Memory(Protocol):
    """Gives the location of a tensor of the program."""

    def locate(self, tensor: int) -> Location:
        """Return where tensor number ``tensor`` is."""


class Segment:
    """Native steps, ready to run with one call."""

    def __init__(
        self,
        resources: Resources,
        steps: Sequence[Step],
        memory: Memory,
        pointers: Words,
        env: Mapping[str, int],
    ) -> None:
        self.resources = resources
        self.steps = steps
        self.pointers = pointers
        self.env = env
        self._memory = memory
        self._keep: list[Any] = []
        self._records: list[tuple[int, int, int, int, int]] = []
        self._step_of_record: list[int] = []
        self._stream = resources.library.stream() if resources.library else None
        self.workspace_bytes = 0
        with_library = [self._primitive(s) if s.kind is StepKind.PRIMITIVE else None for s in steps]
        self.workspace_bytes = max(
            [evaluate(s.workspace_bytes, env) for s in steps]
            + [p.scratchpad_bytes for p in with_library if p is not None],
            default=0,
        )
        self._workspace = resources.allocate(self.workspace_bytes)
        for i, (step, primitive) in enumerate(zip(steps, with_library, strict=True)):
            with where(f"in step {step.name} ({step.tactic}) from {step.loc}"):
                before = len(self._records)
                if primitive is None:
                    self._add_kernel(step)
                else:
                    self._add_primitive(step, primitive)
                self._step_of_record += [i] * (len(self._records) - before)
        self._finish()

    def _primitive(self, step: Step) -> primitives.Primitive:
        library = self.resources.library
        if library is None:
            raise PlanError("the plan uses oneDNN, which is not available here")
        try:
            spec = serialization.from_json(_evaluated(json.loads(step.spec), self.env))
        except (ValueError, TypeError, KeyError) as e:
            raise PlanError(f"the description of step {step.name} is damaged: {e}") from e
        return primitives.create(library, spec, threads=self._threads(step))

    def _threads(self, step: Step) -> int:
        return min(step.threads, self.resources.threads)

    def _add_kernel(self, step: Step) -> None:
        slots = np.zeros(max(1, len(step.arguments)), np.int64)
        self._keep.append(slots)
        for i, tensor in enumerate(step.arguments):
            self._point_slot(address(slots) + 8 * i, slots, i, tensor)
        parameters = np.array([evaluate(p, self.env) for p in step.parameters] or [0], np.int64)
        self._keep.append(parameters)
        threads = self._threads(step)
        kind = Kind.TEAM if threads > 1 else Kind.SERIAL
        for symbol in step.symbols:
            f = self.resources.image.address(symbol)
            self._records.append((kind, f, address(slots), address(parameters), threads))

    def _point_slot(self, at: int, slots: Words, i: int, tensor: int) -> None:
        if tensor == WORKSPACE:
            slots[i] = address(self._workspace)
            return
        location = self._memory.locate(tensor)
        if location.pointer < 0:
            slots[i] = location.address
        else:
            self._records.append((Kind.POINT, at, location.pointer, location.address, 0))

    def _add_primitive(self, step: Step, primitive: primitives.Primitive) -> None:
        arguments = primitive.arguments()
        self._keep += [primitive, arguments]
        for name, tensor in zip(step.names, step.arguments, strict=True):
            if name not in arguments.memory:
                raise PlanError(f"{primitive.implementation} has no argument {name}")
            location = self._memory.locate(tensor)
            needed = primitive.size_bytes(name)
            if 0 <= location.memory_bytes < needed:
                raise PlanError(f"{name} has {location.memory_bytes} bytes, {needed} are needed")
            if location.pointer < 0:
                arguments.point(name, location.address)
            else:
                handle = arguments.memory[name]
                self._records.append((Kind.HANDLE, handle, location.pointer, location.address, 0))
        if primitive.scratchpad_bytes:
            arguments.point("scratchpad", address(self._workspace))
        assert self._stream is not None
        self._records.append(
            (
                Kind.LIBRARY if self._threads(step) == self.resources.threads else Kind.ALONE,
                primitive.pointer,
                self._stream.pointer,
                arguments.count,
                arguments.array,
            )
        )

    def _finish(self) -> None:
        self._table = np.array(self._records, np.int64).reshape(-1, RECORD_WORDS)
        self._times = np.zeros(len(self._records) + 1, np.int64)
        context = np.zeros(CONTEXT_WORDS, np.int64)
        for name, value in self.resources.context_functions().items():
            context[Word[name]] = value
        context[Word.POINTERS] = address(self.pointers)
        context[Word.RECORDS] = address(self._table)
        context[Word.COUNT] = len(self._records)
        context[Word.THREADS] = self.resources.threads
        context[Word.TIMES] = address(self._times)
        self._context = context
        self.context_address = address(context)

    def run(self) -> None:
        """Run all steps on the current pointers; raises ExecutionError naming a failed step."""
        if code := self.resources.run(self.context_address):
            self.fail(code)

    def fail(self, code: int) -> None:
        """Raise ExecutionError for what the step loop returned."""
        step = self.steps[self._step_of_record[(code >> 32) - 1]]
        raise ExecutionError(
            f"step {step.name} ({step.tactic}) returned status {code & 0xFFFFFFFF}",
            hint="please report this together with the output of `lamina doctor`",
        )

    def run_timed(self) -> list[int]:
        """Run all steps and return the cycles that each took."""
        if code := self.resources.run_timed(self.context_address):
            self.fail(code)
        cycles = [0] * len(self.steps)
        for record, step in enumerate(self._step_of_record):
            cycles[step] += int(self._times[record + 1] - self._times[record])
        return cycles


def _evaluated(data: Any, env: Mapping[str, int]) -> Any:
    """Replace ``{"$": "2*b"}`` by its number, everywhere in a description."""
    if isinstance(data, dict):
        if set(data) == {"$"}:
            return evaluate(parse_dim(data["$"]), env)
        return {k: _evaluated(v, env) for k, v in data.items()}
    if isinstance(data, list):
        return [_evaluated(v, env) for v in data]
    return data
