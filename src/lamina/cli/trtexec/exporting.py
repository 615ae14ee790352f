"""Layers, profiles and outputs as text and as JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lamina.cli.trtexec.console import Console
from lamina.cli.trtexec.specs import text_of
from lamina.cli.trtexec.trace import Run
from lamina.errors import ConfigError
from lamina.ir.graph import Array


def write_json(path: str, content: Any) -> None:
    """Write a JSON file."""
    Path(path).write_text(json.dumps(content, indent=1) + "\n")


def export_times(path: str, runs: Sequence[Run]) -> None:
    """Write the times of every run."""
    write_json(path, [r.exported() for r in runs])


def export_outputs(path: str, outputs: Mapping[str, Array]) -> None:
    """Write name, shape and elements of every output."""
    write_json(
        path,
        [
            {
                "name": name,
                "dimensions": text_of(array.shape),
                "values": array.astype(np.float64).reshape(-1).tolist(),
            }
            for name, array in outputs.items()
        ],
    )


def dump_outputs(console: Console, outputs: Mapping[str, Array]) -> None:
    """Print every output."""
    console.info("Output Tensors:")
    for name, array in outputs.items():
        console.info(f"{name}: ({text_of(array.shape)})")
        console.info(" ".join(f"{v:g}" for v in array.astype(np.float64).reshape(-1)))


def dump_raw(arrays: Mapping[str, Array], kind: str) -> None:
    """Write each array into a file of raw numbers in the current folder."""
    for name, array in arrays.items():
        shape = ".".join(map(str, array.shape))
        Path(f"{_safe(name)}.{kind}.{shape}.{array.dtype}.raw").write_bytes(array.tobytes())


def dump_debug(console: Console, arrays: Mapping[str, Array], formats: Sequence[str]) -> None:
    """Print or write debug tensors in each format: summary, numpy, string or raw."""
    for form in formats:
        if form == "raw":
            dump_raw(arrays, "debug")
        elif form == "numpy":
            for name, array in arrays.items():
                np.save(f"{_safe(name)}.debug.npy", array)
        elif form == "string":
            for name, array in arrays.items():
                numbers = " ".join(f"{v:g}" for v in array.astype(np.float64).reshape(-1))
                Path(f"{_safe(name)}.debug.txt").write_text(numbers + "\n")
        elif form == "summary":
            for name, array in arrays.items():
                values = array.astype(np.float64) if array.size else np.zeros(1)
                console.info(
                    f"Debug tensor {name} ({text_of(array.shape)}): min = {values.min():g}, "
                    f"max = {values.max():g}, mean = {values.mean():g}"
                )
        else:
            raise ConfigError(
                f"--saveAllDebugTensors: {form!r} is no format",
                hint="summary, numpy, string or raw",
            )


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


class LayerTimes:
    """Milliseconds of each layer over some runs."""

    def __init__(self, names: Sequence[str], runs: Sequence[Sequence[float]]) -> None:
        """Take the layers' names and for each run the microseconds of each layer."""
        self.count = len(runs)
        times = np.array(runs, np.float64).reshape(len(runs), len(names)) / 1000
        total = float(times.sum()) or 1.0
        self.rows: list[dict[str, Any]] = [
            {
                "name": name,
                "timeMs": float(times[:, i].sum()),
                "averageMs": float(times[:, i].mean()),
                "medianMs": float(np.median(times[:, i])),
                "percentage": float(100 * times[:, i].sum() / total),
            }
            for i, name in enumerate(names)
        ]

    def export(self, path: str) -> None:
        """Write the times as JSON."""
        write_json(path, [{"count": self.count}, *self.rows])

    def dump(self, console: Console) -> None:
        """Print the times as a table."""
        console.info(f"=== Profile ({self.count} iterations ) ===")
        console.info("   Time(ms)     Avg.(ms)   Median(ms)   Time(%)   Layer")
        for row in (*self.rows, self._total()):
            console.info(
                f"{row['timeMs']:11.4f}  {row['averageMs']:11.4f}  {row['medianMs']:11.4f}  "
                f"{row['percentage']:8.1f}   {row['name']}"
            )
        console.info()

    def _total(self) -> dict[str, Any]:
        sums = {k: sum(float(r[k]) for r in self.rows) for k in ("timeMs", "averageMs", "medianMs")}
        return {**sums, "percentage": 100.0, "name": "Total"}
