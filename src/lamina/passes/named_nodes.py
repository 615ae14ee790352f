"""Nodes that the options of a build name."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Final

from lamina import ops
from lamina.errors import ConfigError
from lamina.ir.graph import Graph

_NEAREST: Final = 8


def node_names(graph: Graph) -> frozenset[str]:
    """Return the names in the source model of all nodes but constants."""
    nodes = (n for n in graph.nodes() if not isinstance(n.op, ops.Const))
    return frozenset(source for n in nodes for source in n.loc.sources())


def check_names(graph: Graph, option: str, names: Collection[str]) -> None:
    """Raise ConfigError for a name that no node has; its ``(Operator)`` may be left out."""
    if not names:
        return
    known = node_names(graph)
    bare = {source.rpartition(" (")[0] for source in known}
    if unknown := sorted(set(names) - known - bare):
        nearest = difflib.get_close_matches(unknown[0], sorted(known), _NEAREST, 0.0)
        raise ConfigError(
            f"{option} names {unknown[0]!r}, and the model has no node of that name",
            hint=f"of its {len(known)} nodes the nearest are {', '.join(map(repr, nearest))}",
        )
