"""Tensor maps: what the copy engine of a GPU (TMA) knows of a tensor, as the driver encodes it.

A kernel takes the 128 bytes as an argument (CUDA C++ Programming Guide, "Encoding a Tensor Map on
Host"), so that its first copy waits for no descriptor that the kernel would have to write itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lamina.errors import PlanError
from lamina.ir.dims import Dim, evaluate

_BYTES: Final = 128
_ALIGNMENT: Final = 64
_MOST_AXES: Final = 5
_MOST_ELEMENTS: Final = (1 << 31) - 1
_MOST_STRIDE_BYTES: Final = 1 << 40
_VECTOR_BYTES: Final = 16
_ELEMENTS: Final = {
    "u8": (0, 1),
    "i8": (0, 1),
    "i32": (3, 4),
    "f16": (6, 2),
    "f32": (7, 4),
    "bf16": (9, 2),
    "tf32": (11, 4),
}
"""The number of a type (``CUtensorMapDataType``) and its bytes."""
_SWIZZLES: Final = {0: 0, 32: 1, 64: 2, 128: 3}
_PROMOTION: Final = 2
"""What is fetched into L2 at once: 128 bytes, a row of shared memory."""
_PLAIN: Final = 0
"""Channels are not interleaved, and what lies outside reads as zero."""

EncodeFunction: Final = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_uint32,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
)
"""``cuTensorMapEncodeTiled``; cuda-bindings does not align its result as the driver wants it."""


@dataclass(frozen=True, kw_only=True)
class TensorMap:
    """A tensor but for its address: boxes of it are copied to shared memory or from it.

    ``element`` is the type, with ``tf32`` for f32 numbers that are rounded on the way.  ``sizes``
    and ``strides`` are in elements, the axis along which elements are neighbours last (its stride
    is 1).  A ``box`` is what one copy moves; 16 bytes of it trade places in shared memory within
    rows of ``swizzle`` bytes (0: they do not).
    """

    element: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int


@dataclass(frozen=True)
class Described:
    """An address with the map of the tensor there, for kernels that do not run on a GPU."""

    address: int
    map: TensorMap


Passed = int | Described
"""An argument of such a kernel: an address, a number or a tensor map."""


class EncodedMap(ctypes.Structure):
    """The bytes that a kernel takes."""

    _fields_ = [("opaque", ctypes.c_uint8 * _BYTES)]


class Encoder:
    """Encodes tensor maps by the driver's function at an address."""

    def __init__(self, address: int) -> None:
        self._encode = EncodeFunction(address)

    def __call__(self, map: TensorMap, address: int) -> tuple[int, EncodedMap]:
        """Return the driver's error, 0 for none, and the encoded map of a tensor at an address.

        An axis without elements counts as one of a single element, which nothing is copied from:
        the driver takes no empty ones.
        """
        kind, size = _ELEMENTS[map.element]
        sizes = [max(1, n) for n in reversed(map.sizes)]
        strides = [n * size for n in reversed(map.strides[:-1])]
        rank = len(sizes)
        memory = (ctypes.c_uint8 * (_BYTES + _ALIGNMENT))()
        encoded = EncodedMap.from_buffer(memory, -ctypes.addressof(memory) % _ALIGNMENT)
        error: int = self._encode(
            ctypes.addressof(encoded),
            kind,
            rank,
            address,
            (ctypes.c_uint64 * _MOST_AXES)(*sizes),
            (ctypes.c_uint64 * _MOST_AXES)(*strides),
            (ctypes.c_uint32 * _MOST_AXES)(*reversed(map.box)),
            (ctypes.c_uint32 * _MOST_AXES)(*[1] * rank),
            _PLAIN,
            _SWIZZLES[map.swizzle],
            _PROMOTION,
            _PLAIN,
        )
        return error, encoded


def passed(map: TensorMap, encoded: EncodedMap) -> list[tuple[Any, Any]]:
    """Return values and types of what a compiled kernel takes for a map: its shape follows it."""
    sizes = [(n, ctypes.c_int32) for n in map.sizes]
    return [(encoded, None), *sizes, *[(n, ctypes.c_int64) for n in map.strides]]


def map_of(
    element: str,
    sizes: Sequence[Dim],
    strides: Sequence[Dim],
    box: tuple[int, ...],
    swizzle: int,
    env: Mapping[str, int],
) -> TensorMap:
    """Return the map for known sizes; raises PlanError for one that a GPU cannot have."""
    shape, apart = (tuple(evaluate(n, env) for n in of) for of in (sizes, strides))
    return checked(TensorMap(element=element, sizes=shape, strides=apart, box=box, swizzle=swizzle))


def checked(map: TensorMap) -> TensorMap:
    """Return a map that a GPU can have; raises PlanError for one that it cannot.

    The limits are those of ``cuTensorMapEncodeTiled`` (CUDA Driver API, "Tensor Map Object
    Management"), and i32 for sizes, as which kernels take them.
    """
    if map.element not in _ELEMENTS or map.swizzle not in _SWIZZLES:
        raise PlanError(f"no tensor map is of {map.element} swizzled in {map.swizzle} bytes")
    if not len(map.sizes) == len(map.strides) == len(map.box) <= _MOST_AXES or not map.box:
        raise PlanError(f"no tensor map has {len(map.sizes)} axes and a box of {len(map.box)}")
    size = _ELEMENTS[map.element][1]
    if max(map.sizes) > _MOST_ELEMENTS or max(map.strides) * size >= _MOST_STRIDE_BYTES:
        raise PlanError(
            f"a tensor of {map.sizes} with strides {map.strides} is too large for the copy engine",
            hint="use smaller shapes",
        )
    if map.strides[-1] != 1 or any(n * size % _VECTOR_BYTES for n in map.strides[:-1]):
        raise PlanError(f"the copy engine takes no strides {map.strides} of {map.element}")
    return map
