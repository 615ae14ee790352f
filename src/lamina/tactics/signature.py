"""What an operator does, as text: equal texts mean the same work for equal types."""

from __future__ import annotations

from lamina.ir.graph import Graph, Op, Value
from lamina.ops import Const, Region


def signature(op: Op) -> str:
    """Return an operator with its attributes; of a region also what its body does."""
    if not isinstance(op, Region):
        return str(op)
    return f"region {op.kind} {{{_body(op.body)}}}"


def _body(graph: Graph) -> str:
    numbers: dict[Value, str] = {v: f"%{i}" for i, v in enumerate(graph.inputs)}
    lines = []
    for node in graph.nodes():
        op = "const" if isinstance(node.op, Const) else signature(node.op)
        name, *attributes = op.split(" ", 1)
        call = f"{name}({', '.join(numbers[v] for v in node.inputs)})"
        for v in node.outputs:
            numbers[v] = f"%{len(numbers)}"
        lines.append(" ".join((call, *attributes)))
    return "; ".join([*lines, f"return {', '.join(numbers[v] for v in graph.outputs)}"])
