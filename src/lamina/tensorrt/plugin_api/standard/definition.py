"""A standard plugin: attributes with defaults, and operators that say what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from lamina.errors import GraphError
from lamina.importers.onnx.importer import inline
from lamina.importers.onnx.node import OnnxNode
from lamina.ir.graph import Value
from lamina.tensorrt.enums import PluginFieldType
from lamina.tensorrt.plugin_api.composed import ComposedPlugin
from lamina.tensorrt.plugin_api.fields import PluginField, PluginFieldCollection_, values
from lamina.tensorrt.plugin_api.standard.tensors import Tensor
from lamina.tensorrt.plugin_api.v2 import IPluginCreator

Attributes = Mapping[str, Any]
Body = Callable[[Attributes, Sequence[Value]], str]
"""Returns an ONNX function in text form for attributes and operands."""
Emit = Callable[[OnnxNode, Attributes, Sequence[Value]], Sequence[Value]]
"""Emits operators and returns the results."""

_HEADER = '<domain: "lamina", opset_import: ["" : 21]>\n'
_SMALL = 64
"""Attributes with more elements stay arrays."""


def written(body: Body) -> Emit:
    """Return the meaning that an ONNX function in text form has."""

    def emit(e: OnnxNode, attributes: Attributes, inputs: Sequence[Value]) -> Sequence[Value]:
        function = onnx.parser.parse_function(_HEADER + body(attributes, inputs))
        call = onnx.NodeProto(op_type=e.proto.op_type, name=e.proto.name)
        call.output.extend(function.output)
        node = OnnxNode(call, {}, e.opset, e.loc, e.scope, list(inputs))
        return inline(node, function, {})

    return emit


def composed(body: Callable[..., Tensor | Sequence[Tensor]]) -> Emit:
    """Return the meaning of a function of attributes and tensors, which gives tensors."""

    def emit(e: OnnxNode, attributes: Attributes, inputs: Sequence[Value]) -> Sequence[Value]:
        found = body(attributes, *(Tensor(e, v) for v in inputs))
        return [t.value for t in ([found] if isinstance(found, Tensor) else found)]

    return emit


@dataclass(frozen=True)
class Definition:
    """Name, attributes with defaults, meaning, number of results and versions.

    ``operands`` are the numbers of operands that it takes, any for none.
    """

    name: str
    attributes: Attributes
    emit: Emit
    outputs: int | Callable[[Attributes], int] = 1
    versions: tuple[str, ...] = ("1",)
    operands: tuple[int, ...] = ()


class StandardPlugin(ComposedPlugin):
    """A standard plugin with its attributes."""

    def __init__(self, definition: Definition, version: str, attributes: dict[str, Any]) -> None:
        super().__init__({**definition.attributes, **attributes})
        self.definition = definition
        self.plugin_type, self.plugin_version = definition.name, version
        count = definition.outputs
        self.num_outputs = count if isinstance(count, int) else count(self.attributes)

    def compose(self, e: OnnxNode, *inputs: Value) -> Sequence[Value]:
        """Emit the plugin's operators and return the results."""
        wanted = self.definition.operands
        if wanted and len(inputs) not in wanted:
            raise GraphError(
                f"plugin {self.plugin_type} takes {' or '.join(map(str, wanted))} operands, got "
                f"{len(inputs)}"
            )
        return self.definition.emit(e, self.attributes, inputs)


class StandardCreator(IPluginCreator):
    """Makes a standard plugin."""

    def __init__(self, definition: Definition, version: str) -> None:
        super().__init__()
        self._definition = definition
        self.name, self.plugin_version = definition.name, version
        self.plugin_namespace = ""
        self.field_names = PluginFieldCollection_(
            PluginField(name, None, _element_type(default))
            for name, default in definition.attributes.items()
        )

    def create_plugin(self, name: str, field_collection: PluginFieldCollection_) -> Any:
        """Return the plugin; raises GraphError for an attribute that it does not have."""
        large = {f.name: f._array() for f in field_collection if f.size > _SMALL}
        small = [f for f in field_collection if f.name not in large or isinstance(f.data, str)]
        given = large | values(small)
        if unknown := sorted(given.keys() - self._definition.attributes.keys()):
            raise GraphError(
                f"plugin {self.name} has no attribute {unknown[0]!r}",
                hint=f"it has {', '.join(self._definition.attributes)}",
            )
        return StandardPlugin(self._definition, self.plugin_version, given)

    def deserialize_plugin(self, name: str, serialized_plugin: bytes) -> Any:
        """Return the plugin with its defaults: plans hold its operators and not the plugin."""
        return StandardPlugin(self._definition, self.plugin_version, {})


def _element_type(default: Any) -> PluginFieldType:
    """Return the type that the elements of an attribute have, by its default."""
    kinds = {"i": "INT32", "b": "INT32", "f": "FLOAT32", "U": "CHAR", "S": "CHAR"}
    return PluginFieldType.named(kinds.get(np.asarray(default).dtype.kind, "UNKNOWN"))


def numbers(value: Any) -> list[Any]:
    """Return an attribute that may be one number or several as a list."""
    found: list[Any] = np.atleast_1d(np.asarray(value)).tolist()
    return found


def pair(value: Any) -> list[int]:
    """Return an attribute of two numbers that one may stand for."""
    found = [int(v) for v in numbers(value)]
    return found if len(found) > 1 else found * 2


def sizes(value: Value | Tensor) -> tuple[int, ...]:
    """Return the sizes of an operand; raises GraphError for dynamic ones."""
    found = value.value if isinstance(value, Tensor) else value
    if not found.tensor.is_static:
        raise GraphError(f"the plugin needs known sizes, got {found.tensor}")
    return found.tensor.static_shape


def known(value: Tensor, *axes: int) -> list[int]:
    """Return sizes of some axes; raises GraphError for dynamic ones."""
    found = [value.shape[a] for a in axes]
    if not all(isinstance(d, int) for d in found):
        raise GraphError(f"the plugin needs known sizes along {list(axes)}, got {value.shape}")
    return [int(d) for d in found]  # type: ignore[arg-type]
