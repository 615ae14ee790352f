"""A step that is timed: the memory that it needs, and its launches."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from lamina.backends.cuda.compile import MachineCode
from lamina.backends.cuda.device import Device, Handle, KernelLaunch
from lamina.backends.cuda.library.steps import sized
from lamina.backends.cuda.primitive import LibraryCall, Operation
from lamina.backends.cuda.request import (
    AnyDraft,
    Boxes,
    Counters,
    KernelRequest,
    Launch,
    LibraryDraft,
    Scalar,
)
from lamina.backends.cuda.tensor_maps import map_of
from lamina.codegen.layout import Layout
from lamina.ir.dims import evaluate
from lamina.ir.graph import Node, Value
from lamina.ir.types import DType
from lamina.tactics.candidate import (
    Blob,
    Candidate,
    Packed,
    Placement,
    Read,
    Scratch,
    Write,
    constant,
)

MOST_COPIES: Final = 40
OWN: Final = "own"
"""The kind of memory that no other launch uses: one that starts early writes to it at once."""
_TURNS: Final = 2
"""Launches that may be under way at the same time: the next but one waits for the first to end."""
_WARP: Final = 32
_ALIGN: Final = 256


@dataclass(frozen=True)
class Trial:
    """A step to be timed: a candidate of a node, where its operands and results lie, its draft."""

    node: Node
    candidate: Candidate
    placement: Placement
    draft: AnyDraft


class Memory(Protocol):
    """Where a timed step finds memory and code."""

    device: Device
    env: dict[str, int]
    flush_bytes: int

    def reserve(self, sizes: Mapping[str, int]) -> None:
        """Make pools large enough."""

    def memory(self, kind: str, size: int) -> int:
        """Return memory of a kind."""

    def upload(self, pointer: int, array: np.ndarray) -> None:
        """Copy an array to the device and wait for it."""

    def function(self, request: KernelRequest, code: MachineCode) -> Handle:
        """Return a kernel ready to launch."""


class Needs:
    """The memory that a trial needs, but for the arguments that are ``elsewhere``."""

    def __init__(
        self,
        trial: Trial,
        code: Mapping[KernelRequest, MachineCode],
        env: Mapping[str, int],
        elsewhere: Collection[object] = (),
    ) -> None:
        self._trial, self._env = trial, env
        self.sizes = {r: self._size(r) for r in _roles(trial.draft) if r not in elsewhere}
        """The kind of memory and the bytes of each argument."""
        self.scratch_bytes = [
            code[x.kernel].scratch_bytes * math.prod(evaluate(n, env) for n in x.grid)
            for x in trial.draft.launches
        ]
        """What each launch writes before the one ahead has ended."""

    def total(self, copies: int) -> dict[str, int]:
        """Return the bytes of each kind, with so many copies of weights."""
        total = {OWN: _TURNS * sum(map(aligned, self.scratch_bytes)) + _ALIGN}
        for r, (kind, n) in self.sizes.items():
            count = copies if self.is_weight(r) else 1
            total[kind] = total.get(kind, 0) + count * aligned(n)
        return total

    def copies(self, cache_bytes: int) -> int:
        """Return how many copies of the weights exceed a cache."""
        weights = sum(n for r, (_, n) in self.sizes.items() if self.is_weight(r))
        return max(1, min(MOST_COPIES, math.ceil(cache_bytes / max(1, weights))))

    def is_weight(self, role: object) -> bool:
        """Whether an argument is the same in every run."""
        if isinstance(role, Read):
            return constant(self._trial.node.inputs[role.index]) is not None
        return isinstance(role, Blob | Packed)

    def indices(self, role: object) -> np.ndarray | None:
        """Return the contents of an argument that must be those of the model, if it is one."""
        if not isinstance(role, Read):
            return None
        weight = constant(self._trial.node.inputs[role.index])
        if weight is None or DType.of(weight.contents.dtype).is_float:
            return None
        return weight.contents

    def _size(self, role: object) -> tuple[str, int]:
        env, at, node = self._env, self._trial.placement, self._trial.node
        match role:
            case Blob(weight):
                return DType.of(weight.contents.dtype).value, weight.contents.nbytes
            case Packed(dtype, size, _):
                return dtype.value, size
            case Counters(count):
                return "zeros", 4 * count
            case Scratch():
                return "scratch", evaluate(self._trial.draft.workspace_bytes, env)
            case Read(i):
                v = node.inputs[i]
                return v.tensor.dtype.value, _span_bytes(v, at.operands[i], env)
            case Write(i):
                return "scratch", _span_bytes(node.outputs[i], at.results[i], env)
        raise AssertionError(role)


def _roles(draft: AnyDraft) -> list[object]:
    """Return the arguments of a draft that are memory, each once."""
    if isinstance(draft, LibraryDraft):
        return [*dict.fromkeys(role for _, role in draft.operands), Scratch()]
    arguments = [a for x in draft.launches for a in x.arguments if not isinstance(a, Scalar)]
    return list(dict.fromkeys(a.role if isinstance(a, Boxes) else a for a in arguments))


def aligned(size: int) -> int:
    """Return a size with what it takes for the next memory to begin well."""
    return -(-size // _ALIGN) * _ALIGN


def _span_bytes(v: Value, at: Layout, env: Mapping[str, int]) -> int:
    """Return the bytes from a value's first element to its last."""
    if not evaluate(v.tensor.size, env):
        return 0
    return evaluate(at.span(v.tensor.shape), env) * v.tensor.dtype.itemsize


class TimedStep:
    """The launches of a candidate, with memory for what they read and write.

    Arguments with a place in ``places`` are there; others get memory of their own, of which that of
    weights is there ``copies`` times, once for each of so many runs (0: as the cache demands).
    """

    def __init__(
        self,
        bench: Memory,
        trial: Trial,
        code: Mapping[KernelRequest, MachineCode],
        places: Mapping[object, int] | None = None,
        copies: int = 0,
    ) -> None:
        self.bench, self.code, self.draft = bench, code, trial.draft
        self.pointers = {r: [at] for r, at in (places or {}).items()}
        needs = Needs(trial, code, bench.env, self.pointers)
        self.copies = copies or needs.copies(bench.flush_bytes)
        bench.reserve(needs.total(self.copies))
        self.scratch = [
            [bench.memory(OWN, size) for _ in range(_TURNS)] for size in needs.scratch_bytes
        ]
        for r, (kind, size) in needs.sizes.items():
            count = self.copies if needs.is_weight(r) else 1
            self.pointers[r] = [bench.memory(kind, size) for _ in range(count)]
            contents = needs.indices(r)
            if contents is not None:
                for place in self.pointers[r]:
                    bench.upload(place, contents)
        self.operation: Operation | None = None
        if isinstance(self.draft, LibraryDraft):
            names = [name for name, _ in self.draft.operands]
            problem = sized(self.draft.problem, bench.env)
            library = bench.device.library(self.draft.library)
            self.operation = library.operation(problem, names, self.draft.plan)

    def launches(self, number: int) -> list[KernelLaunch | LibraryCall]:
        """Return the launches of run ``number``."""
        if isinstance(self.draft, LibraryDraft):
            assert self.operation is not None
            values = tuple(self._pointer(role, number) for _, role in self.draft.operands)
            return [LibraryCall(self.operation, values, self._pointer(Scratch(), number))]
        scratch = (places[number % _TURNS] for places in self.scratch)
        return [
            self._launch(x, number, at) for x, at in zip(self.draft.launches, scratch, strict=True)
        ]

    def _pointer(self, role: object, number: int) -> int:
        places = self.pointers[role]
        return places[number % len(places)]

    def _launch(self, launch: Launch, number: int, scratch: int) -> KernelLaunch:
        code, env = self.code[launch.kernel], self.bench.env
        values: list[int] = []
        types: list[str] = []
        boxes: list[Boxes] = []
        for argument, (_, type) in zip(launch.arguments, launch.kernel.parameters, strict=True):
            if isinstance(argument, Scalar):
                values.append(evaluate(argument.value, env))
                types.append(type)
            elif isinstance(argument, Boxes):
                values.append(self._pointer(argument.role, number))
                types.append("m")
                boxes.append(argument)
            else:
                values.append(self._pointer(argument, number))
                types.append("p")
        x, y, z = (evaluate(n, env) for n in launch.grid)
        threads, *more = launch.block or (code.warps * _WARP, 1, 1)
        return KernelLaunch(
            function=self.bench.function(launch.kernel, code),
            grid=(x, y, z),
            threads=threads,
            more_threads=(more[0], more[1]),
            shared_bytes=code.shared_bytes,
            values=(*values, scratch if code.scratch_bytes else 0, 0),
            types=(*types, "p", "p"),
            dependent=launch.kernel.dependent,
            maps=tuple(
                map_of(b.element, b.sizes, b.strides, *of, env)
                for b, of in zip(boxes, code.boxes, strict=True)
            ),
        )
