"""A program bound to concrete sizes: its memory, and its steps grouped into native segments."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lamina.backends.cpu.counted import CountedStep
from lamina.backends.cpu.native import address
from lamina.backends.cpu.resources import Resources
from lamina.backends.cpu.segment import Location, Segment
from lamina.errors import PlanError
from lamina.ir.attributes import attribute_symbols
from lamina.ir.dims import evaluate
from lamina.ir.types import TensorType
from lamina.plan.check import check_sizes
from lamina.plan.plan import Place, Program, Step, StepKind, Tensor
from lamina.runtime.arena import Arena, Lifetime, plan_arena
from lamina.runtime.lent import LentMemory

NATIVE = (StepKind.KERNEL, StepKind.PRIMITIVE)


class Instance:
    """Memory of a program for one binding of its symbols.

    Tensors whose size is known at the start share an arena; those whose size depends on data get
    memory of their own when the step before them has run.  ``lent`` memory takes the arena.
    """

    def __init__(
        self,
        resources: Resources,
        program: Program,
        env: dict[str, int],
        lent: LentMemory | None = None,
    ) -> None:
        self.resources, self.program = resources, program
        self.base_env = dict(env)
        self.env = dict(env)
        self.pointers = np.zeros(max(1, len(program.inputs) + len(program.outputs)), np.int64)
        self.io: list[Any] = [None] * self.pointers.size
        self.objects: dict[int, Any] = {}
        self._own: dict[int, np.ndarray] = {}
        self._views: dict[int, np.ndarray] = {}
        self._segments: dict[int, tuple[tuple[int, ...], Segment]] = {}
        self._counted: dict[int, tuple[tuple[int, ...], CountedStep]] = {}
        self.groups = _groups(program.steps)
        if env:  # sizes without symbols were compared when the plan was read
            check_sizes(program, env)
        planned, arena = arena_of(program, self.env)
        self.arena_bytes, self.lower_bound_bytes = arena.size_bytes, arena.lower_bound_bytes
        if lent is None:
            self._arena = resources.allocate(arena.size_bytes)
        else:
            raw = (ctypes.c_uint8 * arena.size_bytes).from_address(lent.place(arena.size_bytes))
            self._arena = np.ctypeslib.as_array(raw)
        self._offsets = dict(zip(planned, arena.offsets, strict=True))

    def begin(self) -> None:
        """Forget what data decided in an earlier run.

        Memory stays: segments made for equal sizes know where it is.
        """
        if len(self.env) != len(self.base_env):
            self.env = dict(self.base_env)
            self._views.clear()
        self.objects.clear()

    def locate(self, tensor: int) -> Location:
        """Return where tensor number ``tensor`` is."""
        t = self.program.tensors[tensor]
        if t.place is Place.VIEW:
            base = self.locate(t.index)
            offset = evaluate(t.offset, self.env)
            return Location(base.address + offset, base.pointer, base.memory_bytes)
        if t.place is Place.CONSTANT:
            constant = self.resources.constants[t.index]
            return Location(address(constant), -1, constant.nbytes)
        size = evaluate(t.size_bytes, self.env)
        if t.place is Place.INPUT:
            return Location(0, t.index, size)
        if t.place is Place.OUTPUT:
            return Location(0, len(self.program.inputs) + t.index, size)
        if t.place is Place.ARENA:
            if tensor in self._offsets:
                return Location(address(self._arena) + self._offsets[tensor], -1, size)
            return Location(address(self._owned(tensor, t)), -1, size)
        raise PlanError(f"tensor {t.name} is a host object, but a native step uses it")

    def _owned(self, tensor: int, t: Tensor) -> np.ndarray:
        size = evaluate(t.size_bytes, self.env)
        have = self._own.get(tensor)
        if have is None or have.size != size:
            self._own[tensor] = have = self.resources.allocate(size)
        return have

    def array(self, tensor: int) -> Any:
        """Return a tensor as the array (or object) that a host step works on."""
        t = self.program.tensors[tensor]
        if t.place is Place.HOST:
            return self.objects[tensor]
        if not isinstance(t.type, TensorType):
            return self._io(t)
        if t.place in (Place.INPUT, Place.OUTPUT):
            return self._io(t).reshape(self.shape(t.type))
        if tensor not in self._views:
            self._views[tensor] = self._view(tensor, t, t.type)
            if self.locate(tensor).pointer >= 0:
                return self._views.pop(tensor)
        return self._views[tensor]

    def _io(self, t: Tensor) -> Any:
        return self.io[t.index if t.place is Place.INPUT else len(self.program.inputs) + t.index]

    def _view(self, tensor: int, t: Tensor, type: TensorType) -> np.ndarray:
        dtype, shape = type.dtype.numpy, self.shape(type)
        raw, offset = self._bytes(tensor, t)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if dtype.hasobject:
            return raw
        return raw[offset : offset + size].view(dtype).reshape(shape)

    def _bytes(self, tensor: int, t: Tensor) -> tuple[np.ndarray, int]:
        if t.place is Place.VIEW:
            raw, offset = self._bytes(t.index, self.program.tensors[t.index])
            return raw, offset + evaluate(t.offset, self.env)
        if t.place is Place.CONSTANT:
            constant = self.resources.constants[t.index]
            return (
                constant if constant.dtype == object else constant.reshape(-1).view(np.uint8)
            ), 0
        if t.place is Place.ARENA:
            if tensor in self._offsets:
                return self._arena, self._offsets[tensor]
            return self._owned(tensor, t), 0
        return self._io(t).reshape(-1).view(np.uint8), 0

    def shape(self, type: TensorType) -> tuple[int, ...]:
        """Return the shape of a type for the current sizes."""
        return tuple(evaluate(d, self.env) for d in type.shape)

    def segment(self, group: int) -> Segment:
        """Return the native segment of group number ``group`` for the current sizes."""
        begin, end = self.groups[group]
        key = self._decided()
        have = self._segments.get(group)
        if have is None or have[0] != key:
            steps = self.program.steps[begin:end]
            have = (key, Segment(self.resources, steps, self, self.pointers, dict(self.env)))
            self._segments[group] = have
        return have[1]

    def _decided(self) -> tuple[int, ...]:
        """Return the sizes that data has decided so far."""
        return tuple(self.env[s] for s in sorted(self.env) if s not in self.base_env)

    def run_counted(self, number: int) -> None:
        """Run step ``number``, which decides a size of its result."""
        step, key = self.program.steps[number], self._decided()
        have = self._counted.get(number)
        if have is None or have[0] != key:
            env = dict(self.env)
            made = CountedStep(self.resources, self.program, step, self, self.pointers, env)
            have = self._counted[number] = (key, made)
        count, result = have[1].run()
        self.env[step.defines[0]] = count
        self._own[step.writes[0]] = result

    @property
    def workspace_bytes(self) -> int:
        """Bytes of scratch memory of the segments made so far."""
        native = [s for _, s in self._segments.values()] + [s for _, s in self._counted.values()]
        return sum(s.workspace_bytes for s in native)


def arena_of(program: Program, env: Mapping[str, int]) -> tuple[list[int], Arena]:
    """Return the tensors whose size is known, and where they lie in an arena."""
    tensors = program.tensors
    first, last = _lifetimes(program)
    planned = [
        i
        for i, t in enumerate(tensors)
        if t.place is Place.ARENA
        and i in first
        and all(s in env for s in attribute_symbols(t.size_bytes))
    ]
    return planned, plan_arena(
        [Lifetime(evaluate(tensors[i].size_bytes, env), first[i], last[i]) for i in planned]
    )


def _groups(steps: Sequence[Step]) -> list[tuple[int, int]]:
    """Return ranges of steps: native runs, and single host steps."""
    groups: list[tuple[int, int]] = []
    for i, s in enumerate(steps):
        native = s.kind in NATIVE
        if native and groups and steps[groups[-1][0]].kind in NATIVE and groups[-1][1] == i:
            groups[-1] = (groups[-1][0], i + 1)
        else:
            groups.append((i, i + 1))
    return groups


def _lifetimes(program: Program) -> tuple[dict[int, int], dict[int, int]]:
    """Return first and last step of each tensor that owns memory; results live to the end."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}

    def base(tensor: int) -> int:
        while program.tensors[tensor].place is Place.VIEW:
            tensor = program.tensors[tensor].index
        return tensor

    for i, step in enumerate(program.steps):
        for tensor in (*step.reads, *step.writes):
            b = base(tensor)
            first.setdefault(b, i)
            last[b] = i
    for port in program.outputs:
        last[base(port.tensor)] = len(program.steps)
    return first, last
