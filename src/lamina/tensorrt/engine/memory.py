"""Arrays at addresses: of the host when the engine runs on the CPU, else of its GPU."""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from lamina.backends.cuda.arrays import DeviceArray
from lamina.backends.cuda.device import LEGACY_STREAM, Device, current
from lamina.errors import InputError
from lamina.ir.types import DType
from lamina.runtime.engine import Engine

Shape = tuple[int, ...]


def view(address: int, dtype: DType, shape: Shape) -> npt.NDArray[Any]:
    """Return the array at an address of host memory, without a copy.

    The memory must stay there as long as the array is used.
    """
    size = prod(shape) * dtype.numpy.itemsize
    if not size:
        return np.empty(shape, dtype.numpy)
    raw = (ctypes.c_uint8 * size).from_address(address)
    found: npt.NDArray[Any] = np.ctypeslib.as_array(raw).view(dtype.numpy).reshape(shape)
    return found


class HostSpace:
    """Addresses of host memory; streams do not matter."""

    on_gpu = False

    def array(self, address: int, dtype: DType, shape: Shape) -> Any:
        """Return the array at an address."""
        return view(address, dtype, shape)

    def check(self, address: int, name: str) -> None:
        """Do nothing: nobody tells which addresses a process may read."""

    def address(self, array: Any) -> int:
        """Return where an array lies."""
        found: int = array.__array_interface__["data"][0]
        return found

    def store(self, address: int, array: Any, stream: int) -> None:
        """Copy an array to an address."""
        dense = np.ascontiguousarray(array)
        if dense.nbytes:
            ctypes.memmove(address, dense.__array_interface__["data"][0], dense.nbytes)

    def record(self, event: int, stream: int) -> None:
        """Do nothing for an event: work is done when a call returns."""


class DeviceSpace:
    """Addresses of a GPU's memory."""

    on_gpu = True

    def __init__(self, device: Device) -> None:
        self.device = device

    def array(self, address: int, dtype: DType, shape: Shape) -> Any:
        """Return the array at an address."""
        return DeviceArray(self.device, address, dtype, shape, None)

    def check(self, address: int, name: str) -> None:
        """Raise InputError for an address that the GPU cannot read: it would lose the context."""
        with current(self.device):
            if address and not self.device.reaches(address):
                raise InputError(
                    f"{self.device.name} ({self.device.model}) cannot reach the address "
                    f"{address:#x} that was set for {name!r}",
                    hint="copy host arrays to the device and set the address there",
                )

    def address(self, array: Any) -> int:
        """Return where an array lies."""
        if isinstance(array, DeviceArray):
            return array.pointer
        found: int = array.__array_interface__["data"][0]
        return found

    def store(self, address: int, array: Any, stream: int) -> None:
        """Copy an array to an address in the order of a stream."""
        handle = stream or LEGACY_STREAM
        with current(self.device):
            if array.nbytes:
                self.device.copy(address, self.address(array), array.nbytes, handle)
            if not isinstance(array, DeviceArray):
                self.device.synchronize(handle)  # before the host array may go

    def record(self, event: int, stream: int) -> None:
        """Let an event stand for the work on a stream so far."""
        with current(self.device):
            self.device.record(event, stream or LEGACY_STREAM)


Space = HostSpace | DeviceSpace


def space_of(engine: Engine) -> Space:
    """Return the address space that an engine's tensors lie in."""
    device: Device | None = getattr(engine.driver, "device", None)
    return HostSpace() if device is None else DeviceSpace(device)
