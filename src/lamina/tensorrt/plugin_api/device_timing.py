"""Times plugins that enqueue work on a GPU, before there is an engine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from lamina.backends.cuda.arrays import DeviceArray
from lamina.backends.cuda.device import Device, current
from lamina.ir.graph import Array
from lamina.ir.types import DType, TensorType
from lamina.ops.plugin import DeviceComputation, DeviceTensor
from lamina.runtime.engine import find_driver


class DeviceTimer:
    """Operands on the device, and memory that one call after the other uses again."""

    def __init__(self, operands: Sequence[Array]) -> None:
        self._device: Device = find_driver("cuda", 0).device  # type: ignore[attr-defined]
        self._given = operands
        self._blocks: list[tuple[int, int]] = []
        self._used = 0

    def __enter__(self) -> DeviceTimer:
        with current(self._device):
            self.stream = self._device.stream()
            self._operands = [self._upload(x) for x in self._given]
            self._kept = len(self._blocks)
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.lost:
            return
        with current(self._device):
            self._device.synchronize(self.stream)
            for pointer, size in self._blocks:
                self._device.free(pointer, size, self.stream)
            self._device.destroy_stream(self.stream)

    def microseconds(
        self, computation: Any, types: Sequence[TensorType], warm: int, runs: int
    ) -> float:
        """Return the median time of a call and its work, after a few that do not count."""
        return statistics.median(
            [self._once(computation, types) for _ in range(warm + runs)][warm:]
        )

    def _once(self, computation: DeviceComputation, types: Sequence[TensorType]) -> float:
        device = self._device
        with current(device):
            self._used = self._kept
            results = [self.tensor(t) if t.is_static else None for t in types]
            begin, end = device.event(timing=True), device.event(timing=True)
            device.record(begin, self.stream)
            computation.run_on_device(self._operands, results, types, self)
            device.record(end, self.stream)
            device.synchronize(self.stream)
            time = device.microseconds(begin, end)
            device.destroy_event(begin)
            device.destroy_event(end)
            return time

    def _upload(self, x: Array) -> DeviceArray:
        dtype = next(t for t in DType if t.numpy == x.dtype)
        array = self.tensor(TensorType(dtype, x.shape))
        if x.nbytes:
            host = x.__array_interface__["data"][0]
            self._device.copy(array.pointer, host, x.nbytes, self.stream)
        return array

    def tensor(self, type: TensorType) -> DeviceArray:
        """Return memory that stays this call's until its work is done."""
        shape = type.static_shape
        size = max(1, int(np.prod(shape, dtype=np.int64)) * type.dtype.itemsize)
        if self._used < len(self._blocks) and self._blocks[self._used][1] < size:
            self._device.free(*self._blocks.pop(self._used), self.stream)
        if self._used == len(self._blocks) or self._blocks[self._used][1] < size:
            block = (self._device.allocate(size, self.stream), size)
            self._blocks.insert(self._used, block)
        pointer, _ = self._blocks[self._used]
        self._used += 1
        return DeviceArray(self._device, pointer, type.dtype, shape, self, self.stream)

    def part(self, tensor: DeviceTensor, shape: tuple[int, ...]) -> DeviceArray:
        """Return the first elements of a tensor in another shape."""
        return DeviceArray(self._device, tensor.pointer, tensor.type, shape, self, self.stream)

    def read(self, tensor: DeviceTensor) -> Array:
        """Wait for the work so far and return a copy in host memory."""
        return self.part(tensor, tensor.shape).numpy()

    def copy(self, target: DeviceTensor, source: DeviceTensor) -> None:
        """Copy all elements, behind the work so far."""
        size = self.part(source, source.shape).nbytes
        if size:
            self._device.copy(target.pointer, source.pointer, size, self.stream)
