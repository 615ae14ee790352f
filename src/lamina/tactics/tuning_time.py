"""How long candidates may be timed, and what was left to the cost model."""

from __future__ import annotations

import time
from collections.abc import Callable


class TuningTime:
    """A number of seconds that begins when it is made; 0 for as long as it takes."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._end = clock() + seconds if seconds else float("inf")
        self._left_out: dict[str, float] = {}
        self._problems: set[str] = set()

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.seconds > 0

    def is_up(self) -> bool:
        """Whether nothing more may be timed."""
        return self._clock() >= self._end

    def begin(self, problem: str) -> None:
        """Count a problem that has something to be timed."""
        self._problems.add(problem)

    def leave_out(self, problem: str, microseconds: float) -> None:
        """Remember a problem of which something was not timed, with its estimate over all nodes."""
        self._left_out[problem] = microseconds

    def note(self) -> str:
        """Return for people what was left out; "" for nothing."""
        if not self._left_out:
            return ""
        estimate = sum(self._left_out.values())
        return (
            f"the {self.seconds:g} s for timing were up: {len(self._left_out)} of "
            f"{len(self._problems)} kinds of layers (about {estimate:.0f} us of a run) keep what "
            "was timed before and the cost model's choice"
        )
