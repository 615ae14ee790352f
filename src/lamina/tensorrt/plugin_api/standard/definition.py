"""A standard plugin: attributes with defaults, and an ONNX function that says what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from lamina.errors import GraphError
from lamina.importers.onnx.importer import inline
from lamina.importers.onnx.node import OnnxNode
from lamina.ir.graph import Value
from lamina.tensorrt.plugin_api.composed import ComposedPlugin
from lamina.tensorrt.plugin_api.fields import PluginField, PluginFieldCollection_, values
from lamina.tensorrt.plugin_api.v2 import IPluginCreator

Attributes = Mapping[str, Any]
Body = Callable[[Attributes, Sequence[Value]], str]
"""Returns an ONNX function in text form for attributes and operands."""

_HEADER = '<domain: "lamina", opset_import: ["" : 21]>\n'


@dataclass(frozen=True)
class Definition:
    """Name, versions, attributes with defaults, number of results, and meaning."""

    name: str
    attributes: Attributes
    body: Body
    outputs: int = 1
    version: str = "1"


class StandardPlugin(ComposedPlugin):
    """A standard plugin with its attributes."""

    def __init__(self, definition: Definition, attributes: dict[str, Any]) -> None:
        super().__init__({**definition.attributes, **attributes})
        self.definition = definition
        self.plugin_type, self.plugin_version = definition.name, definition.version
        self.num_outputs = definition.outputs

    def compose(self, e: OnnxNode, *inputs: Value) -> Sequence[Value]:
        """Emit the function's operators and return the results."""
        text = _HEADER + self.definition.body(self.attributes, inputs)
        function = onnx.parser.parse_function(text)
        outputs = [f"result_{i}" for i in range(self.definition.outputs)]
        call = onnx.NodeProto(op_type=self.definition.name, name=e.proto.name)
        call.output.extend(outputs)
        node = OnnxNode(call, {}, e.opset, e.loc, e.scope, list(inputs))
        return inline(node, function, {})


class StandardCreator(IPluginCreator):
    """Makes a standard plugin."""

    def __init__(self, definition: Definition) -> None:
        super().__init__()
        self._definition = definition
        self.name, self.plugin_version = definition.name, definition.version
        self.plugin_namespace = ""
        self.field_names = PluginFieldCollection_(PluginField(n) for n in definition.attributes)

    def create_plugin(self, name: str, field_collection: PluginFieldCollection_) -> Any:
        """Return the plugin; raises GraphError for an attribute that it does not have."""
        given = values(field_collection)
        if unknown := sorted(given.keys() - self._definition.attributes.keys()):
            raise GraphError(
                f"plugin {self.name} has no attribute {unknown[0]!r}",
                hint=f"it has {', '.join(self._definition.attributes)}",
            )
        return StandardPlugin(self._definition, given)

    def deserialize_plugin(self, name: str, serialized_plugin: bytes) -> Any:
        """Return the plugin with its defaults: plans hold its operators and not the plugin."""
        return StandardPlugin(self._definition, {})


def numbers(value: Any) -> list[Any]:
    """Return an attribute that may be one number or a list as a list."""
    return list(value) if isinstance(value, list | tuple) else [value]


def sizes(value: Value) -> tuple[int, ...]:
    """Return the sizes of an operand; raises GraphError for dynamic ones."""
    if not value.tensor.is_static:
        raise GraphError(f"the plugin needs known sizes, got {value.tensor}")
    return value.tensor.static_shape
