"""What a step of a plan asks of a library, and what a library answers with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

Problem = Mapping[str, Any]
"""What is to be computed, as plain data: the fields are the library's own."""

Answer = tuple[dict[str, Any], bytes]
"""What another process says to a question: plain data, and bytes."""

Ask = Callable[[dict[str, Any]], Future[Answer]]
"""Asks another process to plan something."""


class Operation(Protocol):
    """A problem with sizes and an algorithm; may be called from any thread."""

    workspace_bytes: int

    def run(self, pointers: Sequence[int], workspace: int, stream: int) -> None:
        """Put the work on a stream, ``pointers`` being those of the problem's ``names`` in turn.

        The device must be current in this thread.  Raises DeviceError for what fails.
        """


class Library(Protocol):
    """A library loaded for one device."""

    version: str

    def operation(self, problem: Problem, names: Sequence[str], plan: bytes) -> Operation:
        """Return a problem ready to run.

        ``names`` say which operand each pointer is; ``plan`` is the algorithm as the library
        itself wrote it down, empty for none.  Raises DeviceError when the library cannot do it.
        """


@dataclass(frozen=True)
class LibraryCall:
    """One operation on memory; ``values`` are the addresses of its operands."""

    operation: Operation
    values: tuple[int, ...]
    workspace: int

    def run(self, stream: int) -> None:
        """Put the work on a stream."""
        self.operation.run(self.values, self.workspace, stream)
