"""DLPack's capsules, read and made with ctypes (https://dmlc.github.io/dlpack, version 0.8).

A capsule named ``dltensor`` holds the address of a ``DLManagedTensor``; who takes it renames it to
``used_dltensor`` and calls the tensor's deleter when done.
"""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import dataclass
from typing import Any, Final

from lamina.ir.types import DType

CPU: Final = 1
CUDA: Final = 2
CUDA_MANAGED: Final = 13

_NAME, _USED_NAME = b"dltensor", b"used_dltensor"
_CODES: Final = {
    (0, 8): DType.I8,
    (0, 16): DType.I16,
    (0, 32): DType.I32,
    (0, 64): DType.I64,
    (1, 8): DType.U8,
    (1, 16): DType.U16,
    (1, 32): DType.U32,
    (1, 64): DType.U64,
    (2, 16): DType.F16,
    (2, 32): DType.F32,
    (2, 64): DType.F64,
    (4, 16): DType.BF16,
    (5, 64): DType.C64,
    (5, 128): DType.C128,
    (6, 8): DType.BOOL,
    (10, 8): DType.F8E4M3,
    (11, 8): DType.F8E4M3FNUZ,
    (12, 8): DType.F8E5M2,
    (13, 8): DType.F8E5M2FNUZ,
    (14, 8): DType.F8E8M0,
}
"""Element types by DLPack's type code and number of bits."""
_CODE_OF: Final = {dtype: code for code, dtype in _CODES.items()}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


_get = ctypes.pythonapi.PyCapsule_GetPointer
_get.restype, _get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_rename = ctypes.pythonapi.PyCapsule_SetName
_rename.restype, _rename.argtypes = ctypes.c_int, (ctypes.py_object, ctypes.c_char_p)
_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = (
    ctypes.py_object,
    (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p),
)
# The destructor of a capsule sees it while it dies: it must not become a counted reference.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_get_dying = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


@dataclass(frozen=True)
class Imported:
    """What a capsule says; ``owner`` keeps the memory alive.  Strides count elements."""

    pointer: int
    device_type: int
    device_id: int
    dtype: DType | None
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    owner: Any


class _Owner:
    """Calls the deleter of a tensor that was taken over."""

    def __init__(self, managed: _Managed, address: int) -> None:
        self._managed, self._address = managed, address

    def __del__(self) -> None:
        if self._managed.deleter:
            self._managed.deleter(self._address)


def take(capsule: Any) -> Imported:
    """Take over the tensor in a capsule; raises ValueError for one that is used up."""
    address = _get(capsule, _NAME)
    managed = _Managed.from_address(address)
    _rename(capsule, _USED_NAME)
    t = managed.tensor
    shape = tuple(t.shape[i] for i in range(t.rank))
    strides = tuple(t.strides[i] for i in range(t.rank)) if t.strides else None
    dtype = _CODES.get((t.code, t.bits)) if t.lanes == 1 else None
    pointer = (t.data or 0) + t.byte_offset
    owner = _Owner(managed, address)
    return Imported(pointer, t.device_type, t.device_id, dtype, shape, strides, owner)


def can_give(dtype: DType) -> bool:
    """Whether DLPack has a code for an element type."""
    return dtype in _CODE_OF


def give(pointer: int, ordinal: int, dtype: DType, shape: tuple[int, ...], owner: object) -> Any:
    """Return a capsule of dense device memory; ``owner`` lives until its taker is done."""
    managed = _Managed()
    managed.deleter = _release
    t = managed.tensor
    t.data, t.device_type, t.device_id, t.rank = pointer, CUDA, ordinal, len(shape)
    (t.code, t.bits), t.lanes = _CODE_OF[dtype], 1
    sizes = (ctypes.c_int64 * max(1, len(shape)))(*shape)
    steps = list(itertools.accumulate(reversed(shape[1:]), lambda a, b: a * b, initial=1))
    strides = (ctypes.c_int64 * max(1, len(shape)))(*reversed(steps[: len(shape)]))
    t.shape = ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64))
    t.strides = ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64))
    address = ctypes.addressof(managed)
    _given[address] = (managed, sizes, strides, owner)
    return _new(address, _NAME, ctypes.cast(_destroy, ctypes.c_void_p))


_given: dict[int, Any] = {}
"""What capsules that live outside refer to, by address."""


def _release_tensor(address: int) -> None:
    _given.pop(address, None)


def _destroy_capsule(capsule: int) -> None:
    """Drop the tensor of a capsule that nobody took."""
    if _is_valid(capsule, _NAME):
        _given.pop(_get_dying(capsule, _NAME), None)


_release = _Deleter(_release_tensor)
_destroy = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_destroy_capsule)
for _lasting in (_release, _destroy, _NAME, _USED_NAME):
    # What others took may outlive this module when the process exits, and calls back then.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_lasting))
