"""A program bound to concrete sizes: its memory on the device, and its steps as segments."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lamina.backends.cuda.arena import ArenaPlan
from lamina.backends.cuda.arrays import DeviceArray
from lamina.backends.cuda.graph import SegmentGraphs
from lamina.backends.cuda.memory import Buffer, SharedBuffer, Stream, aligned
from lamina.backends.cuda.residency import base_of, native_tensors
from lamina.backends.cuda.resources import Resources
from lamina.backends.cuda.segment import WORKSPACE, Location, Segment
from lamina.errors import PlanError
from lamina.ir.dims import evaluate
from lamina.ir.types import TensorType
from lamina.plan.check import check_sizes
from lamina.plan.plan import Place, Program, Tensor

_KEPT_SEGMENTS: Final = 4


class Work:
    """A segment with its graphs; ``runs`` counts how often it ran."""

    def __init__(self, resources: Resources, segment: Segment) -> None:
        self.segment = segment
        self.graphs = SegmentGraphs(resources.device, segment, resources.modules)
        self.runs = 0


class Instance:
    """Memory of a program for one binding of its symbols.

    Tensors whose size is known at the start share an arena, which lies in memory that instances of
    other sizes use too; those whose size depends on data get memory of their own when the step
    before them has run.  ``pointers`` are the device addresses
    of the callers' inputs and outputs, ``given`` the arrays or objects themselves.
    """

    def __init__(
        self,
        resources: Resources,
        program: Program,
        env: dict[str, int],
        stream: Stream,
        shared: SharedBuffer,
    ) -> None:
        self.resources, self.program = resources, program
        self.stream = self.work_stream = stream
        self.base_env, self.env = dict(env), dict(env)
        facts = resources.of(program)
        self.kernels, self.resident, self.groups = facts.kernels, facts.resident, facts.groups
        ports = len(program.inputs) + len(program.outputs)
        self.pointers: list[int] = [0] * ports
        self.given: list[Any] = [None] * ports
        self.objects: dict[int, Any] = {}
        self._own: dict[int, Buffer] = {}
        self._host: dict[int, npt.NDArray[np.uint8]] = {}
        self._scratch: dict[tuple[int, int], Buffer] = {}
        self._works: dict[int, dict[tuple[int, ...], tuple[tuple[int, int], Work]]] = {}
        self._generation = 0
        """Grows when memory that launches refer to has moved."""
        if env:  # sizes without symbols were compared when the plan was read
            check_sizes(program, env)
        branches = resources.options.branches and resources.options.graphs
        self.plan = ArenaPlan(program, self.resident, self.env, branches=branches)
        self._shared = shared
        self._arena = self._reserved()
        self._counters = self._zeroed_counters()

    def _reserved(self) -> int:
        return self._shared.reserve(self.plan.size_bytes, "the arena of activations")

    def buffer(self, size_bytes: int, what: str) -> Buffer:
        """Return device memory that work on any stream may use."""
        buffer = self.resources.memory.buffer(size_bytes, what, self.stream)
        self.resources.device.synchronize(self.stream.handle)
        return buffer

    def _zeroed_counters(self) -> Buffer:
        """Lay out the counters of all steps; kernels leave them zero again."""
        self._counter_at: dict[tuple[int, int], int] = {}
        at = 0
        for number, kernel in self.kernels.items():
            for k, size in enumerate(kernel.counter_bytes):
                self._counter_at[number, k] = at
                at += aligned(size)
        buffer = self.buffer(at, "counters")
        if at:
            self.resources.device.clear(buffer.pointer, at, self.stream.handle)
            self.resources.device.synchronize(self.stream.handle)
        return buffer

    def begin(self, stream: Stream) -> None:
        """Forget what data decided in an earlier run; the next one works on ``stream``."""
        self.work_stream = stream
        self._arena = self._reserved()
        if len(self.env) != len(self.base_env):
            self.env = dict(self.base_env)
        self.objects.clear()

    # Where things are on the device: what a segment asks for.

    def locate(self, tensor: int) -> Location:
        """Return where a tensor is on the device."""
        t = self.program.tensors[tensor]
        size = evaluate(t.size_bytes, self.env)
        if t.place is Place.VIEW:
            base = self.locate(t.index)
            return Location(base.address + evaluate(t.offset, self.env), size, base.caller)
        if t.place is Place.CONSTANT:
            return Location(self.resources.constant(t.index), size)
        if t.place is Place.INPUT:
            return Location(0, size, t.index)
        if t.place is Place.OUTPUT:
            return Location(0, size, len(self.program.inputs) + t.index)
        if t.place is Place.ARENA:
            if tensor in self.plan.offsets:
                return Location(self._arena + self.plan.offsets[tensor], size)
            return Location(self._owned(tensor, t, size), size)
        raise PlanError(f"tensor {t.name} is a host object, but a kernel uses it")

    def _owned(self, tensor: int, t: Tensor, size: int) -> int:
        have = self._own.get(tensor)
        if have is None or have.size_bytes < size:
            self._own[tensor] = have = self._larger(have, size, f"tensor {t.name}")
        return have.pointer

    def _larger(self, old: Buffer | None, size: int, what: str) -> Buffer:
        """Return memory in the place of some that has become too small."""
        self._generation += 1  # launches made before know the old address
        if old is not None:  # it goes at once: nothing may be using it
            self.resources.device.synchronize(self.work_stream.handle)
        return self.buffer(size, what)

    def workspace(self, step: int) -> Location:
        """Return the workspace of a step."""
        size = evaluate(self.program.steps[step].workspace_bytes, self.env)
        at = self.plan.offsets.get(-1 - step)
        if at is None:
            return Location(self._private((step, WORKSPACE), size) if size else 0, size)
        return Location(self._arena + at, size)

    def counters(self, step: int, number: int) -> int:
        """Return the address of counters of a step."""
        return self._counters.pointer + self._counter_at[step, number]

    def scratch(self, step: int, launch: int, size_bytes: int) -> int:
        """Return the address of global scratch memory that is one launch's own.

        A launch may write to it before the launches ahead have ended, so nothing else uses it.
        """
        return self._private((step, launch), size_bytes)

    def _private(self, key: tuple[int, int], size: int) -> int:
        have = self._scratch.get(key)
        if have is None or have.size_bytes < size:
            self._scratch[key] = have = self._larger(have, size, "scratch memory of kernels")
        return have.pointer

    def address(self, tensor: int) -> int:
        """Return the device address of a tensor in the current run."""
        place = self.locate(tensor)
        return place.address + (self.pointers[place.caller] if place.caller >= 0 else 0)

    def work(self, group: int) -> Work:
        """Return the launches of a group of native steps for the current sizes."""
        steps = range(*self.groups[group])
        if len(self.env) != len(self.base_env):
            for number in steps:  # memory that grows must not do so while launches are made
                for tensor in native_tensors(self.program.steps[number]):
                    self.locate(tensor)
        key = tuple(self.env[s] for s in sorted(self.env) if s not in self.base_env)
        works = self._works.setdefault(group, {})
        generation, work = works.pop(key, ((0, 0), None))
        if work is None or generation != (self._generation, self._shared.generation):
            while len(works) >= _KEPT_SEGMENTS:
                del works[next(iter(works))]
            work = Work(
                self.resources, Segment(self.resources, self.program, steps, self, self.env)
            )
        works[key] = ((self._generation, self._shared.generation), work)
        return work

    # Tensors as host steps see them.

    def is_resident(self, tensor: int) -> bool:
        """Whether a tensor lives on the device."""
        return base_of(self.program, tensor) in self.resident

    def array(self, tensor: int, type: TensorType, stream: int) -> DeviceArray:
        """Return a tensor that lives on the device, where it is."""
        address = self.address(tensor)
        device = self.resources.device
        return DeviceArray(device, address, type.dtype, self.shape(type), self, stream)

    def host_array(self, tensor: int) -> Any:
        """Return a tensor that lives on the host: an array to read or write, or an object."""
        t = self.program.tensors[tensor]
        if t.place is Place.HOST or tensor in self.objects:
            return self.objects[tensor]
        if t.place in (Place.INPUT, Place.OUTPUT):
            value = self.given[self._port(t)]
            return value if not isinstance(t.type, TensorType) else _reshaped(value, t, self)
        if t.place is Place.CONSTANT and self.resources.host_constant(t.index).dtype == object:
            return self.resources.host_constant(t.index)
        assert isinstance(t.type, TensorType)
        raw, offset = self._host_bytes(tensor, t)
        dtype, shape = t.type.dtype.numpy, self.shape(t.type)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return raw[offset : offset + size].view(dtype).reshape(shape)

    def _host_bytes(self, tensor: int, t: Tensor) -> tuple[npt.NDArray[np.uint8], int]:
        if t.place is Place.VIEW:
            raw, offset = self._host_bytes(t.index, self.program.tensors[t.index])
            return raw, offset + evaluate(t.offset, self.env)
        if t.place is Place.CONSTANT:
            return _as_bytes(self.resources.host_constant(t.index)), 0
        if t.place in (Place.INPUT, Place.OUTPUT):
            return _as_bytes(self.given[self._port(t)]), 0
        size = evaluate(t.size_bytes, self.env)
        have = self._host.get(tensor)
        if have is None or have.size != size:
            self._host[tensor] = have = np.empty(size, np.uint8)
        return have, 0

    def _port(self, t: Tensor) -> int:
        return t.index if t.place is Place.INPUT else len(self.program.inputs) + t.index

    def shape(self, type: TensorType) -> tuple[int, ...]:
        """Return the shape of a type for the current sizes."""
        return tuple(evaluate(d, self.env) for d in type.shape)

    @property
    def own_bytes(self) -> int:
        """Bytes beside the arena: tensors of sizes that data decides, scratch memory, counters."""
        own = sum(b.size_bytes for b in (*self._own.values(), *self._scratch.values()))
        return own + self._counters.size_bytes


def _reshaped(value: Any, t: Tensor, instance: Instance) -> Any:
    assert isinstance(t.type, TensorType)
    return value.reshape(instance.shape(t.type)) if isinstance(value, np.ndarray) else value


def _as_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
