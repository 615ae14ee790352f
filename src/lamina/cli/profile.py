"""``lamina profile``: where the time goes, and how far each layer is from the least it needs."""

from __future__ import annotations

import json as json_text
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from lamina.cli import options as opt
from lamina.cli.batch import shaped_inputs, with_batch
from lamina.cli.origins import short_origin
from lamina.cli.source import is_plan, open_engine
from lamina.cli.tables import note, print_json, stdout, table
from lamina.errors import ConfigError
from lamina.runtime.engine import Engine
from lamina.runtime.layers import Ceilings, LayerTime
from lamina.runtime.trace import chrome_trace

_ALL = 0


def command(
    source: opt.Source,
    batch: Annotated[
        int, typer.Option(help="Size of the first, symbolic axis of every input.", min=0)
    ] = 0,
    shapes: opt.Shapes = None,
    threads: opt.Threads = 0,
    runs: Annotated[int, typer.Option(help="Runs whose median counts.", min=1)] = 20,
    top: Annotated[
        int, typer.Option(metavar="N", help="Only the N layers that lose most time; 0: all.", min=0)
    ] = _ALL,
    ceilings: Annotated[
        bool,
        typer.Option(help="Measure, once for this device, what it can do at most."),
    ] = True,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a trace for ui.perfetto.dev, as JSON."),
    ] = None,
    target: opt.Device = "cpu",
    precision: opt.Precision = "fp32",
    optimization_level: opt.Level = 3,
    time_budget: opt.TimeBudget = 0.0,
    timing_cache: opt.TimingCache = None,
    without: opt.Without = None,
    json: opt.Json = False,
) -> None:
    """Time each layer, with bytes, operations and distance from the device's limits."""
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
    if not is_plan(source):
        options = with_batch(source, options, batch)
    engine = open_engine(source, options).engine
    most = engine.ceilings() if ceilings else None
    feed = shaped_inputs(engine, options.shapes, batch)
    layers = engine.profile(feed, runs=runs, ceilings=most)
    if trace is not None:
        write_trace(trace, source.name, engine, layers)
    report = describe(layers, most)
    if json:
        print_json(report)
    else:
        show(layers, most, top)


def describe(layers: Sequence[LayerTime], ceilings: Ceilings | None) -> dict[str, Any]:
    """Return a profile ready for JSON."""
    return {
        "microseconds": sum(layer.microseconds for layer in layers),
        "floor_microseconds": sum(layer.floor_microseconds for layer in layers),
        "ceilings": None if ceilings is None else asdict(ceilings),
        "layers": [
            {
                **asdict(layer),
                "bytes_per_second": layer.bytes_per_second,
                "operations_per_second": layer.operations_per_second,
                "times_floor": layer.times_floor,
            }
            for layer in layers
        ],
    }


def show(layers: Sequence[LayerTime], ceilings: Ceilings | None, top: int) -> None:
    """Print a line for each layer, in order; or the ones that lose most, the worst first."""
    numbered = list(enumerate(layers))
    if top:
        numbered = sorted(numbered, key=_lost if ceilings else _time)[:top]
    total = sum(layer.microseconds for layer in layers)
    rows = [_row(number, layer, total) for number, layer in numbered]
    columns = ["#", "layer", "from", "tactic", "us", "%", "MB", "GB/s", "GFLOP/s", "floor", "x"]
    stdout().print(table(columns, rows, left=4))
    floor = sum(layer.floor_microseconds for layer in layers)
    line = f"{len(layers)} layers take {total:.1f} us"
    if ceilings is not None and floor:
        line += f", {total / floor:.1f} x the sum of their floors, {floor:.1f} us"
    stdout().print(line, markup=False, soft_wrap=True)
    if ceilings is not None:
        rates = ceilings.operations_per_microsecond.items()
        listed = ", ".join(f"{dtype} {rate / 1e6:.3g} TFLOP/s" for dtype, rate in rates)
        memory = f"{ceilings.bytes_per_microsecond / 1e3:.4g} GB/s"
        stdout().print(f"ceilings: memory {memory}, {listed}", markup=False, soft_wrap=True)


def _lost(row: tuple[int, LayerTime]) -> float:
    return -row[1].lost_microseconds


def _time(row: tuple[int, LayerTime]) -> float:
    return -row[1].microseconds


def _row(number: int, layer: LayerTime, total: float) -> list[Any]:
    return [
        number,
        layer.name,
        short_origin(layer.loc),
        layer.tactic or "host",
        f"{layer.microseconds:.1f}",
        f"{100 * layer.microseconds / total if total else 0:.1f}",
        f"{layer.bytes_moved / 1e6:.2f}",
        f"{layer.bytes_per_second / 1e9:.0f}",
        f"{layer.operations_per_second / 1e9:.0f}" if layer.operations else "-",
        f"{layer.floor_microseconds:.1f}" if layer.floor_microseconds else "-",
        f"{layer.times_floor:.1f}" if layer.floor_microseconds else "-",
    ]


def write_trace(path: Path, name: str, engine: Engine, layers: Sequence[LayerTime]) -> None:
    """Write the trace of a profile; raises ConfigError when it cannot."""
    target = ", ".join(v for k, v in engine.section.target if k in ("device", "arch"))
    try:
        path.write_text(json_text.dumps(chrome_trace(f"{name} on {target}", layers)) + "\n")
    except OSError as e:
        raise ConfigError(f"cannot write {str(path)!r}: {e.strerror or e}") from e
    note(f"written: {path} (open it in ui.perfetto.dev)")
