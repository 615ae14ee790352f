"""``lamina bench``: speed and memory, alone or interleaved with other engines."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

import lamina
from lamina.cli import options as opt
from lamina.cli.batch import batch_size, shaped_inputs, with_batch
from lamina.cli.differences import Difference, difference, worst
from lamina.cli.others import OthersWatch, tell_disturbance
from lamina.cli.peers import Peer, load_peer
from lamina.cli.source import Opened, is_plan, open_engine
from lamina.cli.tables import (
    note,
    show_bytes,
    show_number,
    show_seconds,
    stdout,
    table,
    to_json,
)
from lamina.cli.timing import Budget, Samples, measure, speedup
from lamina.config import default_threads
from lamina.errors import ConfigError
from lamina.runtime.engine import Engine

Report = dict[str, Any]


def command(
    source: opt.Source,
    compare: Annotated[
        str | None,
        typer.Option(metavar="ENGINES", help="onnxruntime,openvino: timed in the same run."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The ONNX model of a PLAN, for --compare.")
    ] = None,
    batch: Annotated[
        int, typer.Option(help="Size of the first, symbolic axis of every input.", min=0)
    ] = 0,
    shapes: opt.Shapes = None,
    threads: opt.Threads = 0,
    runs: Annotated[int, typer.Option(help="Timed runs per engine, 0: by --seconds.", min=0)] = 0,
    seconds: Annotated[float, typer.Option(help="About how long each engine is timed.")] = 3.0,
    target: opt.Device = "cpu",
    precision: opt.Precision = "fp32",
    optimization_level: opt.Level = 3,
    timing_cache: opt.TimingCache = None,
    without: opt.Without = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write JSON to FILE, - for stdout.")
    ] = None,
) -> None:
    """Measure speed and memory, also next to other engines."""
    options = opt.build_options(
        target=target,
        precision=precision,
        shapes=shapes,
        threads=threads,
        optimization_level=optimization_level,
        timing_cache=timing_cache,
        without=without,
    )
    plan = is_plan(source)
    if compare and plan and model is None:
        raise ConfigError(
            "a plan holds no ONNX model for the other engines to run",
            hint="give it: --model MODEL, or bench the model itself",
        )
    if not plan:
        options = with_batch(source, options, batch)
    opened = open_engine(source, options)
    inputs = shaped_inputs(opened.engine, options.shapes, batch)
    peers = [
        load_peer(name, model or source, threads=threads or default_threads(), precision=precision)
        for name in (compare.split(",") if compare else ())
    ]
    report = run(opened, inputs, peers, Budget(seconds=seconds, runs=runs))
    report = {"source": str(source), "threads": threads or default_threads(), **report}
    if json is None or str(json) != "-":
        show(report)
    if json is not None:
        write(json, report)


def run(opened: Opened, inputs: dict[str, Any], peers: list[Peer], budget: Budget) -> Report:
    """Measure an engine and its peers on the same inputs; the result is ready for JSON."""
    engine = opened.engine
    context = engine.create_context()
    wanted = context.run(inputs)
    results = {peer.name: peer.run(inputs) for peer in peers}
    agreement = {name: agree(got, wanted) for name, got in results.items()}
    calls = {"lamina": lambda: context.run(inputs)}
    calls |= {p.name: lambda p=p: p.run(inputs) for p in peers}  # type: ignore[misc]
    others = OthersWatch()
    samples = measure(calls, budget)
    items = batch_size(inputs)
    own, size = load_seconds(engine)
    report: Report = {
        "inputs": {name: list(x.shape) for name, x in inputs.items()},
        "batch": items,
        "other_cores": round(others.cores(), 2),
        "memory": {**context.memory(), "process": peak_bytes()},
        "plan_bytes": size,
        "engines": {
            "lamina": {
                "version": lamina.__version__,
                "build_seconds": None if opened.from_plan else opened.seconds,
                "load_seconds": opened.seconds if opened.from_plan else own,
                **figures(samples["lamina"], items),
            }
        },
    }
    for peer in peers:
        d = agreement[peer.name]
        report["engines"][peer.name] = {
            "version": peer.version,
            "build_seconds": peer.seconds,
            **figures(samples[peer.name], items),
            "lamina_is_times_as_fast": speedup(samples["lamina"], samples[peer.name]),
            "difference": {"relative": d.relative, "sqnr_db": d.sqnr_db, "reason": d.reason},
        }
    return report


def agree(got: dict[str, Any], wanted: dict[str, Any]) -> Difference:
    """Return the worst difference over the outputs that both engines name."""
    return worst([difference(wanted[name], got[name]) for name in wanted if name in got])


def figures(samples: Samples, items: int) -> Report:
    """Return throughput in items a second and latencies in milliseconds."""
    latency = {"median": samples.median * 1e3}
    latency |= {f"p{q}": samples.percentile(q) * 1e3 for q in (90, 95, 99)}
    latency["min"] = samples.percentile(0) * 1e3
    return {
        "throughput": items / samples.median,
        "latency_ms": latency,
        "runs": len(samples.runs),
        "rounds": len(samples.rounds),
    }


def load_seconds(engine: Engine) -> tuple[float, int]:
    """Save an engine's plan, load it again; return the seconds of loading and the file's bytes."""
    with tempfile.TemporaryDirectory(prefix="lamina-") as folder:
        path = Path(folder) / "engine.plan"
        engine.save(path)
        started = time.perf_counter()
        loaded = lamina.load(path)
        seconds = time.perf_counter() - started
        del loaded
        return seconds, path.stat().st_size


def peak_bytes() -> int:
    """Return the most memory that this process has had, in bytes (Linux counts KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show(report: Report) -> None:
    """Print a report for people."""
    console = stdout()
    shapes = ", ".join(f"{n}: {'x'.join(map(str, s))}" for n, s in report["inputs"].items())
    console.print(
        f"{report['source']}  {shapes}  threads: {report['threads']}", markup=False, soft_wrap=True
    )
    rows = []
    for name, engine in report["engines"].items():
        ms = engine["latency_ms"]
        rows.append(
            [
                f"{name} {engine['version']}",
                f"{engine['throughput']:.1f}",
                *(show_number(ms[k]) for k in ("median", "p90", "p95", "p99")),
                *(_seconds(engine.get(k)) for k in ("build_seconds", "load_seconds")),
                _ratio(engine),
            ]
        )
    columns = ["engine", "items/s", "median ms", "p90", "p95", "p99", "build", "load", "lamina is"]
    console.print(table(columns, rows))
    memory = "  ".join(f"{use} {show_bytes(count)}" for use, count in report["memory"].items())
    size = show_bytes(report["plan_bytes"])
    console.print(f"memory: {memory}  plan {size}", markup=False, soft_wrap=True)
    for name, engine in report["engines"].items():
        if "difference" in engine:
            console.print(_agreement(name, engine["difference"]), markup=False)
    tell_disturbance(report["other_cores"])


def write(path: Path, report: Report) -> None:
    """Write a report to a file, or to stdout for ``-``; raises ConfigError when it cannot."""
    if str(path) == "-":
        typer.echo(to_json(report))
        return
    try:
        path.write_text(to_json(report) + "\n")
    except OSError as e:
        raise ConfigError(f"cannot write {str(path)!r}: {e.strerror or e}") from e
    note(f"written: {path}")


def _seconds(value: float | None) -> str:
    return "-" if value is None else show_seconds(value)


def _ratio(engine: Report) -> str:
    ratio = engine.get("lamina_is_times_as_fast")
    return "-" if ratio is None else f"{ratio:.2f} x as fast"


def _agreement(name: str, d: dict[str, Any]) -> str:
    if d["reason"]:
        return f"outputs against {name}: {d['reason']}"
    return (
        f"outputs against {name}: largest difference {d['relative']:.1e} of the largest value, "
        f"SQNR {d['sqnr_db']:.0f} dB"
    )
