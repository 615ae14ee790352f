"""``lamina build``: a model in, a plan out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli import options as opt
from lamina.cli.progress import QUIET_SECONDS
from lamina.cli.source import Opened, build_engine
from lamina.cli.tables import note, print_json, show_bytes, show_seconds, stdout
from lamina.errors import PlanError
from lamina.passes.shapes import LARGEST


def command(
    model: opt.Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="PLAN", help="Plan file to write.")
    ],
    target: opt.Target = "cpu",
    precision: opt.Precision = "fp32",
    shapes: opt.Shapes = None,
    threads: opt.Threads = 0,
    optimization_level: opt.Level = 3,
    time_budget: opt.TimeBudget = 0.0,
    timing_cache: opt.TimingCache = None,
    without: opt.Without = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Type every node again after the passes."),
    ] = False,
    json: opt.Json = False,
) -> None:
    """Compile a model into a plan."""
    options = opt.build_options(
        target=target,
        precision=precision,
        shapes=shapes,
        threads=threads,
        optimization_level=optimization_level,
        time_budget=time_budget,
        timing_cache=timing_cache,
        without=without,
        verify=verify,
    )
    check_writable(output)
    built = build_engine(model, options, model.name)
    built.engine.save(output)
    report = describe(built, model, output)
    if json:
        print_json(report)
    else:
        show(report)


def check_writable(path: Path) -> None:
    """Raise PlanError before a long build when its result could not be written."""
    if path.is_dir():
        raise PlanError(f"cannot write {str(path)!r}: it is a folder", hint="give a file name")
    if not path.parent.is_dir():
        raise PlanError(
            f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}",
            hint="make the folder first",
        )


def describe(built: Opened, model: Path, output: Path) -> dict[str, object]:
    """Return what was built, ready for JSON."""
    engine = built.engine
    return {
        "model": str(model),
        "plan": str(output),
        "plan_bytes": output.stat().st_size,
        "build_seconds": round(built.seconds, 3),
        "spent": built.spent,
        "inputs": {p.name: str(p.type) for p in engine.inputs},
        "outputs": {p.name: str(p.type) for p in engine.outputs},
        "layers": len(engine.inspect().layers),
        "fallbacks": list(engine.plan.fallbacks),
        "untuned": dict(engine.plan.notes).get("untuned", ""),
        "ranges": {n: [low, likely, high] for n, low, likely, high in engine.plan.ranges},
    }


def show(report: dict[str, object]) -> None:
    """Print a report for people."""
    console = stdout()
    size, seconds = report["plan_bytes"], report["build_seconds"]
    assert isinstance(size, int)
    assert isinstance(seconds, float)
    console.print(
        f"{report['plan']}: {report['layers']} layers, {show_bytes(size)}, "
        f"built in {show_seconds(seconds)}",
        markup=False,
    )
    if seconds >= QUIET_SECONDS:
        console.print(f"  {'spent':8} {report['spent']}", markup=False)
    for kind in ("inputs", "outputs"):
        ports = report[kind]
        assert isinstance(ports, dict)
        listed = ", ".join(f"{name}: {type}" for name, type in ports.items())
        console.print(f"  {kind:8} {listed}", markup=False)
    ranges = report["ranges"]
    assert isinstance(ranges, dict)
    for name, (low, likely, high) in ranges.items():
        span = f"{low} or more" if high == LARGEST else f"{low} to {high}"
        console.print(f"  {'size':8} {name}: {span}, tuned for {likely}", markup=False)
    fallbacks = report["fallbacks"]
    assert isinstance(fallbacks, list)
    if fallbacks:
        note(f"{len(fallbacks)} layers run on the host, through NumPy: lamina inspect lists them")
    if report["untuned"]:
        note(str(report["untuned"]))
