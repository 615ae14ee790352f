"""Runs programs on the CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lamina.backends.cpu.instance import NATIVE, Instance
from lamina.backends.cpu.resources import Resources
from lamina.errors import ExecutionError, InputError, where
from lamina.ir.attributes import attribute_symbols
from lamina.ir.interpret import bind_shape
from lamina.ir.types import TensorType
from lamina.plan.plan import Place, Program, Step, StepKind
from lamina.runtime.driver import Allocator
from lamina.runtime.host import HostSteps
from lamina.runtime.lent import LentMemory

_KEPT_INSTANCES = 8


class CpuRunner:
    """A program with buffers of its own; one thread at a time.

    An instance (memory and tables) is kept for each of the last few combinations of input shapes.
    """

    def __init__(
        self, resources: Resources, program: Program, env: Mapping[str, int] | None = None
    ) -> None:
        self.resources, self.program = resources, program
        self.outer = dict(env or {})
        self._instances: dict[tuple[Any, ...], Instance] = {}
        self._key: tuple[Any, ...] | None = None
        self._instance: Instance | None = None
        self._lent: LentMemory | None = None
        self._engines = resources.allocator
        self._host = HostSteps(program)
        self._nested: dict[tuple[int, int], CpuRunner] = {}
        self._inputs = len(program.inputs)
        self._one_segment = bool(program.steps) and all(s.kind in NATIVE for s in program.steps)
        tensors = program.tensors
        # A value that is returned twice is written once, and copied for the second name.
        self._allocated = [
            port.type
            if (t := tensors[port.tensor]).place is Place.OUTPUT and t.index == i
            else None
            for i, port in enumerate(program.outputs)
        ]
        self._static = [
            (t.static_shape, t.dtype.numpy) if isinstance(t, TensorType) and t.is_static else None
            for t in self._allocated
        ]

    def lend(self, memory: LentMemory | None) -> None:
        """Place activations in the user's memory from now on; None for memory of its own."""
        self._lent = memory
        self._forget()

    def check_steps(self, *, wanted: bool) -> None:
        """Do nothing: steps are done when the call that runs them returns."""

    def allocate_with(self, allocator: Allocator | None) -> None:
        """Take memory from an allocator from now on; None for that of the engine."""
        self.resources = self.resources.allocating(allocator or self._engines)
        self._nested.clear()
        self._forget()

    def _forget(self) -> None:
        self._instances.clear()
        self._instance = None

    def run(self, inputs: Sequence[Any], outputs: list[Any]) -> list[Any]:
        """Run once; see :class:`lamina.runtime.driver.Runner`."""
        key = tuple([getattr(x, "shape", None) for x in inputs])
        instance = self._instance
        if instance is None or key != self._key:
            instance = self._bind(key, inputs)
        self._set_io(instance, inputs, outputs)
        if self._one_segment:
            instance.segment(0).run()
            return self._collect(instance, outputs)
        instance.begin()
        for number, (begin, _) in enumerate(instance.groups):
            step = self.program.steps[begin]
            if step.kind in NATIVE:
                instance.segment(number).run()
            else:
                self._run_host(instance, begin, step)
        return self._collect(instance, outputs)

    def _bind(self, key: tuple[Any, ...], inputs: Sequence[Any]) -> Instance:
        instance = self._instances.pop(key, None)
        if instance is None:
            env = dict(self.outer)
            for port, x in zip(self.program.inputs, inputs, strict=True):
                if isinstance(port.type, TensorType):
                    bind_shape(port.type, x.shape, env, f"input {port.name!r}")
            instance = Instance(self.resources, self.program, env, self._lent)
            while len(self._instances) >= _KEPT_INSTANCES:
                del self._instances[next(iter(self._instances))]
        self._instances[key] = instance
        self._instance, self._key = instance, key
        return instance

    def _set_io(self, instance: Instance, inputs: Sequence[Any], outputs: list[Any]) -> None:
        pointers, io = instance.pointers, instance.io
        for i, x in enumerate(inputs):
            io[i] = x
            if type(x) is np.ndarray:
                pointers[i] = x.__array_interface__["data"][0]
        at = self._inputs
        for i, type_ in enumerate(self._allocated):
            if type_ is None:
                continue
            y = outputs[i]
            if y is None:
                fixed = self._static[i]
                if fixed is not None:
                    y = np.empty(*fixed)
                else:
                    assert isinstance(type_, TensorType)
                    y = np.empty(instance.shape(type_), type_.dtype.numpy)
                outputs[i] = y
            elif isinstance(type_, TensorType) and y.shape != instance.shape(type_):
                raise InputError(
                    f"the array for output {self.program.outputs[i].name!r} has shape {y.shape}, "
                    f"expected {instance.shape(type_)}"
                )
            io[at + i] = y
            pointers[at + i] = y.__array_interface__["data"][0]

    def _collect(self, instance: Instance, outputs: list[Any]) -> list[Any]:
        for i, port in enumerate(self.program.outputs):
            if self._allocated[i] is not None:
                continue
            value = instance.array(port.tensor)
            if outputs[i] is not None:
                outputs[i][...] = value
            elif self.program.tensors[port.tensor].place is Place.HOST:
                outputs[i] = value
            else:
                outputs[i] = np.array(value) if isinstance(value, np.ndarray) else value
        return outputs

    def _run_host(self, instance: Instance, number: int, step: Step) -> None:
        with where(f"in step {step.name} from {step.loc}"):
            if step.kind is StepKind.COUNTED:
                instance.run_counted(number)
                return
            operands = [instance.array(t) for t in step.reads]
            if step.kind is StepKind.HOST:
                results = self._host.run(number, operands, instance.env)
            elif step.kind is StepKind.IF:
                results = self._branch(number, step, operands, instance.env)
            else:
                results = self._loop(number, step, operands, instance.env)
            self._store(instance, step, results)

    def _store(self, instance: Instance, step: Step, results: Sequence[Any]) -> None:
        tensors = self.program.tensors
        if len(step.writes) != len(results):
            raise ExecutionError(f"expected {len(step.writes)} results, got {len(results)}")
        for t, value in zip(step.writes, results, strict=True):
            tensor = tensors[t]
            if isinstance(tensor.type, TensorType):
                bind_shape(tensor.type, value.shape, instance.env, f"result {tensor.name!r}")
            if tensor.place is Place.HOST:
                instance.objects[t] = value
            else:
                instance.array(t)[...] = value

    def _program(self, number: int, step: Step, which: int, env: Mapping[str, int]) -> CpuRunner:
        program = step.programs[which]
        runner = self._nested.get((number, which))
        if runner is None or any(runner.outer.get(k) != v for k, v in env.items()):
            runner = CpuRunner(self.resources, program, env)
            self._nested[number, which] = runner
        return runner

    def _branch(
        self, number: int, step: Step, operands: Sequence[Any], env: Mapping[str, int]
    ) -> list[Any]:
        condition, *captures = operands
        which = 0 if bool(np.asarray(condition).reshape(-1)[0]) else 1
        runner = self._program(number, step, which, env)
        return runner.run(captures, [None] * len(runner.program.outputs))

    def _loop(
        self, number: int, step: Step, operands: Sequence[Any], env: Mapping[str, int]
    ) -> list[Any]:
        """Run a loop: operands are trip count, condition, carried values, captures."""
        trips, condition, *rest = operands
        carried_count = int(step.spec)
        carried, captures = list(rest[:carried_count]), list(rest[carried_count:])
        runner = self._program(number, step, 0, env)
        results = len(runner.program.outputs)
        scans: list[list[Any]] = [[] for _ in range(results - 1 - carried_count)]
        go, i = bool(np.asarray(condition).reshape(-1)[0]), 0
        while go and i < int(np.asarray(trips).reshape(-1)[0]):
            feed = [np.array(i, np.int64), np.array(go), *carried, *captures]
            feed = [np.asarray(x, order="C") if isinstance(x, np.ndarray) else x for x in feed]
            go_array, *values = runner.run(feed, [None] * results)
            go = bool(np.asarray(go_array).reshape(-1)[0])
            carried = values[:carried_count]
            for scan, value in zip(scans, values[carried_count:], strict=True):
                scan.append(value)
            i += 1
        return [*carried, *(self._stack(step, k, s) for k, s in enumerate(scans, carried_count))]

    def _stack(self, step: Step, result: int, items: list[Any]) -> Any:
        if items:
            return np.stack(items)
        type_ = self.program.tensors[step.writes[result]].type
        assert isinstance(type_, TensorType)
        inner = [0 if list(attribute_symbols(d)) else int(d) for d in type_.shape[1:]]  # type: ignore[arg-type]
        return np.zeros((0, *inner), type_.dtype.numpy)

    def profile(self, inputs: Sequence[Any]) -> list[float]:
        """Run once and return the microseconds of each step."""
        self.run(inputs, [None] * len(self.program.outputs))
        instance = self._instance
        assert instance is not None
        outputs: list[Any] = [None] * len(self.program.outputs)
        self._set_io(instance, inputs, outputs)
        times = [0.0] * len(self.program.steps)
        instance.begin()
        for number, (begin, end) in enumerate(instance.groups):
            start = time.perf_counter()
            step = self.program.steps[begin]
            if step.kind in NATIVE:
                cycles = instance.segment(number).run_timed()
                whole = (time.perf_counter() - start) * 1e6
                total = sum(cycles) or 1
                times[begin:end] = [c * whole / total for c in cycles]
            else:
                self._run_host(instance, begin, step)
                times[begin] = (time.perf_counter() - start) * 1e6
        return times

    def memory(self) -> dict[str, int]:
        """Return bytes by use for the sizes of the last run."""
        instance = self._instance
        if instance is None:
            return {"constants": self.resources.constant_bytes}
        return {
            "arena": instance.arena_bytes,
            "lower_bound": instance.lower_bound_bytes,
            "workspace": instance.workspace_bytes,
            "constants": self.resources.constant_bytes,
        }
