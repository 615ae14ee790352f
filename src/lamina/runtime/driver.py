"""What the runtime needs from a device.

A backend implements these protocols in its ``driver`` module, whose function ``driver(threads,
device)`` returns a :class:`Driver`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lamina.plan.plan import Port, Section


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

    def load(self, section: Section) -> Loaded:
        """Bring code and constants of a section to the device."""


class Loaded(Protocol):
    """A section on a device; shared by all contexts of an engine."""

    def runner(self) -> Runner:
        """Return a new runner with buffers of its own."""


class Runner(Protocol):
    """Runs a program; used by one thread at a time."""

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
