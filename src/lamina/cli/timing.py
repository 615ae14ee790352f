"""Times calls in turns, in blocks of consecutive runs, so that they meet the same machine.

onnxruntime's workers busy-wait for about 40 ms after a run, so whoever comes next within that time
shares the cores with them: alternating single runs flatters the engine that spins by up to 1.8
times.  Hence each block begins when the process is quiet, warms up untimed, and then times several
runs.  The order rotates; ratios are taken within a round, and the median over rounds counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Call = Callable[[], object]


@dataclass(frozen=True)
class Budget:
    """How long to time each call: about ``seconds`` in blocks, or exactly ``runs`` when not 0."""

    seconds: float = 3.0
    runs: int = 0
    block_seconds: float = 0.15
    warm_seconds: float = 0.05


@dataclass(frozen=True)
class Samples:
    """Seconds of each run of one call, by round."""

    rounds: tuple[tuple[float, ...], ...]

    @property
    def runs(self) -> npt.NDArray[Any]:
        """The seconds of every run, ``f64[runs]``."""
        return np.array([s for block in self.rounds for s in block])

    @property
    def median(self) -> float:
        """The median of the rounds' medians, in seconds."""
        return float(np.median([np.median(block) for block in self.rounds]))

    def percentile(self, q: float) -> float:
        """Return the ``q``-th percentile over all runs, in seconds."""
        return float(np.percentile(self.runs, q))


def measure(calls: Mapping[str, Call], budget: Budget) -> dict[str, Samples]:
    """Time every call and return its samples; several take turns."""
    sizes = {
        name: _block_size(warm(call, budget.warm_seconds), budget) for name, call in calls.items()
    }
    rounds = max(size[1] for size in sizes.values())
    names = list(calls)
    taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            done = sum(map(len, taken[name]))
            count = min(sizes[name][0], budget.runs - done) if budget.runs else sizes[name][0]
            if count > 0:
                settle()
                warm(calls[name], budget.warm_seconds)
                taken[name].append(tuple(_timed(calls[name]) for _ in range(count)))
    return {name: Samples(tuple(blocks)) for name, blocks in taken.items()}


def speedup(of: Samples, over: Samples) -> float:
    """Return how many times as fast ``of`` is as ``over``: the median of the rounds' ratios.

    Both must come from the same call of ``measure``.
    """
    pairs = zip(over.rounds, of.rounds, strict=False)
    return float(np.median([np.median(slow) / np.median(fast) for slow, fast in pairs]))


def _block_size(seconds: float, budget: Budget) -> tuple[int, int]:
    """Return the runs of a block and the number of blocks for a call of this duration."""
    runs = max(3, int(budget.block_seconds / max(seconds, 1e-7)))
    if budget.runs:
        runs = min(runs, budget.runs)
        return runs, -(-budget.runs // runs)
    return runs, max(3, min(50, round(budget.seconds / max(runs * seconds, 1e-7))))


def warm(call: Call, least_seconds: float) -> float:
    """Run untimed for a while, at least twice, and return the seconds of the last run."""
    end = time.perf_counter() + least_seconds
    seconds, count = 0.0, 0
    while count < 2 or time.perf_counter() < end:
        seconds, count = _timed(call), count + 1
    return seconds


def _timed(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def settle(window_seconds: float = 0.01, limit_seconds: float = 0.5) -> None:
    """Sleep until this process's threads use less than a tenth of a core, or the limit is up."""
    end = time.perf_counter() + limit_seconds
    while time.perf_counter() < end:
        used = time.process_time()
        time.sleep(window_seconds)
        if time.process_time() - used < window_seconds / 10:
            return
