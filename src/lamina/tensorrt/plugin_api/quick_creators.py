"""Decorated plugins in the registry: creators that programs can ask for."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamina.errors import GraphError
from lamina.tensorrt.enums import QuickPluginCreationRequest, TensorRTPhase
from lamina.tensorrt.plugin_api.fields import PluginField, PluginFieldCollection_, values
from lamina.tensorrt.plugin_api.quick import AOT, EITHER, JIT, PLUGINS, QuickPlugin, plain
from lamina.tensorrt.plugin_api.registry import REGISTRY
from lamina.tensorrt.plugin_api.v3 import IPluginV3
from lamina.tensorrt.plugin_api.v3_quick import (
    IPluginCreatorV3Quick,
    IPluginV3QuickBuild,
    IPluginV3QuickCore,
    IPluginV3QuickRuntime,
)

_WAYS = {"STRICT_AOT": AOT, "PREFER_AOT": AOT, "STRICT_JIT": JIT, "PREFER_JIT": JIT}


class DecoratedPlugin(IPluginV3, IPluginV3QuickCore, IPluginV3QuickBuild, IPluginV3QuickRuntime):
    """A decorated plugin with its attributes, as its creator makes it."""

    def __init__(self, plugin: QuickPlugin, attributes: dict[str, Any], way: str) -> None:
        super().__init__()
        self.definition, self.attributes, self.way = plugin, attributes, way
        self.plugin_namespace, _, self.plugin_name = plugin.name.partition("::")
        self.plugin_version = "1"

    def clone(self) -> DecoratedPlugin:
        """Return a copy."""
        return DecoratedPlugin(self.definition, dict(self.attributes), self.way)

    def get_fields_to_serialize(self) -> PluginFieldCollection_:
        """Return the attributes with which the creator makes the plugin again."""
        decoded = self.definition.decoded(self.attributes)
        return PluginFieldCollection_(PluginField(n, _data(v)) for n, v in decoded.items())


class DecoratedCreator(IPluginCreatorV3Quick):
    """Makes a decorated plugin."""

    def __init__(self, plugin_id: str) -> None:
        super().__init__()
        self.plugin_id = plugin_id
        self.plugin_namespace, _, self.name = plugin_id.partition("::")
        self.plugin_version = "1"
        names = PLUGINS[plugin_id].attributes
        self.field_names = PluginFieldCollection_(PluginField(n) for n in names)

    def create_plugin(
        self,
        name: str,
        namespace: str,
        field_collection: PluginFieldCollection_,
        phase: TensorRTPhase,
        quick_plugin_creation_request: QuickPluginCreationRequest | None = None,
    ) -> DecoratedPlugin:
        """Return the plugin; raises GraphError for an attribute that it lacks, or has not got."""
        plugin = PLUGINS[self.plugin_id]
        given = values(field_collection)
        if unknown := sorted(given.keys() - plugin.attributes.keys()):
            raise GraphError(
                f"plugin {self.plugin_id!r} has no attribute {unknown[0]!r}",
                hint=f"it has {', '.join(plugin.attributes) or 'none'}",
            )
        request = quick_plugin_creation_request
        way = EITHER if request is None else _WAYS.get(request.name, EITHER)
        if request is not None and request.name == "PREFER_AOT" and plugin.compile is None:
            way = EITHER
        return DecoratedPlugin(plugin, {k: plain(v) for k, v in given.items()}, way)


def make_known(plugin_id: str) -> None:
    """Put a decorated plugin into the registry, in the place of one that was decorated before."""
    creator = DecoratedCreator(plugin_id)
    key = (creator.name, creator.plugin_version, creator.plugin_namespace)
    known = REGISTRY._creators.get(key)
    if known is None or isinstance(known, DecoratedCreator):
        REGISTRY._creators[key] = creator


def _data(value: Any) -> Any:
    return value if isinstance(value, str | bytes | np.ndarray) else np.array([value])


__all__: list[str] = []
