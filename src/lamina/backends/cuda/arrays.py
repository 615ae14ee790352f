"""Arrays in device memory: ours, and those of other libraries, which are used where they are."""

from __future__ import annotations

from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lamina.backends.cuda import dlpack
from lamina.backends.cuda.device import LEGACY_STREAM, Device, current
from lamina.errors import InputError
from lamina.ir.types import DType, TensorType
from lamina.plan.plan import Port

ALIGN_BYTES: Final = 16
"""What kernels count on for every tensor."""

_CONTIGUOUS = "make it contiguous: x.contiguous() in torch, cupy.ascontiguousarray(x) in CuPy"


class DeviceArray:
    """A C-contiguous array in the memory of a GPU.

    ``numpy()`` copies it to the host; libraries read it in place through DLPack or the CUDA array
    interface (``torch.from_dlpack(y)``, ``cupy.asarray(y)``).  ``stream`` is the stream whose work
    so far has to be done before the contents are there, None when they are.
    """

    __slots__ = ("_type", "device", "owner", "pointer", "shape", "stream")

    def __init__(
        self,
        device: Device,
        pointer: int,
        type: DType,
        shape: tuple[int, ...],
        owner: object,
        stream: int | None = None,
    ) -> None:
        self.device, self.pointer, self._type, self.shape = device, pointer, type, shape
        self.owner, self.stream = owner, stream

    @property
    def type(self) -> DType:
        """Element type."""
        return self._type

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Element type as NumPy's."""
        return self._type.numpy

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * self._type.itemsize

    def numpy(self) -> npt.NDArray[Any]:
        """Return a copy in host memory; waits for the work that writes the array."""
        array = np.empty(self.shape, self.dtype)
        stream = LEGACY_STREAM if self.stream is None else self.stream
        if self.nbytes:
            with current(self.device):
                host = array.__array_interface__["data"][0]
                self.device.copy(host, self.pointer, self.nbytes, stream)
                self.device.synchronize(stream)
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("an array in device memory cannot become a NumPy array without a copy")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": self.stream or (None if self.stream is None else LEGACY_STREAM),
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (dlpack.CUDA, self.device.ordinal)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: Any = None,
        dl_device: Any = None,
        copy: bool | None = None,
    ) -> Any:
        if not dlpack.can_give(self._type):
            raise BufferError(f"DLPack has no element type {self._type}")
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("a copy, or one on another device, has to be made by the receiver")
        wanted = LEGACY_STREAM if stream in (None, 0) else stream
        if stream != -1 and self.stream is not None and self.stream != wanted:
            assert wanted is not None
            with current(self.device):
                order(self.device, wanted, self.stream)
        ordinal = self.device.ordinal
        return dlpack.give(self.pointer, ordinal, self._type, self.shape, self)

    def __repr__(self) -> str:
        return f"DeviceArray({self._type}{list(self.shape)} on {self.device.name})"


def order(device: Device, later: int, earlier: int) -> None:
    """Let later work on one stream wait for the work on another so far."""
    event = device.event()
    device.record(event, earlier)
    device.wait(later, event)
    device.destroy_event(event)


class Admission:
    """Recognizes device arrays given for one port; the last one is known again at once."""

    def __init__(self, device: Device, port: Port, kind: str) -> None:
        self._device, self._port, self._what = device, port, f"{kind} {port.name!r}"
        self._type = port.type if isinstance(port.type, TensorType) else None
        self._given: Any = None
        self._known: DeviceArray | None = None

    def __call__(self, x: Any) -> DeviceArray | None:
        """Return ``x`` as a device array, None when it is something else.

        Raises InputError for a wrong element type or rank, another GPU, gaps between elements.
        """
        if (known := self.known(x)) is not None:
            return known
        if self._type is None or isinstance(x, np.ndarray):
            return None
        array = x if type(x) is DeviceArray else self._foreign(x)
        if array is None:
            return None
        self._check(array, self._type)
        if array is x or hasattr(x, "data_ptr"):
            self._given, self._known = x, array
        return array

    def known(self, x: Any) -> DeviceArray | None:
        """Return what the last object is as a device array, None for any other or a changed one.

        torch's tensors may get other memory and another shape.
        """
        known = self._known
        if x is not self._given or known is None:
            return None
        if x is known or (x.data_ptr() == known.pointer and x.shape == known.shape):
            return known
        return None

    def _foreign(self, x: Any) -> DeviceArray | None:
        try:
            if hasattr(x, "__dlpack_device__"):
                kind, ordinal = x.__dlpack_device__()
                if kind not in (dlpack.CUDA, dlpack.CUDA_MANAGED):
                    return None
                self._check_ordinal(int(ordinal))
            interface = getattr(x, "__cuda_array_interface__", None)
            array = None if interface is None else self._from_interface(interface, x)
            if array is None and hasattr(x, "__dlpack__"):
                array = self._from_capsule(x.__dlpack__())
        except (TypeError, ValueError, RuntimeError, BufferError, KeyError) as e:
            raise InputError(f"{self._what} cannot be read as a device array: {e}") from e
        return array

    def _from_interface(self, interface: dict[str, Any], owner: Any) -> DeviceArray | None:
        dtype = np.dtype(interface["typestr"])
        if dtype.kind == "V":  # a type that NumPy has no name for: DLPack tells which
            return None
        pointer = int(interface["data"][0])
        if pointer:
            with current(self._device):
                self._check_ordinal(self._device.ordinal_of(pointer))
        shape = tuple(int(n) for n in interface["shape"])
        strides = interface.get("strides")
        if strides is not None:
            self._check_dense(shape, tuple(s // dtype.itemsize for s in strides))
        if interface.get("mask") is not None:
            raise InputError(f"{self._what} has a mask, which is not supported")
        stream = interface.get("stream")
        ready = None if stream in (None, LEGACY_STREAM) else int(stream)
        return DeviceArray(self._device, pointer, self._dtype(dtype), shape, owner, ready)

    def _from_capsule(self, capsule: Any) -> DeviceArray:
        given = dlpack.take(capsule)
        self._check_ordinal(given.device_id)
        if given.strides is not None:
            self._check_dense(given.shape, given.strides)
        if given.dtype is None:
            raise InputError(f"{self._what} has an element type that Lamina does not know")
        return DeviceArray(self._device, given.pointer, given.dtype, given.shape, given.owner)

    def _dtype(self, dtype: np.dtype[Any]) -> DType:
        try:
            return DType.of(dtype)
        except KeyError:
            raise InputError(
                f"{self._what} has element type {dtype}, which is not supported"
            ) from None

    def _check_ordinal(self, ordinal: int | None) -> None:
        if ordinal != self._device.ordinal:
            where = "in host memory" if ordinal is None else f"on cuda:{ordinal}"
            raise InputError(
                f"{self._what} is {where}, the engine runs on {self._device.name}",
                hint="move the array there, or load the plan with the other device",
            )

    def _check_dense(self, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        step: int = 1
        for n, stride in zip(reversed(shape), reversed(strides), strict=True):
            if n != 1 and stride != step and 0 not in shape:
                raise InputError(
                    f"{self._what} of shape {shape} has strides {strides} (in elements): it is not "
                    "C-contiguous",
                    hint=_CONTIGUOUS,
                )
            step *= n

    def _check(self, array: DeviceArray, type: TensorType) -> None:
        if array.device is not self._device:
            self._check_ordinal(array.device.ordinal)
        if array.type is not type.dtype:
            raise InputError(
                f"{self._what} has element type {array.dtype}, expected {type.dtype.numpy}",
                hint="convert it on the device",
            )
        if array.ndim != type.rank:
            raise InputError(
                f"{self._what} has {array.ndim} dimensions, expected {type.rank}",
                hint=f"its type is {type}",
            )
