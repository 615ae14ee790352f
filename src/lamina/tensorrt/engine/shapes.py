"""Shapes of outputs, from the shapes of inputs and the contents of shape tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lamina import ops
from lamina.ir.attributes import attribute_symbols
from lamina.ir.dims import Dim, evaluate, symbols
from lamina.ir.graph import Graph, Value
from lamina.ir.interpret import bind_shape, run_node
from lamina.ir.types import TensorType
from lamina.plan.plan import StepKind
from lamina.respecialize import portable_graph
from lamina.runtime.engine import Engine
from lamina.tensorrt.engine.formats import FORMATS
from lamina.tensorrt.metadata import EngineMetadata

Shape = tuple[int, ...]
UNKNOWN = -1


class ShapeRules:
    """The types of an engine's inputs and outputs, with symbols for what is dynamic.

    ``formats`` says how those lie in memory that are not row-major: the engine itself takes and
    gives them as row-major arrays of another shape.
    """

    def __init__(self, engine: Engine, metadata: EngineMetadata) -> None:
        self._engine = engine
        self.formats = {t.name: FORMATS[t.formats[0]] for t in metadata.tensors}
        channels = {t.name: t.shape[t.vectorized_dim] for t in metadata.tensors if t.shape}
        self.types = {
            p.name: self._tensor(p.name, p.type, channels)
            for p in (*engine.inputs, *engine.outputs)
            if isinstance(p.type, TensorType)
        }
        self._inputs = [p.name for p in engine.inputs]
        self._graph: Graph | None = None

    def _tensor(self, name: str, memory: TensorType, channels: Mapping[str, int]) -> TensorType:
        """Return the type of a tensor for that of its memory."""
        format = self.formats.get(name, FORMATS["LINEAR"])
        known = channels.get(name, -1) if format.components > 1 else -1
        return memory.with_shape(format.logical(memory.shape, known))

    def of_memory(self, name: str, shape: Sequence[int]) -> Shape:
        """Return the shape of a tensor for that of the array it lies in."""
        format = self.formats.get(name, FORMATS["LINEAR"])
        own = self.types[name].shape
        channels = own[format.axis(len(own))] if format.components > 1 else -1
        return tuple(_size(d, {}) for d in format.logical(shape, channels))

    def bind(self, shapes: Mapping[str, Shape]) -> dict[str, int]:
        """Return the sizes that the shapes of inputs give; GraphError for contradictions."""
        env: dict[str, int] = {}
        for name in self._inputs:
            if name in shapes and name in self.types:
                bind_shape(self.types[name], shapes[name], env, f"input {name!r}")
        return env

    def shape(self, name: str, env: Mapping[str, int]) -> Shape:
        """Return the shape of an input or output, -1 for what is not known."""
        return tuple(_size(d, env) for d in self.types[name].shape)

    def is_known(self, name: str, env: Mapping[str, int]) -> bool:
        """Whether nothing about the shape of an output is open."""
        return all(s in env for s in attribute_symbols(self.types[name]))

    def with_values(self, env: dict[str, int], values: Mapping[str, Any]) -> dict[str, int]:
        """Return ``env`` with the sizes that the contents of shape tensors decide."""
        wanted = {s for t in self.types.values() for s in attribute_symbols(t)} - env.keys()
        if not wanted or not values or not self._engine.plan.graph:
            return env
        if self._graph is None:
            self._graph = portable_graph(self._engine.plan)
        found = _Evaluation(self._graph, env, values)
        for symbol in sorted(wanted):
            found.resolve(symbol)
        return found.env

    def largest(self, name: str) -> int:
        """Return the largest number of elements that a tensor may have, -1 where nothing says."""
        limits = {symbol: high for symbol, _, _, high in self._engine.plan.ranges}
        for section in self._engine.plan.sections[:1]:
            for step in section.program.steps:
                if step.kind is StepKind.COUNTED and step.defines:
                    limits[step.defines[0]] = _size(step.parameters[-1], limits)
        format = self.formats.get(name, FORMATS["LINEAR"])
        sizes = [_size(d, limits) for d in format.physical(self.types[name].shape)]
        total = 1
        for size in sizes:
            total = UNKNOWN if size < 0 or total < 0 else total * size
        return total


def _size(d: Dim, env: Mapping[str, int]) -> int:
    if isinstance(d, int):
        return d
    return evaluate(d, env) if all(s in env for s in symbols(d)) else UNKNOWN


class _Open(Exception):
    """Something depends on data that is not there yet."""


class _Evaluation:
    """Evaluates as much of a graph as shape tensors decide."""

    def __init__(self, graph: Graph, env: dict[str, int], given: Mapping[str, Any]) -> None:
        self.graph, self.env, self.given = graph, {**graph.bound, **env}, given
        self.known: dict[Value, Any] = {}

    def resolve(self, symbol: str) -> None:
        """Learn a symbol, if what decides it is known."""
        definer = self.graph.definers.get(symbol)
        if definer is None or symbol in self.env:
            return
        try:
            self._value(definer)
        except _Open:
            return

    def _value(self, v: Value) -> Any:
        if v in self.known:
            return self.known[v]
        if v.node is None:
            if v.name not in self.given:
                raise _Open
            return self.given[v.name]
        if isinstance(v.node.op, ops.Shape):
            operands = [self._hollow(v.node.inputs[0])]
        else:
            operands = [self._value(x) for x in v.node.inputs]
        needed = [s for value in vars(v.node.op).values() for s in attribute_symbols(value)]
        for symbol in needed:
            self.resolve(symbol)
        results = run_node(v.node, operands, self.env)
        self.known.update(zip(v.node.outputs, results, strict=True))
        return self.known[v]

    def _hollow(self, v: Value) -> Any:
        """Return an array that has the shape of a value and takes no memory."""
        for symbol in attribute_symbols(v.type):
            self.resolve(symbol)
        shape = tuple(_size(d, self.env) for d in v.tensor.shape)
        if UNKNOWN in shape:
            raise _Open
        return np.broadcast_to(np.zeros((), v.tensor.dtype.numpy), shape)
