"""Finds the bodies of operators that are functions, in the model or by ONNX's own definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.tensors import NUMBERS
from lamina.importers.onnx.value_types import type_proto
from lamina.ir.graph import Value

_ONNX_NAMES = {
    dtype: onnx.TensorProto.DataType.Name(number).lower()
    for dtype, number in NUMBERS.items()
    if number in onnx.TensorProto.DataType.values()
}
"""Element types as ONNX writes them in the type constraints of its operators."""


def resolve_attributes(
    proto: onnx.NodeProto, arguments: Mapping[str, onnx.AttributeProto]
) -> dict[str, onnx.AttributeProto]:
    """Return the attributes of a node; references to the function's arguments are replaced."""
    resolved = {}
    for attribute in proto.attribute:
        if not attribute.ref_attr_name:
            resolved[attribute.name] = attribute
        elif attribute.ref_attr_name in arguments:
            copy = onnx.AttributeProto()
            copy.CopyFrom(arguments[attribute.ref_attr_name])
            copy.name = attribute.name
            resolved[attribute.name] = copy
    return resolved


def arguments_of(
    function: onnx.FunctionProto,
    given: Mapping[str, onnx.AttributeProto],
    schema: onnx.defs.OpSchema | None = None,
) -> dict[str, onnx.AttributeProto]:
    """Return the attributes that a function's body sees: those given and the defaults."""
    arguments = {a.name: a for a in function.attribute_proto}
    if schema is not None:
        for name, attribute in schema.attributes.items():
            if attribute.default_value.name:
                arguments[name] = attribute.default_value
    arguments.update(given)
    return arguments


def find_schema(domain: str, op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    """Return ONNX's definition of an operator at this opset, None for an unknown operator."""
    try:
        return onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None


def accepts(schema: onnx.defs.OpSchema, inputs: Sequence[Any]) -> bool:
    """Whether ONNX allows the element types of ``inputs``, which are tensors or absent."""
    formal = list(schema.inputs)
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    chosen: dict[str, str] = {}
    for i, v in enumerate(inputs):
        if v is None:
            continue
        parameter = formal[min(i, len(formal) - 1)]
        name = f"tensor({_ONNX_NAMES.get(v.type.dtype, '')})"
        if name not in allowed.get(parameter.type_str, [parameter.type_str]):
            return False
        if parameter.is_homogeneous and chosen.setdefault(parameter.type_str, name) != name:
            return False
    return True


def schema_body(
    schema: onnx.defs.OpSchema, node: OnnxNode, inputs: list[Value | None]
) -> onnx.FunctionProto | None:
    """Return the body by which ONNX defines the operator, None when it has none."""
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= node.opset]
        if versions:
            return _parse(schema.get_function_with_opset_version(max(versions)))
    if not schema.has_context_dependent_function:
        return None
    versions = [v for v in schema.context_dependent_function_opset_versions if v <= node.opset]
    if not versions:
        return None
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.attribute[:]
    proto.attribute.extend(node.attributes.values())
    types = [onnx.TypeProto() if v is None else type_proto(v.type) for v in inputs]
    body = schema.get_context_dependent_function_with_opset_version(
        max(versions), proto.SerializeToString(), [t.SerializeToString() for t in types]
    )
    return _parse(body)


def _parse(body: bytes | onnx.FunctionProto) -> onnx.FunctionProto | None:
    if isinstance(body, onnx.FunctionProto):
        return body
    if not body:
        return None
    return onnx.FunctionProto.FromString(body)
