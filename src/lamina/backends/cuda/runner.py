"""Runs programs on a CUDA device."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeGuard

import numpy as np

from lamina.backends.cuda.arrays import ALIGN_BYTES, Admission, DeviceArray, order
from lamina.backends.cuda.control import HostWork
from lamina.backends.cuda.device import LEGACY_STREAM, Handle, OutOfMemory, current
from lamina.backends.cuda.graph import start
from lamina.backends.cuda.instance import Instance, Work
from lamina.backends.cuda.memory import Event, Memory, SharedBuffer, Staging, Stream
from lamina.backends.cuda.ports import Ports, Wanted
from lamina.backends.cuda.profile import Measured, measure
from lamina.backends.cuda.ranges import ranges
from lamina.backends.cuda.residency import NATIVE
from lamina.backends.cuda.resources import Resources
from lamina.backends.cuda.segment import in_step
from lamina.errors import DeviceError, ExecutionError, where
from lamina.ir.interpret import bind_shape
from lamina.ir.types import TensorType
from lamina.plan.plan import Port, Program
from lamina.runtime.driver import Allocator
from lamina.runtime.lent import LentMemory

_KEPT_INSTANCES: Final = 8


class _Again:
    """A run that can be repeated with one graph launch: the same arrays, all in place."""

    def __init__(self, inputs: Sequence[Any], outputs: Sequence[Any], graph: Handle) -> None:
        self.arrays = (*inputs, *outputs)
        self.outputs = tuple(outputs)
        self.graph = graph

    def is_ready(self) -> bool:
        """Whether nothing has to be waited for before the arrays are read."""
        return all([x.stream is None for x in self.arrays])


class CudaRunner:
    """A program with buffers of its own; one thread at a time.

    An instance (memory, launches, graphs) is kept for each of the last few combinations of input
    shapes.  Work runs on a stream of the runner, or on the caller's.  The arrays of the last run
    are kept alive.
    """

    def __init__(
        self,
        resources: Resources,
        program: Program,
        env: Mapping[str, int] | None = None,
        stream: Stream | None = None,
    ) -> None:
        self.resources, self.program = resources, program
        self.outer = dict(env or {})
        self._device = device = resources.device
        self._instances: dict[tuple[Any, ...], tuple[Instance, Ports]] = {}
        self._key: tuple[Any, ...] | None = None
        self._bound: tuple[Instance, Ports] | None = None
        self._nested: dict[tuple[int, int], CudaRunner] = {}
        self._host = HostWork(program)
        self._range = ranges(wanted=resources.options.ranges)
        self._again: _Again | None = None
        self._graph: Handle | None = None
        ports = [(p, "input") for p in program.inputs] + [(p, "output") for p in program.outputs]
        self._admissions = [Admission(device, port, kind) for port, kind in ports]
        with current(device):
            self._stream = stream or Stream(device)
            self._done = Event(device)
        self._stream.keep(resources.modules)
        self._checks = resources.options.check
        self._engines = resources.memory
        self._shared = SharedBuffer(resources.memory, self._stream)
        self._staging = Staging(resources.memory, self._stream)
        self._users: Stream | None = None
        """The caller's stream that the last run was left on."""

    def admit(self, number: int, port: Port, x: Any) -> DeviceArray | None:
        """Return an array for an input, or for an output behind them, if it is on the device.

        Raises InputError for one on another device or of another type, or with gaps.
        """
        return self._admissions[number](x)

    def lend(self, memory: LentMemory | None) -> None:
        """Place activations in the user's memory from now on; None for memory of its own."""
        with current(self._device):
            self._settle()
            self._again = None
            self._shared.lend(memory)

    def check_steps(self, *, wanted: bool) -> None:
        """Wait after each step from now on, so that a fault names its step, or no longer."""
        self._checks = wanted or self.resources.options.check
        self._again = None
        self._nested.clear()

    def allocate_with(self, allocator: Allocator | None) -> None:
        """Take memory from an allocator from now on; None for that of the engine."""
        with current(self._device):
            self._forget()
            memory = self._engines if allocator is None else Memory(self._device, allocator)
            self.resources = self.resources.allocating(memory)
            self._shared = self._shared.with_memory(memory)
            self._staging = Staging(memory, self._stream)

    def run(
        self, inputs: Sequence[Any], outputs: list[Any], stream: int | None = None
    ) -> list[Any]:
        """Run once; see :class:`lamina.runtime.driver.Runner`.

        Device arrays are read and written in place.  Without ``stream`` the results are there on
        return; with it (a raw handle) nothing waits as long as only device arrays are involved,
        which must be ready for work on that stream.  While the caller records the stream for a
        CUDA graph, the run becomes a part of that graph; it must then be a repetition.
        """
        device = self._device
        entered = device.enter()
        try:
            if self._is_recording(stream):
                return self._record(inputs, outputs, stream)
            with self._range("run"):
                return self._run_with_room(inputs, outputs, stream)
        except DeviceError:
            self._forget()
            raise
        finally:
            device.leave(entered)

    def repeat(self, given: Sequence[Any], stream: int | None = None) -> bool:
        """Run once more if these are the caller's objects of the last run, inputs and outputs.

        False, and nothing has happened, where they are not or a run is more than a graph launch.
        """
        again = self._again
        if again is None:
            return False
        for x, array, admission in zip(given, again.arrays, self._admissions, strict=True):
            if admission.known(x) is not array:
                return False
        if stream is None and not again.is_ready():
            return False
        device = self._device
        entered = device.enter()
        try:
            if self._is_recording(stream):
                return False
            work = self._begin(stream)
            device.launch_graph(again.graph, work.handle)
            self._end(work, again.outputs)
        except DeviceError:
            self._forget()
            raise
        finally:
            device.leave(entered)
        return True

    def _is_recording(self, stream: int | None) -> TypeGuard[int]:
        """Whether the caller records a stream for a CUDA graph."""
        if stream is None or stream == LEGACY_STREAM:
            return False
        return self._device.is_capturing(stream)

    def _run_with_room(
        self, inputs: Sequence[Any], outputs: list[Any], stream: int | None
    ) -> list[Any]:
        """Run; when memory is short, again without what other shapes hold."""
        given = list(outputs)
        try:
            return self._run(inputs, outputs, stream)
        except OutOfMemory:
            if not self._instances:
                raise
            self._forget()
            self._device.synchronize(self._stream.handle)
            return self._run(inputs, given, stream)

    def _begin(self, stream: int | None) -> Stream:
        """Return the stream to work on, behind what an earlier run left on another one."""
        users = self._users
        if stream is None:
            work = self._stream
        elif users is not None and users.handle == stream:
            return users
        else:
            work = Stream(self._device, stream)
        if users is not None:
            self._device.wait(work.handle, self._done.handle)
        self._users = None if stream is None else work
        return work

    def _end(self, work: Stream, results: Sequence[Any]) -> None:
        """Wait for the results, or leave them to the caller's stream."""
        if work is self._stream:
            self._device.synchronize(work.handle)
            ready = None
        else:
            self._device.record(self._done.handle, work.handle)
            self._stream.behind(self._done)
            ready = work.handle
        for y in results:
            if type(y) is DeviceArray:
                y.stream = ready

    def _run(self, inputs: Sequence[Any], outputs: list[Any], stream: int | None) -> list[Any]:
        work = self._begin(stream)
        on_device = any(type(x) is DeviceArray for x in inputs)
        wanted = Wanted.DEVICE if on_device else Wanted.HOST
        given = tuple(outputs)
        ports = self._go(inputs, outputs, work, wanted)
        if self._graph is not None and ports.in_place and None not in given:
            self._again = _Again(inputs, outputs, self._graph)
        if not ports.in_place and work is not self._stream:
            self._device.synchronize(work.handle)
        self._end(work, outputs)
        return outputs

    def run_nested(self, inputs: Sequence[Any], stream: Stream) -> list[Any]:
        """Run as a part of another program, on its stream; results stay where they are."""
        outputs: list[Any] = [None] * len(self.program.outputs)
        if any(type(x) is np.ndarray for x in inputs):
            # What an earlier iteration staged may still be on its way to the device.
            self._device.synchronize(stream.handle)
        self._go(inputs, outputs, stream, Wanted.EITHER)
        return outputs

    def _go(
        self, inputs: Sequence[Any], outputs: list[Any], stream: Stream, wanted: Wanted
    ) -> Ports:
        """Put everything on a stream; the graph, if the program is one, is ``_graph`` then."""
        instance, ports = self._bind(inputs, stream)
        instance.begin(stream)
        ports.begin(inputs, stream)
        ports.aim(outputs, stream, wanted=wanted)
        self._graph = self._again = None
        for group, (begin, _) in enumerate(instance.groups):
            if self.program.steps[begin].kind in NATIVE:
                graph = self._launch(instance, instance.work(group), stream)
                self._graph = graph if len(instance.groups) == 1 else None
            else:
                self._run_host(instance, begin, stream)
        ports.finish(outputs, stream, wanted=wanted)
        return ports

    def _run_host(self, instance: Instance, number: int, stream: Stream) -> None:
        step = self.program.steps[number]
        with in_step(step), self._range(f"{step.name} host"):
            self._host.run(instance, number, stream, self._run_nested)

    def _launch(self, instance: Instance, work: Work, stream: Stream) -> Handle | None:
        """Run a segment: the first time launch by launch, then as a graph, which it returns."""
        options, device = self.resources.options, self._device
        work.runs += 1
        step_by_step = self._checks or options.ranges or not options.graphs
        if not step_by_step and work.runs > 1 and work.segment.launches:
            graph = work.graphs.executable(instance.pointers)
            with where(f"in {work.segment.describe()}"):
                device.launch_graph(graph, stream.handle)
            return graph
        self._start_all(instance, work, stream, check=self._checks)
        return None

    def _start_all(self, instance: Instance, work: Work, stream: Stream, *, check: bool) -> None:
        for prepared in work.segment.launches:
            step = self.program.steps[prepared.step]
            with in_step(step), self._range(f"{step.name} {step.tactic}"):
                start(self._device, prepared.bound(instance.pointers), stream.handle)
                if check:
                    self._device.synchronize(stream.handle)

    def _record(self, inputs: Sequence[Any], outputs: list[Any], handle: int) -> list[Any]:
        """Add the launches of a run to the graph that the caller records on a stream.

        Nothing may be allocated, moved to the host or waited for meanwhile; raises ExecutionError
        where that would be necessary.
        """
        key = tuple([getattr(x, "shape", None) for x in inputs])
        if self._bound is None or key != self._key:
            raise ExecutionError(
                "a stream is recorded for a CUDA graph, and these shapes have not run yet",
                hint="run once with the same shapes and addresses before recording",
            )
        instance, ports = self._bound
        steps, in_place = self.program.steps, [*inputs, *outputs]
        native = len(instance.groups) == 1 and steps[0].kind in NATIVE
        if not native or not all(
            type(x) is DeviceArray and not x.pointer % ALIGN_BYTES for x in in_place
        ):
            raise ExecutionError(
                "a stream is recorded for a CUDA graph, but not all of this program runs on the "
                "device with inputs and outputs in place",
                hint="record no graph around it, or pass aligned device arrays for everything",
            )
        stream = Stream(self._device, handle)
        instance.begin(stream)
        ports.begin(inputs, stream)
        ports.aim(outputs, stream, wanted=Wanted.DEVICE)
        self._start_all(instance, instance.work(0), stream, check=False)
        ports.finish(outputs, stream, wanted=Wanted.DEVICE)
        return outputs

    def _bind(self, inputs: Sequence[Any], stream: Stream) -> tuple[Instance, Ports]:
        key = tuple([getattr(x, "shape", None) for x in inputs])
        if self._bound is not None and key == self._key:
            return self._bound
        bound = self._instances.pop(key, None)
        if bound is None:
            env = dict(self.outer)
            for port, x in zip(self.program.inputs, inputs, strict=True):
                if isinstance(port.type, TensorType):
                    bind_shape(port.type, x.shape, env, f"input {port.name!r}")
            self._settle(stream)
            while len(self._instances) >= _KEPT_INSTANCES:
                del self._instances[next(iter(self._instances))]
            instance = Instance(self.resources, self.program, env, self._stream, self._shared)
            bound = instance, Ports(instance, self._staging)
        self._instances[key] = bound
        self._bound, self._key, self._again = bound, key, None
        return bound

    def _run_nested(
        self,
        number: int,
        which: int,
        env: Mapping[str, int],
        operands: Sequence[Any],
        stream: Stream,
    ) -> list[Any]:
        runner = self._nested.get((number, which))
        if runner is None or any(runner.outer.get(k) != v for k, v in env.items()):
            self._settle(stream)
            program = self.program.steps[number].programs[which]
            runner = CudaRunner(self.resources, program, env, self._stream)
            runner._checks = self._checks
            self._nested[number, which] = runner
        return runner.run_nested(operands, stream)

    def _settle(self, stream: Stream | None = None) -> None:
        """Let memory that is given back from now on wait for what works with it.

        That is what the last run left on the caller's stream, and the work on ``stream``.
        """
        if self._users is not None:
            self._device.wait(self._stream.handle, self._done.handle)
        if stream is not None and stream is not self._stream:
            order(self._device, self._stream.handle, stream.handle)

    def _forget(self) -> None:
        """Drop all memory: after a failure nothing in it can be relied on."""
        with contextlib.suppress(DeviceError):
            self._settle()
        self._instances.clear()
        self._nested.clear()
        self._shared.drop()
        self._staging.drop()
        self._key = self._bound = self._again = self._graph = None

    def profile(self, inputs: Sequence[Any]) -> list[float]:
        """Run and return the microseconds of each step; they add up to :meth:`measure`'s whole."""
        return self.measure(inputs).shares()

    def measure(self, inputs: Sequence[Any]) -> Measured:
        """Run and return the time of the whole program, and of each step repeated by itself."""
        outputs: list[Any] = [None] * len(self.program.outputs)
        self.run(inputs, outputs)
        with current(self._device):
            instance, ports = self._bind(inputs, self._stream)
            instance.begin(self._stream)
            ports.begin(inputs, self._stream)
            ports.aim([None] * len(outputs), self._stream, wanted=Wanted.HOST)
            self._again = None
            return measure(instance, self._run_host, self._stream)

    def memory(self) -> dict[str, int]:
        """Return bytes by use for the sizes of the last run."""
        constants = self.resources.constant_bytes
        if self._bound is None:
            return {"constants": constants}
        instance, _ = self._bound
        return {
            "arena": instance.plan.size_bytes,
            "lower_bound": instance.plan.lower_bound_bytes,
            "workspace": instance.own_bytes,
            "staging": self._staging.size_bytes,
            "constants": constants,
        }
