"""Answer: how fast is Lamina on the CPU next to onnxruntime and OpenVINO.

    python -m benchmarks.cpu_bench [--models resnet50,lstm] [--batches 1,8]
        [--precisions f32,bf16,int8] [--threads 2] [--engines lamina,onnxruntime,openvino]
        [--seconds 15] [--cache FOLDER] [--json [FILE]] [--merge] [--wait 0]

Each case (workload, batch, precision) runs in a process of its own, where the engines take turns;
``benchmarks.timing`` says how. Prints a table and, with ``--json``, writes every figure with the
machine and versions to ``benchmarks/results/cpu.json``, anew after each case; ``--merge`` keeps
the cases that are there already and not measured again. ``bf16`` has OpenVINO as its only peer;
``int8`` are QDQ models by onnxruntime's static quantization (``benchmarks.quantize``).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks import machine, models, peers, summary, timing
from benchmarks.cpu_case import Case

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/cpu.json"
SECONDS_LIMIT = 900


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield what to measure, model by model; only quantizable workloads have an int8 case."""
    for name in options.models:
        for batch in options.batches:
            for precision in options.precisions:
                if precision == "int8" and not models.find(name).quantizable:
                    continue
                yield Case(
                    name,
                    batch,
                    precision,
                    options.threads,
                    tuple(options.engines),
                    options.seconds,
                    str(options.cache),
                )


def run_case(case: Case) -> dict[str, Any]:
    """Measure in a new process; a crash or timeout gives a result with ``error``."""
    failed = {"workload": case.workload, "batch": case.batch, "precision": case.precision}
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "result.json"
        given = json.dumps(dataclasses.asdict(case))
        command = [sys.executable, "-m", "benchmarks.cpu_case", given, str(out)]
        try:
            done = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                timeout=SECONDS_LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return failed | {"error": f"no result after {SECONDS_LIMIT} s"}
        if done.returncode or not out.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return failed | {"error": f"exit status {done.returncode}: {last}"}
        result: dict[str, Any] = json.loads(out.read_text())
        return result


def report_line(result: dict[str, Any]) -> str:
    """Return one line of progress: every engine's median or what went wrong."""
    if "error" in result:
        return f"FAILED: {result['error']}"
    parts = []
    for name, engine in result["engines"].items():
        told = engine.get("error", f"{engine.get('median_ms', 0):.3f} ms")
        parts.append(f"{name} {told}")
    if result["other_processes_cores"] > timing.DISTURBED_CORES:
        parts.append(f"others used {result['other_processes_cores']:.1f} cores")
    if "speedup" in result:
        parts.append(f"{result['speedup']:.2f} x {result['faster_peer']}")
    return ", ".join(parts)


def main() -> None:
    """Measure, print the table, and write the JSON file where asked."""
    options = _arguments()
    wanted = list(cases(options))
    results = _kept(options, wanted)
    for index, case in enumerate(wanted, 1):
        sys.stderr.write(f"[{index}/{len(wanted)}] {case.title}: ")
        sys.stderr.flush()
        machine.wait_for_quiet(options.wait)
        results.append(run_case(case))
        sys.stderr.write(report_line(results[-1]) + "\n")
        if options.json:
            write(results, options)
    print(summary.table(results, options.engines))
    for precision, entry in summary.summarize(results).items():
        if "geometric_mean" in entry:
            print(
                f"{precision}: geometric mean {entry['geometric_mean']:.3f} x the faster peer, "
                f"minimum {entry['minimum']:.3f} ({entry['minimum_case']})"
            )


def write(results: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write machine, summary and cases to the file of ``--json``, replacing it as a whole."""
    written = {
        "question": (__doc__ or "").splitlines()[0],
        "machine": machine.describe(),
        "threads": options.threads,
        "summary": summary.summarize(results),
        "cases": results,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    partial = options.json.with_suffix(".partial")
    partial.write_text(json.dumps(written, indent=1) + "\n")
    partial.replace(options.json)


def _kept(options: argparse.Namespace, wanted: list[Case]) -> list[dict[str, Any]]:
    """Return the results of an earlier run that ``--merge`` keeps."""
    if not (options.merge and options.json and options.json.exists()):
        return []
    again = {(case.workload, case.batch, case.precision) for case in wanted}
    earlier = json.loads(options.json.read_text())["cases"]
    return [c for c in earlier if (c["workload"], c["batch"], c["precision"]) not in again]


def _arguments() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(word) for word in words(text)]

    cache = pathlib.Path(tempfile.gettempdir()) / "lamina-benchmarks"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=words, default=[w.name for w in models.WORKLOADS])
    parser.add_argument("--batches", type=numbers, default=[1, 8])
    parser.add_argument("--precisions", type=words, default=["f32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", type=words, default=list(peers.PEERS))
    parser.add_argument("--seconds", type=float, default=15.0, help="measuring time of a case")
    parser.add_argument("--cache", type=pathlib.Path, default=cache, help="quantized models")
    parser.add_argument("--json", type=pathlib.Path, nargs="?", const=RESULTS)
    parser.add_argument("--merge", action="store_true", help="keep other cases of the JSON file")
    parser.add_argument(
        "--wait", type=float, default=0.0, help="wait that many seconds for other processes to end"
    )
    options = parser.parse_args()
    for name in options.models:
        models.find(name)
    for chosen, known in ((options.precisions, peers.PRECISIONS), (options.engines, peers.PEERS)):
        for word in chosen:
            if word not in known:
                parser.error(f"{word!r} is none of {', '.join(known)}")
    return options


if __name__ == "__main__":
    main()
