"""What Triton's interpreter lacks of Gluon: shared memory, copies and products under way.

Layouts mean nothing here.  A copy is carried out when it is waited for, and memory that nothing
was copied to holds NaN; a product that is read but was not waited for is an error.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton.language as tl
from triton.experimental.gluon import language as gluon_language
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.runtime import interpreter

from lamina.backends.cuda.interpret_warps import Warps
from lamina.backends.cuda.kernels.pairing import BEGIN, END, MEET

_UNWRITTEN = 0xFF
"""Bytes of floats that are NaN."""


class _Shared:
    """A part of shared memory."""

    def __init__(self, array: np.ndarray, dtype: Any) -> None:
        self.array, self.dtype = array, dtype

    def index(self, number: Any) -> _Shared:
        return _Shared(self.array[int(number)], self.dtype)

    def slice(self, start: Any, length: Any, dim: int = 0) -> _Shared:
        part = np.s_[int(start) : int(start) + int(length)]
        return _Shared(self.array[(np.s_[:],) * dim + (part,)], self.dtype)

    def reshape(self, shape: Sequence[int]) -> _Shared:
        return _Shared(self.array.reshape(tuple(shape)), self.dtype)

    def permute(self, order: Sequence[int]) -> _Shared:
        return _Shared(self.array.transpose(order), self.dtype)

    def _reinterpret(self, dtype: Any, shape: Sequence[int], layout: object) -> _Shared:
        storage = np.dtype(interpreter._get_np_dtype(dtype))
        return _Shared(self.array.view(storage).reshape(tuple(shape)), dtype)

    def load(self, layout: object = None) -> Any:
        kind = tl.block_type(self.dtype, list(self.array.shape))
        return tl.tensor(interpreter.TensorHandle(self.array.copy(), self.dtype), kind)

    def store(self, value: Any) -> None:
        self.array[...] = value.handle.data


class _Product:
    """The result of a product that may not be done yet."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("a product is read that was not waited for")


class _Copies:
    """Stands for the module of asynchronous copies."""

    def __init__(self) -> None:
        self._groups: list[list[tuple[_Shared, Any]]] = []
        self._open: list[tuple[_Shared, Any]] = []

    def async_copy_global_to_shared(self, smem: _Shared, pointer: Any, mask: Any = None) -> None:
        value = tl.load(pointer) if mask is None else tl.load(pointer, mask=mask, other=0.0)
        self._open.append((smem, value))

    def commit_group(self) -> None:
        self._groups.append(self._open)
        self._open = []

    def wait_group(self, num_outstanding: int = 0) -> None:
        while len(self._groups) > num_outstanding:
            for shared, value in self._groups.pop(0):
                shared.store(value)


class _Products:
    """Stands for the functions of matrix units, which are done in the order of asking."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    @property
    def _pending(self) -> list[_Product]:
        """What the groups of warps of this thread have asked for."""
        pending: list[_Product] = vars(self._of_thread).setdefault("pending", [])
        return pending

    def warpgroup_mma(
        self, a: Any, b: _Shared, acc: Any, *, use_acc: Any = True, is_async: bool = False
    ) -> Any:
        left = a.load() if isinstance(a, _Shared) else a
        acc = acc.value if isinstance(acc, _Product) else acc
        added = acc if use_acc else None
        value = tl.dot(left, b.load(), added, out_dtype=tl.float32)
        if not is_async:
            return value
        self._pending.append(_Product(value))
        return self._pending[-1]

    def warpgroup_mma_wait(self, num_outstanding: int = 0, deps: Sequence[Any] = ()) -> Any:
        done = len(self._pending) - num_outstanding
        del self._pending[: max(0, done)]
        values = tuple(self._result(d) for d in deps)
        return values[0] if len(values) == 1 else values

    def _result(self, given: Any) -> Any:
        """Return what can be read now: a product that is under way stays one."""
        done = isinstance(given, _Product) and given not in self._pending
        return given.value if done else given


class _Language:
    """Stands for Gluon's language: Triton's, with functions that take layouts."""

    constexpr = gluon_language.constexpr

    def __init__(self, warps: Warps) -> None:
        self.warp_specialize = warps.warp_specialize
        self._allocated = warps.pairs.allocated
        self._instructions: dict[str, Any] = {
            BEGIN: warps.pairs.begin,
            END: warps.pairs.end,
            MEET: nothing,
        }

    def __getattr__(self, name: str) -> Any:
        return getattr(tl if hasattr(tl, name) else gluon_language, name)

    def arange(self, start: int, end: int, layout: object = None) -> Any:
        return tl.arange(start, end)

    def zeros(self, shape: Sequence[int], dtype: Any, layout: object = None) -> Any:
        return tl.zeros(tuple(shape), dtype)

    def full(self, shape: Sequence[int], value: float, dtype: Any, layout: object = None) -> Any:
        return tl.full(tuple(shape), value, dtype)

    def inline_asm_elementwise(
        self, text: Any, constraints: str, operands: Sequence[Any], **options: Any
    ) -> Any:
        text = getattr(text, "value", text)
        for instruction, function in self._instructions.items():
            if instruction in text:
                return function(*operands)
        return tl.inline_asm_elementwise(text, constraints, operands, **options)

    def convert_layout(self, value: Any, layout: object, assert_trivial: bool = False) -> Any:
        return value

    def allocate_shared_memory(self, dtype: Any, shape: Sequence[int], layout: object) -> _Shared:
        storage = np.dtype(interpreter._get_np_dtype(dtype))
        raw = np.full(int(np.prod(shape)) * storage.itemsize, _UNWRITTEN, np.uint8)
        self._allocated(raw)
        return _Shared(raw.view(storage).reshape(tuple(shape)), dtype)


def same(value: Any) -> Any:
    """Stand for a change of a type that means nothing here."""
    return value


def nothing(*_: Any, **__: Any) -> None:
    """Stand for an instruction that orders what happens here in order."""


def stand_ins(warps: Warps) -> list[tuple[Any, Any]]:
    """Return what kernels name, with what to put in its place for one run."""
    products = _Products()
    return [
        (gluon_language, _Language(warps)),
        (hopper.mbarrier, warps),
        (hopper.tma, warps),
        (async_copy, _Copies()),
        (hopper.fence_async_shared, nothing),
        (hopper.warpgroup_mma, products.warpgroup_mma),
        (hopper.warpgroup_mma_init, same),
        (hopper.warpgroup_mma_wait, products.warpgroup_mma_wait),
    ]
