"""Takes one figure of Lamina in a fresh process and prints it as JSON.

python -m benchmarks.build_probe import
python -m benchmarks.build_probe build MODEL PLAN CACHE PRECISION THREADS
python -m benchmarks.build_probe load PLAN THREADS
python -m benchmarks.build_probe call PLAN THREADS
"""

from __future__ import annotations

import importlib
import itertools
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import timing

Figures = dict[str, Any]

PROFILE_RUNS = 30


def probe_import() -> Figures:
    """Time ``import lamina``, then what running a plan needs, then the compiler on top."""
    marks = [time.perf_counter()]
    lamina = importlib.import_module("lamina")
    marks.append(time.perf_counter())
    for name in ("load", "build"):
        getattr(lamina, name)
        marks.append(time.perf_counter())
    seconds = [after - before for before, after in itertools.pairwise(marks)]
    names = ("import_seconds", "import_runtime_seconds", "import_compiler_seconds")
    return dict(zip(names, seconds, strict=True))


def probe_build(model: str, plan: str, cache: str, precision: str, threads: str) -> Figures:
    """Time a build with the timing cache as it is, and save the plan."""
    lamina = importlib.import_module("lamina")
    # The compiler's modules load on first use; that is start-up, not building.
    build = lamina.build
    started = time.perf_counter()
    engine = build(
        model,
        target="cpu",
        precision=precision,
        threads=int(threads),
        timing_cache=cache,
    )
    built = time.perf_counter()
    engine.save(plan)
    return {
        "build_seconds": built - started,
        "save_seconds": time.perf_counter() - built,
        "plan_bytes": pathlib.Path(plan).stat().st_size,
    }


def probe_load(plan: str, threads: str) -> Figures:
    """Time loading a saved plan and its first run, and list its memory by use."""
    lamina = importlib.import_module("lamina")
    load = lamina.load
    started = time.perf_counter()
    engine = load(plan, threads=int(threads))
    loaded = time.perf_counter()
    inputs = engine.example_inputs()
    made = time.perf_counter()
    engine.run(inputs)
    first = time.perf_counter() - made
    return {
        "load_seconds": loaded - started,
        "first_run_seconds": first,
        "memory_bytes": dict(engine.inspect().memory),
    }


def probe_call(plan: str, threads: str) -> Figures:
    """Compare a whole call with the sum of its layers' profiled times."""
    lamina = importlib.import_module("lamina")
    engine = lamina.load(plan, threads=int(threads))
    inputs = engine.example_inputs()
    samples = timing.interleave({"call": lambda: engine.run(inputs)}, timing.Budget(seconds=3))
    call = samples["call"].median * 1e6
    layers = [layer.microseconds for layer in engine.profile(inputs, runs=PROFILE_RUNS)]
    return {
        "call_microseconds": call,
        "layers": len(layers),
        "layers_microseconds": sum(layers),
        "median_layer_microseconds": statistics.median(layers),
        "overhead_microseconds": call - sum(layers),
    }


PROBES: dict[str, Callable[..., Figures]] = {
    "import": probe_import,
    "build": probe_build,
    "load": probe_load,
    "call": probe_call,
}

if __name__ == "__main__":
    print(json.dumps(PROBES[sys.argv[1]](*sys.argv[2:])))
