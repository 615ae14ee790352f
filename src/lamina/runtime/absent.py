"""Stands for a device that this machine does not have: plans for it are built, saved and inspected.

``lamina.build`` returns an engine on it after a build for another machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lamina.errors import DeviceError
from lamina.plan.plan import Section

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

    def load(self, section: Section) -> AbsentSection:
        """Return the section unloaded."""
        return AbsentSection(section)


class AbsentSection:
    """A section that stays where it is, and its runner."""

    def __init__(self, section: Section) -> None:
        target = dict(section.target)
        self.wanted = ":".join(target[k] for k in ("device", "arch") if k in target) or "this CPU"

    def runner(self) -> AbsentSection:
        """Return what refuses to run."""
        return self

    def run(self, inputs: Sequence[Any], outputs: list[Any]) -> list[Any]:
        """Raise DeviceError."""
        raise DeviceError(
            f"the plan is for {self.wanted}, which this machine does not have",
            hint="save it and load it where there is one; lamina.load also runs it here, compiled "
            "again from its graph",
        )

    def profile(self, inputs: Sequence[Any]) -> list[float]:
        """Raise DeviceError."""
        self.run(inputs, [])
        return []

    def memory(self) -> Mapping[str, int]:
        """Return nothing."""
        return {}


def driver(threads: int | None = None, device: str = DEVICE) -> AbsentDriver:
    """Return the driver of no device."""
    return AbsentDriver()
