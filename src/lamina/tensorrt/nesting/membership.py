"""Which loops and conditionals each tensor belongs to."""

from __future__ import annotations

from collections.abc import Iterable

from lamina.tensorrt.network.control import Boundary
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.state import NetworkState
from lamina.tensorrt.network.tensor import ITensor

Inside = frozenset[Boundary]


class Membership:
    """The boundaries that each tensor depends on.

    A tensor depends on a loop when it is computed from the loop's recurrences or iterators without
    leaving it; whatever leaves a loop depends on what the loop as a whole depends on.
    """

    def __init__(self, state: NetworkState) -> None:
        self._inside: dict[int, Inside] = {}
        if not state.boundaries:
            return
        changed = True
        while changed:
            changed = False
            for layer in state.layers:
                found = self._of_layer(layer)
                for tensor in layer._outputs:
                    if not found <= self.of(tensor):
                        self._inside[tensor._serial] = self.of(tensor) | found
                        changed = True

    def of(self, tensor: ITensor) -> Inside:
        """Return the boundaries that a tensor depends on."""
        return self._inside.get(tensor._serial, frozenset())

    def around(self, boundary: Boundary) -> Inside:
        """Return the boundaries that a boundary as a whole depends on."""
        layers = boundary._layers()
        return self._of_tensors(t for layer in layers for t in layer._inputs) - {boundary}

    def externals(self, boundary: Boundary) -> list[ITensor]:
        """Return the tensors from outside that are needed to compute what is inside."""
        found: dict[int, ITensor] = {}
        seen: set[int] = set()
        stack = [t for layer in boundary._layers() for t in layer._inputs if t is not None]
        while stack:
            tensor = stack.pop()
            if tensor._serial in seen:
                continue
            seen.add(tensor._serial)
            if boundary not in self.of(tensor):
                found[tensor._serial] = tensor
            elif tensor._producer is not None:
                stack.extend(self.operands(tensor._producer))
        return list(found.values())

    def operands(self, layer: ILayer) -> list[ITensor]:
        """Return what must be there before a layer: for an exit, what its whole boundary needs."""
        boundary: Boundary | None = getattr(layer, "_boundary", None)
        if boundary is not None and layer in boundary._exits():
            return self.externals(boundary)
        return [*(t for t in layer._inputs if t is not None), *layer._before()]

    def _of_layer(self, layer: ILayer) -> Inside:
        boundary: Boundary | None = getattr(layer, "_boundary", None)
        if boundary is None:
            return self._of_tensors(layer._inputs)
        if layer in boundary._entries():
            return self.around(boundary) | {boundary}
        return self.around(boundary)

    def _of_tensors(self, tensors: Iterable[ITensor | None]) -> Inside:
        return frozenset().union(*(self.of(t) for t in tensors if t is not None))
