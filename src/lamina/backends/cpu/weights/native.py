"""Calls the kernels that plans hold for refits, where they do what a recipe asks for.

Without them, and for everything else, recipes run NumPy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from math import isqrt, prod
from typing import Any, Final

import numpy as np

from lamina.backends.cpu.features import cpu_features
from lamina.backends.cpu.image import LoadedImage, load_image
from lamina.backends.cpu.weights.moving import measure, move, scratch, sums
from lamina.ir.blocks import CACHE_LINE_BYTES
from lamina.ir.movement import Measure, Movement, is_kernel_name
from lamina.ir.recipe import Array
from lamina.plan.plan import Section

WINOGRAD: Final = {9: "lamina_winograd_9", 25: "lamina_winograd_25"}
"""Names by the taps of a filter."""

_F16, _F32 = np.dtype(np.float16), np.dtype(np.float32)

CONVERSIONS: Final[dict[tuple[np.dtype[Any], np.dtype[Any]], str]] = {
    (_F32, _F16): "lamina_convert_f32_f16",
    (_F16, _F32): "lamina_convert_f16_f32",
}
"""Names by the element types, from and to."""

LANES: Final = 16
"""Filters that a kernel transforms at once, and elements that one converts."""

_LEAST_ELEMENTS: Final = 1 << 12
"""Fewer are converted by NumPy before a kernel is called."""

_CACHED_BYTES: Final = 8 << 20
"""Filters that are made ready for a transform at once: they stay in a third-level cache."""

_NAMES: Final = frozenset({*WINOGRAD.values(), *CONVERSIONS.values()})

_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def tap_sets(taps: int) -> list[tuple[int, ...]]:
    """Return sets of taps of a square filter that positions of a transform need, the whole first.

    The outermost positions need the taps of one edge, those in the corners one tap.
    """
    every = np.arange(taps).reshape(isqrt(taps), -1)
    edges = [every[0], every[-1], every[:, 0], every[:, -1]]
    corners = [every[i, j : j + 1] if j == 0 else every[i, -1:] for i in (0, -1) for j in (0, -1)]
    return [tuple(map(int, part.reshape(-1))) for part in (every, *edges, *corners)]


@lru_cache(maxsize=32)
def _positions(matrix: bytes, taps: int) -> tuple[Array, tuple[int, ...]]:
    """Return the positions by the smallest set of taps that each needs, and where each set ends."""
    sets = tap_sets(taps)
    rows = np.frombuffer(matrix, np.float64).reshape(-1, taps)
    needed = [set(np.flatnonzero(row).tolist()) for row in rows]
    chosen = [max(i for i, taps_ in enumerate(sets) if of <= {*taps_}) for of in needed]
    order = np.argsort(chosen, kind="stable").astype(np.int64)
    ends = np.cumsum(np.bincount(chosen, minlength=len(sets)))
    return order, tuple(map(int, ends))


class NativeFunctions:
    """The kernels of one code image; may be called from any thread."""

    def __init__(self, image: LoadedImage) -> None:
        self._image = image  # its code is mapped as long as it lives
        self._functions = {n: _KERNEL(a) for n, a in image.addresses.items() if _is_ours(n)}
        self._names = frozenset(self._functions)

    def converted(self, a: Array, dtype: np.dtype[Any]) -> Array:
        """Return ``a.astype(dtype)``, bit by bit what NumPy gives, from a kernel where one can.

        NumPy converts f16 with integer instructions, an element at a time.
        """
        name = CONVERSIONS.get((a.dtype, dtype), "")
        if name not in self._functions or a.size < _LEAST_ELEMENTS:
            with np.errstate(all="ignore"):
                return a.astype(dtype, copy=False)
        if not a.flags.c_contiguous:
            if a.flags.f_contiguous:
                return self.converted(a.T, dtype).T
            a = np.ascontiguousarray(a)
        result = np.empty(a.shape, dtype)
        done = a.size // LANES * LANES
        self._call(name, (a, result), (done,))
        with np.errstate(all="ignore"):
            result.reshape(-1)[done:] = a.reshape(-1)[done:]
        return result

    def moved(self, movements: Sequence[Movement], out: Array) -> bool:
        """Write what movements give together into bytes; False, and nothing, if no kernel can."""
        return move(movements, out, self._names, self._call)

    def measured(self, movement: Movement) -> Measure | None:
        """Return what is known of the numbers of a movement; None where no kernel can tell."""
        return measure(movement, self._names, self._call)

    def sums(self, movement: Movement) -> Array | None:
        """Return the sums of 8-bit integers with the same first index; None without a kernel."""
        return sums(movement, self._names, self._call)

    def winograd_of(self, movement: Movement, arguments: Sequence[Any], out: Array) -> bool:
        """Write the transform of the filters that a movement gives into bytes ``out``.

        Filters come into memory some at a time, where they stay in a cache.  Returns False for what
        no kernel can do.
        """
        _, groups, width, _ = arguments
        filters, *others = movement.course.shape
        if groups != 1 or filters % width or out.nbytes % filters:
            return False
        each, size = prod(others), out.nbytes // filters
        step = width * max(1, _CACHED_BYTES // (4 * each * width))
        for begin in range(0, filters, step):
            end = min(begin + step, filters)
            raw = scratch(4 * each * (end - begin), "filters")
            w = raw.view(np.float32).reshape(end - begin, *others)
            if not self.moved([movement.rows(begin, end - begin)], raw):
                return False
            if not self.winograd(w, None, arguments, out[begin * size : end * size]):
                return False
        return True

    def winograd(
        self, w: Array, factor: Array | None, arguments: Sequence[Any], out: Array
    ) -> bool:
        """Write what :func:`.winograd.transformed` gives for ``w * factor`` into bytes ``out``.

        ``factor`` has one number for each filter, along the first axis.  Returns False, having done
        nothing, for what no kernel can do.
        """
        transform, groups, width, padded = arguments
        filters, channels, taps = w.shape[0], w.shape[1], prod(w.shape[2:])
        name = WINOGRAD.get(taps, "")
        if name not in self._functions or w.dtype != np.float32 or not w.flags.c_contiguous:
            return False
        if groups != 1 or width % LANES or filters % width or channels * taps * 64 >= 1 << 31:
            return False
        if transform.dtype != np.float64 or transform.shape[1:] != (taps,) or padded < channels:
            return False
        if out.nbytes != 4 * filters * len(transform) * padded or not out.nbytes:
            return False
        if _address(out) % CACHE_LINE_BYTES:
            return False
        if padded != channels:
            out[:] = 0
        if factor is None:
            factor = np.ones(filters, np.float32)
        matrix = np.ascontiguousarray(transform)
        order, ends = _positions(matrix.tobytes(), taps)
        operands = (w, matrix, np.ascontiguousarray(factor), out, order)
        sizes = (filters // LANES, channels, len(transform), padded, width // LANES, *ends)
        self._call(name, operands, sizes)
        return True

    def _call(self, name: str, operands: Sequence[Array], sizes: Sequence[int]) -> None:
        words = np.array([*map(_address, operands), *sizes], np.int64)
        begin = _address(words)
        self._functions[name](begin, begin + 8 * len(operands), 0, 1)


def native_functions(section: Section) -> NativeFunctions | None:
    """Return the kernels that a section holds for refits, if this CPU can run them."""
    needs, image = dict(section.target), section.image
    if needs.get("device") != "cpu" or not any(map(_is_ours, image.symbols)):
        return None
    if {*needs.get("features", "").split(",")} - {*cpu_features(), ""}:
        return None
    return NativeFunctions(load_image(image.code, image.symbols, image.externals))


def _is_ours(name: str) -> bool:
    return name in _NAMES or is_kernel_name(name)


def _address(array: Array) -> int:
    result: int = array.__array_interface__["data"][0]
    return result
