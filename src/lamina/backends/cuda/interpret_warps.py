"""What Triton's interpreter lacks of Gluon's warp specialization: barriers, boxes, groups of warps.

Groups of warps are threads of which one runs at a time, until it waits for a barrier.  Boxes are
copied when the phase of their barrier ends.  That all groups wait for each other is an error, but
for what other programs do: then the next program starts beside those that wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import triton.language as tl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier
from triton.runtime import interpreter

from lamina.backends.cuda.interpret_pairs import Pairs

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
    """The groups of warps of the programs of a launch, and stand-ins for what they call.

    A program ends with ``warp_specialize``: that returns early when its groups wait for others.
    """

    MBarrierLayout = mbarrier.MBarrierLayout

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._barriers: dict[int, _Barrier] = {}
        self._alive = 0
        self._waiting: list[tuple[Callable[[], bool], bool]] = []
        """What each group waits for, and whether another program may do it."""
        self._errors: list[BaseException] = []
        self._of_thread = threading.local()
        self.pairs = Pairs(lambda ready: self._until(ready, others=True))

    def warp_specialize(
        self, groups: Sequence[tuple[Any, Sequence[Any]]], warps: object, registers: object
    ) -> None:
        """Run the functions of all groups, each with its arguments."""
        program = interpreter.interpreter_builder.grid_idx
        threads = [
            threading.Thread(target=self._group, args=(program, *g), daemon=True) for g in groups
        ]
        self._alive += len(threads)
        self.pairs.started()
        for thread in threads:
            thread.start()
        with self._turn:
            self._turn.wait_for(lambda: not self._alive or (not self._errors and self._is_stuck()))
            if not self._alive:
                self._barriers.clear()
                self.pairs.clear()
        if self._errors:
            raise self._errors[0]

    def finish(self) -> None:
        """End a launch all of whose programs have started."""
        with self._turn:
            if self._alive:
                self._errors.append(AssertionError("programs wait for what no other does"))
                self._turn.notify_all()
                raise self._errors[0]

    def _group(self, program: Any, function: Any, arguments: Sequence[Any]) -> None:
        with self._turn:
            interpreter.interpreter_builder.grid_idx = program
            try:
                function(*arguments)
                assert not self._stores, "a group of warps ends before its stores were waited for"
            except BaseException as e:  # raised again by the program
                self._errors.append(e)
            self._alive -= 1
            self._notice()

    def _notice(self) -> None:
        """Let the others look again; note when each of them waits for nothing to come."""
        if self._is_stuck() and not any(others for _, others in self._waiting):
            self._errors.append(AssertionError("all groups of warps wait for each other"))
        self._turn.notify_all()

    def _is_stuck(self) -> bool:
        """Whether every group waits for what has not happened."""
        everyone = len(self._waiting) == self._alive > 0
        return everyone and not any(ready() for ready, _ in self._waiting)

    def _until(self, ready: Callable[[], bool], *, others: bool = False) -> None:
        """Let others run until something has happened; ``others``: other programs may do it."""
        builder = interpreter.interpreter_builder
        program = builder.grid_idx
        me = (ready, others)
        self._waiting.append(me)
        self._notice()
        self._turn.wait_for(lambda: self._errors or ready())
        self._waiting.remove(me)
        builder.grid_idx = program
        if self._errors:
            raise AssertionError("another group of warps has failed")

    def init(self, barrier: Any, count: int) -> None:
        """Begin the first phase."""
        self._barriers[_place(barrier)] = _Barrier(int(count))

    def arrive(self, barrier: Any, *, count: int = 1, pred: Any = True) -> None:
        """Arrive ``count`` times."""
        if pred:
            for reached in self.pairs.reached(barrier):
                at = self._barriers[_place(reached)]
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
        if pred:
            at, parity = self._barriers[_place(barrier)], int(phase)
            self._until(lambda: at.is_over(parity))

    def make_tensor_descriptor(
        self, base: Any, shape: Any, strides: Any, block_shape: Any, layout: object
    ) -> Any:
        """Return what describes a tensor in memory."""
        return tl.make_tensor_descriptor(base, shape, strides, block_shape)

    def async_copy_global_to_shared(
        self, descriptor: Any, coordinates: Any, barrier: Any, result: Any, pred: Any = True
    ) -> None:
        """Copy a box when all bytes that the barrier expects are asked for."""
        if not pred:
            return
        value = descriptor.load(coordinates)
        size = value.handle.data.size * result.dtype.primitive_bitwidth // _BITS
        reached = zip(self.pairs.reached(barrier), self.pairs.reached(result), strict=True)
        for came, to in reached:
            at = self._barriers[_place(came)]
            at.copies.append(lambda to=to: to.store(value))  # type: ignore[misc]
            at.bytes -= size
            at.end()

    def async_copy_shared_to_global(self, descriptor: Any, coordinates: Any, source: Any) -> None:
        """Store a box when it is waited for: nobody may write to its memory before."""
        self._stores.append(lambda: descriptor.store(coordinates, source.load()))

    def store_wait(self, pendings: int) -> None:
        """Wait until at most ``pendings`` stores of this group of warps are under way."""
        stores = self._stores
        while len(stores) > int(pendings):
            stores.pop(0)()

    @property
    def _stores(self) -> list[Callable[[], None]]:
        """What the groups of warps of this thread still store."""
        stores: list[Callable[[], None]] = vars(self._of_thread).setdefault("stores", [])
        return stores


def _place(barrier: Any) -> int:
    return int(barrier.array.ctypes.data)
