"""Times of runs, and what trtexec tells about them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lamina.cli.trtexec.console import Console

_UNSTABLE_PERCENT = 2.5
_ENQUEUE_BOUND = 0.8


@dataclass(frozen=True)
class Run:
    """When the parts of one run began and ended, in milliseconds since measuring began."""

    start_enqueue: float
    end_enqueue: float
    start_h2d: float
    end_h2d: float
    start_compute: float
    end_compute: float
    start_d2h: float
    end_d2h: float

    @property
    def enqueue(self) -> float:
        """Milliseconds until the call that starts the work returned."""
        return self.end_enqueue - self.start_enqueue

    @property
    def h2d(self) -> float:
        """Milliseconds of copying inputs."""
        return self.end_h2d - self.start_h2d

    @property
    def compute(self) -> float:
        """Milliseconds of computing."""
        return self.end_compute - self.start_compute

    @property
    def d2h(self) -> float:
        """Milliseconds of copying outputs."""
        return self.end_d2h - self.start_d2h

    @property
    def latency(self) -> float:
        """Milliseconds of copying and computing."""
        return self.h2d + self.compute + self.d2h

    def exported(self) -> dict[str, float]:
        """Return the entry of ``--exportTimes``."""
        stamps = {_EXPORTED[k]: v for k, v in asdict(self).items()}
        return {
            **stamps,
            "h2dMs": self.h2d,
            "computeMs": self.compute,
            "d2hMs": self.d2h,
            "latencyMs": self.latency,
        }


_EXPORTED = {
    "start_enqueue": "startEnqMs", "end_enqueue": "endEnqMs",
    "start_h2d": "startH2dMs", "end_h2d": "endH2dMs",
    "start_compute": "startComputeMs", "end_compute": "endComputeMs",
    "start_d2h": "startD2hMs", "end_d2h": "endD2hMs",
}  # fmt: skip


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the time that ``percent`` of the runs did not exceed.

    trtexec's rule: of ``n`` times in order, entry ``n - 1 - int((1 - percent / 100) * n)``.
    """
    n = len(ordered)
    return ordered[max(0, n - 1 - int((100 - percent) * n / 100))]


def statistics(times: Sequence[float], percents: Sequence[float]) -> str:
    """Return the least, largest, mean and median time and percentiles as the summary has them."""
    ordered = sorted(times)
    n = len(ordered)
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    parts = [
        f"min = {_ms(ordered[0])} ms",
        f"max = {_ms(ordered[-1])} ms",
        f"mean = {_ms(sum(ordered) / n)} ms",
        f"median = {_ms(median)} ms",
        *(f"percentile({p:g}%) = {_ms(percentile(ordered, p))} ms" for p in percents),
    ]
    return ", ".join(parts)


def print_trace(console: Console, runs: Sequence[Run], average: int) -> None:
    """Print a line for each ``average`` runs."""
    console.info("=== Trace details ===")
    console.info(f"Trace averages of {average} runs:")
    for i in range(0, len(runs) - average + 1, average):
        part = runs[i : i + average]
        compute = sum(r.compute for r in part) / average
        latency = sum(r.latency for r in part) / average
        enqueue = sum(r.enqueue for r in part) / average
        console.info(
            f"Average on {average} runs - GPU latency: {_ms(compute)} ms - Host latency: "
            f"{_ms(latency)} ms (enqueue {_ms(enqueue)} ms)"
        )
    console.info()


def print_summary(
    console: Console, runs: Sequence[Run], wall_seconds: float, percents: Sequence[float]
) -> None:
    """Print throughput and the statistics of every part of the runs, and warn where it is due."""
    console.info("=== Performance summary ===")
    console.info(f"Throughput: {len(runs) / wall_seconds:.6g} qps")
    parts = {
        "Latency": [r.latency for r in runs],
        "Enqueue Time": [r.enqueue for r in runs],
        "H2D Latency": [r.h2d for r in runs],
        "GPU Compute Time": [r.compute for r in runs],
        "D2H Latency": [r.d2h for r in runs],
    }
    for title, times in parts.items():
        console.info(f"{title}: {statistics(times, percents)}")
    total = sum(parts["GPU Compute Time"]) / 1000
    console.info(f"Total Host Walltime: {wall_seconds:.6g} s")
    console.info(f"Total GPU Compute Time: {total:.6g} s")
    _warn(console, parts)
    console.info("Explanations of the performance metrics are printed in the verbose logs.")
    console.verbose("Latency: H2D Latency, GPU Compute Time and D2H Latency of one run together.")
    console.verbose("Enqueue Time: host time of the call that puts a run on a stream.")
    console.verbose("H2D and D2H Latency: time of copying inputs to the device and outputs back.")
    console.verbose("GPU Compute Time: time of a run on the device, between two events.")
    console.verbose("Throughput: runs divided by the Total Host Walltime.")
    console.info()


def _warn(console: Console, parts: dict[str, list[float]]) -> None:
    middle = {title: sorted(times)[len(times) // 2] for title, times in parts.items()}
    compute = middle["GPU Compute Time"]
    for title in ("H2D Latency", "D2H Latency"):
        if middle[title] > compute:
            console.warning(
                f"* Throughput may be bound by {title.split()[0]} transfers rather than compute "
                f"(median {_ms(middle[title])} ms against {_ms(compute)} ms)."
            )
    times = parts["GPU Compute Time"]
    mean = sum(times) / len(times)
    deviation = math.sqrt(sum((t - mean) ** 2 for t in times) / len(times))
    if mean and 100 * deviation / mean > _UNSTABLE_PERCENT:
        console.warning(
            f"* GPU compute time is unstable, with coefficient of variance = "
            f"{100 * deviation / mean:.4g}%."
        )


def warn_if_enqueue_bound(console: Console, runs: Sequence[Run]) -> None:
    """Warn where starting the work takes most of the time; only where starting returns early."""
    enqueue = sorted(r.enqueue for r in runs)[len(runs) // 2]
    compute = sorted(r.compute for r in runs)[len(runs) // 2]
    if enqueue > _ENQUEUE_BOUND * compute:
        console.warning(
            "* Throughput may be bound by Enqueue Time rather than GPU Compute and the GPU may "
            "be under-utilized."
        )


def _ms(value: float) -> str:
    return f"{value:.6g}"
