"""Lowers layers in the order of their operands, each once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import onnx

from lamina.errors import GraphError, LaminaError, where
from lamina.importers.onnx import TABLE
from lamina.importers.onnx.scope import Scope, Session
from lamina.importers.onnx.tensors import TensorReader
from lamina.importers.onnx.value_types import Symbols
from lamina.ir.dims import Dim
from lamina.ir.graph import Array, Graph, Value
from lamina.ir.loc import Loc
from lamina.ir.types import TensorType
from lamina.tensorrt.foundation.dtype import to_ir
from lamina.tensorrt.lowering.emitter import LayerEmitter

if TYPE_CHECKING:
    from lamina.tensorrt.network.layer import ILayer
    from lamina.tensorrt.network.state import NetworkState
    from lamina.tensorrt.network.tensor import ITensor

BATCH = "batch"
"""Symbol of an implicit batch."""


class Walk:
    """One lowering of a network; base of typing (flat) and building (with nested graphs)."""

    def __init__(self, state: NetworkState) -> None:
        self.state = state
        self.session = Session(onnx.ModelProto(), TABLE, TensorReader(None), Symbols(), {})
        self.graph = Graph(name=state.name)
        self.root = Scope(self.session, self.graph, {"": 21})
        self.batch: Dim | None = self.session.symbols.named(BATCH) if state.implicit_batch else None
        for name in sorted(state.reserved):
            self.session.symbols.named(name)
        for tensor in state.inputs:
            self.root.values[key(tensor)] = self.graph.input(
                tensor._name, self.input_type(tensor), Loc(tensor._name)
            )

    def input_type(self, tensor: ITensor) -> TensorType:
        """Return the type of a network input; each dynamic size is a symbol."""
        names = tensor._dimension_names
        symbols = self.session.symbols
        shape: list[Dim] = [] if self.batch is None else [self.batch]
        for axis, size in enumerate(tensor._given_shape):
            if size >= 0:
                shape.append(size)
            elif axis in names:
                shape.append(symbols.named(names[axis]))
            else:
                shape.append(symbols.named(f"{tensor._name}_dim{axis}"))
        assert tensor._given_dtype is not None
        return TensorType(to_ir(tensor._given_dtype), tuple(shape))

    def imported_symbols(self) -> dict[str, Dim]:
        """Return sizes of inputs that have changed since a graph was imported, by symbol."""
        found = {}
        for symbol, (tensor, axis) in self.state.symbols.items():
            now = self.root.values[key(tensor)].tensor.shape[axis]
            if str(now) != symbol:
                found[symbol] = now
        return found

    def value(self, tensor: ITensor, scope: Scope | None = None) -> Value:
        """Return the value of a tensor as ``scope`` sees it; lowers what is needed for it."""
        scope = scope or self.root
        stack, waiting = [tensor], set[int]()
        while stack:
            wanted = stack[-1]
            home = self.home(wanted, scope)
            if key(wanted) in home.values:
                stack.pop()
                continue
            layer = self._producer(wanted)
            missing = [t for t in self.operands(layer) if key(t) not in self.home(t, scope).values]
            if not missing:
                self.lower(layer, home)
                waiting.discard(layer._key)
                continue
            waiting.add(layer._key)
            for t in missing:
                if self._producer(t)._key in waiting:
                    raise GraphError(f"layer {layer._name!r} depends on its own result")
            stack.extend(reversed(missing))
        found: Value = scope.lookup(key(tensor))
        return found

    def home(self, tensor: ITensor, scope: Scope) -> Scope:
        """Return the scope in which a tensor is computed, ``scope`` or one around it."""
        return self.root

    def operands(self, layer: ILayer) -> Iterable[ITensor]:
        """Return the tensors that must be lowered before a layer."""
        return [*(t for t in layer._needed() if t is not None), *layer._before()]

    def lower(self, layer: ILayer, scope: Scope) -> None:
        """Lower one layer whose operands are there."""
        emitter = LayerEmitter(layer, self, scope)
        with where(f"in layer {layer._name!r} ({layer._kind})"):
            inputs = [None if t is None else scope.lookup(key(t)) for t in layer._needed()]
            try:
                results = layer._lower(emitter, *inputs)
                self.finish(emitter, results, scope)
            except LaminaError:
                raise
            except Exception as e:
                raise GraphError(_what_is_wrong(layer, e), hint=_MISUSE) from e

    def finish(self, e: LayerEmitter, results: Iterable[Value], scope: Scope) -> None:
        """Apply constraints on types, name the results and remember them."""
        for i, (tensor, value) in enumerate(zip(e.layer._outputs, results, strict=True)):
            wanted = e.layer._output_types.get(i) or tensor._given_dtype
            if wanted is not None and not self.state.strongly_typed:
                value = e.cast(value, to_ir(wanted))
            if not value.name and value.node is not None:
                value.name = tensor._name
            scope.values[key(tensor)] = value

    def record_weights(self, layer: ILayer, role: str, name: str, array: Array) -> None:
        """Learn of weights that a layer holds."""

    def _producer(self, tensor: ITensor) -> ILayer:
        if tensor._producer is None or tensor._state is not self.state:
            raise GraphError(f"tensor {tensor._name!r} is not part of this network")
        return tensor._producer


_MISUSE = "check that all of its inputs and settings are given and fit together"


def _what_is_wrong(layer: ILayer, error: Exception) -> str:
    absent = [i for i, t in enumerate(layer._needed()) if t is None]
    if absent:
        return f"input {absent[0]} is not given"
    return f"the layer cannot be used as it is set: {type(error).__name__}: {error}"


def key(tensor: ITensor) -> str:
    """Return the name of a tensor among the values of a scope."""
    return f"t{tensor._serial}"
