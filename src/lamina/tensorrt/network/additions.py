"""The base of the groups of ``add_*`` methods."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.state import NetworkState
from lamina.tensorrt.network.tensor import ITensor

L = TypeVar("L", bound=ILayer)


class Additions:
    """Adds layers to a network."""

    _state: NetworkState

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        refuse_strangers(cls, lambda group: group._state)

    def _add(self, layer: L, results: int | None = None) -> L:
        """Register a layer: give it a name and its results."""
        state = self._state
        number = len(state.layers)
        layer._name = f"(Unnamed Layer* {number}) [{_TITLES.get(layer._kind, _title(layer._kind))}]"
        for i in range(layer._results if results is None else results):
            layer._outputs.append(ITensor(state, f"{layer._name}_output_{i}", layer, i))
        state.layers.append(layer)
        return layer


def refuse_strangers(cls: type, state_of: Callable[[Any], NetworkState]) -> None:
    """Let methods that add layers return None, after reporting why, for other networks' tensors.

    ``state_of`` gives the network that an object of the class adds to.
    """
    for name, method in list(vars(cls).items()):
        if name.startswith(("add_", "set_condition")) and inspect.isfunction(method):
            setattr(cls, name, _guarded(method, state_of))


def _guarded(
    method: Callable[..., Any], state_of: Callable[[Any], NetworkState]
) -> Callable[..., Any]:

    @functools.wraps(method)
    def add(self: Any, *args: Any, **kwargs: Any) -> Any:
        state = state_of(self)
        for tensor in _tensors((*args, *kwargs.values())):
            if tensor._owner() is not state:
                state.reporter.error(
                    f"{method.__name__}: tensor {tensor._name!r} belongs to another network"
                )
                return None
        return method(self, *args, **kwargs)

    return add


def _tensors(given: Iterable[Any]) -> Iterator[ITensor]:
    """Yield the tensors among arguments, also those in lists."""
    for value in given:
        if isinstance(value, ITensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (v for v in value if isinstance(v, ITensor))


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
