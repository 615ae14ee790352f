"""What all layers have in common."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from lamina.errors import GraphError
from lamina.ir.graph import Value
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import DataType, LayerType
from lamina.tensorrt.network.tensor import ITensor

if TYPE_CHECKING:
    from lamina.tensorrt.lowering.emitter import LayerEmitter
    from lamina.tensorrt.network.state import NetworkState


class ILayer:
    """One layer.  Properties may be set until the network is built.

    Subclasses say what kind they are, how many results they have, and in ``_lower`` what they mean
    in operators of the IR.  ``_lower`` is called again whenever something has changed, so it only
    reads.
    """

    _kind: str
    _results: ClassVar[int] = 1
    _shape_operands: ClassVar[frozenset[int]] = frozenset()
    """Operands whose elements are sizes."""

    def __init__(self, state: NetworkState, inputs: Sequence[ITensor | None]) -> None:
        self._owner = weakref.ref(state)
        self._kind = type(self)._kind
        self._inputs: list[ITensor | None] = list(inputs)
        self._name = ""
        self._metadata = ""
        self._num_ranks = 1
        self._precision: DataType | None = None
        self._output_types: dict[int, DataType] = {}
        self._outputs: list[ITensor] = []

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        """Emit operators for this layer and return the value of each result."""
        raise NotImplementedError

    def _needed(self) -> list[ITensor | None]:
        """Return the operands that ``_lower`` gets."""
        return self._inputs

    @property
    def _origin(self) -> str:
        """Text of the location that the operators of this layer have."""
        return self._name

    def _before(self) -> list[ITensor]:
        """Return further tensors that must be lowered before this layer."""
        return []

    @property
    def _state(self) -> NetworkState:
        state = self._owner()
        assert state is not None, "the network of this layer is gone"
        return state

    def _touch(self) -> None:
        """Say that a property has changed."""
        self._state.changed(self)

    def _fail(self, fact: str, hint: str | None = None) -> GraphError:
        return GraphError(fact, hint=hint)

    @property
    def name(self) -> str:
        """Name, which messages, the inspector and the profiler use."""
        return self._name

    @name.setter
    @checked
    def name(self, value: str) -> None:
        self._name = value
        self._touch()

    @property
    def metadata(self) -> str:
        """Text of the user's that the engine keeps for the inspector."""
        return self._metadata

    @metadata.setter
    @checked
    def metadata(self, value: str) -> None:
        self._metadata = value

    @property
    def num_ranks(self) -> int:
        """Number of devices that run this layer together."""
        return self._num_ranks

    @num_ranks.setter
    @checked
    def num_ranks(self, value: int) -> None:
        self._num_ranks = value

    @property
    def type(self) -> Any:
        """Kind of the layer."""
        return LayerType.named(self._kind)

    @property
    def num_inputs(self) -> int:
        """Number of operands."""
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        """Number of results."""
        return len(self._outputs)

    @checked
    def get_input(self, index: int) -> ITensor | None:
        """Return an operand, None where there is none."""
        return self._inputs[index] if 0 <= index < len(self._inputs) else None

    @checked
    def get_output(self, index: int) -> ITensor | None:
        """Return a result, None where there is none."""
        return self._outputs[index] if 0 <= index < len(self._outputs) else None

    @checked
    def set_input(self, index: int, tensor: ITensor) -> None:
        """Replace or add an operand."""
        if index < 0:
            self._state.reporter.error(f"{self._name}: there is no input {index}")
            return
        while len(self._inputs) <= index:
            self._inputs.append(None)
        self._inputs[index] = tensor
        self._touch()

    @property
    def precision(self) -> DataType:
        """Type in which the layer computes, where it is constrained; else that of its result."""
        return self._precision or DataType.named("FLOAT")

    @precision.setter
    @checked
    def precision(self, value: DataType) -> None:
        self._precision = value

    @property
    def precision_is_set(self) -> bool:
        """Whether the precision is constrained."""
        return self._precision is not None

    def reset_precision(self) -> None:
        """Remove the constraint on the precision."""
        self._precision = None

    @checked
    def set_output_type(self, index: int, dtype: DataType) -> None:
        """Constrain the type of a result."""
        self._output_types[index] = dtype
        self._touch()

    @checked
    def get_output_type(self, index: int) -> DataType:
        """Return the type of a result."""
        return self._state.dtype_of(self._outputs[index])

    @checked
    def output_type_is_set(self, index: int) -> bool:
        """Whether the type of a result is constrained."""
        return index in self._output_types

    @checked
    def reset_output_type(self, index: int) -> None:
        """Remove the constraint on the type of a result."""
        self._output_types.pop(index, None)
        self._touch()

    def _generic(self) -> ILayer:
        """Return this layer as a plain ILayer, as ``get_layer`` shows it.

        It shares all state; programs assign ``__class__`` to see the settings of its kind.
        """
        view = object.__new__(ILayer)
        view.__dict__ = self.__dict__
        return view

    @property
    def _key(self) -> int:
        """What this layer has in common with its generic form alone."""
        return id(self._outputs)

    def __dir__(self) -> list[str]:
        """Return the names that the chosen version has."""
        cls = type(self)
        return [n for n in super().__dir__() if n.startswith("__") or _public(cls, n)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ILayer) and self._outputs is other._outputs

    def __hash__(self) -> int:
        return self._key

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r}>"


def _public(cls: type, name: str) -> bool:
    return not name.startswith("_") and hasattr(cls, name)


__all__ = ["ILayer"]
