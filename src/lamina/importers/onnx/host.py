"""Lowers what has no importer to a call of ONNX's own evaluator on the host.

Values whose rank is not known (elements of sequences, mostly) have no type in our graph.  The nodes
that make them wait, as a :class:`Deferred`, until a node or an output of known type ends the chain;
then all of them run in one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx.reference import ReferenceEvaluator

from lamina import ops
from lamina.errors import Unsupported
from lamina.importers.onnx.functions import find_schema
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.tensors import dtype_of
from lamina.importers.onnx.topology import free_names, subgraphs
from lamina.importers.onnx.value_types import type_proto
from lamina.ir.attributes import attribute_symbols
from lamina.ir.dims import Dim, parse_dim
from lamina.ir.graph import Value
from lamina.ir.types import OptionalType, SequenceType, TensorType, ValueType

LARGE_SIZE = 1 << 24
"""Larger sizes are hidden from shape inference, whose time may grow with them."""

RANDOM = frozenset({"Bernoulli", "Dropout", "Multinomial"})
"""Operators whose results are drawn each time they run, where they are a part of a host call."""

SMALL_ELEMENTS = 1024
"""Constants up to this size take part in shape inference with their contents."""


@dataclass(frozen=True, eq=False)
class Deferred:
    """A value without a type: the nodes that compute it, and the values that they read."""

    name: str
    nodes: tuple[onnx.NodeProto, ...]
    inputs: Mapping[str, Value]


def call(node: OnnxNode, domain: str, inputs: Sequence[Any]) -> list[Any]:
    """Return the results of running ``node`` on the host: values, or Deferred ones.

    Raises Unsupported when ONNX does not know or cannot evaluate the operator.
    """
    if find_schema(domain, node.proto.op_type, node.opset) is None:
        raise Unsupported("ONNX does not define this operator")
    proto, closure = _renamed(node, inputs)
    model = _model(node, (*closure.nodes, proto), closure.inputs)
    _check_runs(model)
    types = _inferred(node, model, proto)
    typed = {i: t for i, t in enumerate(types) if proto.output[i] and t is not None}
    results: list[Any] = [
        Deferred(name, (*closure.nodes, proto), closure.inputs) if name else None
        for name in proto.output
    ]
    if typed:
        names = [proto.output[i] for i in typed]
        values = _emit(node, model, names, list(typed.values()), closure.inputs)
        for i, value in zip(typed, values, strict=True):
            results[i] = value
    return results


def finish(node: OnnxNode, deferred: Deferred, declared: ValueType) -> Value:
    """Run what a deferred value waits for, now that its type is declared."""
    model = _model(node, deferred.nodes, deferred.inputs)
    node.defines(attribute_symbols(declared))
    (value,) = _emit(node, model, [deferred.name], [declared], deferred.inputs)
    return value


def _renamed(node: OnnxNode, inputs: Sequence[Any]) -> tuple[onnx.NodeProto, Deferred]:
    """Return a copy of the node with names of our own, and everything that it needs."""
    session = node.scope.session
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.attribute[:], proto.input[:], proto.output[:]
    proto.attribute.extend(node.attributes.values())
    needed: dict[str, Value] = {}
    before: dict[int, onnx.NodeProto] = {}
    for value in inputs:
        proto.input.append(_input_name(session.host_names, value))
        _collect(value, proto.input[-1], needed, before)
    for graph in subgraphs(proto):
        for name in sorted(free_names(graph)):
            _collect(node.scope.lookup(name), name, needed, before)
    for name in node.proto.output:
        proto.output.append(f"_host_y{len(session.host_names)}" if name else "")
        session.host_names[proto.output[-1]] = ""
    return proto, Deferred("", tuple(before.values()), needed)


def _input_name(names: dict[Any, str], value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Deferred):
        return value.name
    return names.setdefault(value, f"_host_x{len(names)}")


def _collect(
    value: Any, name: str, needed: dict[str, Value], before: dict[int, onnx.NodeProto]
) -> None:
    if isinstance(value, Deferred):
        before.update({id(n): n for n in value.nodes})
        needed.update(value.inputs)
    elif isinstance(value, Value):
        needed[name] = value


def _model(
    node: OnnxNode, nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Value]
) -> onnx.ModelProto:
    model = onnx.ModelProto(ir_version=node.scope.session.model.ir_version or 8)
    for domain, version in node.scope.opsets.items():
        model.opset_import.add(domain=domain, version=version)
    model.graph.name = node.proto.op_type
    model.graph.node.extend(nodes)
    for name, value in inputs.items():
        model.graph.input.add(name=name).type.CopyFrom(type_proto(value.type))
    return model


def _check_runs(model: onnx.ModelProto) -> None:
    try:
        ReferenceEvaluator(model)
    except Exception as e:
        raise Unsupported(f"ONNX's evaluator does not implement it ({_first_line(e)})") from e


def _inferred(
    node: OnnxNode, model: onnx.ModelProto, proto: onnx.NodeProto
) -> list[ValueType | None]:
    """Return the type of each output as far as ONNX or the model tells it."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    for v in probe.graph.input:
        for d in v.type.tensor_type.shape.dim:
            if d.dim_value > LARGE_SIZE:
                d.ClearField("value")
    constants = {v.name: v for v in probe.graph.input}
    for name, value in zip(proto.input, node.inputs, strict=False):
        known = node.known(value) if isinstance(value, Value) else None
        if known is not None and known.size <= SMALL_ELEMENTS and name in constants:
            probe.graph.initializer.append(onnx.numpy_helper.from_array(known, name))
    for name in proto.output:
        if name:
            probe.graph.output.add(name=name)
    try:
        inferred = onnx.shape_inference.infer_shapes(probe, strict_mode=True, data_prop=True)
    except Exception as e:
        raise Unsupported(f"its types cannot be inferred ({_first_line(e)})") from e
    found = {v.name: v.type for v in (*inferred.graph.output, *inferred.graph.value_info)}
    known_dims = {
        d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim if d.dim_param
    }
    types: list[ValueType | None] = []
    for ours, name in zip(proto.output, node.proto.output, strict=True):
        reader = _TypeReader(node, known_dims, name)
        type_ = reader.read(found[ours]) if ours in found else None
        if type_ is None:
            type_ = node.scope.declared_type(name)
            node.defines(attribute_symbols(type_))
        types.append(type_)
    return types


class _TypeReader:
    """Converts inferred types; sizes that inference leaves open become symbols."""

    def __init__(self, node: OnnxNode, known: set[str], name: str) -> None:
        self.node = node
        self.known = known
        self.name = name
        self.fresh: dict[str, Dim] = {}

    def read(self, proto: onnx.TypeProto) -> ValueType | None:
        """Return the type, None when it leaves the rank or the element type open."""
        kind = proto.WhichOneof("value")
        if kind == "tensor_type":
            tensor = proto.tensor_type
            if not tensor.elem_type or not tensor.HasField("shape"):
                return None
            shape = tuple(self._dim(i, d) for i, d in enumerate(tensor.shape.dim))
            return TensorType(dtype_of(tensor.elem_type), shape)
        if kind not in ("sequence_type", "optional_type"):
            return None
        element = self.read(getattr(proto, kind).elem_type)
        if element is None:
            return None
        return SequenceType(element) if kind == "sequence_type" else OptionalType(element)

    def _dim(self, axis: int, d: onnx.TensorShapeProto.Dimension) -> Dim:
        if d.HasField("dim_value"):
            return int(d.dim_value)
        if d.dim_param in self.known:
            return parse_dim(d.dim_param)
        hint = f"{self.name}_dim{axis}"
        key = d.dim_param or hint
        if key not in self.fresh:
            self.fresh[key] = self.node.count(hint)
        return self.fresh[key]


def _emit(
    node: OnnxNode,
    model: onnx.ModelProto,
    names: Sequence[str],
    types: Sequence[ValueType],
    inputs: Mapping[str, Value],
) -> tuple[Value, ...]:
    final = onnx.ModelProto()
    final.CopyFrom(model)
    for name, type_ in zip(names, types, strict=True):
        final.graph.output.add(name=name).type.CopyFrom(type_proto(type_))
    op = ops.HostCall(
        model=final.SerializeToString(deterministic=True),
        output_types=tuple(types),
        deterministic=not any(n.op_type in RANDOM for n in model.graph.node),
    )
    return node.emit_all(op, *inputs.values())


def _first_line(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:200]
