"""Moves array data into and out of the library's layouts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from lamina.backends.cpu.native import aligned_zeros
from lamina.backends.cpu.onednn.enums import DTYPE_OF_NUMPY, NUMPY_DTYPE
from lamina.backends.cpu.onednn.library import Library, load
from lamina.backends.cpu.onednn.memory import (
    ChosenLayout,
    Layout,
    create_descriptor,
    read_descriptor,
)
from lamina.backends.cpu.onednn.primitives import Primitive, create
from lamina.backends.cpu.onednn.reorder import copy_between
from lamina.backends.cpu.onednn.serialization import from_json, to_json
from lamina.config import onednn_path
from lamina.errors import InputError
from lamina.ir.recipe import Recipe, recipe_function
from lamina.ir.traced import Traced


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
    values = array.value if isinstance(array, Traced) else array
    packed = _pack(primitive.library, values, primitive.descriptor(argument), argument)
    if not isinstance(array, Traced):
        return packed
    recipe = _blocks_recipe(array, primitive.layout(argument))
    if recipe is None:
        spec = json.dumps(to_json(primitive.spec), sort_keys=True)
        call = array.recipe.recording.call
        recipe = call("onednn.pack", array.recipe, spec, argument, primitive.threads)
    return Traced(packed, recipe)


def _blocks_recipe(array: Traced, chosen: ChosenLayout) -> Recipe | None:
    """Return how an array gets into a layout that consists of blocks alone, else None."""
    dtype = NUMPY_DTYPE.get(chosen.dtype)
    elements = prod(chosen.padded_dims)
    if chosen.kind != "blocked" or dtype is None or chosen.offset:
        return None
    if elements * dtype.itemsize != chosen.size_bytes:
        return None
    blocks, order = _blocks(chosen)
    call = array.recipe.recording.call
    parts = call("blocked", array.recipe, blocks, order, chosen.padded_dims, dtype)
    return call("view", call("ravel", parts), np.dtype(np.uint8))


def _blocks(chosen: ChosenLayout) -> tuple[list[list[int]], list[int]]:
    """Return the blocks of each axis and the order of all parts, outermost first."""
    rank = len(chosen.dims)
    blocks: list[list[int]] = [[] for _ in range(rank)]
    inner = []  # (axis, number of the block within the axis), outermost first
    for size, axis in zip(chosen.inner_blocks, chosen.inner_axes, strict=True):
        blocks[axis].append(size)
        inner.append((axis, len(blocks[axis])))
    begin = [sum(1 + len(b) for b in blocks[:axis]) for axis in range(rank)]
    counts = [n // prod(b) for n, b in zip(chosen.padded_dims, blocks, strict=True)]
    outer = sorted(range(rank), key=lambda a: (-chosen.strides[a], counts[a] != 1, a))
    return blocks, [*(begin[a] for a in outer), *(begin[a] + i for a, i in inner)]


@recipe_function("onednn.pack")
def _packed(
    array: np.ndarray[Any, Any], spec: str, argument: str, threads: int
) -> np.ndarray[Any, Any]:
    """Pack for a primitive whose layout only the library knows."""
    library = load(onednn_path())
    primitive = create(library, from_json(json.loads(spec)), threads=threads)
    return _pack(library, array, primitive.descriptor(argument), argument)


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
