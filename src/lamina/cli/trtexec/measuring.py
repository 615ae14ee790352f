"""Warming up and measuring, in as many threads as there are contexts."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lamina.cli.trtexec.trace import Run


@dataclass(frozen=True)
class Limits:
    """How long to measure: at least so many runs and so many seconds, after warming up."""

    iterations: int
    seconds: float
    warm_ms: float
    idle_ms: float = 0.0


@dataclass(frozen=True)
class Measured:
    """All runs in the order in which they began, and how long they took together."""

    runs: list[Run]
    wall_seconds: float
    warm_runs: int
    warm_ms: float


def measure(contexts: Sequence[Any], limits: Limits) -> Measured:
    """Run every context until the limits are reached; raises what a run raises."""
    warm_runs, warm_ms = _warm(contexts, limits.warm_ms)
    zero = time.perf_counter() * 1000
    results: list[list[Run]] = [[] for _ in contexts]
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            _measure_one(contexts[number], limits, zero, results[number])
        except BaseException as e:
            errors.append(e)

    if len(contexts) == 1:
        _measure_one(contexts[0], limits, zero, results[0])
    else:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(contexts))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if errors:
            raise errors[0]
    wall = (time.perf_counter() * 1000 - zero) / 1000
    runs = sorted((r for part in results for r in part), key=lambda r: r.start_h2d)
    return Measured(runs, wall, warm_runs, warm_ms)


def _measure_one(context: Any, limits: Limits, zero: float, into: list[Run]) -> None:
    end = zero + 1000 * limits.seconds
    while len(into) < limits.iterations or limits.seconds < 0 or time.perf_counter() * 1000 < end:
        into.append(context.run(zero))
        if limits.idle_ms:
            time.sleep(limits.idle_ms / 1000)


def _warm(contexts: Sequence[Any], milliseconds: float) -> tuple[int, float]:
    begin = time.perf_counter() * 1000
    count = 0
    while count == 0 or time.perf_counter() * 1000 < begin + milliseconds:
        for context in contexts:
            context.run(begin)
        count += len(contexts)
    return count, time.perf_counter() * 1000 - begin
