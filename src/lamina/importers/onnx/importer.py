"""Walks the nodes of a model and lets each one's importer build the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from lamina.errors import ImportFailed, LaminaError, TypeMismatch, Unsupported, where
from lamina.importers.onnx import functions, host
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.report import NodeReport, Support
from lamina.importers.onnx.scope import Scope
from lamina.importers.onnx.topology import describe, sorted_graph, sorted_nodes
from lamina.ir.graph import Value
from lamina.ir.loc import Loc
from lamina.ir.types import TensorType

MOST_INLINED = 64
"""Functions nested deeper than this are taken for endless recursion."""


class Missing:
    """Stands for a value that an unsupported node would have computed."""


Outcome = tuple[Support, str, Sequence[Any]]


def import_graph(scope: Scope, graph: onnx.GraphProto) -> list[Any]:
    """Import the nodes of ``graph`` and return its outputs; its inputs are in ``scope``."""
    scope.declare(graph)
    outer = scope.parent.names() if scope.parent is not None else ()
    import_nodes(scope, sorted_graph(graph, {*outer, *scope.values}))
    return [_finished(scope, o.name) for o in graph.output]


def import_nodes(scope: Scope, nodes: Sequence[onnx.NodeProto]) -> None:
    """Import ``nodes``, which must be in order, into the graph of ``scope``."""
    for index, proto in enumerate(nodes):
        title = f"{scope.prefix}{describe(proto, index)}"
        with where(f"from {title}"):
            try:
                _import_node(scope, proto, Loc(title))
            except LaminaError:
                raise
            except Exception as e:
                raise ImportFailed(
                    f"the node is malformed: {type(e).__name__}: {e}",
                    hint="check the model with onnx.checker",
                ) from e


def _import_node(scope: Scope, proto: onnx.NodeProto, loc: Loc) -> None:
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    attributes = functions.resolve_attributes(proto, scope.arguments)
    inputs = [scope.lookup(name) for name in proto.input]
    while inputs and inputs[-1] is None:
        inputs.pop()
    node = OnnxNode(proto, attributes, scope.opset(domain), loc, scope, inputs)
    support, reason, results = _translate(node, domain)
    scope.session.report.append(NodeReport(loc.text, proto.op_type, domain, support, reason))
    if len(results) < len(proto.output) and any(proto.output[len(results) :]):
        raise ImportFailed(f"it has {len(results)} results, {len(proto.output)} are named")
    for name, value in zip(proto.output, results, strict=False):
        if name:
            scope.values[name] = value
            if isinstance(value, Value) and not value.name:
                value.name = name


def _translate(node: OnnxNode, domain: str) -> Outcome:
    """Return how the node is handled, why, and its results."""
    report = node.scope.session.report
    mark = len(report)
    reasons: list[str] = []
    inside: list[NodeReport] = []
    mismatch: TypeMismatch | None = None
    for attempt in (_extension, _native, _function, _definition, _host):
        try:
            outcome = attempt(node, domain)
        except Unsupported as e:
            reasons.append(e.args[0])
        except TypeMismatch as e:
            if not _allowed_by_onnx(node, domain):
                raise
            mismatch = mismatch or e
            reasons.append(e.args[0])
        else:
            if outcome is not None:
                support, results = outcome
                return support, "; ".join(reasons), results
        inside += report[mark:]
        del report[mark:]
    if mismatch is not None:
        raise mismatch
    report += [entry for entry in inside if entry.support is Support.UNSUPPORTED]
    return Support.UNSUPPORTED, reasons[-1], [Missing()] * len(node.proto.output)


def _allowed_by_onnx(node: OnnxNode, domain: str) -> bool:
    """Whether ONNX accepts the element types, so that only our operator lacks them."""
    schema = functions.find_schema(domain, node.proto.op_type, node.opset)
    if schema is None or _opaque(node) or not all(_is_tensor(v) for v in node.inputs):
        return False
    return functions.accepts(schema, node.inputs)


def _extension(node: OnnxNode, domain: str) -> tuple[Support, Sequence[Any]] | None:
    if _opaque(node) or not all(_is_tensor(v) for v in node.inputs):
        return None
    for extension in node.scope.session.extensions:
        results = extension(node, domain)
        if results is not None:
            return Support.PLUGIN, results
    return None


def _native(node: OnnxNode, domain: str) -> tuple[Support, Sequence[Any]] | None:
    name = node.proto.op_type if not domain else f"{domain}::{node.proto.op_type}"
    row = node.scope.session.table.find(name, node.opset)
    if row is None or _opaque(node) or (domain and _is_local(node, domain)):
        return None
    row.check(node.inputs)
    results = row.importer(node, *node.inputs)
    return Support.NATIVE, results if isinstance(results, tuple | list) else (results,)


def _is_local(node: OnnxNode, domain: str) -> bool:
    return (domain, node.proto.op_type, node.proto.overload) in node.scope.session.functions


def _function(node: OnnxNode, domain: str) -> tuple[Support, Sequence[Any]] | None:
    key = (domain, node.proto.op_type, node.proto.overload)
    body = node.scope.session.functions.get(key)
    if body is None:
        return None
    return Support.FUNCTION, inline(node, body, functions.arguments_of(body, node.attributes))


def _definition(node: OnnxNode, domain: str) -> tuple[Support, Sequence[Any]] | None:
    """Expand an operator that ONNX defines by a function of other operators."""
    schema = functions.find_schema(domain, node.proto.op_type, node.opset)
    if schema is None or _opaque(node) or not all(_is_tensor(v) for v in node.inputs):
        return None
    body = functions.schema_body(schema, node, node.inputs)
    if body is None:
        return None
    arguments = functions.arguments_of(body, node.attributes, schema)
    return Support.FUNCTION, inline(node, body, arguments)


def _host(node: OnnxNode, domain: str) -> tuple[Support, Sequence[Any]]:
    if any(isinstance(v, Missing) for v in node.inputs):
        if functions.find_schema(domain, node.proto.op_type, node.opset) is None:
            raise Unsupported("ONNX does not define this operator")
        return Support.HOST, [Missing()] * len(node.proto.output)
    return Support.HOST, host.call(node, domain, node.inputs)


def _opaque(node: OnnxNode) -> bool:
    return any(isinstance(v, Missing | host.Deferred) for v in node.inputs)


def _is_tensor(v: Any) -> bool:
    return v is None or isinstance(v.type, TensorType)


def inline(
    node: OnnxNode,
    body: onnx.FunctionProto,
    arguments: dict[str, onnx.AttributeProto],
) -> list[Any]:
    """Import the body of a function in place of ``node`` and return its results."""
    prefix = f"{node.loc.text}/"
    if prefix.count("/") > MOST_INLINED:
        raise ImportFailed(f"function {body.name!r} calls itself")
    if len(node.inputs) > len(body.input):
        raise ImportFailed(
            f"function {body.name!r} takes {len(body.input)} inputs, got {len(node.inputs)}"
        )
    opsets = {**node.scope.opsets, **{o.domain: o.version for o in body.opset_import}}
    inner = Scope(node.scope.session, node.scope.graph, opsets, arguments=arguments, prefix=prefix)
    for i, name in enumerate(body.input):
        inner.values[name] = node.inputs[i] if i < len(node.inputs) else None
    import_nodes(inner, sorted_nodes(list(body.node), set(body.input), ()))
    return [inner.lookup(name) if node.wants(i) else None for i, name in enumerate(body.output)]


def _finished(scope: Scope, name: str) -> Any:
    """Return a graph output, with a type even where only the model's declaration tells it."""
    value = scope.lookup(name)
    if value is None:
        raise ImportFailed(f"graph output {name!r} is absent")
    if not isinstance(value, host.Deferred):
        return value
    declared = scope.declared_type(name)
    loc = Loc(name)
    if declared is None:
        scope.session.report.append(
            NodeReport(name, "output", "", Support.UNSUPPORTED, "its rank is not known")
        )
        return Missing()
    return host.finish(OnnxNode(onnx.NodeProto(), {}, 0, loc, scope, []), value, declared)
