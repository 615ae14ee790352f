"""Layers that plugins compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lamina.ir.attributes import attribute_symbols
from lamina.ir.graph import Value
from lamina.ops import PluginCall
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.state import NetworkState
from lamina.tensorrt.network.tensor import ITensor
from lamina.tensorrt.plugin_api.calls import call_v2, call_v3
from lamina.tensorrt.plugin_api.composed import ComposedPlugin


def emit_call(e: LayerEmitter, op: PluginCall, inputs: Sequence[Value]) -> Sequence[Value]:
    """Emit the operator of a plugin, which defines the symbols that its results bring."""
    e.defines(s for t in op.output_types for s in attribute_symbols(t))
    return e.emit_all(op, *inputs)


class IPluginV2Layer(ILayer):
    """A plugin of the second generation."""

    _kind = "PLUGIN_V2"

    def __init__(self, state: NetworkState, inputs: Sequence[ITensor | None], plugin: Any) -> None:
        super().__init__(state, inputs)
        self._plugin = plugin

    @property
    def plugin(self) -> Any:
        """The plugin."""
        return self._plugin

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        present = [v for v in inputs if v is not None]
        if isinstance(self._plugin, ComposedPlugin):
            return self._plugin.compose(e, *present)
        return emit_call(e, call_v2(self._plugin, [v.tensor for v in present]), present)


class IPluginV3Layer(ILayer):
    """A plugin of the third generation; operands of shape tensors come last."""

    _kind = "PLUGIN_V3"
    _shape_operands: ClassVar[frozenset[int]] = frozenset()

    def __init__(
        self,
        state: NetworkState,
        inputs: Sequence[ITensor],
        shape_inputs: Sequence[ITensor],
        plugin: Any,
    ) -> None:
        super().__init__(state, [*inputs, *shape_inputs])
        self._plugin = plugin
        self._count = len(inputs)
        shapes = frozenset(range(self._count, self._count + len(shape_inputs)))
        self.__dict__["_shape_operands"] = shapes

    @property
    def plugin(self) -> Any:
        """The plugin."""
        return self._plugin

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        present = [v for v in inputs if v is not None]
        data, shapes = present[: self._count], present[self._count :]
        elements = [e.dims(v) for v in shapes]
        op = call_v3(self._plugin, [v.tensor for v in data], elements, e.count)
        return emit_call(e, op, present)


__all__ = ["IPluginV2Layer", "IPluginV3Layer"]
