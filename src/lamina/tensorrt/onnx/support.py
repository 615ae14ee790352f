"""Which parts of a model can be parsed."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.importers.onnx.report import Report
from lamina.tensorrt.onnx.parser_error import Places


@dataclass(frozen=True)
class Subgraph:
    """Numbers of nodes that follow one another, and whether all of them are supported."""

    nodes: tuple[int, ...]
    supported: bool


def subgraphs(places: Places, report: Report) -> list[Subgraph]:
    """Cut a model where support begins or ends; each part is one stretch of the sorted nodes.

    Such a stretch never depends on what depends on it, so it can be run by itself.
    """
    refused = {r.name for r in report.unsupported}
    bad = refused | {name.split("/")[0] for name in refused}
    found: list[tuple[list[int], bool]] = []
    for title, index in places.titles():
        supported = title not in bad
        if not found or found[-1][1] is not supported:
            found.append(([], supported))
        found[-1][0].append(index)
    return [Subgraph(tuple(nodes), supported) for nodes, supported in found]
