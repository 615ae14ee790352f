"""Which nodes of a model can be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import onnx

from lamina.importers.onnx import NodeReport, Report
from lamina.importers.onnx.topology import describe, sorted_graph
from lamina.tensorrt.onnx.errors import ParserError


@dataclass(frozen=True)
class Subgraph:
    """Neighbouring nodes, by their numbers in the model, that can be used, or that cannot."""

    nodes: tuple[int, ...]
    supported: bool


def refused_nodes(model: onnx.ModelProto, report: Report) -> dict[int, NodeReport]:
    """Return the nodes that cannot be used, by their numbers in the model, with the reason."""
    numbers = {id(node): i for i, node in enumerate(model.graph.node)}
    found = {}
    for position, node in enumerate(sorted_graph(model.graph)):
        title = describe(node, position)
        for entry in report.unsupported:
            if entry.name == title or entry.name.startswith(f"{title}/"):
                found[_number(numbers, model, node)] = entry
    return found


def _number(numbers: dict[int, int], model: onnx.ModelProto, node: onnx.NodeProto) -> int:
    known = numbers.get(id(node))
    if known is not None:
        return known
    outputs = list(node.output)
    return next(i for i, other in enumerate(model.graph.node) if list(other.output) == outputs)


def subgraphs(count: int, refused: Sequence[int]) -> list[Subgraph]:
    """Split ``count`` nodes into runs of those that can be used and those that cannot."""
    bad = set(refused)
    runs = groupby(range(count), key=lambda i: i not in bad)
    return [Subgraph(tuple(nodes), supported) for supported, nodes in runs]


def node_errors(model: onnx.ModelProto, refused: dict[int, NodeReport]) -> list[ParserError]:
    """Return one error for each node that cannot be used."""
    errors = []
    for number, entry in sorted(refused.items()):
        node = model.graph.node[number]
        errors.append(
            ParserError("UNSUPPORTED_NODE", entry.reason, number, node.name, node.op_type)
        )
    return errors
