"""Copies of graphs, with symbols replaced by numbers where wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from lamina.ir.attributes import substitute_attribute
from lamina.ir.dims import Dim
from lamina.ir.graph import Graph, Op, Value
from lamina.passes.cleanup import emit_copy


def specialize(graph: Graph, symbols: Mapping[str, int]) -> Graph:
    """Return a new graph in which each named symbol is a number, in types and attributes.

    Every node is emitted and typed again, in nested graphs too; constants share their arrays.
    Raises TypeMismatch when the numbers contradict the graph.
    """
    symbols = {**graph.bound, **symbols}
    env: dict[str, Dim] = {**symbols}
    result = Graph(name=graph.name)
    values: dict[Value, Value] = {}
    for v in graph.inputs:
        values[v] = result.input(v.name, substitute_attribute(v.type, env), v.loc)
    for node in graph.nodes():
        new = emit_copy(_specialize_op(node.op, symbols), [values[v] for v in node.inputs], node)
        values.update(zip(node.outputs, new.outputs, strict=True))
    result.outputs = [values[v] for v in graph.outputs]
    result.output_names = list(graph.output_names)
    result.definers = {s: values[v] for s, v in graph.definers.items() if s not in symbols}
    return result


def copy(graph: Graph) -> Graph:
    """Return an equal graph that shares nothing mutable with the original."""
    return specialize(graph, {})


def _specialize_op(op: Op, symbols: Mapping[str, int]) -> Op:
    env: dict[str, Dim] = {**symbols}
    nested = {
        f.name: specialize(value, symbols)
        for f in fields(op)
        if isinstance(value := getattr(op, f.name), Graph)
    }
    substituted = op.substitute(env) if env else op
    return replace(substituted, **nested) if nested else substituted
