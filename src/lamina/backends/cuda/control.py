"""Steps that the host takes part in: operators in NumPy, branches and loops.

Values that a nested program has on the device are handed over where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lamina.backends.cuda.arrays import DeviceArray
from lamina.backends.cuda.callback import Callbacks
from lamina.backends.cuda.counted import run_counted
from lamina.backends.cuda.instance import Instance
from lamina.backends.cuda.memory import Stream
from lamina.errors import ExecutionError
from lamina.ir.attributes import attribute_symbols
from lamina.ir.interpret import bind_shape
from lamina.ir.types import TensorType
from lamina.plan.plan import Place, Program, Step, StepKind
from lamina.runtime.host import HostSteps

RunProgram = Callable[[int, int, Mapping[str, int], Sequence[Any], Stream], list[Any]]
"""Runs program ``which`` of step ``number`` on operands, with symbols and a stream."""


class HostWork:
    """The steps of one program that are not launches."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._operators = HostSteps(program)
        self._callbacks = Callbacks(self._operators)

    def run(self, instance: Instance, number: int, stream: Stream, run_program: RunProgram) -> None:
        """Run step ``number``; what it needs from the device is waited for."""
        step = self._program.steps[number]
        if step.kind is StepKind.HOST:
            operands = self._fetch(instance, step.reads, stream)
            results = self._operators.run(number, operands, instance.env)
        elif step.kind is StepKind.CALLBACK:
            made = self._callbacks.run(instance, number, stream)
            if made is None:
                return
            results = made
        elif step.kind is StepKind.COUNTED:
            results = [run_counted(instance, number, stream)]
        elif step.kind is StepKind.IF:
            condition, *captures = self._operands(instance, step, stream, on_host=1)
            which = 0 if bool(np.asarray(condition).reshape(-1)[0]) else 1
            results = run_program(number, which, instance.env, captures, stream)
        else:
            results = self._loop(instance, number, stream, run_program)
        self._store(instance, step, results, stream)

    def _operands(
        self, instance: Instance, step: Step, stream: Stream, *, on_host: int
    ) -> list[Any]:
        """Return operands: the first ones in host memory, the others where they live."""
        first = self._fetch(instance, step.reads[:on_host], stream)
        return first + [self._value(instance, t, stream) for t in step.reads[on_host:]]

    def _value(self, instance: Instance, tensor: int, stream: Stream) -> Any:
        type_ = self._program.tensors[tensor].type
        if isinstance(type_, TensorType) and instance.is_resident(tensor):
            return instance.array(tensor, type_, stream.handle)
        return instance.host_array(tensor)

    def _fetch(self, instance: Instance, tensors: Sequence[int], stream: Stream) -> list[Any]:
        """Return values in host memory, with one wait for all that come from the device."""
        device = instance.resources.device
        values = [self._host_or_device(instance, t, stream) for t in tensors]
        copied = [download(x, stream) if type(x) is DeviceArray else x for x in values]
        if any(type(x) is DeviceArray for x in values):
            device.synchronize(stream.handle)
        return copied

    def _host_or_device(self, instance: Instance, tensor: int, stream: Stream) -> Any:
        t = self._program.tensors[tensor]
        if t.place is Place.CONSTANT and isinstance(t.type, TensorType):
            constant = instance.resources.host_constant(t.index)
            if constant.dtype == t.type.dtype.numpy:
                return constant.reshape(instance.shape(t.type))
        return self._value(instance, tensor, stream)

    def _loop(
        self, instance: Instance, number: int, stream: Stream, run_program: RunProgram
    ) -> list[Any]:
        """Run a loop: operands are trip count, condition, carried values, captures."""
        step = self._program.steps[number]
        trips, condition, *rest = self._operands(instance, step, stream, on_host=2)
        carried_count = int(step.spec)
        carried, captures = list(rest[:carried_count]), list(rest[carried_count:])
        results = len(step.programs[0].outputs)
        scans: list[list[Any]] = [[] for _ in range(results - 1 - carried_count)]
        go, i = bool(np.asarray(condition).reshape(-1)[0]), 0
        while go and i < int(np.asarray(trips).reshape(-1)[0]):
            feed = [np.array(i, np.int64), np.array(go), *carried, *captures]
            feed = [np.asarray(x, order="C") if isinstance(x, np.ndarray) else x for x in feed]
            go_on, *values = run_program(number, 0, instance.env, feed, stream)
            go = bool(np.asarray(go_on).reshape(-1)[0])
            carried = values[:carried_count]
            for scan, value in zip(scans, values[carried_count:], strict=True):
                scan.append(value)
            i += 1
        stacked = [_Scan(items) for items in scans]
        return [*carried, *stacked]

    def _store(
        self, instance: Instance, step: Step, results: Sequence[Any], stream: Stream
    ) -> None:
        if len(step.writes) != len(results):
            raise ExecutionError(f"expected {len(step.writes)} results, got {len(results)}")
        for t, value in zip(step.writes, results, strict=True):
            tensor = self._program.tensors[t]
            shape = value.shape_for(tensor.type) if isinstance(value, _Scan) else None
            if isinstance(tensor.type, TensorType):
                shape = value.shape if shape is None else shape
                bind_shape(tensor.type, shape, instance.env, f"result {tensor.name!r}")
            if isinstance(value, _Scan):
                self._store_scan(instance, t, value, stream)
            elif tensor.place is Place.HOST:
                instance.objects[t] = value
            elif not instance.is_resident(t):
                value = download(value, stream) if type(value) is DeviceArray else value
                instance.resources.device.synchronize(stream.handle)
                instance.host_array(t)[...] = value
            else:
                self._write(instance, instance.address(t), value, stream)

    def _store_scan(self, instance: Instance, t: int, scan: _Scan, stream: Stream) -> None:
        if instance.is_resident(t):
            at = instance.address(t)
            for item in scan.items:
                self._write(instance, at, item, stream)
                at += item.nbytes
        elif scan.items:
            items = [download(x, stream) if type(x) is DeviceArray else x for x in scan.items]
            instance.resources.device.synchronize(stream.handle)
            instance.host_array(t)[...] = np.stack(items)

    def _write(self, instance: Instance, address: int, value: Any, stream: Stream) -> None:
        """Copy a value to device memory."""
        device = instance.resources.device
        if type(value) is DeviceArray:
            if value.nbytes and value.pointer != address:
                device.copy(address, value.pointer, value.nbytes, stream.handle)
            return
        dense = np.ascontiguousarray(value)
        if dense.nbytes:
            device.copy(address, dense.__array_interface__["data"][0], dense.nbytes, stream.handle)
            device.synchronize(stream.handle)  # before the host array may go


class _Scan:
    """The results that a loop's iterations leave, to be stacked along a new first axis."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def shape_for(self, type: object) -> tuple[int, ...]:
        """Return the shape of the stack; without items, unknown sizes count as zero."""
        if self.items:
            return (len(self.items), *self.items[0].shape)
        assert isinstance(type, TensorType)
        inner = [0 if list(attribute_symbols(d)) else int(d) for d in type.shape[1:]]  # type: ignore[arg-type]
        return (0, *inner)


def download(array: DeviceArray, stream: Stream) -> npt.NDArray[Any]:
    """Start a copy to host memory; it is there once the stream is waited for."""
    host = np.empty(array.shape, array.dtype)
    if host.nbytes:
        array.device.copy(
            host.__array_interface__["data"][0], array.pointer, host.nbytes, stream.handle
        )
    return host
