"""Layers as a trace that chrome://tracing and ui.perfetto.dev open.

The format is the JSON of Chrome's trace viewer ("Trace Event Format", Google, 2016): complete
events ("X") with times in microseconds, counters ("C") and names of tracks ("M").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from lamina.runtime.layers import LayerTime

_PROCESS: Final = 1
_RUN, _LAYERS = 1, 2


def chrome_trace(title: str, layers: Sequence[LayerTime]) -> dict[str, Any]:
    """Return one run, its layers one after the other, with the rates that they reach.

    Layers that ran side by side share the time that they took together.
    """
    total = sum(layer.microseconds for layer in layers)
    events = [
        _named("process_name", title),
        _named("thread_name", "run", _RUN),
        _named("thread_name", "layers", _LAYERS),
        _event("run", _RUN, 0.0, total, {"layers": len(layers)}),
    ]
    at = 0.0
    for number, layer in enumerate(layers):
        events.append(
            _event(layer.name, _LAYERS, at, layer.microseconds, _arguments(number, layer))
        )
        events.append(_rates(at, layer))
        at += layer.microseconds
    return {"displayTimeUnit": "ns", "traceEvents": events}


def _arguments(number: int, layer: LayerTime) -> dict[str, Any]:
    return {
        "number": number,
        "from": layer.loc,
        "tactic": layer.tactic,
        "bytes": layer.bytes_moved,
        "operations": layer.operations,
        "floor_microseconds": round(layer.floor_microseconds, 3),
        "times_floor": round(layer.times_floor, 2),
    }


def _rates(at: float, layer: LayerTime) -> dict[str, Any]:
    rates = {
        "GB/s": round(layer.bytes_per_second / 1e9, 3),
        "GFLOP/s": round(layer.operations_per_second / 1e9, 3),
    }
    return {"name": "rates", "ph": "C", "pid": _PROCESS, "ts": round(at, 3), "args": rates}


def _event(
    name: str, track: int, at: float, microseconds: float, arguments: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "cat": "lamina",
        "ph": "X",
        "pid": _PROCESS,
        "tid": track,
        "ts": round(at, 3),
        "dur": round(microseconds, 3),
        "args": arguments,
    }


def _named(kind: str, name: str, track: int = 0) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": _PROCESS, "tid": track, "args": {"name": name}}
