"""Times several engines in turns, so that a change of the machine's speed hits all of them.

Engines share the process and take turns in *blocks* of consecutive runs, not single runs, and a
block starts only when the process has become quiet. Reason: onnxruntime's workers busy-wait for
about 40 ms after each run (its default). Measured with 2 threads on 2 cores, one engine right
after onnxruntime: OpenVINO's SqueezeNet took 7.0 instead of 3.8 ms for eight runs, and its first
ResNet-50 run 57 instead of 37 ms. Interleaving single runs therefore flatters the spinning engine
by up to 1.8 times. So, for each block:

1. wait until the process uses no CPU time (``settle``);
2. run untimed until caches, pages and threads are warm (the first runs after a pause are slow);
3. time the runs one by one, as many as fill ``block_seconds``.

A round in which other processes kept more than ``DISTURBED_CORES`` busy is followed by another one,
up to twice as many, and the least disturbed rounds count; the choice does not look at times.
Spinning within an engine's own block stays allowed: that is how it is used. The order rotates by
one each round. Ratios are taken within a round, and their median over rounds is what counts.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import machine
from lamina.cli.timing import Call, settle, warm

Array = npt.NDArray[Any]

DISTURBED_CORES = 0.1


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to measure: rounds fill ``seconds``, within ``min_rounds`` and ``max_rounds``."""

    seconds: float = 15.0
    block_seconds: float = 0.15
    warm_seconds: float = 0.03
    min_rounds: int = 4
    max_rounds: int = 20
    min_runs: int = 3


@dataclasses.dataclass(frozen=True)
class Samples:
    """The seconds each run of one engine took, in a tuple of rounds.

    ``other_cores`` is how many cores other processes kept busy in each round.
    """

    rounds: tuple[tuple[float, ...], ...]
    other_cores: tuple[float, ...] = ()

    @property
    def all_runs(self) -> Array:
        """Every run's seconds, ``f64[runs]``."""
        return np.array([seconds for block in self.rounds for seconds in block])

    @property
    def round_medians(self) -> Array:
        """The median seconds of each round, ``f64[rounds]``."""
        return np.array([np.median(block) for block in self.rounds])

    @property
    def median(self) -> float:
        """The median of the rounds' medians, in seconds."""
        return float(np.median(self.round_medians))

    def percentile(self, q: float) -> float:
        """Return the ``q``-th percentile over all runs, in seconds."""
        return float(np.percentile(self.all_runs, q))

    def milliseconds(self) -> dict[str, float | int]:
        """Return the figures that results hold."""
        runs = self.all_runs * 1e3
        figures: dict[str, float | int] = {"median_ms": round(self.median * 1e3, 5)}
        for q in (90, 95, 99):
            figures[f"p{q}_ms"] = round(float(np.percentile(runs, q)), 5)
        figures["min_ms"] = round(float(runs.min()), 5)
        figures["runs"] = len(runs)
        figures["rounds"] = len(self.rounds)
        return figures


def speedup(of: Samples, over: Samples) -> float:
    """Return how many times as fast ``of`` is as ``over``: the median of the rounds' ratios.

    Both must come from the same call of ``interleave``.
    """
    return float(np.median(over.round_medians / of.round_medians))


def faster(samples: Mapping[str, Samples]) -> str:
    """Return the name with the smallest median."""
    return min(samples, key=lambda name: samples[name].median)


def interleave(calls: Mapping[str, Call], budget: Budget = Budget()) -> dict[str, Samples]:
    """Run every call in turns and return its samples; the docstring of the module says how."""
    seconds_each = {name: warm(call, budget.warm_seconds) for name, call in calls.items()}
    runs = {name: _runs(seconds, budget) for name, seconds in seconds_each.items()}
    rounds = _rounds(seconds_each, runs, budget)
    order = list(calls)
    taken: list[tuple[float, dict[str, tuple[float, ...]]]] = []
    for index in range(2 * rounds):
        start = index % len(order)
        others = machine.OthersWatch()
        blocks = {}
        for name in order[start:] + order[:start]:
            settle()
            warm(calls[name], budget.warm_seconds)
            blocks[name] = _block(calls[name], runs[name])
        taken.append((others.cores(), blocks))
        if sum(cores <= DISTURBED_CORES for cores, _ in taken) >= rounds:
            break
    quietest = sorted(taken, key=lambda entry: entry[0])[:rounds]
    cores = tuple(entry[0] for entry in quietest)
    return {name: Samples(tuple(b[name] for _, b in quietest), cores) for name in calls}


def _block(call: Call, runs: int) -> tuple[float, ...]:
    clock = time.perf_counter
    stamps = [clock()]
    for _ in range(runs):
        call()
        stamps.append(clock())
    return tuple(after - before for before, after in itertools.pairwise(stamps))


def _runs(seconds: float, budget: Budget) -> int:
    return max(budget.min_runs, int(budget.block_seconds / max(seconds, 1e-7)))


def _rounds(seconds_each: dict[str, float], runs: dict[str, int], budget: Budget) -> int:
    timed = sum(seconds * (runs[name] + 2) for name, seconds in seconds_each.items())
    pauses = (budget.warm_seconds + 0.05) * len(runs)
    return int(np.clip(budget.seconds / (timed + pauses), budget.min_rounds, budget.max_rounds))
