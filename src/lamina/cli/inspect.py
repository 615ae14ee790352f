"""``lamina inspect``: what a plan does and why."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import lamina
from lamina.cli import options as opt
from lamina.cli.origins import short_origin
from lamina.cli.source import is_plan, open_engine
from lamina.cli.tables import mark, print_json, show_bytes, stdout, table
from lamina.errors import ConfigError
from lamina.plan.plan import Plan
from lamina.runtime.absent import DEVICE, target_name
from lamina.runtime.engine import Engine, find_driver
from lamina.runtime.report import EngineReport, LayerReport


def command(
    source: opt.Source,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers", help="Every layer with operands, times of alternatives, refusals."
        ),
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Time each layer now, on random inputs.")
    ] = False,
    target: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="cpu, cuda, or for a GPU elsewhere cuda:sm_90. Default: what the plan is for.",
        ),
    ] = "",
    precision: opt.Precision = "fp32",
    shapes: opt.Shapes = None,
    threads: opt.Threads = 0,
    optimization_level: opt.Level = 3,
    timing_cache: opt.TimingCache = None,
    without: opt.Without = None,
    json: opt.Json = False,
) -> None:
    """Show layers, tactics with their alternatives, and memory."""
    target = target or _target_of(source)
    options = opt.build_options(
        target=target,
        precision=precision,
        shapes=shapes,
        threads=threads,
        optimization_level=optimization_level,
        timing_cache=timing_cache,
        without=without,
    )
    engine = _engine_elsewhere(source, target) or open_engine(source, options).engine
    report = engine.inspect()
    times = [t.microseconds for t in engine.profile(runs=20)] if profile else []
    if json:
        print_json(describe(engine, report, times))
        return
    show_summary(engine, report)
    if layers:
        for number, layer in enumerate(report.layers):
            show_layer(number, layer, times[number : number + 1])
    else:
        show_table(report, times)
    show_memory(report.memory)
    show_fallbacks(report.fallbacks)


def _target_of(source: Path) -> str:
    """Return what is shown where nothing else is asked for: the CPU, or a plan's own target."""
    names = [target_name(s) for s in _plan(source).sections] if is_plan(source) else []
    return next((n for n in names if not n.startswith("cuda")), next(iter(names), "cpu"))


def _engine_elsewhere(source: Path, target: str) -> Engine | None:
    """Return a plan's section for a GPU that is not here as it lies in the plan.

    None stands for what is opened as everywhere else: models, and sections that run here.  Raises
    ConfigError for a GPU that the plan has no section for.
    """
    if not target.startswith("cuda") or not is_plan(source):
        return None
    plan = _plan(source)
    fitting = [s for s in plan.sections if target in (target_name(s), dict(s.target)["device"])]
    if not fitting and ":" in target:
        known = ", ".join(map(target_name, plan.sections))
        raise ConfigError(f"the plan has no section for {target}", hint=f"it has {known}")
    driver = find_driver("cuda", 0)
    if not fitting or (not driver.missing and driver.refusal(fitting[0]) is None):
        return None
    return Engine(dataclasses.replace(plan, sections=(fitting[0],)), device=DEVICE)


def _plan(source: Path) -> Plan:
    return lamina.load(source, device=DEVICE).plan


def describe(engine: Engine, report: EngineReport, times: Sequence[float]) -> dict[str, Any]:
    """Return everything that a report says, and the layers' times if any, ready for JSON."""
    return {
        "profile_microseconds": list(times),
        "inputs": {p.name: str(p.type) for p in engine.inputs},
        "outputs": {p.name: str(p.type) for p in engine.outputs},
        "ranges": {n: [low, likely, high] for n, low, likely, high in engine.plan.ranges},
        "target": dict(report.target),
        "config": dict(report.config),
        "memory": dict(report.memory),
        "fallbacks": list(report.fallbacks),
        "untuned": dict(engine.plan.notes).get("untuned", ""),
        "layers": [
            {
                **{k: v for k, v in vars(layer).items() if k not in ("tried", "declined")},
                "tried": [{"tactic": t, "microseconds": us} for t, us in layer.tried],
                "declined": [{"tactic": t, "reason": why} for t, why in layer.declined],
            }
            for layer in report.layers
        ],
    }


def show_summary(engine: Engine, report: EngineReport) -> None:
    """Print inputs, outputs, target, and how many layers each tactic runs."""
    console = stdout()
    ranges = {name: f"{low}..{high}" for name, low, _, high in engine.plan.ranges}
    for kind, ports in (("input", engine.inputs), ("output", engine.outputs)):
        for port in ports:
            console.print(f"{kind:7} {port.name}: {port.type}", markup=False)
    for name, span in ranges.items():
        console.print(f"symbol  {name} in {span}", markup=False)
    target = ", ".join(f"{k} {v}" for k, v in report.target.items())
    console.print(f"target  {target}", markup=False, soft_wrap=True)
    counts = Counter(layer.tactic.split("(")[0] or layer.kind for layer in report.layers)
    used = ", ".join(f"{count} {tactic}" for tactic, count in counts.most_common())
    console.print(f"layers  {len(report.layers)}: {used}", markup=False, soft_wrap=True)
    if untuned := dict(engine.plan.notes).get("untuned"):
        console.print(f"tuning  {untuned}", markup=False, soft_wrap=True)


def show_table(report: EngineReport, times: Sequence[float]) -> None:
    """Print one line for each layer: origin, result, tactic, its time, the next best one.

    The time is the one by which the tactic was chosen, then the one of the profile if there is one.
    """
    rows = [
        [
            number,
            layer.name,
            short_origin(layer.loc),
            " ".join(layer.outputs),
            shorten(layer.tactic or layer.kind),
            _microseconds(layer.microseconds),
            *(f"{t:.1f}" for t in times[number : number + 1]),
            next_best(layer),
        ]
        for number, layer in enumerate(report.layers)
    ]
    now = ["now"] if times else []
    columns = ["#", "layer", "from", "result", "tactic", "us", *now, "next best, us"]
    stdout().print(table(columns, rows, left=5))
    if times:
        stdout().print(f"profile {sum(times):.1f} us in all layers")


def show_layer(number: int, layer: LayerReport, times: Sequence[float]) -> None:
    """Print a layer with its operands, every tactic that was timed, and why others declined."""
    console = stdout()
    console.print(mark(None, f"{number} {layer.name}"))
    lines = [
        f"from    {layer.loc}",
        f"kind    {layer.kind}",
        *(f"reads   {x}" for x in layer.inputs),
        *(f"writes  {x}" for x in layer.outputs),
        f"tactic  {layer.tactic}  {_microseconds(layer.microseconds)} us",
        *(f"now     {t:.1f} us" for t in times),
        *(f"tried   {t}  {us:.1f} us" for t, us in sorted(layer.tried, key=lambda m: m[1])),
        *(f"refused {t}: {why}" for t, why in layer.declined),
    ]
    for line in lines:
        console.print(f"  {line}", markup=False, soft_wrap=True)


def next_best(layer: LayerReport) -> str:
    """Return the fastest tactic that was timed and not taken, with its time.

    A tactic is listed once for each layout that it was timed in, ``onednn [plain>blocked]``; what
    it would write is shown in parentheses.
    """
    own = [t for t, us in layer.tried if _tactic(t) == layer.tactic and us == layer.microseconds]
    others = [(us, t) for t, us in layer.tried if t not in own[:1]]
    if not others:
        return "-"
    us, tactic = min(others)
    layout = tactic.removesuffix("]").rpartition(">")[2]
    written = f" ({layout})" if layout != tactic else ""
    return f"{shorten(_tactic(tactic))}{written} {us:.1f}"


def shorten(tactic: str) -> str:
    """Keep the first parameter of a tactic: ``winograd(m=4, ..)``."""
    first, comma, _ = tactic.partition(",")
    return f"{first}, ..)" if comma and "(" in first else tactic


def _tactic(tried: str) -> str:
    return tried.partition(" [")[0]


def show_memory(memory: Mapping[str, int]) -> None:
    """Print bytes by use, the arena beside the largest live set."""
    if not memory:
        return
    listed = ", ".join(f"{use} {show_bytes(count)}" for use, count in memory.items())
    arena, bound = memory.get("arena", 0), memory.get("lower_bound", 0)
    ratio = f"; the arena is {arena / bound:.2f} x the lower bound" if bound else ""
    stdout().print(f"memory  {listed}{ratio}", markup=False, soft_wrap=True)


def show_fallbacks(fallbacks: tuple[str, ...]) -> None:
    """Print what runs on the host, through NumPy."""
    for line in fallbacks:
        stdout().print(mark(None, f"host    {line}"), soft_wrap=True)


def _microseconds(value: float) -> str:
    return f"{value:.1f}" if value else "-"
