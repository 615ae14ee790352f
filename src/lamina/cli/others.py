"""What other programs do to a measurement."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from lamina.cli.tables import note

_DISTURBED_CORES: Final = 0.2
_STAT: Final = Path("/proc/stat")


class OthersWatch:
    """Tells how many cores other processes kept busy since it was made.

    A figure above about 0.1 on a two-core machine means that the measurement was disturbed: a step
    ends when its last thread does, and a thread whose core is taken waits for milliseconds.
    """

    def __init__(self) -> None:
        self._busy, self._own = _busy_core_seconds(), time.process_time()
        self._started = time.perf_counter()

    def cores(self) -> float:
        """Return the mean number of cores that others used; 0 where the system does not tell."""
        busy, own = _busy_core_seconds() - self._busy, time.process_time() - self._own
        return max(0.0, (busy - own) / (time.perf_counter() - self._started))


def tell_disturbance(cores: float) -> None:
    """Print a note when others used so many cores that figures cannot be trusted."""
    if cores > _DISTURBED_CORES:
        note(
            f"other programs kept {cores:.1f} of {os.cpu_count()} cores busy meanwhile: "
            "times are longer and vary; repeat on a quiet machine"
        )


def _busy_core_seconds() -> float:
    """Return the seconds that all cores together were busy or stolen since the system started."""
    if not _STAT.exists():
        return 0.0
    # user, nice, system, idle, iowait, irq, softirq, steal, in ticks
    ticks = [int(word) for word in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    return float(sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
