"""What the runtime needs from a device.

A backend implements these protocols in its ``driver`` module, whose function ``driver(threads,
device)`` returns a :class:`Driver`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lamina.plan.plan import Port, Section
from lamina.runtime.lent import LentMemory


class Allocator(Protocol):
    """Gives memory in place of the device's own; may be called from any thread."""

    def allocate(self, size_bytes: int, stream: int) -> int:
        """Return the address of memory for use on ``stream``, aligned to 256 bytes.

        A CPU's stream is 0.  Raises MemoryError when there is none.
        """

    def free(self, pointer: int, size_bytes: int, stream: int) -> None:
        """Take memory back once what ``stream`` has been given so far is done."""


class Driver(Protocol):
    """One device of this machine."""

    name: str
    missing: str
    """Why the device cannot be used at all, "" when it can."""

    def target(self) -> tuple[tuple[str, str], ...]:
        """Return what a section must have been built for to run here."""

    def refusal(self, section: Section) -> str | None:
        """Return why a section cannot run here, or None when it can."""

    def load(self, section: Section, resident_bytes: int | None = None) -> Loaded:
        """Bring code and constants of a section to the device.

        Constants beyond ``resident_bytes`` stay in host memory, which the device reads in runs.
        """


class WeightMemory(Protocol):
    """Host memory for the weights of a refit, which a device reads."""

    bytes: npt.NDArray[np.uint8]
    """The memory; what is in it at first is undefined."""

    def written(self, begin: int, size_bytes: int) -> None:
        """Let the device begin to read some bytes, which will not change; from any thread."""


class Loaded(Protocol):
    """A section on a device; shared by all contexts of an engine."""

    def runner(self) -> Runner:
        """Return a new runner with buffers of its own."""

    def refitted(self, section: Section) -> Loaded:
        """Return a section that differs in the contents of some constants alone.

        Code and constants that stay the same are shared, so that old runners go on as they are.
        """

    def weight_memory(self, size_bytes: int) -> WeightMemory | None:
        """Return host memory from which the device reads weights fastest; None where any serves."""

    def arena_bytes(self, sizes: Mapping[str, int]) -> int:
        """Return the bytes that a runner needs for activations, by the sizes of symbols.

        Buffers whose size only data decides are not counted.
        """


class Runner(Protocol):
    """Runs a program; used by one thread at a time."""

    def lend(self, memory: LentMemory | None) -> None:
        """Place activations in the user's memory from now on; None for memory of its own."""

    def check_steps(self, *, wanted: bool) -> None:
        """Wait after each step from now on, so that a fault names its step, or no longer."""

    def allocate_with(self, allocator: Allocator | None) -> None:
        """Take memory from an allocator from now on; None for that of the engine."""

    def run(self, inputs: Sequence[Any], outputs: list[Any]) -> list[Any]:
        """Run once.

        ``inputs`` are C-contiguous arrays of the right types in the order of the program's inputs.
        ``outputs`` are arrays to write into, or None for a new array each.
        """

    def profile(self, inputs: Sequence[Any]) -> list[float]:
        """Run once and return the microseconds of each step."""

    def memory(self) -> Mapping[str, int]:
        """Return bytes by use: ``arena``, ``lower_bound``, ``workspace``, ``constants``."""


class DeviceRunner(Runner, Protocol):
    """A runner that also works on arrays in the memory of its device."""

    def admit(self, number: int, port: Port, x: Any) -> Any | None:
        """Return an array that is on a device as the runner wants it, None for any other.

        ``number`` counts the inputs and then the outputs.  Raises InputError for an array that is
        of another type or cannot be read where it is.
        """

    def run(
        self, inputs: Sequence[Any], outputs: list[Any], stream: int | None = None
    ) -> list[Any]:
        """Run once; with a ``stream``, without waiting for results on the device."""

    def repeat(self, given: Sequence[Any], stream: int | None = None) -> bool:
        """Run once more, if ``given`` are the caller's objects of the last run, unchanged.

        Those are the inputs and then the outputs as they were given to :meth:`admit`.  False, and
        nothing has happened, where they are not or a repetition saves nothing.
        """
