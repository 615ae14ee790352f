"""ONNX nodes that are plugins: their operator is the name of a registered creator."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from lamina.errors import Unsupported
from lamina.importers.onnx import TABLE
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.plugins import simple_attributes
from lamina.ir.attributes import attribute_symbols
from lamina.ir.graph import Value
from lamina.ops import PluginCall
from lamina.tensorrt.enums import TensorRTPhase
from lamina.tensorrt.plugin_api import quick
from lamina.tensorrt.plugin_api.calls import asking, call_v2, call_v3
from lamina.tensorrt.plugin_api.composed import ComposedPlugin
from lamina.tensorrt.plugin_api.fields import PluginField, PluginFieldCollection_
from lamina.tensorrt.plugin_api.quick_creators import DecoratedCreator
from lamina.tensorrt.plugin_api.registry import find_creators
from lamina.tensorrt.plugin_api.v2 import IPluginCreator, IPluginCreatorInterface
from lamina.tensorrt.plugin_api.v3_quick import create

_ABOUT = ("plugin_version", "plugin_namespace", "aot")


class PluginNodes:
    """Imports nodes by registered plugins; with ``override`` also those that Lamina knows."""

    def __init__(self, *, override: bool) -> None:
        self._override = override

    def __call__(self, node: OnnxNode, domain: str) -> Sequence[Any] | None:
        """Return the results of a plugin; None where the node is no plugin."""
        name = node.proto.op_type
        known = not domain and TABLE.find(name, node.opset) is not None
        if known and not self._override:
            return None
        decorated = quick.PLUGINS.get(f"{_namespace(node, domain)}::{name}")
        if decorated is not None:
            return _decorated(node, decorated)
        creator = _creator(node)
        return None if creator is None else _created(node, creator)


def _creator(node: OnnxNode) -> IPluginCreatorInterface | None:
    version = node.text("plugin_version", "")
    for creator in find_creators(node.proto.op_type):
        if version in ("", str(creator.plugin_version)):
            return creator
    return None


def _namespace(node: OnnxNode, domain: str) -> str:
    return node.text("plugin_namespace", "") or domain


def _attributes(node: OnnxNode) -> dict[str, Any]:
    return {k: v for k, v in simple_attributes(node).items() if k not in _ABOUT}


def _inputs(node: OnnxNode) -> list[Value]:
    if any(v is None for v in node.inputs):
        raise Unsupported("plugins take no absent operands")
    return list(node.inputs)


def _decorated(node: OnnxNode, plugin: quick.QuickPlugin) -> Sequence[Any]:
    inputs = _inputs(node)
    aot = node.attributes.get("aot")
    way = quick.EITHER if aot is None else quick.AOT if aot.i else quick.JIT
    attributes = {**_defaults(plugin), **_attributes(node)}
    found = quick.operator(plugin, [v.tensor for v in inputs], attributes, node.count, way)
    return _emit(node, found, inputs)


def _defaults(plugin: quick.QuickPlugin) -> dict[str, Any]:
    given = plugin.attributes.items()
    return {k: quick.plain(v) for k, v in given if v is not inspect.Parameter.empty}


def _created(node: OnnxNode, creator: IPluginCreatorInterface) -> Sequence[Any]:
    if isinstance(creator, DecoratedCreator):
        return _decorated(node, quick.PLUGINS[creator.plugin_id])
    inputs = _inputs(node)
    fields = PluginFieldCollection_(
        PluginField(name, _data(value)) for name, value in _attributes(node).items()
    )
    name = node.proto.name
    if isinstance(creator, IPluginCreator):
        with asking(creator, "create_plugin"):
            plugin = creator.create_plugin(name, fields)
        if isinstance(plugin, ComposedPlugin):
            return plugin.compose(node, *inputs)
        return _emit(node, call_v2(plugin, [v.tensor for v in inputs]), inputs)
    with asking(creator, "create_plugin"):
        plugin = create(creator, name, fields, TensorRTPhase.named("BUILD"))
    op = call_v3(plugin, [v.tensor for v in inputs], [], node.count)
    return _emit(node, op, inputs)


def _emit(node: OnnxNode, op: PluginCall, inputs: Sequence[Value]) -> Sequence[Value]:
    node.defines(s for t in op.output_types for s in attribute_symbols(t))
    return node.emit_all(op, *inputs)


def _data(value: Any) -> Any:
    """Return an attribute as ONNX's parser gives it to plugins: f32, i32 or text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and isinstance(value[0], str):
        return json.dumps(value)
    array = np.atleast_1d(np.asarray(value))
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
