"""Constant data given to layers."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from lamina.tensorrt.enums import DataType
from lamina.tensorrt.foundation.dtype import from_numpy, to_ir


class Weights:
    """An array, or (type, address, count) of one, or no weights of a type."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take ``(type)``, ``(type, ptr, count)`` or an array, which is not copied.

        Raises ValueError for an array that is not C-contiguous and TypeError for other arguments.
        """
        given = dict(zip(("type", "ptr", "count"), args, strict=False)) | kwargs
        first = given.pop("a", given.pop("type", None))
        if isinstance(first, np.ndarray) and not given:
            if not first.flags.c_contiguous:
                raise ValueError("weights must be C-contiguous: use numpy.ascontiguousarray")
            self._dtype = from_numpy(first.dtype)
            self._array: npt.NDArray[Any] = first
        elif isinstance(first, DataType) or first is None:
            self._dtype = first or DataType.named("FLOAT")
            self._array = _at(self._dtype, **given) if given else _nothing(self._dtype)
        else:
            raise TypeError(
                f"Weights takes an array, or a DataType with an address and a count, got "
                f"{type(first).__name__}"
            )

    @property
    def dtype(self) -> DataType:
        """Element type."""
        return self._dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self._array.size)

    @property
    def nbytes(self) -> int:
        """Number of bytes, half a byte for each 4-bit element."""
        return -(-self._array.size * to_ir(self.dtype).bits // 8)

    def numpy(self) -> Any:
        """Return the array; it shares memory with these weights."""
        return self._array

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"Weights({self.dtype}, {self.size} elements)"


def _nothing(dtype: DataType) -> npt.NDArray[Any]:
    return np.empty(0, to_ir(dtype).numpy)


def _at(dtype: DataType, ptr: int = 0, count: int = 0) -> npt.NDArray[Any]:
    """Return ``count`` elements at an address, shared and not copied."""
    numpy_type = to_ir(dtype).numpy
    if not count:
        return _nothing(dtype)
    if not ptr:
        raise ValueError(f"{count} weights at address 0")
    raw = (ctypes.c_uint8 * (count * numpy_type.itemsize)).from_address(ptr)
    return np.ctypeslib.as_array(raw).view(numpy_type)


__all__ = ["Weights"]
