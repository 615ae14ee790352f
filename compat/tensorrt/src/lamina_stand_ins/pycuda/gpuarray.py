"""Arrays in device memory, as far as they are moved and not computed with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycuda.driver as cuda


class GPUArray:
    """An array in device memory."""

    def __init__(self, shape: Any, dtype: Any, gpudata: Any = None) -> None:
        self.shape = tuple(shape) if hasattr(shape, "__iter__") else (int(shape),)
        self.dtype = np.dtype(dtype)
        self.size = int(np.prod(self.shape, dtype=np.int64))
        self.nbytes = self.size * self.dtype.itemsize
        self.gpudata = cuda.mem_alloc(max(self.nbytes, 1)) if gpudata is None else gpudata

    @property
    def ptr(self) -> int:
        """Address."""
        return int(self.gpudata)

    def get(self, ary: Any = None) -> Any:
        """Return a copy on the host."""
        array = np.empty(self.shape, self.dtype) if ary is None else ary
        cuda.memcpy_dtoh(array, self.gpudata)
        return array

    def set(self, ary: Any) -> None:
        """Take the elements of a host array."""
        cuda.memcpy_htod(self.gpudata, np.ascontiguousarray(ary, self.dtype))


def to_gpu(ary: Any) -> GPUArray:
    """Return a copy of a host array."""
    array = np.ascontiguousarray(ary)
    copy = GPUArray(array.shape, array.dtype)
    copy.set(array)
    return copy


def empty(shape: Any, dtype: Any) -> GPUArray:
    """Return an array with any contents."""
    return GPUArray(shape, dtype)


def zeros(shape: Any, dtype: Any) -> GPUArray:
    """Return an array of zeros."""
    array = GPUArray(shape, dtype)
    cuda.memset_d8(array.gpudata, 0, array.nbytes)
    return array
