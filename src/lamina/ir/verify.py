"""Check that a graph keeps the promises of the IR."""

from __future__ import annotations

from lamina.errors import GraphError, where
from lamina.ir.graph import Graph, Value


def verify(graph: Graph) -> None:
    """Raise GraphError unless the graph is acyclic, closed, correctly typed and linked.

    Every node is typed again; nested graphs are checked too.
    """
    known: set[Value] = set(graph.inputs)
    if len(graph.outputs) != len(graph.output_names):
        raise GraphError(f"{len(graph.outputs)} outputs but {len(graph.output_names)} names")
    names = [v.name for v in graph.inputs]
    if len(set(names)) != len(names):
        raise GraphError(f"two inputs have the same name: {sorted(names)}")
    for node in graph.nodes():
        with where(f"at {node}"), where(f"from {node.loc}"):
            for v in node.inputs:
                if v not in known:
                    raise GraphError(f"%{v.name} is used but neither an input nor computed")
                if node not in v.users:
                    raise GraphError(f"%{v.name} does not know that this node uses it")
            inferred = node.op.infer(*(v.type for v in node.inputs))
            types = inferred if isinstance(inferred, tuple) else (inferred,)
            have = tuple(v.type for v in node.outputs)
            if types != have:
                raise GraphError(f"types are {_show(have)}, the operator gives {_show(types)}")
            for value in vars(node.op).values():
                if isinstance(value, Graph):
                    verify(value)
        known.update(node.outputs)
    for v, name in zip(graph.outputs, graph.output_names, strict=True):
        if v not in known:
            raise GraphError(f"output {name!r} is neither an input nor computed")


def _show(types: tuple[object, ...]) -> str:
    return ", ".join(map(str, types))
