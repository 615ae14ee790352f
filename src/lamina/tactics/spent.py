"""Where the time of a build went: its phases, one after the other, and the work beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

_LEAST_SHARE: Final = 0.01
"""Share of the whole from which on a phase is worth a word."""


@dataclass
class Spent:
    """Seconds by phase, in the order in which phases began; used by one thread.

    A phase inside another counts for itself alone.  ``beside`` has numbers of what other processes
    did meanwhile, by name, such as seconds of their processors.
    """

    clock: Callable[[], float] = time.perf_counter
    seconds: dict[str, float] = field(default_factory=dict)
    beside: dict[str, float] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _since: float = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside as a phase."""
        self._turn()
        self._open.append(name)
        self.seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def add(self, name: str, number: float) -> None:
        """Count work beside the phases."""
        self.beside[name] = self.beside.get(name, 0.0) + number

    def merge(self, other: Spent) -> None:
        """Add what another part of the build spent."""
        for name, seconds in other.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        for name, number in other.beside.items():
            self.add(name, number)

    def text(self) -> str:
        """Return the phases that took a hundredth of the whole or more, then the work beside."""
        whole = sum(self.seconds.values())
        phases = [f"{n} {s:.1f} s" for n, s in self.seconds.items() if s >= _LEAST_SHARE * whole]
        beside = [f"{number:.0f} {name}" for name, number in self.beside.items()]
        return "; ".join(", ".join(part) for part in (phases, beside) if part)

    def _turn(self) -> None:
        """Give the time since the last turn to the innermost phase."""
        now = self.clock()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
