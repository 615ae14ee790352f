"""Times of the steps of a program, from events on the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from lamina.backends.cuda.device import Device
from lamina.backends.cuda.graph import build
from lamina.backends.cuda.instance import Instance, Work
from lamina.backends.cuda.memory import Stream
from lamina.backends.cuda.residency import NATIVE

RunHost = Callable[[Instance, int, Stream], None]
"""Runs a step that is not a launch, by its number."""

_REPEATS: Final = 10
"""How often a step runs in its graph: enough that starting the graph does not count."""
_ROUNDS: Final = 5
"""Rounds of which the median counts; one more goes ahead of them."""


@dataclass(frozen=True)
class Measured:
    """Microseconds of a whole run, and of each step repeated alone.

    ``groups`` are ranges of steps with the time that they take together, as in a run.  Alone, a
    step finds its operands in the cache and has no other beside it.
    """

    alone: tuple[float, ...]
    groups: tuple[tuple[range, float], ...]

    @property
    def whole(self) -> float:
        """Microseconds of a run, copies of inputs and outputs not included."""
        return sum(us for _, us in self.groups)

    def shares(self) -> list[float]:
        """Return the time of each group, divided among its steps as they take alone."""
        shares = [0.0] * len(self.alone)
        for steps, us in self.groups:
            total = sum(self.alone[i] for i in steps)
            for i in steps:
                shares[i] = us * self.alone[i] / total if total else us / len(steps)
        return shares


def measure(instance: Instance, run_host: RunHost, stream: Stream) -> Measured:
    """Run a program whose inputs are in place, and take the times.

    Steps run in their order in every round, so that each finds what it reads, such as indices.
    """
    rounds = [
        [_group(instance, run_host, group, stream) for group in range(len(instance.groups))]
        for _ in _begun(instance, 1 + _ROUNDS)
    ]
    alone = [0.0] * len(instance.program.steps)
    groups: list[tuple[range, float]] = []
    for _ in _begun(instance, 1):
        for group, (begin, end) in enumerate(instance.groups):
            whole = statistics.median(times[group] for times in rounds[1:])
            if instance.program.steps[begin].kind in NATIVE:
                work = instance.work(group)
                for number in range(begin, end):
                    alone[number] = _alone(instance, work, number, stream)
            else:
                alone[begin] = _group(instance, run_host, group, stream)
            groups.append((range(begin, end), whole))
    return Measured(tuple(alone), tuple(groups))


def _begun(instance: Instance, rounds: int) -> Iterator[None]:
    for _ in range(rounds):
        instance.begin(instance.work_stream)
        yield


def _group(instance: Instance, run_host: RunHost, group: int, stream: Stream) -> float:
    """Run a group of steps and return its microseconds."""
    device, step = instance.resources.device, instance.program.steps[instance.groups[group][0]]
    if step.kind in NATIVE:
        work = instance.work(group)
        if not work.segment.launches:
            return 0.0
        graph = work.graphs.executable(instance.pointers)
        return _timed(device, stream, lambda: device.launch_graph(graph, stream.handle))
    start = time.perf_counter()
    run_host(instance, instance.groups[group][0], stream)
    device.synchronize(stream.handle)
    return 1e6 * (time.perf_counter() - start)


def _alone(instance: Instance, work: Work, number: int, stream: Stream) -> float:
    """Return the time of one step, from a graph that holds it several times."""
    segment, device = work.segment, instance.resources.device
    launches = [segment.launches[i] for i in segment.of_step[number]] * _REPEATS
    if not launches:
        return 0.0
    after = [(i - 1,) if i else () for i in range(len(launches))]
    graph, _, executable = build(
        device, segment, launches, after, instance.pointers, dependent=True
    )
    try:
        times = [
            _timed(device, stream, lambda: device.launch_graph(executable, stream.handle))
            for _ in range(1 + _ROUNDS)
        ]
    finally:
        device.destroy_graph(graph, executable)
    return statistics.median(times[1:]) / _REPEATS


def _timed(device: Device, stream: Stream, run: Callable[[], None]) -> float:
    """Return the microseconds of what ``run`` puts on a stream."""
    begin, end = device.event(timing=True), device.event(timing=True)
    device.record(begin, stream.handle)
    run()
    device.record(end, stream.handle)
    device.synchronize(stream.handle)
    microseconds = device.microseconds(begin, end)
    device.destroy_event(begin)
    device.destroy_event(end)
    return microseconds
