"""Steps that decide a size of their result: they run in memory for the largest one."""

from __future__ import annotations

from typing import Final

import numpy as np

from lamina.backends.cuda.arrays import DeviceArray
from lamina.backends.cuda.graph import start
from lamina.backends.cuda.instance import Instance
from lamina.backends.cuda.memory import Stream, aligned
from lamina.backends.cuda.segment import Location, Segment
from lamina.errors import ExecutionError
from lamina.ir.dims import evaluate
from lamina.ir.types import TensorType
from lamina.plan.plan import COUNT

_SLOT: Final = aligned(8)
"""Bytes before the result, the first eight of which hold the count."""


class _Places:
    """Where the things of one counted step are: the result is not where the program has it."""

    def __init__(self, instance: Instance, number: int) -> None:
        step, tensors = instance.program.steps[number], instance.program.tensors
        self._instance, self._target = instance, step.writes[0]
        self.most = evaluate(step.parameters[-1], instance.env)
        largest = instance.env | {step.defines[0]: self.most}
        self._size = evaluate(tensors[self._target].size_bytes, largest)
        self.slot = instance.scratch(number, COUNT, _SLOT + self._size)
        self.result = self.slot + _SLOT

    def locate(self, tensor: int) -> Location:
        """Return where an operand, the result or the count is."""
        if tensor == COUNT:
            return Location(self.slot, _SLOT)
        if tensor == self._target:
            return Location(self.result, self._size)
        return self._instance.locate(tensor)

    def workspace(self, step: int) -> Location:
        """Return the workspace of a step."""
        return self._instance.workspace(step)

    def counters(self, step: int, number: int) -> int:
        """Return the address of counters of a step."""
        return self._instance.counters(step, number)

    def scratch(self, step: int, launch: int, size_bytes: int) -> int:
        """Return the address of scratch memory of a launch."""
        return self._instance.scratch(step, launch, size_bytes)


def run_counted(instance: Instance, number: int, stream: Stream) -> DeviceArray:
    """Run step ``number`` and return its result, of the size that it decided.

    Raises ExecutionError for a count that cannot be.
    """
    resources, step = instance.resources, instance.program.steps[number]
    device = resources.device
    places = _Places(instance, number)
    steps = range(number, number + 1)
    for prepared in Segment(resources, instance.program, steps, places, instance.env).launches:
        start(device, prepared.bound(instance.pointers), stream.handle)
    found = np.empty(1, np.int64)
    device.copy(found.__array_interface__["data"][0], places.slot, found.nbytes, stream.handle)
    device.synchronize(stream.handle)
    count = int(found[0])
    if not 0 <= count <= places.most:
        raise ExecutionError(f"{step.name} found {count} of at most {places.most} results")
    type_ = instance.program.tensors[step.writes[0]].type
    assert isinstance(type_, TensorType)
    env = instance.env | {step.defines[0]: count}
    shape = tuple(evaluate(d, env) for d in type_.shape)
    return DeviceArray(device, places.result, type_.dtype, shape, instance, stream.handle)
