"""Plugins that are operators of Lamina's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from lamina.importers.onnx.node import OnnxNode
from lamina.ir.graph import Value
from lamina.tensorrt.plugin_api.v2 import IPluginV2DynamicExt


class ComposedPlugin(IPluginV2DynamicExt):
    """A plugin that needs no code of its own: it is lowered to operators."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        super().__init__()
        self.attributes = attributes

    @abstractmethod
    def compose(self, e: OnnxNode, *inputs: Value) -> Sequence[Value]:
        """Emit operators and return the results."""

    def clone(self) -> ComposedPlugin:
        """Return this plugin: it never changes."""
        return self
