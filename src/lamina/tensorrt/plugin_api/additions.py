"""Methods of networks that add plugins."""

from __future__ import annotations

from typing import Any

from lamina.errors import LaminaError
from lamina.tensorrt.check import checked
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.tensor import ITensor
from lamina.tensorrt.plugin_api.calls import asking, capability
from lamina.tensorrt.plugin_api.layers import IPluginV2Layer, IPluginV3Layer
from lamina.tensorrt.plugin_api.quick import QuickCall, QuickLayer
from lamina.tensorrt.plugin_api.v2 import IPluginV2
from lamina.tensorrt.plugin_api.v3 import IPluginV3


class PluginAdditions(Additions):
    """Adds plugins to a network."""

    @checked
    def add_plugin_v2(self, inputs: list[ITensor], plugin: IPluginV2) -> IPluginV2Layer:
        """Add a plugin of the second generation."""
        layer = IPluginV2Layer(self._state, inputs, plugin)
        return self._add(layer, int(plugin.num_outputs))

    @checked
    def add_plugin_v3(
        self, inputs: list[ITensor], shape_inputs: list[ITensor], plugin: IPluginV3
    ) -> IPluginV3Layer | None:
        """Add a plugin of the third generation; None, reported, for one without parts."""
        try:
            build = capability(plugin, "BUILD")
            with asking(plugin, "num_outputs"):
                count = int(build.num_outputs)
        except LaminaError as e:
            self._state.reporter.error(str(e))
            return None
        return self._add(IPluginV3Layer(self._state, inputs, shape_inputs, plugin), count)

    def add_plugin(self, call: Any, aot: bool | None = None) -> QuickLayer | None:
        """Add what a call of ``tensorrt.plugin.op.<namespace>.<name>`` returned.

        ``aot`` asks for the implementation that is compiled ahead of time (True) or the one in
        Python (False); None takes the one that there is.
        """
        found = call() if callable(call) else call
        if not isinstance(found, QuickCall):
            raise TypeError(
                "add_plugin(): incompatible function arguments: expected what "
                f"tensorrt.plugin.op.<namespace>.<name>(...) returns, got {type(found).__name__}"
            )
        try:
            layer = QuickLayer(self._state, found)
        except LaminaError as e:
            self._state.reporter.error(str(e))
            return None
        return self._add(layer, layer.count)


__all__: list[str] = []
