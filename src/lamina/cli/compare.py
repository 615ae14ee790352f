"""``lamina compare``: are the results right, and if not, from which layer on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lamina.builder import import_graph
from lamina.cli import options as opt
from lamina.cli.arrays import read_inputs
from lamina.cli.differences import TOLERANCES, Difference, difference
from lamina.cli.layerwise import (
    LayerDifference,
    build_layers,
    reference_values,
    with_outputs,
)
from lamina.cli.peers import installed, load_peer
from lamina.cli.source import is_plan, open_engine
from lamina.cli.tables import mark, note, print_json, stdout, table
from lamina.config import BuildConfig, shape_ranges
from lamina.errors import ConfigError
from lamina.respecialize import plan_config, portable_graph
from lamina.runtime.engine import Engine

_AGAINST = ("onnxruntime", "reference")


@dataclass(frozen=True)
class Truth:
    """What the engine is compared with: a model for the layers, and where values come from."""

    against: str
    model: Any
    config: BuildConfig
    onnx: Path | None

    def values(self, inputs: dict[str, Any], names: list[str]) -> dict[str, Any]:
        """Return the outputs, and those of the named inner values that there are."""
        if self.against == "reference":
            return reference_values(import_graph(self.model, self.config)[0], inputs)
        assert self.onnx is not None
        source = with_outputs(self.onnx, names) if names else self.onnx
        threads = self.config.threads
        return load_peer("onnxruntime", source, threads=threads).run(inputs)


def command(
    source: opt.Source,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="onnxruntime|reference",
            help="Default: onnxruntime where it is installed and there is a model.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The ONNX model of a PLAN, for onnxruntime.")
    ] = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Every layer, not only the outputs.")
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(
            help="Largest difference allowed, over the largest value; 0: by precision.", min=0
        ),
    ] = 0.0,
    input: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NAME=FILE", help="Arrays to run on; see run."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random inputs, used without --input.")] = 0,
    target: opt.Device = "cpu",
    precision: opt.Precision = "fp32",
    shapes: opt.Shapes = None,
    threads: opt.Threads = 0,
    optimization_level: opt.Level = 3,
    timing_cache: opt.TimingCache = None,
    without: opt.Without = None,
    json: opt.Json = False,
) -> None:
    """Check outputs, and every layer, against onnxruntime or the reference."""
    options = opt.build_options(
        target=target,
        precision=precision,
        shapes=shapes,
        threads=threads,
        optimization_level=optimization_level,
        timing_cache=timing_cache,
        without=without,
    )
    engine = open_engine(source, options).engine
    truth = find_truth(source, model, against, options, engine)
    inputs = dict(read_inputs(input or ())) or engine.example_inputs(seed)
    if not input:
        note(f"no --input given: random inputs, seed {seed}")
    allowed = tolerance or TOLERANCES[truth.config.precision]
    report = check(engine, truth, inputs, allowed, per_layer=per_layer)
    if json:
        print_json(report)
    else:
        show(report)
    if not report["equal"]:
        raise typer.Exit(1)


def find_truth(
    source: Path, model: Path | None, against: str | None, options: opt.BuildOptions, engine: Engine
) -> Truth:
    """Decide what to compare with; raises ConfigError when that cannot be had."""
    plan = is_plan(source)
    file = model if plan else source
    if against is None:
        against = "onnxruntime" if file is not None and installed("onnxruntime") else "reference"
    if against not in _AGAINST:
        raise ConfigError(
            f"there is nothing called {against!r} to compare with", hint=f"{' or '.join(_AGAINST)}"
        )
    if against == "onnxruntime" and file is None:
        raise ConfigError(
            "a plan holds no ONNX model for onnxruntime to run",
            hint="give it: --model MODEL, or compare --against reference",
        )
    if plan:
        config = plan_config(engine.plan, options.threads)
        return Truth(against, portable_graph(engine.plan), config, file)
    arguments = options.arguments()
    config = BuildConfig(**arguments | {"shapes": shape_ranges(options.shapes)})
    return Truth(against, source, config, file)


def check(
    engine: Engine, truth: Truth, inputs: dict[str, Any], tolerance: float, *, per_layer: bool
) -> dict[str, Any]:
    """Run and compare; the result is ready for JSON."""
    given = engine.run(inputs)
    layers = build_layers(truth.model, truth.config) if per_layer else None
    wanted = truth.values(inputs, list(layers.inner) if layers else [])
    outputs = [
        {"output": name, **_entry(difference(value, wanted[name]), tolerance)}
        for name, value in given.items()
    ]
    report: dict[str, Any] = {
        "against": truth.against,
        "precision": truth.config.precision,
        "tolerance": tolerance,
        "equal": all(o["equal"] for o in outputs),
        "outputs": outputs,
    }
    if layers is not None:
        rows = [_layer(d, tolerance) for d in layers.differences(inputs, wanted, truth.against)]
        report["layers"] = rows
        report["equal"] = report["equal"] and all(row["equal"] for row in rows)
    return report


def show(report: dict[str, Any]) -> None:
    """Print a report for people."""
    console = stdout()
    console.print(
        f"against {report['against']}, {report['precision']}, "
        f"allowed: {report['tolerance']:g} of the largest value",
        markup=False,
    )
    measures = ["relative", "SQNR dB", "result"]
    if "layers" in report:
        rows = [
            [row["value"], row["op"], row["from"], row["against"], *_cells(row)]
            for row in report["layers"]
        ]
        console.print(table(["value", "layer", "from", "against", *measures], rows, left=4))
    rows = [[row["output"], *_cells(row)] for row in report["outputs"]]
    console.print(table(["output", *measures], rows))
    bad = [r["value"] for r in report.get("layers", ()) if not r["equal"]]
    if bad:
        console.print(mark(False, f"{len(bad)} layers differ, the first is {bad[0]}"))
    console.print(mark(report["equal"], "equal" if report["equal"] else "different"))


def _entry(d: Difference, tolerance: float) -> dict[str, Any]:
    return {**vars(d), "equal": d.within(tolerance)}


def _layer(d: LayerDifference, tolerance: float) -> dict[str, Any]:
    place = {"value": d.value, "op": d.op, "from": d.loc, "type": d.type, "against": d.against}
    return place | _entry(d.difference, tolerance)


def _cells(row: dict[str, Any]) -> list[Any]:
    result = mark(row["equal"], "ok" if row["equal"] else row["reason"] or "differs")
    return [f"{row['relative']:.1e}", f"{row['sqnr_db']:.0f}", result]
