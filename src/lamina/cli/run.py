"""``lamina run``: one run on arrays from files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from lamina.cli import options as opt
from lamina.cli.arrays import read_inputs, write_outputs
from lamina.cli.source import open_engine
from lamina.cli.tables import note, print_json, show_number, stdout, table


def command(
    source: opt.Source,
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=FILE",
            help="x=x.npy, x=x.npz, or all.npz with arrays by name. May be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="y.npz, or y.npy for one output."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random inputs, used without --input.")] = 0,
    target: opt.Device = "cpu",
    precision: opt.Precision = "fp32",
    shapes: opt.Shapes = None,
    threads: opt.Threads = 0,
    optimization_level: opt.Level = 3,
    timing_cache: opt.TimingCache = None,
    json: opt.Json = False,
) -> None:
    """Run a plan or a model on arrays from files."""
    options = opt.build_options(
        target=target,
        precision=precision,
        shapes=shapes,
        threads=threads,
        optimization_level=optimization_level,
        timing_cache=timing_cache,
    )
    inputs: dict[str, Any] = dict(read_inputs(input or ()))
    engine = open_engine(source, options).engine
    if not input:
        inputs = engine.example_inputs(seed)
        note(f"no --input given: random inputs, seed {seed}")
    outputs = engine.run(inputs)
    if output is not None:
        write_outputs(output, outputs)
    if json:
        print_json({name: summarize(value) for name, value in outputs.items()})
        return
    rows = [[name, *summarize(value).values()] for name, value in outputs.items()]
    columns = ["output", "type", "shape", "min", "mean", "max"]
    stdout().print(table(columns, [[_cell(c) for c in row] for row in rows], left=3))
    if output is not None:
        note(f"written: {output}")


def summarize(value: Any) -> dict[str, Any]:
    """Return element type, shape, and least, mean and largest element of an output."""
    if not isinstance(value, np.ndarray | np.generic):
        return {"type": type(value).__name__, "shape": None, "min": None, "mean": None, "max": None}
    array = np.asarray(value)
    numbers: list[float | None] = [None, None, None]
    if array.size and array.dtype.kind in "biufV":
        wide = array.astype(np.float64)
        numbers = [float(f(wide)) for f in (np.min, np.mean, np.max)]
    least, mean, largest = numbers
    return {
        "type": str(array.dtype),
        "shape": list(array.shape),
        "min": least,
        "mean": mean,
        "max": largest,
    }


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value)) or "scalar"
    if value is None:
        return "-"
    return show_number(value) if isinstance(value, float) else str(value)
