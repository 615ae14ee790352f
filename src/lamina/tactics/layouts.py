"""Chooses a candidate for every node and a form for every value, reorders counted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from lamina.ir.dims import evaluate, symbols
from lamina.ir.graph import Graph, Node, Op, Value
from lamina.ir.types import TensorType
from lamina.ops import Region
from lamina.schedule.forms import NodeOptions, Option, assign_forms
from lamina.tactics.candidate import Candidate, constant
from lamina.tactics.choices import Choices
from lamina.tactics.form import Form, same_bytes, size_bytes
from lamina.tactics.views import STRIDED_VIEW

_AVOIDED = 1e9
"""Microseconds that no other choice comes near."""


@dataclass(frozen=True, kw_only=True)
class LayoutCosts:
    """What moving data costs on a device, in microseconds.

    A reorder takes ``start`` and its bytes, read and written, at ``bytes_per_microsecond``; a node
    without a candidate runs on the host and takes ``host``.  ``direct`` names source nodes that
    are to move nothing, and before and behind which nothing is to be reordered, where that can be.
    """

    start: float
    bytes_per_microsecond: float
    host: float
    direct: Collection[str] = ()


def choose_layouts(
    graph: Graph,
    choices: Mapping[Node, Choices],
    possible: Callable[[object], Sequence[Form]],
    is_view: Callable[[Node], bool],
    costs: LayoutCosts,
    env: Mapping[str, int],
) -> tuple[dict[Node, Candidate], dict[Value, str]]:
    """Return the candidate of each node that has any, and the form of each value."""
    nodes = list(choices)
    values: dict[Value, int] = {}
    for v in (*graph.inputs, *(v for n in nodes for v in (*n.inputs, *n.outputs))):
        values.setdefault(v, len(values))
    listed = list(values)
    options = [_options(n, values, choices[n], is_view(n), costs) for n in nodes]
    fixed = {values[v]: str(Form.PLAIN) for v in (*graph.inputs, *graph.outputs) if v in values}
    fixed |= {i: str(Form.PLAIN) for i, v in enumerate(listed) if constant(v) is not None}
    forms = [[str(f) for f in possible(v.type)] for v in listed]
    result = assign_forms(options, forms, fixed, _reorder_cost(listed, costs, env))
    chosen = {
        n: choices[n].candidates[i]
        for n, i in zip(nodes, result.chosen, strict=True)
        if choices[n].candidates
    }
    return chosen, dict(zip(listed, result.forms, strict=True))


def _is_direct(v: Value, direct: Collection[str]) -> bool:
    nodes = [*v.users] if v.node is None else [v.node, *v.users]
    return any(n.loc.comes_from(direct) for n in nodes)


def _options(
    node: Node, values: Mapping[Value, int], choices: Choices, is_view: bool, costs: LayoutCosts
) -> NodeOptions:
    is_direct = node.loc.comes_from(costs.direct)
    inputs = tuple(values[v] for v in node.inputs)
    outputs = tuple(values[v] for v in node.outputs)
    if not choices.candidates:
        plain = str(Form.PLAIN)
        cost = 0.0 if is_view else costs.host
        only = Option((plain,) * len(inputs), (plain,) * len(outputs), cost)
        return NodeOptions(inputs, outputs, (only,))
    options = tuple(
        Option(
            tuple(
                None if f is None or constant(v) is not None else str(f)
                for f, v in zip(c.reads, node.inputs, strict=True)
            ),
            tuple(map(str, c.writes)),
            us + (_AVOIDED if is_direct and c.tactic != STRIDED_VIEW else 0.0),
        )
        for c, us in zip(choices.candidates, choices.microseconds, strict=True)
    )
    return NodeOptions(inputs, outputs, options)


def _reorder_cost(
    values: Sequence[Value], costs: LayoutCosts, env: Mapping[str, int]
) -> Callable[[int, str, str], float]:
    def cost(v: int, have: str, need: str) -> float:
        type = values[v].type
        if not isinstance(type, TensorType) or same_bytes(type, have, need):
            return 0.0
        if costs.direct and _is_direct(values[v], costs.direct):
            return _AVOIDED
        size = size_bytes(type, need)
        if any(s not in env for s in symbols(size)):
            return costs.start
        return costs.start + 2 * evaluate(size, env) / costs.bytes_per_microsecond

    return cost


def nested_graphs(graph: Graph) -> list[Graph]:
    """Return a graph and the bodies of its control flow, at any depth."""
    bodies = [b for n in graph.nodes() if not isinstance(n.op, Region) for b in _bodies(n)]
    return [graph, *(g for body in bodies for g in nested_graphs(body))]


def spatial_ranks(graph: Graph, spatial: tuple[type[Op], ...]) -> frozenset[int]:
    """Return the ranks of the first operands of some operators, those in bodies included."""
    nodes = list(graph.nodes())
    found = {n.inputs[0].tensor.rank for n in nodes if isinstance(n.op, spatial)}
    return frozenset(found.union(*(spatial_ranks(b, spatial) for n in nodes for b in _bodies(n))))


def _bodies(node: Node) -> list[Graph]:
    return [v for v in vars(node.op).values() if isinstance(v, Graph)]
