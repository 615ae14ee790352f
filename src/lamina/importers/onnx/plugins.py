"""Nodes of a custom domain for which the user has registered a plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx

from lamina import plugins
from lamina.importers.onnx.node import OnnxNode
from lamina.ir.attributes import attribute_symbols

_VALUES: dict[int, Callable[[Any], Any]] = {
    onnx.AttributeProto.INT: lambda a: int(a.i),
    onnx.AttributeProto.FLOAT: lambda a: float(a.f),
    onnx.AttributeProto.STRING: lambda a: a.s.decode(),
    onnx.AttributeProto.INTS: lambda a: [int(v) for v in a.ints],
    onnx.AttributeProto.FLOATS: lambda a: [float(v) for v in a.floats],
    onnx.AttributeProto.STRINGS: lambda a: [v.decode() for v in a.strings],
}


def call(node: OnnxNode, domain: str) -> Sequence[Any] | None:
    """Return the results of a registered plugin; None when none has the node's name."""
    found = plugins.find(f"{domain}::{node.proto.op_type}")
    if found is None:
        return None
    if any(v is None for v in node.inputs):
        raise node.unsupported(f"plugin {found.name!r} takes no absent operands")
    op = found.call([v.tensor for v in node.inputs], simple_attributes(node))
    node.defines(s for t in op.output_types for s in attribute_symbols(t))
    return node.emit_all(op, *node.inputs)


def simple_attributes(node: OnnxNode) -> Mapping[str, Any]:
    """Return numbers, strings and lists of them; Unsupported for attributes of other types."""
    values = {}
    for name, attribute in node.attributes.items():
        if attribute.type not in _VALUES:
            kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
            raise node.unsupported(f"attribute {name} of type {kind} cannot be given to a plugin")
        values[name] = _VALUES[attribute.type](attribute)
    return values
