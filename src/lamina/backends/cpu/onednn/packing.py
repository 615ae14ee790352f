"""Moves array data into and out of the library's layouts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from lamina.backends.cpu.native import aligned_zeros
from lamina.backends.cpu.onednn.enums import DTYPE_OF_NUMPY, NUMPY_DTYPE
from lamina.backends.cpu.onednn.library import Library
from lamina.backends.cpu.onednn.memory import (
    ChosenLayout,
    Layout,
    create_descriptor,
    read_descriptor,
)
from lamina.backends.cpu.onednn.primitives import Primitive
from lamina.backends.cpu.onednn.reorder import copy_between
from lamina.errors import InputError


def layout_of(array: np.ndarray) -> Layout:
    """Return the strided layout that an array has; raises InputError for foreign element types."""
    dtype = DTYPE_OF_NUMPY.get(array.dtype)
    if dtype is None:
        raise InputError(f"oneDNN has no element type {array.dtype}")
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Layout(array.shape, dtype, strides=strides)


def pack(primitive: Primitive, array: np.ndarray, argument: str = "weights") -> np.ndarray:
    """Return an array's elements in the layout of a primitive's argument, as aligned bytes.

    The array has the argument's dims and any strides; another element type is converted, and the
    blocks' padding is zero.
    """
    return _pack(primitive.library, array, primitive.descriptor(argument), argument)


def pack_as(library: Library, array: np.ndarray, layout: Layout) -> np.ndarray:
    """Return an array's elements in the requested layout, as aligned bytes."""
    with _descriptor(library, layout) as target:
        return _pack(library, array, target, "the layout")


def unpack(primitive: Primitive, packed: np.ndarray, argument: str) -> np.ndarray:
    """Return the elements of a primitive's argument as a C-contiguous array of its dtype."""
    return _unpack(primitive.library, packed, primitive.descriptor(argument))


def unpack_from(library: Library, packed: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the elements of a buffer in this layout as a C-contiguous array of its dtype."""
    with _descriptor(library, layout) as source:
        return _unpack(library, packed, source)


def _pack(library: Library, array: np.ndarray, target: int, name: str) -> np.ndarray:
    chosen = read_descriptor(library, target)
    if array.shape != chosen.dims:
        raise InputError(f"{name} is of shape {chosen.dims} but the array of {array.shape}")
    if any(stride % array.itemsize for stride in array.strides):
        array = np.ascontiguousarray(array)
    packed = aligned_zeros((chosen.size_bytes,), np.uint8)
    with _descriptor(library, layout_of(array)) as source:
        copy_between(library, source, array.ctypes.data, target, packed.ctypes.data)
    return packed


def _unpack(library: Library, packed: np.ndarray, source: int) -> np.ndarray:
    chosen: ChosenLayout = read_descriptor(library, source)
    array = np.empty(chosen.dims, NUMPY_DTYPE[chosen.dtype])
    with _descriptor(library, layout_of(array)) as target:
        copy_between(library, source, packed.ctypes.data, target, array.ctypes.data)
    return array


@contextmanager
def _descriptor(library: Library, layout: Layout) -> Iterator[int]:
    pointer = create_descriptor(library, layout)
    try:
        yield pointer
    finally:
        library.call("memory_desc_destroy", pointer)
