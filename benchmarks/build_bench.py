"""Answer: how long do importing, building and loading take, and how much memory do plans need.

    python -m benchmarks.build_bench [--models resnet50,digits] [--precisions fp32] [--threads 2]
        [--repeats 3] [--json [FILE]]

Every figure comes from a fresh process (``benchmarks.build_probe``) that finds the modules'
bytecode, as it does where the package is installed. Cold builds start with an empty timing cache,
warm ones with the cache of the cold build. ``arena_over_lower_bound`` is the arena relative to the
largest set of buffers alive at once; ``overhead_microseconds`` is a whole call less the sum of its
layers. The package imports lazily, so there are three import figures: ``import lamina`` alone, then
what loads a plan (NumPy and all), then the compiler on top of it.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import onnx

from benchmarks import machine, models

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/build.json"
SECONDS_LIMIT = 600

Figures = dict[str, Any]


class ProbeFailed(Exception):
    """A probe's process ended with an error; the message is its last line."""


class Probes:
    """Runs probes in processes that share a folder of bytecode."""

    def __init__(self, bytecode: str) -> None:
        paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
        own = {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONPYCACHEPREFIX": bytecode,
            "PYTHONDONTWRITEBYTECODE": "",
        }
        self.environment = os.environ | own

    def run(self, *arguments: str) -> Figures:
        """Run one probe; raise ``ProbeFailed`` with its last line of error."""
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.build_probe", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS_LIMIT,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ProbeFailed(f"exit status {done.returncode}: {last}")
        figures: Figures = json.loads(done.stdout.splitlines()[-1])
        return figures

    def prepare(self, threads: int) -> None:
        """Let every module that the probes need be compiled to bytecode."""
        self.measure("digits", "fp32", threads, 1)

    def measure(self, name: str, precision: str, threads: int, repeats: int) -> Figures:
        """Return every figure of one workload at batch 1."""
        with tempfile.TemporaryDirectory() as folder:
            files = ("m.onnx", "m.plan", "times.json")
            model, plan, cache = (os.path.join(folder, f) for f in files)
            onnx.save(models.find(name).build(), model)
            asked = ("build", model, plan, cache, precision, str(threads))
            cold = self.run(*asked)
            warm = [self.run(*asked) for _ in range(repeats)]
            loads = [self.run("load", plan, str(threads)) for _ in range(repeats)]
            call = self.run("call", plan, str(threads))
        memory = loads[0]["memory_bytes"]
        figures = {
            "cold_build_seconds": cold["build_seconds"],
            "warm_build_seconds": _median(warm, "build_seconds"),
            "save_seconds": cold["save_seconds"],
            "load_seconds": _median(loads, "load_seconds"),
            "first_run_seconds": _median(loads, "first_run_seconds"),
            "plan_bytes": cold["plan_bytes"],
            "memory_bytes": memory,
            **call,
        }
        if memory.get("lower_bound"):
            figures["arena_over_lower_bound"] = memory["arena"] / memory["lower_bound"]
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in figures.items()}


def _median(figures: list[Figures], key: str) -> float:
    return float(statistics.median(f[key] for f in figures))


def _measure_all(probes: Probes, options: argparse.Namespace) -> Figures:
    imports = [probes.run("import") for _ in range(max(options.repeats, 3))]
    results: Figures = {key: round(_median(imports, key), 4) for key in imports[0]}
    for key, seconds in results.items():
        print(f"{key}: {seconds}")
    results["models"] = []
    for name in options.models:
        for precision in options.precisions:
            print(f"{name} {precision}:", flush=True)
            try:
                figures = probes.measure(name, precision, options.threads, options.repeats)
            except (ProbeFailed, subprocess.TimeoutExpired) as error:
                figures = {"error": str(error)}
            for key, value in figures.items():
                print(f"  {key}: {value}")
            results["models"].append({"workload": name, "precision": precision, **figures})
    return results


def main() -> None:
    """Measure, print each figure, and write the JSON file where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=lambda t: t.split(","), default=["resnet50", "digits"])
    parser.add_argument("--precisions", type=lambda t: t.split(","), default=["fp32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path, nargs="?", const=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as bytecode:
        probes = Probes(bytecode)
        probes.prepare(options.threads)
        results = _measure_all(probes, options)
    if options.json:
        written = {"machine": machine.describe(), "threads": options.threads, **results}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
