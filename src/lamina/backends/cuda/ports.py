"""The inputs and outputs of an instance: device arrays in place, host arrays through staging."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np

from lamina.backends.cuda.arrays import ALIGN_BYTES, DeviceArray, order
from lamina.backends.cuda.instance import Instance
from lamina.backends.cuda.memory import Staging, Stream, aligned
from lamina.errors import InputError
from lamina.ir.dims import evaluate
from lamina.ir.types import DType, TensorType
from lamina.plan.plan import Place


class Wanted(Enum):
    """Where results go that no array was given for."""

    HOST = "host"
    DEVICE = "device"
    EITHER = "either"
    """To where the program leaves them."""


class Ports:
    """Moves what comes in and what goes out.

    Host arrays pass through one block of page-locked memory and one of device memory, each copied
    at once however many arrays there are.
    """

    def __init__(self, instance: Instance, staging: Staging) -> None:
        self._instance, self._staging = instance, staging
        self._device = instance.resources.device
        program = instance.program
        self._inputs = len(program.inputs)
        self._direct = [
            program.tensors[p.tensor].place is Place.OUTPUT and program.tensors[p.tensor].index == i
            for i, p in enumerate(program.outputs)
        ]
        self._types = [p.type for p in (*program.inputs, *program.outputs)]
        tensors = [p.tensor for p in (*program.inputs, *program.outputs)]
        self._resident = [instance.is_resident(t) for t in tensors]
        self._at: dict[int, int] = {}
        """Offsets in the staging blocks, by number of the port."""
        self._sizes: dict[int, int] = {}
        self._staging_bytes = 0
        for port, tensor in enumerate(tensors):
            if self._resident[port] and (port < self._inputs or self._direct[port - self._inputs]):
                size = evaluate(program.tensors[tensor].size_bytes, instance.env)
                self._at[port], self._sizes[port] = self._staging_bytes, size
                self._staging_bytes += aligned(size)
        self._downloads: list[tuple[int, Any]] = []
        self._moves: list[tuple[int, DeviceArray]] = []
        self.in_place = True
        """Whether the last run read and wrote device arrays where they are."""

    def begin(self, inputs: Sequence[Any], stream: Stream) -> None:
        """Bring the inputs where the program reads them."""
        self.in_place = True
        first, last = self._staging_bytes, 0
        misaligned = []
        for i, x in enumerate(inputs):
            if not self._resident[i]:
                self.in_place = False
                self._instance.given[i] = x.numpy() if type(x) is DeviceArray else x
            elif type(x) is DeviceArray:
                if x.stream is not None and x.stream != stream.handle:
                    order(self._device, stream.handle, x.stream)
                if x.pointer % ALIGN_BYTES:
                    misaligned.append((i, x))
                else:
                    self._instance.pointers[i] = x.pointer
            else:
                self._stage(i, x)
                first = min(first, self._at[i])
                last = max(last, self._at[i] + self._sizes[i])
        if last > first:
            self.in_place = False
            block = self._staged(first)
            host = self._staging.pinned.__array_interface__["data"][0] + first
            self._device.copy(block, host, last - first, stream.handle)
        for i, x in misaligned:
            self.in_place = False
            self._instance.pointers[i] = self._staged(self._at[i])
            self._device.copy(self._instance.pointers[i], x.pointer, x.nbytes, stream.handle)

    def _stage(self, port: int, x: Any) -> None:
        pointer, at = self._staged(self._at[port]), self._at[port]
        raw = self._staging.pinned[at : at + self._sizes[port]]
        if raw.size:
            raw.view(x.dtype).reshape(x.shape)[...] = x
        self._instance.pointers[port] = pointer

    def _staged(self, at: int) -> int:
        return self._staging.reserve(self._staging_bytes) + at

    def aim(self, outputs: list[Any], stream: Stream, *, wanted: Wanted) -> None:
        """Decide where the program writes; puts new device arrays into ``outputs``."""
        self._downloads.clear()
        self._moves.clear()
        for i, direct in enumerate(self._direct):
            port = self._inputs + i
            type_ = self._types[port]
            if not direct:
                self.in_place = False
            elif self._resident[port]:
                assert isinstance(type_, TensorType)
                self._aim_device(i, outputs, type_, stream, wanted=wanted)
            else:
                self.in_place = False
                self._instance.given[port] = self._host_target(i, outputs[i], type_)

    def _aim_device(
        self, i: int, outputs: list[Any], type_: TensorType, stream: Stream, *, wanted: Wanted
    ) -> None:
        port, instance, y = self._inputs + i, self._instance, outputs[i]
        shape = instance.shape(type_)
        if y is None and wanted is not Wanted.HOST:
            outputs[i] = y = self._new(type_, shape, stream)
        if y is not None:
            self._check_shape(i, y, shape)
        if type(y) is DeviceArray and y.pointer % ALIGN_BYTES == 0:
            instance.pointers[port] = y.pointer
            return
        self.in_place = False
        instance.pointers[port] = self._staged(self._at[port])
        if type(y) is DeviceArray:
            self._moves.append((port, y))
        else:
            self._downloads.append((port, y))

    def _new(self, type: TensorType, shape: tuple[int, ...], stream: Stream) -> DeviceArray:
        device, memory = self._device, self._instance.resources.memory
        size = int(np.prod(shape, dtype=np.int64)) * type.dtype.itemsize
        buffer = memory.buffer(size, "a result", stream)
        return DeviceArray(device, buffer.pointer, type.dtype, shape, buffer, stream.handle)

    def _host_target(self, i: int, y: Any, type: Any) -> Any:
        if not isinstance(type, TensorType):
            return None
        shape = self._instance.shape(type)
        if y is not None:
            self._check_shape(i, y, shape)
        return y if isinstance(y, np.ndarray) else np.empty(shape, type.dtype.numpy)

    def _check_shape(self, i: int, y: Any, shape: tuple[int, ...]) -> None:
        if y.shape != shape:
            name = self._instance.program.outputs[i].name
            raise InputError(
                f"the array for output {name!r} has shape {tuple(y.shape)}, expected {shape}"
            )

    def finish(self, outputs: list[Any], stream: Stream, *, wanted: Wanted) -> None:
        """Bring the results to where they belong and put them into ``outputs``."""
        device, handle = self._device, stream.handle
        for port, y in self._moves:
            device.copy(y.pointer, self._staged(self._at[port]), y.nbytes, handle)
        for i, direct in enumerate(self._direct):
            if not direct:
                outputs[i] = self._collected(i, outputs[i], stream, wanted=wanted)
            elif not self._resident[self._inputs + i]:
                value = self._instance.given[self._inputs + i]
                outputs[i] = self._handed_over(i, value, outputs[i], stream, wanted=wanted)
        if self._downloads:
            first = min(self._at[port] for port, _ in self._downloads)
            last = max(self._at[port] + self._sizes[port] for port, _ in self._downloads)
            if last > first:
                host = self._staging.pinned.__array_interface__["data"][0] + first
                device.copy(host, self._staged(first), last - first, handle)
                device.synchronize(handle)
            for port, y in self._downloads:
                outputs[port - self._inputs] = self._unstage(port, y)

    def _unstage(self, port: int, y: Any) -> Any:
        type_ = self._types[port]
        assert isinstance(type_, TensorType)
        if y is None:
            y = np.empty(self._instance.shape(type_), type_.dtype.numpy)
        raw = self._staging.pinned[self._at[port] : self._at[port] + self._sizes[port]]
        if raw.size:
            y[...] = raw.view(y.dtype).reshape(y.shape)
        return y

    def _collected(self, i: int, y: Any, stream: Stream, *, wanted: Wanted) -> Any:
        """Return a copy of a result that lies in memory that is not only its own."""
        tensor = self._instance.program.outputs[i].tensor
        t = self._instance.program.tensors[tensor]
        if not self._instance.is_resident(tensor):
            value = self._instance.host_array(tensor)
            if t.place is not Place.HOST and isinstance(value, np.ndarray):
                value = value.copy()
            return self._handed_over(i, value, y, stream, wanted=wanted)
        assert isinstance(t.type, TensorType)
        array = self._instance.array(tensor, t.type, stream.handle)
        if y is not None:
            self._check_shape(i, y, array.shape)
        if y is None and wanted is Wanted.HOST:
            return array.numpy()
        if isinstance(y, np.ndarray):
            y[...] = array.numpy()
            return y
        if y is None:
            y = self._new(t.type, array.shape, stream)
        if array.nbytes:
            self._device.copy(y.pointer, array.pointer, array.nbytes, stream.handle)
        return y

    def _handed_over(self, i: int, value: Any, y: Any, stream: Stream, *, wanted: Wanted) -> Any:
        """Return a result of the host: as it is, in the caller's array, or on the device."""
        type_ = self._types[self._inputs + i]
        if value is y or not isinstance(type_, TensorType) or type_.dtype is DType.STR:
            return value
        if isinstance(y, np.ndarray):
            y[...] = value
            return y
        if y is None and wanted is not Wanted.DEVICE:
            return value
        if y is None:
            y = self._new(type_, value.shape, stream)
        dense = np.ascontiguousarray(value)
        if dense.nbytes:
            self._device.copy(
                y.pointer, dense.__array_interface__["data"][0], dense.nbytes, stream.handle
            )
            self._device.synchronize(stream.handle)  # before the host array may go
        return y
