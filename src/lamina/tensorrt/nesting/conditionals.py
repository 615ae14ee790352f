"""Conditionals as If operators with nested graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina import ops
from lamina.errors import GraphError
from lamina.importers.onnx.control import closed_branch, inner_scope, joined_types
from lamina.importers.onnx.scope import Scope
from lamina.ir.graph import Graph, Value
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.lowering.walk import key

if TYPE_CHECKING:
    from lamina.tensorrt.nesting.build_walk import BuildWalk
    from lamina.tensorrt.network.control import IIfConditional


def lower_conditional(walk: BuildWalk, e: LayerEmitter, conditional: IIfConditional) -> None:
    """Lower a conditional with both branches and remember its results."""
    scope = e.scope
    if conditional._condition is None:
        raise GraphError("it has no condition", hint="call set_condition")
    tensor = conditional._condition._inputs[0]
    assert tensor is not None
    condition: Value = e.reshape(scope.lookup(key(tensor)), ())
    known = e.known(condition)
    if known is not None:
        taken = Scope(walk.session, scope.graph, scope.opsets, parent=scope)
        results = _branch(walk, conditional, taken, 0 if bool(known.item()) else 1)
    else:
        results = _if(walk, e, conditional, condition)
    for output, value in zip(conditional._outputs, results, strict=True):
        walk.finish(LayerEmitter(output, walk, scope), [value], scope)


def _if(
    walk: BuildWalk, e: LayerEmitter, conditional: IIfConditional, condition: Value
) -> tuple[Value, ...]:
    branches = []
    for i, name in enumerate(("then_branch", "else_branch")):
        inner = inner_scope(e, Graph(name=name), name)
        for value in _branch(walk, conditional, inner, i):
            inner.graph.output(value)
        branches.append(inner)
    captures = list(dict.fromkeys(v for inner in branches for v in inner.captures))
    then_graph, else_graph = (closed_branch(inner, captures) for inner in branches)
    op = ops.If(
        then_branch=then_graph,
        else_branch=else_graph,
        output_types=joined_types(e, then_graph, else_graph),
    )
    for graph in (then_graph, else_graph):
        walk.session.release_dead(graph)
    return e.emit_all(op, condition, *captures)


def _branch(
    walk: BuildWalk, conditional: IIfConditional, inner: Scope, index: int
) -> tuple[Value, ...]:
    """Lower one branch in a scope of its own and return its results."""
    walk.inside[inner] = conditional
    for entry in conditional._inputs:
        tensor = entry._inputs[0]
        assert tensor is not None
        inner.values[key(entry._outputs[0])] = inner.lookup(key(tensor))
    results = []
    for output in conditional._outputs:
        tensor = output._inputs[index]
        assert tensor is not None
        results.append(walk.value(tensor, inner))
    return tuple(results)
