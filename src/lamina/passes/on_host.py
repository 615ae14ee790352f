"""Operators that are to run on the host although the rest runs on a device."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from lamina import ops
from lamina.ir.graph import Graph, Node, emit_node

HOSTED: Final = "host"
"""The kind of a region whose body runs on the host, through the operators' NumPy meaning."""


def place_on_host(graph: Graph, names: Collection[str]) -> int:
    """Put each operator of the named source nodes into a region of its own; return how many.

    Nothing is fused into such a region.  Constants and control flow stay as they are, and so does
    what gives a size its number: the sizes of other values depend on it.
    """
    if not names:
        return 0
    deciding = {v.node for v in graph.definers.values()}
    skipped = ops.Const | ops.If | ops.Loop
    chosen = [n for n in graph.nodes() if n.loc.comes_from(names) and n not in deciding]
    return sum(_wrap(graph, n) for n in chosen if not isinstance(n.op, skipped))


def is_hosted(node: Node) -> bool:
    """Whether a node was put on the host."""
    return isinstance(node.op, ops.Region) and node.op.kind == HOSTED


def _wrap(graph: Graph, node: Node) -> int:
    body = Graph()
    operands = [body.input(f"i{k}", v.type) for k, v in enumerate(node.inputs)]
    inner = emit_node(node.op, operands, loc=node.loc)
    for k, v in enumerate(inner.outputs):
        body.output(v, f"o{k}")
    region = emit_node(ops.Region(body=body, kind=HOSTED), node.inputs, loc=node.loc)
    for old, new in zip(node.outputs, region.outputs, strict=True):
        new.name = old.name
        graph.replace(old, new)
    return 1
