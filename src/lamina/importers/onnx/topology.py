"""Checks the wiring of an ONNX graph before anything is imported, and sorts its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

import onnx

from lamina.errors import ImportFailed


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs in the attributes of a node."""
    found = []
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def describe(node: onnx.NodeProto, index: int) -> str:
    """Return how messages call a node: its name, or its type and position."""
    return f"{node.name or f'{node.op_type}#{index}'} ({node.op_type})"


def free_names(graph: onnx.GraphProto) -> set[str]:
    """Return the names that a subgraph reads from outside."""
    defined = {v.name for v in graph.input} | initializer_names(graph)
    defined.update(o for node in graph.node for o in node.output)
    read = {o.name for o in graph.output} | {n for node in graph.node for n in reads(node)}
    return {name for name in read - defined if name}


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node reads, those of its subgraphs included."""
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        names |= free_names(graph)
    return names


def initializer_names(graph: onnx.GraphProto) -> set[str]:
    """Return the names of dense and sparse initializers."""
    return {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}


def sorted_graph(graph: onnx.GraphProto, outer: Iterable[str] = ()) -> list[onnx.NodeProto]:
    """Return the nodes of ``graph`` with operands first; see :func:`sorted_nodes`."""
    given = {v.name for v in graph.input} | initializer_names(graph)
    return sorted_nodes(list(graph.node), given, [o.name for o in graph.output], outer)


def sorted_nodes(
    nodes: Sequence[onnx.NodeProto],
    given: set[str],
    outputs: Sequence[str],
    outer: Iterable[str] = (),
) -> list[onnx.NodeProto]:
    """Return ``nodes`` with operands first, in the given order where possible.

    ``given`` are the inputs and initializers; ``outer`` are the names that enclosing graphs define
    and that may be hidden.  Raises ImportFailed, naming nodes, for a value that nothing defines,
    one that is defined twice, and a cycle.
    """
    makers = _makers(nodes, given)
    known = given | set(outer)
    needs = [_needed(node, i, makers, known) for i, node in enumerate(nodes)]
    for name in outputs:
        if name and name not in makers and name not in known:
            raise ImportFailed(f"graph output {name!r} is defined by no node")
    return [nodes[i] for i in _order(nodes, needs)]


def _makers(nodes: Sequence[onnx.NodeProto], given: set[str]) -> dict[str, int]:
    makers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node.output:
            if name in makers:
                first = describe(nodes[makers[name]], makers[name])
                raise ImportFailed(
                    f"value {name!r} is defined twice: by {first} and by {describe(node, i)}"
                )
            if name in given:
                raise ImportFailed(
                    f"value {name!r} is defined twice: as input or initializer and by "
                    f"{describe(node, i)}"
                )
            if name:
                makers[name] = i
    return makers


def _needed(node: onnx.NodeProto, i: int, makers: dict[str, int], known: set[str]) -> set[int]:
    needed = set()
    for name in sorted(reads(node)):
        if name in makers:
            needed.add(makers[name])
        elif name not in known:
            raise ImportFailed(
                f"{describe(node, i)} reads {name!r}, which nothing defines",
                hint="the model is damaged, or a tool removed a node or initializer too many",
            )
    return needed


def _order(nodes: Sequence[onnx.NodeProto], needs: list[set[int]]) -> list[int]:
    """Sort with the smallest position first, so that a sorted file keeps its order."""
    users: list[list[int]] = [[] for _ in nodes]
    missing = [len(n) for n in needs]
    for i, needed in enumerate(needs):
        for j in needed:
            users[j].append(i)
    ready = [i for i, n in enumerate(missing) if not n]
    heapify(ready)
    order = []
    while ready:
        i = heappop(ready)
        order.append(i)
        for j in users[i]:
            missing[j] -= 1
            if not missing[j]:
                heappush(ready, j)
    if len(order) < len(nodes):
        raise ImportFailed(f"the graph has a cycle through {_cycle(nodes, needs, set(order))}")
    return order


def _cycle(nodes: Sequence[onnx.NodeProto], needs: list[set[int]], done: set[int]) -> str:
    i = next(k for k in range(len(nodes)) if k not in done)
    path: list[int] = []
    while i not in path:
        path.append(i)
        i = min(needs[i] - done)
    members = path[path.index(i) :][::-1]
    return " -> ".join(describe(nodes[k], k) for k in (*members, members[0]))
