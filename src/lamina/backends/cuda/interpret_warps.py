"""What Triton's interpreter lacks of Gluon's warp specialization: barriers, boxes, groups of warps.

Groups of warps are threads of which one runs at a time, until it waits for a barrier.  Boxes are
copied when the phase of their barrier ends.  That all groups wait for each other is an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import triton.language as tl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

_BITS = 8


class _Barrier:
    """A barrier in shared memory: a phase ends when all have arrived, and all bytes."""

    def __init__(self, count: int) -> None:
        self.count = self.missing = count
        self.bytes = 0
        self.phases = 0
        self.copies: list[Callable[[], None]] = []

    def is_over(self, phase: int) -> bool:
        """Whether the phase of a parity has ended, which one before the first has."""
        return self.phases % 2 != phase

    def end(self) -> None:
        """End the phase if nothing is missing."""
        if not self.missing and not self.bytes:
            for copy in self.copies:
                copy()
            self.copies, self.missing = [], self.count
            self.phases += 1


class Warps:
    """The groups of warps of a program, and stand-ins for what they call."""

    MBarrierLayout = mbarrier.MBarrierLayout

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._barriers: dict[int, _Barrier] = {}
        self._alive = 0
        self._waiting: list[tuple[_Barrier, int]] = []
        self._errors: list[BaseException] = []

    def warp_specialize(
        self, groups: Sequence[tuple[Any, Sequence[Any]]], warps: object, registers: object
    ) -> None:
        """Run the functions of all groups, each with its arguments."""
        threads = [threading.Thread(target=self._group, args=g, daemon=True) for g in groups]
        self._alive, self._errors = len(threads), []
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._barriers.clear()
        if self._errors:
            raise self._errors[0]

    def _group(self, function: Any, arguments: Sequence[Any]) -> None:
        with self._turn:
            try:
                function(*arguments)
            except BaseException as e:  # raised again by the program
                self._errors.append(e)
            self._alive -= 1
            self._notice()

    def _notice(self) -> None:
        """Let the others look again; note when each of them waits for nothing to come."""
        stuck = len(self._waiting) == self._alive > 0
        if stuck and not any(barrier.is_over(phase) for barrier, phase in self._waiting):
            self._errors.append(AssertionError("all groups of warps wait for each other"))
        self._turn.notify_all()

    def init(self, barrier: Any, count: int) -> None:
        """Begin the first phase."""
        self._barriers[_place(barrier)] = _Barrier(int(count))

    def arrive(self, barrier: Any, *, count: int = 1, pred: Any = True) -> None:
        """Arrive ``count`` times."""
        if pred:
            at = self._barriers[_place(barrier)]
            at.missing -= int(count)
            assert at.missing >= 0, "more have arrived at a barrier than it counts"
            at.end()

    def expect(self, barrier: Any, bytes: int, pred: Any = True) -> None:
        """Arrive, and wait for bytes to be copied."""
        if pred:
            self._barriers[_place(barrier)].bytes += int(bytes)
            self.arrive(barrier)

    def wait(self, barrier: Any, phase: Any, pred: Any = True) -> None:
        """Let others run until the phase of a parity has ended."""
        if not pred:
            return
        me = (self._barriers[_place(barrier)], int(phase))
        self._waiting.append(me)
        self._notice()
        self._turn.wait_for(lambda: self._errors or me[0].is_over(me[1]))
        self._waiting.remove(me)
        if self._errors:
            raise AssertionError("another group of warps has failed")

    def make_tensor_descriptor(
        self, base: Any, shape: Any, strides: Any, block_shape: Any, layout: object
    ) -> Any:
        """Return what describes a tensor in memory."""
        return tl.make_tensor_descriptor(base, shape, strides, block_shape)

    def async_copy_global_to_shared(
        self, descriptor: Any, coordinates: Any, barrier: Any, result: Any
    ) -> None:
        """Copy a box when all bytes that the barrier expects are asked for."""
        at = self._barriers[_place(barrier)]
        value = descriptor.load(coordinates)
        at.copies.append(lambda: result.store(value))
        at.bytes -= value.handle.data.size * result.dtype.primitive_bitwidth // _BITS
        at.end()


def _place(barrier: Any) -> int:
    return int(barrier.array.ctypes.data)
