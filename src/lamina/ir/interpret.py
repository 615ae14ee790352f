"""Run a graph with the reference meaning of its operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lamina.errors import GraphError, LaminaError
from lamina.ir import dims
from lamina.ir.dims import Dim, Expr, evaluate
from lamina.ir.graph import Graph, Node, Value
from lamina.ir.types import TensorType

Observer = Callable[[Node, tuple[Any, ...]], None]


def bind_shape(type: TensorType, shape: Sequence[int], env: dict[str, int], what: str) -> None:
    """Give unbound symbols of ``type`` their value and check every other dimension.

    Raises GraphError naming ``what`` when the array's shape contradicts the type.
    """
    if len(shape) != type.rank:
        raise GraphError(f"{what} has {len(shape)} dimensions, expected {type.rank} ({type})")
    for axis, (d, n) in enumerate(zip(type.shape, shape, strict=True)):
        if isinstance(d, Expr) and (name := _bare(d)) is not None and name not in env:
            env[name] = int(n)
        elif not _unknown(d, env) and evaluate(d, env) != n:
            size = f"{d} = {evaluate(d, env)}" if isinstance(d, Expr) else str(d)
            raise GraphError(f"{what} has size {n} on axis {axis}, expected {size}")


def interpret(
    graph: Graph,
    inputs: Sequence[Any],
    *,
    symbols: Mapping[str, int] | None = None,
    observe: Observer | None = None,
) -> list[Any]:
    """Evaluate ``graph`` node by node with NumPy.

    ``observe`` sees each node with its results.  Values are dropped after their last use.
    """
    env: dict[str, int] = {**graph.bound, **(symbols or {})}
    values: dict[Value, Any] = {}
    for v, x in zip(graph.inputs, inputs, strict=True):
        values[v] = x
        if isinstance(v.type, TensorType):
            bind_shape(v.type, x.shape, env, f"input {v.name!r}")
    order = list(graph.nodes())
    last = {v: i for i, node in enumerate(order) for v in node.inputs}
    keep = set(graph.outputs)
    for i, node in enumerate(order):
        results = run_node(node, [values[v] for v in node.inputs], env)
        for v, r in zip(node.outputs, results, strict=True):
            values[v] = r
        if observe is not None:
            observe(node, results)
        for v in node.inputs:
            if last[v] == i and v not in keep:
                values.pop(v, None)
    return [values[v] for v in graph.outputs]


def run_node(node: Node, operands: Sequence[Any], env: dict[str, int]) -> tuple[Any, ...]:
    """Evaluate one node; symbols that it defines are added to ``env``."""
    try:
        env.update(node.op.binds(*operands))
        known: dict[str, Dim] = {**env}
        result = node.op.substitute(known).reference(*operands)
        results = result if isinstance(result, tuple) else (result,)
        for v, r in zip(node.outputs, results, strict=True):
            if isinstance(v.type, TensorType):
                bind_shape(v.type, r.shape, env, f"result of {node.op.name}")
    except LaminaError as e:
        # Printing a node is slow (host calls carry whole models), so only failures pay for it.
        e.where.append(f"at {node}")
        raise
    return results


def _bare(d: Expr) -> str | None:
    (mono, c), *rest = d.terms
    if rest or c != 1 or len(mono) != 1 or mono[0].kind != "sym":
        return None
    return mono[0].name


def _unknown(d: Dim, env: Mapping[str, int]) -> bool:
    return any(s not in env for s in dims.symbols(d))
