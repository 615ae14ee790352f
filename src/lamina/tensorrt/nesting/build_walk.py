"""The lowering that is built: loops and conditionals become nested graphs."""

from __future__ import annotations

from collections.abc import Iterable

from lamina.errors import GraphError, where
from lamina.importers.onnx.scope import Scope
from lamina.ir.graph import Array
from lamina.ir.types import DType
from lamina.tensorrt.foundation.dtype import from_ir
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.lowering.walk import Walk
from lamina.tensorrt.metadata import WeightInfo
from lamina.tensorrt.nesting.conditionals import lower_conditional
from lamina.tensorrt.nesting.loops import lower_loop
from lamina.tensorrt.nesting.membership import Membership
from lamina.tensorrt.network.control import (
    Boundary,
    IIfConditionalOutputLayer,
    ILoopOutputLayer,
)
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.state import NetworkState
from lamina.tensorrt.network.tensor import ITensor


class BuildWalk(Walk):
    """Lowers a whole network and collects its weights."""

    def __init__(self, state: NetworkState) -> None:
        super().__init__(state)
        self.weights: dict[tuple[str, str], WeightInfo] = {}
        self.membership = Membership(state)
        self.inside: dict[Scope, Boundary] = {}
        """The boundary whose inside a scope is."""

    def record_weights(self, layer: ILayer, role: str, name: str, array: Array) -> None:
        """Remember weights by layer and role, unless TensorRT does not have their type."""
        try:
            dtype = from_ir(DType.of(array.dtype)).name
        except KeyError:
            return
        self.weights[layer._name, role] = WeightInfo(
            name=name,
            layer=layer._name,
            role=role,
            dtype=dtype,
            shape=tuple(array.shape),
        )

    def home(self, tensor: ITensor, scope: Scope) -> Scope:
        """Return the innermost scope of a boundary that the tensor depends on."""
        needed = self.membership.of(tensor)
        if not needed:
            return self.root
        place: Scope | None = scope
        while place is not None:
            if self.inside.get(place) in needed:
                return place
            place = place.parent
        names = ", ".join(b._name for b in needed)
        raise GraphError(
            f"tensor {tensor._name!r} is inside {names} and is used outside",
            hint="let it leave by add_loop_output, or add_output of a conditional",
        )

    def operands(self, layer: ILayer) -> Iterable[ITensor]:
        """Return the tensors that must be lowered before a layer."""
        return self.membership.operands(layer)

    def lower(self, layer: ILayer, scope: Scope) -> None:
        """Lower a layer, or the whole loop or conditional that it is an exit of."""
        e = LayerEmitter(layer, self, scope)
        if isinstance(layer, ILoopOutputLayer):
            with where(f"in loop {layer.loop._name!r}"):
                lower_loop(self, e, layer.loop)
        elif isinstance(layer, IIfConditionalOutputLayer):
            with where(f"in conditional {layer.conditional._name!r}"):
                lower_conditional(self, e, layer.conditional)
        else:
            super().lower(layer, scope)
