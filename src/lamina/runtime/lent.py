"""Memory that the user gives a context for its activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lamina.errors import ExecutionError, InputError

ALIGN_BYTES: Final = 256


@dataclass(frozen=True)
class LentMemory:
    """An address of the engine's device and the bytes that are free there.

    Raises InputError for an address that is not a multiple of 256.
    """

    pointer: int
    size_bytes: int

    def __post_init__(self) -> None:
        if self.pointer % ALIGN_BYTES:
            raise InputError(
                f"memory for activations begins at {self.pointer:#x}, which is no multiple of "
                f"{ALIGN_BYTES}"
            )

    def place(self, wanted_bytes: int) -> int:
        """Return the address of so many bytes; raises ExecutionError when there are fewer."""
        have = self.size_bytes if self.pointer else 0
        if wanted_bytes > have:
            raise ExecutionError(
                f"the activations need {wanted_bytes} bytes, the context was given {have}",
                hint="give it as much as the engine says for the largest shapes",
            )
        return self.pointer
