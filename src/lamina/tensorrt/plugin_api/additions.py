"""Methods of networks that add plugins."""

from __future__ import annotations

from typing import Any

from lamina.errors import LaminaError
from lamina.tensorrt.check import checked
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.tensor import ITensor
from lamina.tensorrt.plugin_api.calls import asking, capability
from lamina.tensorrt.plugin_api.layers import IPluginV2Layer, IPluginV3Layer
from lamina.tensorrt.plugin_api.quick import AOT, EITHER, JIT, QuickCall, QuickLayer
from lamina.tensorrt.plugin_api.quick_creators import DecoratedPlugin
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
    ) -> ILayer | None:
        """Add a plugin of the third generation; None, reported, for one without parts."""
        if isinstance(plugin, DecoratedPlugin):
            call = QuickCall(plugin.definition, tuple(inputs), plugin.attributes)
            return self._add_quick(call, plugin.way)
        try:
            build = capability(plugin, "BUILD")
            with asking(plugin, "num_outputs"):
                count = int(build.num_outputs)
        except LaminaError as e:
            self._state.reporter.error(str(e))
            return None
        return self._add(IPluginV3Layer(self._state, inputs, shape_inputs, plugin), count)

    def add_plugin(self, call: Any, aot: bool | None = None) -> ILayer | None:
        """Add what a call of ``tensorrt.plugin.op.<namespace>.<name>`` returned.

        A tuple of operands, shape operands and a plugin may stand in its place.  ``aot`` asks for
        the implementation that is compiled ahead of time (True) or the one in Python (False); None
        takes the one that there is, or as the network's flags say.
        """
        found = call() if callable(call) else call
        if isinstance(found, tuple) and len(found) == 3 and isinstance(found[2], IPluginV3):
            return self.add_plugin_v3(list(found[0]), list(found[1]), found[2])
        if not isinstance(found, QuickCall):
            raise TypeError(
                "add_plugin(): incompatible function arguments: expected what "
                f"tensorrt.plugin.op.<namespace>.<name>(...) returns, got {type(found).__name__}"
            )
        way = self._wanted_way(found) if aot is None else AOT if aot else JIT
        return self._add_quick(found, way)

    def _wanted_way(self, call: QuickCall) -> str:
        """Return the implementation that the network's flags prefer, if the plugin has it."""
        if "PREFER_AOT_PYTHON_PLUGINS" in self._state.flags and call.plugin.compile:
            return AOT
        if "PREFER_JIT_PYTHON_PLUGINS" in self._state.flags and call.plugin.implement:
            return JIT
        return EITHER

    def _add_quick(self, call: QuickCall, way: str) -> QuickLayer | None:
        try:
            layer = QuickLayer(self._state, call, way)
        except LaminaError as e:
            self._state.reporter.error(str(e))
            return None
        return self._add(layer, layer.count)


__all__: list[str] = []
