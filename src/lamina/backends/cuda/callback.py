"""Steps that are Python functions which enqueue work on the device: plugins without a kernel."""

from __future__ import annotations

from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lamina.backends.cuda.arrays import DeviceArray
from lamina.backends.cuda.instance import Instance
from lamina.backends.cuda.memory import Stream
from lamina.ir.attributes import attribute_symbols
from lamina.ir.types import TensorType
from lamina.runtime.host import HostSteps

_FIRST_SLOT: Final = -16
"""Numbers of the scratch memory of a call begin here and go down."""


class CallWork:
    """What one call may use; its memory is kept for the next call of the step."""

    def __init__(self, instance: Instance, number: int, stream: Stream) -> None:
        self.stream = stream.handle
        self._instance, self._number = instance, number
        self._device = instance.resources.device
        self._used = 0

    def tensor(self, type: TensorType) -> DeviceArray:
        """Return memory that stays this call's until its work is done."""
        slot = _FIRST_SLOT - self._used
        self._used += 1
        shape = type.static_shape
        size = max(1, prod(shape) * type.dtype.itemsize)
        pointer = self._instance.scratch(self._number, slot, size)
        return DeviceArray(self._device, pointer, type.dtype, shape, self._instance, self.stream)

    def part(self, tensor: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
        """Return the first elements of a tensor in another shape."""
        return DeviceArray(self._device, tensor.pointer, tensor.type, shape, tensor, self.stream)

    def read(self, tensor: DeviceArray) -> npt.NDArray[Any]:
        """Wait for the work so far and return a copy in host memory."""
        host = np.empty(tensor.shape, tensor.dtype)
        if host.nbytes:
            pointer = host.__array_interface__["data"][0]
            self._device.copy(pointer, tensor.pointer, host.nbytes, self.stream)
        self._device.synchronize(self.stream)
        return host

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Copy all elements, behind the work so far."""
        if source.nbytes:
            self._device.copy(target.pointer, source.pointer, source.nbytes, self.stream)


class Callbacks:
    """The callbacks of one program."""

    def __init__(self, operators: HostSteps) -> None:
        self._operators = operators
        self._bound: dict[int, tuple[dict[str, int], Any]] = {}
        """Each step's operator, with the numbers that were put in for its symbols."""

    def run(self, instance: Instance, number: int, stream: Stream) -> list[Any] | None:
        """Let step ``number`` enqueue its work; returns results unless they are in place."""
        step, tensors = instance.program.steps[number], instance.program.tensors
        env = instance.env
        operands = [
            instance.array(t, tensors[t].type, stream.handle)  # type: ignore[arg-type]
            for t in step.reads
        ]
        results = [
            instance.array(t, tensors[t].type, stream.handle)  # type: ignore[arg-type]
            if all(s in env for s in attribute_symbols(tensors[t].type))
            else None
            for t in step.writes
        ]
        work = CallWork(instance, number, stream)
        found = self._operator(number, env).run_on_device(operands, results, work)
        in_place = all(a is b for a, b in zip(found, results, strict=True))
        return None if in_place else list(found)

    def _operator(self, number: int, env: dict[str, int]) -> Any:
        known = self._bound.get(number)
        if known is None or known[0] != env:
            known = dict(env), self._operators.node(number).op.substitute(env)
            self._bound[number] = known
        return known[1]
