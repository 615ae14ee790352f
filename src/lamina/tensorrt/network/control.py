"""Loops and conditionals.

A loop is made of boundary layers: what enters (recurrences, iterators), what ends it (trip
limits), and what leaves it.  Layers belong to the loop that they depend on.  While a network is
being defined the boundary layers give placeholders of the right types; the nested graphs are made
when it is built (:mod:`lamina.tensorrt.nesting.build_walk`).
"""

from __future__ import annotations

from collections.abc import Sequence

from lamina.errors import GraphError
from lamina.ir.dims import Dim
from lamina.ir.graph import Value
from lamina.ir.loc import Loc
from lamina.ir.types import TensorType
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import LoopOutput, TripLimit
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions, refuse_strangers
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.setting import Setting, set_quietly
from lamina.tensorrt.network.state import NetworkState
from lamina.tensorrt.network.tensor import ITensor


class Boundary:
    """A loop or a conditional."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        refuse_strangers(cls, lambda boundary: boundary._additions._state)

    def __init__(self, additions: Additions, title: str) -> None:
        self._additions = additions
        self._name = f"({title} {len(additions._state.boundaries)})"
        additions._state.boundaries.append(self)

    @property
    def name(self) -> str:
        """Name, for messages."""
        return self._name

    @name.setter
    @checked
    def name(self, value: str) -> None:
        self._name = value

    def _layers(self) -> list[ILayer]:
        """Return the boundary layers."""
        raise NotImplementedError

    def _entries(self) -> list[ILayer]:
        """Return the boundary layers whose results exist inside only."""
        raise NotImplementedError

    def _exits(self) -> list[ILayer]:
        """Return the boundary layers whose results exist outside."""
        raise NotImplementedError


class ILoopBoundaryLayer(ILayer):
    """A layer on the boundary of a loop."""

    def __init__(self, state: NetworkState, inputs: Sequence[ITensor | None], loop: ILoop) -> None:
        super().__init__(state, inputs)
        self._boundary = loop

    @property
    def loop(self) -> ILoop:
        """The loop."""
        return self._boundary


class IRecurrenceLayer(ILoopBoundaryLayer):
    """A value that is handed from one iteration to the next.

    Input 0 is the first value; input 1, which ``set_input`` gives, is the next.
    """

    _kind = "RECURRENCE"

    def _needed(self) -> list[ITensor | None]:
        return self._inputs[:1]  # the next value is computed from this layer's result

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        first = inputs[0]
        assert first is not None
        return (_unknown(e, first.tensor),)


class IIteratorLayer(ILoopBoundaryLayer):
    """The slice of a tensor for each iteration."""

    _kind = "ITERATOR"
    axis = Setting(int, 0, "Axis that is sliced.")
    reverse = Setting(bool, False, "Whether the last slice comes first.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        axis = e.wrap(self.axis, x.tensor.rank)
        return (_unknown(e, _without(x.tensor, axis)),)


class ITripLimitLayer(ILoopBoundaryLayer):
    """What ends a loop: a count, or a condition that is looked at before each iteration."""

    _kind = "TRIP_LIMIT"
    _results = 0
    _limit = ""

    @property
    def kind(self) -> TripLimit:
        """Whether this is a count or a condition."""
        return TripLimit.named(self._limit)

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        return ()


class ILoopOutputLayer(ILoopBoundaryLayer):
    """What leaves a loop: the last value of a recurrence, or a value of each iteration.

    Input 1 gives the number of values that are kept (CONCATENATE and REVERSE).
    """

    _kind = "LOOP_OUTPUT"
    _shape_operands = frozenset({1})
    axis = Setting(int, 0, "Axis along which values are joined.")
    _output = ""

    @property
    def kind(self) -> LoopOutput:
        """What leaves the loop."""
        return LoopOutput.named(self._output)

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, length = (*inputs, None)[:2]
        assert x is not None
        if self._output == "LAST_VALUE":
            return (_unknown(e, x.tensor),)
        count: Dim = e.scope.session.symbols.fresh("iterations")
        if length is not None:
            count = e.dim(length)
        shape = list(x.tensor.shape)
        shape.insert(e.wrap(self.axis, x.tensor.rank + 1), count)
        return (_unknown(e, x.tensor.with_shape(tuple(shape))),)


class ILoop(Boundary):
    """Layers that run again and again."""

    def __init__(self, additions: Additions) -> None:
        super().__init__(additions, "Unnamed Loop")
        self._recurrences: list[IRecurrenceLayer] = []
        self._iterators: list[IIteratorLayer] = []
        self._limits: list[ITripLimitLayer] = []
        self._outputs: list[ILoopOutputLayer] = []

    def _layers(self) -> list[ILayer]:
        return [*self._recurrences, *self._iterators, *self._limits, *self._outputs]

    def _entries(self) -> list[ILayer]:
        return [*self._recurrences, *self._iterators]

    def _exits(self) -> list[ILayer]:
        return list(self._outputs)

    @checked
    def add_recurrence(self, initial_value: ITensor) -> IRecurrenceLayer:
        """Add a value that is handed on, with its first value."""
        layer = IRecurrenceLayer(self._additions._state, [initial_value], self)
        self._recurrences.append(layer)
        return self._additions._add(layer)

    @checked
    def add_trip_limit(self, tensor: ITensor, kind: TripLimit) -> ITripLimitLayer | None:
        """Add what ends the loop; None when there is a limit of that kind already."""
        if any(limit._limit == kind.name for limit in self._limits):
            self._additions._state.reporter.error(f"{self._name} already has the limit {kind}")
            return None
        layer = ITripLimitLayer(self._additions._state, [tensor], self)
        layer._limit = kind.name
        self._limits.append(layer)
        return self._additions._add(layer)

    @checked
    def add_iterator(self, tensor: ITensor, axis: int = 0, reverse: bool = False) -> IIteratorLayer:
        """Add the slice of a tensor for each iteration."""
        layer = IIteratorLayer(self._additions._state, [tensor], self)
        set_quietly(layer, axis=axis, reverse=reverse)
        self._iterators.append(layer)
        return self._additions._add(layer)

    @checked
    def add_loop_output(self, tensor: ITensor, kind: LoopOutput, axis: int = 0) -> ILoopOutputLayer:
        """Add what leaves the loop."""
        layer = ILoopOutputLayer(self._additions._state, [tensor], self)
        set_quietly(layer, axis=axis)
        layer._output = kind.name
        self._outputs.append(layer)
        return self._additions._add(layer)


class IIfConditionalBoundaryLayer(ILayer):
    """A layer on the boundary of a conditional."""

    def __init__(
        self, state: NetworkState, inputs: Sequence[ITensor | None], conditional: IIfConditional
    ) -> None:
        super().__init__(state, inputs)
        self._boundary = conditional

    @property
    def conditional(self) -> IIfConditional:
        """The conditional."""
        return self._boundary


class IConditionLayer(IIfConditionalBoundaryLayer):
    """What decides between the branches."""

    _kind = "CONDITION"
    _results = 0

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        return ()


class IIfConditionalInputLayer(IIfConditionalBoundaryLayer):
    """A value that the branches read."""

    _kind = "CONDITIONAL_INPUT"

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        return (_unknown(e, x.tensor),)


class IIfConditionalOutputLayer(IIfConditionalBoundaryLayer):
    """A result: input 0 where the condition holds, else input 1."""

    _kind = "CONDITIONAL_OUTPUT"

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        a, b = inputs
        assert a is not None and b is not None
        if a.tensor.dtype is not b.tensor.dtype or a.tensor.rank != b.tensor.rank:
            raise GraphError(f"the branches give {a.tensor} and {b.tensor}")
        symbols = e.scope.session.symbols
        shape = tuple(
            d if d == n else symbols.fresh("branch_dim")
            for d, n in zip(a.tensor.shape, b.tensor.shape, strict=True)
        )
        return (_unknown(e, a.tensor.with_shape(shape)),)


class IIfConditional(Boundary):
    """Layers of which only one branch runs."""

    def __init__(self, additions: Additions) -> None:
        super().__init__(additions, "Unnamed Conditional")
        self._condition: IConditionLayer | None = None
        self._inputs: list[IIfConditionalInputLayer] = []
        self._outputs: list[IIfConditionalOutputLayer] = []

    def _layers(self) -> list[ILayer]:
        condition = [] if self._condition is None else [self._condition]
        return [*condition, *self._inputs, *self._outputs]

    def _entries(self) -> list[ILayer]:
        return list(self._inputs)

    def _exits(self) -> list[ILayer]:
        return list(self._outputs)

    @checked
    def set_condition(self, condition: ITensor) -> IConditionLayer:
        """Set what decides, a single bool."""
        layer = IConditionLayer(self._additions._state, [condition], self)
        self._condition = layer
        return self._additions._add(layer)

    @checked
    def add_input(self, input: ITensor) -> IIfConditionalInputLayer:
        """Add a value that the branches read."""
        layer = IIfConditionalInputLayer(self._additions._state, [input], self)
        self._inputs.append(layer)
        return self._additions._add(layer)

    @checked
    def add_output(
        self, true_subgraph_output: ITensor, false_subgraph_output: ITensor
    ) -> IIfConditionalOutputLayer:
        """Add a result, with its value in either branch."""
        inputs = [true_subgraph_output, false_subgraph_output]
        layer = IIfConditionalOutputLayer(self._additions._state, inputs, self)
        self._outputs.append(layer)
        return self._additions._add(layer)


def _unknown(e: LayerEmitter, type: TensorType) -> Value:
    """Return a value of which nothing but the type is known."""
    return Value(type, e.layer._name, Loc(e.layer._name))


def _without(type: TensorType, axis: int) -> TensorType:
    return type.with_shape((*type.shape[:axis], *type.shape[axis + 1 :]))


class ControlAdditions(Additions):
    """Adds loops and conditionals."""

    def add_loop(self) -> ILoop:
        """Add a loop, which is filled by its own methods."""
        return ILoop(self)

    def add_if_conditional(self) -> IIfConditional:
        """Add a conditional, which is filled by its own methods."""
        return IIfConditional(self)


__all__ = [
    "IConditionLayer",
    "IIfConditional",
    "IIfConditionalBoundaryLayer",
    "IIfConditionalInputLayer",
    "IIfConditionalOutputLayer",
    "IIteratorLayer",
    "ILoop",
    "ILoopBoundaryLayer",
    "ILoopOutputLayer",
    "IRecurrenceLayer",
    "ITripLimitLayer",
]
