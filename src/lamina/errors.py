"""Every exception this package raises on purpose.

::

    LaminaError
    ├── ConfigError        an option has a value that cannot be used
    ├── ImportFailed       the source model is damaged or says something we cannot express
    │   └── Unsupported    lists everything in the model that is not supported, at once
    ├── GraphError         a graph, node or type breaks a rule of the IR
    │   └── TypeMismatch   operand types do not fit the operator
    ├── BuildError         no plan can be built
    │   ├── NoTactic       every tactic declined a node
    │   └── BuildInterrupted  the user stopped the build
    ├── PlanError          a plan file is damaged, too new, or cannot be used here
    ├── InputError         an array given to a run has the wrong name, type or shape
    ├── ExecutionError     a step failed while running
    └── DeviceError        a device or its library is missing or refuses

The first line of a message is the fact with both numbers; the lines after it say where; the last
is a hint that tells the user what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LaminaError(Exception):
    """Base class; collects where the failure happened while it travels up."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.where: list[str] = []

    def __str__(self) -> str:
        lines = [super().__str__(), *(f"  {w}" for w in self.where)]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class ConfigError(LaminaError):
    """An option has a value that cannot be used."""


class ImportFailed(LaminaError):
    """The source model is damaged or says something we cannot express."""


class Unsupported(ImportFailed):
    """The model uses things that are not supported; the message lists all of them."""


class GraphError(LaminaError):
    """A graph, node or type breaks a rule of the IR."""


class TypeMismatch(GraphError):
    """Operand types do not fit the operator."""


class BuildError(LaminaError):
    """No plan can be built from this graph and configuration."""


class NoTactic(BuildError):
    """Every tactic declined a node."""


class BuildInterrupted(BuildError):
    """The user stopped the build; nothing was written."""


class PlanError(LaminaError):
    """A plan file is damaged, too new, or was built for another machine."""


class InputError(LaminaError):
    """An array given to a run has the wrong name, type or shape."""


class ExecutionError(LaminaError):
    """A step failed while running."""


class DeviceError(LaminaError):
    """A device or its library is missing or refuses."""


@contextmanager
def where(text: str) -> Iterator[None]:
    """Add one line of location, unless it is there, to any LaminaError that passes through."""
    try:
        yield
    except LaminaError as e:
        if text not in e.where:
            e.where.append(text)
        raise
