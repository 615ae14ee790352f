"""What every layer of an engine gives, and what it should give.

The optimized graph is compiled with every intermediate value as a further output; fused layers
stay fused, since fusion has happened by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from lamina.builder import compile_graph, import_graph, optimize
from lamina.cli.differences import Difference, difference
from lamina.cli.origins import origins
from lamina.config import BuildConfig
from lamina.errors import LaminaError
from lamina.importers.onnx.model_file import read_model
from lamina.ir.graph import Graph, Node
from lamina.ir.interpret import interpret
from lamina.ir.types import TensorType
from lamina.ops import Const
from lamina.runtime.engine import Engine

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class LayerDifference:
    """How far one value is from what was wanted; ``against`` says where that came from."""

    value: str
    op: str
    loc: str
    type: str
    against: str
    difference: Difference


@dataclass(frozen=True)
class Layers:
    """A graph with its intermediate values as outputs, and the engine that computes them all."""

    graph: Graph
    engine: Engine
    inner: Mapping[str, Node]

    def differences(self, inputs: Arrays, wanted: Arrays, against: str) -> list[LayerDifference]:
        """Return the difference of each layer's values, in order of execution.

        ``wanted`` holds values of the source model by name; where a layer has no such value (it
        exists only after optimization), the optimized graph's meaning in NumPy takes its place.
        """
        given = self.engine.run(inputs)
        names = self.graph.output_names
        meant = dict(zip(names, interpret(self.graph, _in_order(self.graph, inputs)), strict=True))
        types = {n: str(v.type) for n, v in zip(names, self.graph.outputs, strict=True)}
        rows = []
        for name, node in self.inner.items():
            value = wanted.get(name)
            known = value is not None and np.shape(value) == np.shape(given[name])
            rows.append(
                LayerDifference(
                    name,
                    node.op.name,
                    " + ".join(origins(str(node.loc))),
                    types[name],
                    against if known else "optimized graph",
                    difference(given[name], value if known else meant[name]),
                )
            )
        return rows


def build_layers(model: Any, config: BuildConfig) -> Layers:
    """Compile a model so that the value of every layer comes out."""
    graph, ranges = import_graph(model, config)
    optimize(graph, config)
    inner = expose_values(graph)
    return Layers(
        graph, Engine(compile_graph(graph, ranges, config), threads=config.threads), inner
    )


def expose_values(graph: Graph) -> dict[str, Node]:
    """Make every tensor that a node computes an output; return each one's name and node."""
    inner: dict[str, Node] = {}
    for number, node in enumerate(graph.nodes()):
        if isinstance(node.op, Const):
            continue
        for v in node.outputs:
            if not isinstance(v.type, TensorType):
                continue
            if v in graph.outputs:
                inner[graph.output_names[graph.outputs.index(v)]] = node
                continue
            name = (
                v.name
                if v.name and v.name not in graph.output_names
                else f"{node.op.name}_{number}"
            )
            graph.output(v, name)
            inner[name] = node
    return inner


def reference_values(graph: Graph, inputs: Arrays) -> dict[str, Any]:
    """Return every value of an imported graph by name, and its outputs, as NumPy computes them."""
    values: dict[str, Any] = {}

    def keep(node: Node, results: tuple[Any, ...]) -> None:
        for v, result in zip(node.outputs, results, strict=True):
            if v.name and not isinstance(node.op, Const):
                values[v.name] = result

    outputs = interpret(graph, _in_order(graph, inputs), observe=keep)
    return values | dict(zip(graph.output_names, outputs, strict=True))


def with_outputs(source: Any, names: Iterable[str]) -> bytes:
    """Return an ONNX model that also gives those of the named values that its nodes compute."""
    model, folder = read_model(source)
    if folder is not None:
        onnx.load_external_data_for_model(model, str(folder))
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    have = {o.name for o in extended.graph.output}
    computed = {o for node in extended.graph.node for o in node.output}
    for name in names:
        if name in computed and name not in have:
            extended.graph.output.append(onnx.ValueInfoProto(name=name))
    return bytes(extended.SerializeToString())


def _in_order(graph: Graph, inputs: Arrays) -> list[Any]:
    if missing := [v.name for v in graph.inputs if v.name not in inputs]:
        raise LaminaError(f"there is no array for the inputs {missing}")
    return [inputs[v.name] for v in graph.inputs]
