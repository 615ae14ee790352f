"""Stands for a device that this machine does not have: plans for it are built, saved and inspected.

``lamina.build`` returns an engine on it after a build for another machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lamina.errors import DeviceError, LaminaError
from lamina.plan.plan import Section
from lamina.runtime.driver import Allocator
from lamina.runtime.lent import LentMemory

DEVICE = "none"


class AbsentDriver:
    """Admits every section and runs none."""

    name = DEVICE
    missing = ""

    def target(self) -> tuple[tuple[str, str], ...]:
        """Return nothing: there is no device."""
        return ()

    def refusal(self, section: Section) -> str | None:
        """Refuse nothing, so that the plan stays as it was built."""
        return None

    def load(self, section: Section, resident_bytes: int | None = None) -> AbsentSection:
        """Return the section unloaded."""
        return AbsentSection(_for_another_machine(section))


class AbsentSection:
    """A section that cannot run, for a reason, and its runner."""

    def __init__(self, reason: LaminaError) -> None:
        self._reason = reason

    def runner(self) -> AbsentSection:
        """Return what refuses to run."""
        return self

    def refitted(self, section: Section) -> AbsentSection:
        """Return what refuses to run, too."""
        return self

    def weight_memory(self, size_bytes: int) -> None:
        """Return nothing: weights are not read."""

    def arena_bytes(self, sizes: Mapping[str, int]) -> int:
        """Return 0: how much is needed is known where the plan runs."""
        return 0

    def lend(self, memory: LentMemory | None) -> None:
        """Take memory that no run will use."""

    def check_steps(self, *, wanted: bool) -> None:
        """Do nothing: there are no steps."""

    def allocate_with(self, allocator: Allocator | None) -> None:
        """Take an allocator that no run will use."""

    def run(self, inputs: Sequence[Any], outputs: list[Any]) -> list[Any]:
        """Raise the reason."""
        raise self._reason

    def profile(self, inputs: Sequence[Any]) -> list[float]:
        """Raise the reason."""
        self.run(inputs, [])
        return []

    def memory(self) -> Mapping[str, int]:
        """Return nothing."""
        return {}


def target_name(section: Section) -> str:
    """Return what a section is for as builds name it: ``cpu``, ``cuda:sm_90``."""
    target = dict(section.target)
    return ":".join(target[k] for k in ("device", "arch") if k in target)


def _for_another_machine(section: Section) -> DeviceError:
    return DeviceError(
        f"the plan is for {target_name(section) or 'this CPU'}, which this machine does not have",
        hint="save it and load it where there is one; lamina.load also runs it here, compiled "
        "again from its graph",
    )


def driver(threads: int | None = None, device: str = DEVICE) -> AbsentDriver:
    """Return the driver of no device."""
    return AbsentDriver()
