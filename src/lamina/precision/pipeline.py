"""Decides the element type of each value."""

from __future__ import annotations

from lamina.errors import ConfigError
from lamina.ir.graph import Graph


def decide_precision(graph: Graph, precision: str) -> None:
    """Rewrite ``graph`` in place for a precision."""
    if precision != "fp32":
        raise ConfigError(f"precision {precision} is not available for this graph")
