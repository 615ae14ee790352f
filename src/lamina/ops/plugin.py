"""An operator that a program outside of this package computes."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from lamina.errors import ExecutionError, LaminaError, TypeMismatch
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType, ValueType

Computation = Callable[[Sequence[Array], Sequence[TensorType]], Sequence[Array]]
"""Computes results of the given types from operands."""

PROVIDERS: dict[str, Callable[[str, bytes], Computation]] = {}
"""Makes the computation of a plugin from its name and settings, by the kind of plugin.

Each kind registers itself here when its module is imported, so that operators import nothing of
what is above them.
"""

ON_DEVICE: set[str] = set()
"""Kinds whose computations work in the memory of a GPU: each is a :class:`DeviceComputation`."""


class DeviceTensor(Protocol):
    """A row-major array in the memory of a GPU."""

    pointer: int
    shape: tuple[int, ...]

    @property
    def type(self) -> DType:
        """Element type."""


class DeviceWork(Protocol):
    """What a computation may use while it enqueues work on a GPU."""

    stream: int

    def tensor(self, type: TensorType) -> DeviceTensor:
        """Return memory that stays this call's until its work is done."""

    def part(self, tensor: DeviceTensor, shape: tuple[int, ...]) -> DeviceTensor:
        """Return the first elements of a tensor in another shape."""

    def read(self, tensor: DeviceTensor) -> Array:
        """Wait for the work so far and return a copy in host memory."""

    def copy(self, target: DeviceTensor, source: DeviceTensor) -> None:
        """Copy all elements, behind the work so far."""


class DeviceComputation(Protocol):
    """A computation that enqueues work on a GPU in place of computing on the host."""

    def run_on_device(
        self,
        operands: Sequence[DeviceTensor],
        results: Sequence[DeviceTensor | None],
        types: Sequence[TensorType],
        work: DeviceWork,
    ) -> Sequence[DeviceTensor | Array]:
        """Enqueue work that fills ``results``; those of unknown sizes are made and returned."""


@operator
class PluginCall(Op):
    """Run the plugin ``kind`` ``key``: on the host, or on a GPU where it can.

    ``settings`` are bytes that only the plugin's provider understands.  ``output_types`` may hold
    symbols of their own for sizes that only the run tells.
    """

    kind: str
    key: str
    settings: bytes
    output_types: tuple[ValueType, ...]

    @property
    def pure(self) -> bool:
        """A plugin may do anything, so its results are never shared or computed in advance."""
        return False

    def infer(self, *inputs: ValueType) -> tuple[ValueType, ...]:
        if not self.output_types:
            raise TypeMismatch(f"plugin {self.key!r} needs at least one result type, got none")
        return self.output_types

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        types = self._types()
        with self._running() as computation:
            results = computation(inputs, types)
        self._count(len(results))
        return tuple(
            _checked(self.key, i, r, t) for i, (r, t) in enumerate(zip(results, types, strict=True))
        )

    def run_on_device(
        self,
        operands: Sequence[DeviceTensor],
        results: Sequence[DeviceTensor | None],
        work: DeviceWork,
    ) -> Sequence[DeviceTensor | Array]:
        """Enqueue the plugin's work on a GPU; only for kinds that are ``ON_DEVICE``."""
        with self._running() as computation:
            found = computation.run_on_device(operands, results, self._types(), work)
        self._count(len(found))
        return list(found)

    def _types(self) -> list[TensorType]:
        return [t for t in self.output_types if isinstance(t, TensorType)]

    def _count(self, results: int) -> None:
        if results != len(self._types()):
            raise ExecutionError(
                f"plugin {self.key!r} gave {results} results, expected {len(self._types())}"
            )

    @contextmanager
    def _running(self) -> Iterator[Any]:
        """Give the computation to one thread; what it raises gets its traceback."""
        computation, lock = _computation(self.kind, self.key, self.settings)
        try:
            with lock:
                yield computation
        except LaminaError:
            raise
        except Exception as e:
            raise ExecutionError(f"plugin {self.key!r} raised\n{_traceback(e)}") from e


@lru_cache(maxsize=256)
def _computation(kind: str, key: str, settings: bytes) -> tuple[Computation, threading.RLock]:
    """Return a plugin, made on first use, with the lock that lets it run once at a time."""
    if kind not in PROVIDERS:
        raise ExecutionError(
            f"the engine needs plugin {key!r}, and no plugins of the kind {kind!r} are loaded",
            hint="import the module that registers it before the engine runs",
        )
    try:
        return PROVIDERS[kind](key, settings), threading.RLock()
    except LaminaError:
        raise
    except Exception as e:
        raise ExecutionError(f"plugin {key!r} cannot be made\n{_traceback(e)}") from e


def forget_plugins() -> None:
    """Make plugins anew when they run next; for those that register another under a name."""
    _computation.cache_clear()


def _checked(key: str, index: int, value: Array, type: TensorType) -> Array:
    array = np.asarray(value)
    fits = array.ndim == type.rank and all(
        n == d or not isinstance(d, int) for n, d in zip(array.shape, type.shape, strict=True)
    )
    if not fits or array.dtype != type.dtype.numpy:
        raise ExecutionError(
            f"plugin {key!r} gave {array.dtype}{list(array.shape)} as result {index}, "
            f"its rule says {type}"
        )
    return array


def _traceback(e: Exception) -> str:
    return "".join(traceback.format_exception(e)).rstrip()
