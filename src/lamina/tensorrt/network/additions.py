"""The base of the groups of ``add_*`` methods."""

from __future__ import annotations

from typing import TypeVar

from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.state import NetworkState
from lamina.tensorrt.network.tensor import ITensor

L = TypeVar("L", bound=ILayer)


class Additions:
    """Adds layers to a network."""

    _state: NetworkState

    def _add(self, layer: L, results: int | None = None) -> L:
        """Register a layer: give it a name and its results."""
        state = self._state
        number = len(state.layers)
        layer._name = f"(Unnamed Layer* {number}) [{_TITLES.get(layer._kind, _title(layer._kind))}]"
        for i in range(layer._results if results is None else results):
            layer._outputs.append(ITensor(state, f"{layer._name}_output_{i}", layer, i))
        state.layers.append(layer)
        return layer


_TITLES = {
    "ELEMENTWISE": "ElementWise",
    "SOFTMAX": "SoftMax",
    "TOPK": "TopK",
    "LRN": "LRN",
    "NMS": "NMS",
    "MOE": "MoE",
    "PARAMETRIC_RELU": "Parametric ReLU",
    "PLUGIN_V2": "PluginV2",
    "PLUGIN_V3": "PluginV3",
    "RNN_V2": "RNNv2",
}


def _title(kind: str) -> str:
    return kind.replace("_", " ").title()
