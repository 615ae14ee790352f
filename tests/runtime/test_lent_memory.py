"""Memory that the user gives a context."""

from __future__ import annotations

import pytest

from lamina.errors import ExecutionError, InputError
from lamina.runtime.lent import LentMemory


def test_memory_is_placed_and_measured() -> None:
    memory = LentMemory(1 << 12, 100)
    assert memory.place(100) == memory.place(0) == 1 << 12
    with pytest.raises(ExecutionError, match="need 101 bytes, the context was given 100"):
        memory.place(101)
    with pytest.raises(ExecutionError, match="was given 0"):
        LentMemory(0, 100).place(1)
    assert LentMemory(0, 0).place(0) == 0
    with pytest.raises(InputError, match="no multiple of 256"):
        LentMemory(128, 100)
