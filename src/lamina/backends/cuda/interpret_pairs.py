"""What Triton's interpreter lacks of clusters: the shared memory of the other program of a pair."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from triton.runtime import interpreter


class Pairs:
    """Programs 2i and 2i + 1, which allocate the same memory in the same order.

    ``until`` lets other programs run until something has happened.
    """

    def __init__(self, until: Callable[[Callable[[], bool]], None]) -> None:
        self._until = until
        self._memory: dict[int, list[np.ndarray]] = {}
        self._started: set[int] = set()
        self._of_thread = threading.local()

    def allocated(self, memory: np.ndarray) -> None:
        """Note what a program has allocated."""
        self._memory.setdefault(_program(), []).append(memory)

    def started(self) -> None:
        """Note that the barriers of a program are made."""
        self._started.add(_program())

    def clear(self) -> None:
        """Forget programs that have ended."""
        self._memory.clear()
        self._started.clear()

    def begin(self) -> None:
        """Let what this group of warps copies and signals reach both programs."""
        self._of_thread.both = True

    def end(self) -> None:
        """Let it reach this program alone again."""
        self._of_thread.both = False

    def reached(self, part: Any) -> Iterator[Any]:
        """Return a part of shared memory, and the other program's where it is reached too."""
        yield part
        if getattr(self._of_thread, "both", False):
            yield type(part)(self._others(part.array), part.dtype)

    def _others(self, array: np.ndarray) -> np.ndarray:
        mine, other = _program(), _program() ^ 1
        self._until(lambda: other in self._started)
        at = array.ctypes.data
        for number, memory in enumerate(self._memory[mine]):
            offset = at - memory.ctypes.data
            if 0 <= offset < memory.nbytes:
                raw = self._memory[other][number].reshape(-1).view(np.uint8)
                return np.ndarray(array.shape, array.dtype, raw, offset, array.strides)
        raise AssertionError("this is no memory of the program")


def _program() -> int:
    return int(interpreter.interpreter_builder.grid_idx[0])
