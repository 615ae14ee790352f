"""Types of tensors while a network is being defined.

Everything is lowered into one flat scratch graph; loops and conditionals are not nested there, and
what crosses their boundary is a placeholder of the right type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.importers.onnx.scope import Scope
from lamina.ir.graph import Value
from lamina.tensorrt.lowering.walk import Walk

if TYPE_CHECKING:
    from lamina.tensorrt.network.layer import ILayer
    from lamina.tensorrt.network.state import NetworkState


class Typing(Walk):
    """Lowers on demand and remembers what it has lowered."""

    def __init__(self, state: NetworkState) -> None:
        super().__init__(state)
        self._lowered: set[int] = set()

    def knows(self, layer: ILayer) -> bool:
        """Whether a layer has been lowered."""
        return layer._key in self._lowered

    def lower(self, layer: ILayer, scope: Scope) -> None:
        """Lower one layer and remember that."""
        super().lower(layer, scope)
        self._lowered.add(layer._key)

    def is_shape_data(self, value: Value) -> bool:
        """Whether the elements of a value are known from the sizes of the inputs."""
        return self.session.contents.get(value) is not None
