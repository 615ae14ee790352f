"""``lamina bench``: speed and memory, alone or interleaved with other engines."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import lamina
from lamina.cli import options as opt
from lamina.cli.batch import batch_size, shaped_inputs, with_batch
from lamina.cli.differences import Difference, difference, worst
from lamina.cli.others import OthersWatch, tell_disturbance
from lamina.cli.peers import Peer, load_peer
from lamina.cli.source import Opened, build_engine, is_plan, open_engine
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
from lamina.cli.torch_case import TORCH_PEERS, torch_case
from lamina.config import default_threads
from lamina.errors import ConfigError
from lamina.runtime.engine import Engine

Report = dict[str, Any]


def command(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="PLAN|MODEL",
            help="Plan, or ONNX model that is built first.",
            show_default=False,
        ),
    ] = None,
    torch: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="In place of a model: a function that returns a torch module and its inputs.",
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINES",
            help="onnxruntime, openvino, with --torch also torch, torch-compile: in the same run.",
        ),
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
    seconds: Annotated[
        float, typer.Option(help="About how long each engine is timed.", min=0.0)
    ] = 3.0,
    target: opt.Device = "cpu",
    precision: opt.Precision = "fp32",
    optimization_level: opt.Level = 3,
    time_budget: opt.TimeBudget = 0.0,
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
        time_budget=time_budget,
        timing_cache=timing_cache,
        without=without,
    )
    names = compare.split(",") if compare else []
    if torch is not None:
        contest = with_torch(torch, source, names, options)
    elif source is not None:
        contest = with_model(source, model, batch, names, options)
    else:
        raise ConfigError(
            "there is nothing to measure", hint="give a plan, a model or --torch FILE.py:FUNCTION"
        )
    report = run(contest, Budget(seconds=seconds, runs=runs))
    report = {"source": torch or str(source), "threads": threads or default_threads(), **report}
    if json is None or str(json) != "-":
        show(report)
    if json is not None:
        write(json, report)


@dataclass(frozen=True)
class Contest:
    """An engine, others, and the inputs of all; ``out`` are arrays for the engine's results."""

    opened: Opened
    inputs: Mapping[str, Any]
    peers: Sequence[Peer]
    device: str
    out: Mapping[str, Any] | None = None


def with_model(
    source: Path, model: Path | None, batch: int, names: Sequence[str], options: opt.BuildOptions
) -> Contest:
    """Open a plan or a model, and the same model in other engines."""
    plan = is_plan(source)
    if unfit := [name for name in names if name in TORCH_PEERS]:
        raise ConfigError(
            f"{unfit[0]} runs its own definition of a network, not a model's file",
            hint="give that definition: --torch FILE.py:FUNCTION",
        )
    if names and plan and model is None:
        raise ConfigError(
            "a plan holds no ONNX model for the other engines to run",
            hint="give it: --model MODEL, or bench the model itself",
        )
    if not plan:
        options = with_batch(source, options, batch)
    opened = open_engine(source, options)
    inputs = shaped_inputs(opened.engine, options.shapes, batch)
    threads = options.threads or default_threads()
    peers = [
        load_peer(name, model or source, threads=threads, precision=options.precision)
        for name in names
    ]
    return Contest(opened, inputs, peers, options.device)


def with_torch(
    spec: str, source: Path | None, names: Sequence[str], options: opt.BuildOptions
) -> Contest:
    """Build a network that torch defines, and let torch run it too."""
    if source is not None:
        raise ConfigError(f"there are two networks, {spec} and {source}", hint="give one of them")
    case = torch_case(spec, options.device, options.precision)
    foreign = [name for name in names if name not in TORCH_PEERS]
    if foreign and case.on_gpu:
        raise ConfigError(f"{foreign[0]} runs on the CPU here", hint="leave out --target cuda")
    # The module's own types are those of the model.
    own = "tf32" if options.precision == "tf32" else "fp32"
    opened = build_engine(case.model, replace(options, precision=own), spec)
    threads = options.threads or default_threads()
    peers = [
        case.peer(name) if name in TORCH_PEERS else load_peer(name, case.model, threads=threads)
        for name in names
    ]
    return Contest(opened, case.feed, peers, options.device, case.places())


def run(contest: Contest, budget: Budget) -> Report:
    """Measure an engine and its peers on the same inputs; the result is ready for JSON."""
    opened, inputs, peers = contest.opened, contest.inputs, contest.peers
    engine = opened.engine
    context = engine.create_context()
    wanted = on_host(context.run(inputs, out=contest.out))
    results = {peer.name: on_host(peer.run(inputs)) for peer in peers}
    agreement = {name: agree(got, wanted) for name, got in results.items()}
    calls: dict[str, Any] = {"lamina": lambda: context.run(inputs, out=contest.out)}
    calls |= {p.name: lambda p=p: p.run(inputs) for p in peers}
    others = OthersWatch()
    samples = measure(calls, budget)
    items = batch_size(inputs)
    own, size = load_seconds(engine, contest.device)
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


def on_host(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return results as NumPy arrays, wherever they are."""
    return {name: _host_array(y) for name, y in results.items()}


def _host_array(y: Any) -> Any:
    if isinstance(y, np.ndarray):
        return y
    y = y.cpu() if hasattr(y, "cpu") else y
    if str(getattr(y, "dtype", "")) == "torch.bfloat16":  # which NumPy does not have
        y = y.float()
    return y.numpy() if hasattr(y, "numpy") else y


def load_seconds(engine: Engine, device: str) -> tuple[float, int]:
    """Save an engine's plan, load it again; return the seconds of loading and the file's bytes."""
    with tempfile.TemporaryDirectory(prefix="lamina-") as folder:
        path = Path(folder) / "engine.plan"
        engine.save(path)
        started = time.perf_counter()
        loaded = lamina.load(path, device=device)
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
