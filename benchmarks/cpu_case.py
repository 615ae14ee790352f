"""Measures one workload at one batch and precision in every engine: one process, one case.

    python -m benchmarks.cpu_case '{"workload": "resnet50", "batch": 1, ...}' OUT.json

``cpu_bench`` starts it; a crash here loses this case only.
"""

from __future__ import annotations

import dataclasses
import datetime
import gc
import json
import logging
import pathlib
import sys
import tempfile
import traceback
from typing import Any

import onnx

from benchmarks import models, peers, timing


@dataclasses.dataclass(frozen=True)
class Case:
    """What to measure."""

    workload: str
    batch: int
    precision: str
    threads: int
    engines: tuple[str, ...]
    seconds: float
    cache: str

    @property
    def title(self) -> str:
        """Name, batch and precision, as progress lines show them."""
        return f"{self.workload} batch {self.batch} {self.precision}"


def measure(case: Case) -> dict[str, Any]:
    """Return every engine's build time, latencies and difference from onnxruntime's f32 outputs.

    An engine that fails is there with its ``error``; the others are measured all the same.
    """
    workload = models.find(case.workload)
    original = workload.build(case.batch)
    inputs = workload.inputs(original)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / f"{case.workload}.onnx"
        onnx.save(original, file)
        reference = peers.onnxruntime(case.threads).load(file, "f32").run(inputs)
        if case.precision == "int8":
            # Only this needs onnxruntime's quantizer, whose import is slow.
            from benchmarks import quantize

            cache = pathlib.Path(case.cache)
            onnx.save(quantize.int8_model(workload, case.batch, cache), file)
        del original
        gc.collect()
        engines, running = _load_all(case, file, inputs, reference)
    samples = timing.interleave(
        {name: _call(loaded, inputs) for name, loaded in running.items()},
        timing.Budget(seconds=case.seconds),
    )
    disturbed = max((c for s in samples.values() for c in s.other_cores), default=0.0)
    for name, sampled in samples.items():
        engines[name] |= sampled.milliseconds()
        engines[name]["round_medians_ms"] = [round(s * 1e3, 5) for s in sampled.round_medians]
    return {
        "workload": case.workload,
        "batch": case.batch,
        "precision": case.precision,
        "threads": case.threads,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "other_processes_cores": round(disturbed, 3),
        "engines": engines,
        **_speedups(samples),
    }


def _load_all(
    case: Case, file: pathlib.Path, inputs: peers.Arrays, reference: peers.Arrays
) -> tuple[dict[str, dict[str, Any]], dict[str, peers.Loaded]]:
    """Load the file in each engine that has the precision, and compare its outputs."""
    results: dict[str, dict[str, Any]] = {}
    running: dict[str, peers.Loaded] = {}
    for name in case.engines:
        peer = peers.PEERS[name](case.threads)
        if case.precision not in peer.precisions:
            continue
        try:
            loaded = peer.load(file, case.precision)
            difference = peers.compare(loaded.run(inputs), reference)
        except Exception as error:
            # Engines raise types of their own; each is reported as this engine's result.
            logging.getLogger(__name__).error(traceback.format_exc())
            results[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            continue
        running[name] = loaded
        results[name] = {
            "version": peer.version,
            "build_seconds": round(loaded.build_seconds, 4),
            "max_relative_error": difference.max_relative,
            "sqnr_db": difference.sqnr_db if difference.sqnr_db < 1e3 else None,
        }
    return results, running


def _call(loaded: peers.Loaded, inputs: peers.Arrays) -> timing.Call:
    return lambda: loaded.run(inputs)


def _speedups(samples: dict[str, timing.Samples]) -> dict[str, Any]:
    """Return how many times as fast Lamina is as each peer, and as the faster of them."""
    rivals = {name: s for name, s in samples.items() if name != "lamina"}
    if "lamina" not in samples or not rivals:
        return {}
    ours = samples["lamina"]
    over = {name: round(timing.speedup(ours, s), 4) for name, s in rivals.items()}
    best = timing.faster(rivals)
    return {"speedup_over": over, "faster_peer": best, "speedup": over[best]}


def main() -> None:
    """Measure the case given as JSON and write the result to the file named second."""
    given = json.loads(sys.argv[1])
    case = Case(**{**given, "engines": tuple(given["engines"])})
    pathlib.Path(sys.argv[2]).write_text(json.dumps(measure(case)))


if __name__ == "__main__":
    main()
