"""Names that are visible at one place of a model, and the graph that is built there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from lamina import ops
from lamina.errors import ImportFailed
from lamina.importers.onnx.contents import Contents, is_symbolic
from lamina.importers.onnx.report import NodeReport
from lamina.importers.onnx.table import Table
from lamina.importers.onnx.tensors import TensorReader
from lamina.importers.onnx.value_types import Symbols, value_type
from lamina.ir.attributes import attribute_symbols
from lamina.ir.graph import Array, Graph, Node, Op, Value, emit_node
from lamina.ir.loc import Loc
from lamina.ir.types import ValueType

FunctionKey = tuple[str, str, str]
NodeImporter = Callable[[Any, str], Sequence[Any] | None]
"""Takes an OnnxNode and its domain and returns the node's results, None to leave it to others."""


@dataclass
class Session:
    """What all graphs and functions of one import share."""

    model: onnx.ModelProto
    table: Table
    reader: TensorReader
    symbols: Symbols
    functions: Mapping[FunctionKey, onnx.FunctionProto]
    extensions: Sequence[NodeImporter] = ()
    contents: Contents = field(default_factory=Contents)
    report: list[NodeReport] = field(default_factory=list)
    emitted: dict[Graph, list[Node]] = field(default_factory=dict)
    host_names: dict[Any, str] = field(default_factory=dict)

    def release_dead(self, graph: Graph) -> None:
        """Forget nodes that nothing needs, so that counting the users of a value is right."""
        graph.definers = _needed_definers(graph)
        live = set(graph.nodes())
        for node in self.emitted.pop(graph, []):
            if node not in live:
                for v in node.inputs:
                    v.users.pop(node, None)


def _needed_definers(graph: Graph) -> dict[str, Value]:
    """Return the definers of symbols that the way to the outputs mentions."""
    known, needed = graph.definers, dict[str, Value]()
    while True:
        graph.definers = needed
        mentioned = set[str]()
        for node in graph.nodes():
            mentioned |= node.op.symbols()
            for v in node.outputs:
                mentioned.update(attribute_symbols(v.type))
        found = {s: v for s, v in known.items() if s in mentioned}
        if found.keys() <= needed.keys():
            return needed
        needed = found


class Scope:
    """The names of one graph, subgraph or inlined function.

    A subgraph looks up unknown names in its parent and turns what it finds there into inputs of
    its own graph; ``captures`` lists the outer values in the order of these inputs.  A function
    has a graph in common with its caller but no parent: it sees its arguments only.
    """

    def __init__(
        self,
        session: Session,
        graph: Graph,
        opsets: Mapping[str, int],
        *,
        parent: Scope | None = None,
        arguments: Mapping[str, onnx.AttributeProto] | None = None,
        prefix: str = "",
    ) -> None:
        self.session = session
        self.graph = graph
        self.opsets = {"" if d == "ai.onnx" else d: version for d, version in opsets.items()}
        self.parent = parent
        self.arguments = arguments or {}
        self.prefix = prefix
        self.captures: list[Value] = []
        self.values: dict[str, Any] = {}
        self._declared: dict[str, onnx.TypeProto] = {}
        self._tensors: dict[str, onnx.TensorProto | onnx.SparseTensorProto] = {}

    def declare(self, graph: onnx.GraphProto) -> None:
        """Make the initializers of ``graph`` known; they are read when they are used."""
        for tensor in graph.initializer:
            self._tensors[tensor.name] = tensor
        for sparse in graph.sparse_initializer:
            self._tensors[sparse.values.name] = sparse
        for info in (*graph.value_info, *graph.output):
            self._declared[info.name] = info.type

    def knows(self, symbol: str) -> bool:
        """Whether the symbol has a value in this graph or one around it."""
        if symbol in self.graph.symbols():
            return True
        return self.parent is not None and self.parent.knows(symbol)

    def declared_type(self, name: str) -> ValueType | None:
        """Return the type that the model declares for a value; None for none or one too vague."""
        if name not in self._declared:
            return None
        return value_type(self._declared[name], self.session.symbols, name)

    def opset(self, domain: str) -> int:
        """Return the version of the operators of ``domain``; raises ImportFailed for none."""
        domain = "" if domain == "ai.onnx" else domain
        if domain in self.opsets:
            return self.opsets[domain]
        if any(key[0] == domain for key in self.session.functions):
            return 1
        raise ImportFailed(
            f"the model does not say which version of the domain {domain or 'ai.onnx'!r} it uses",
            hint="add the domain to opset_import",
        )

    def names(self) -> Iterator[str]:
        """Yield every name that can be looked up here."""
        yield from self.values
        yield from self._tensors
        if self.parent is not None:
            yield from self.parent.names()

    def lookup(self, name: str) -> Any:
        """Return the value called ``name``; None for the empty name, an absent operand."""
        if not name:
            return None
        if name in self.values:
            return self.values[name]
        if name in self._tensors:
            self.values[name] = self.constant(self._read(name), Loc(name), name)
        elif self.parent is None:
            raise ImportFailed(f"{name!r} is read but nothing defines it")
        else:
            self.values[name] = self._from_parent(self.parent, name)
        return self.values[name]

    def constant(self, array: Array, loc: Loc, name: str = "") -> Value:
        """Return a constant in this graph."""
        node = emit_node(ops.Const.of(array, name), (), loc=loc, name=name)
        return node.output

    def emit(
        self, op: Op, inputs: tuple[Value, ...], loc: Loc, counts: frozenset[str]
    ) -> tuple[Value, ...]:
        """Apply an operator; results that are known become constants.

        ``counts`` are symbols that the operator defines when they stand in its result types.
        """
        node = emit_node(op, inputs, loc=loc)
        known = self.session.contents.evaluate(node, counts)
        results = []
        for v, elements in zip(node.outputs, known, strict=True):
            if elements is None:
                results.append(v)
            elif is_symbolic(v, elements):
                self.session.contents.set(v, elements)
                results.append(v)
            else:
                results.append(self.constant(elements, loc))
        self.session.emitted.setdefault(self.graph, []).append(node)
        self._define(node, counts)
        return tuple(results)

    def _define(self, node: Node, counts: frozenset[str]) -> None:
        for symbol in sorted(counts - set(self.graph.definers)):
            for v in node.outputs:
                if symbol in _type_symbols(v):
                    self.graph.definers[symbol] = v
                    break

    def capture(self, outer: Value, name: str = "") -> Value:
        """Return what stands in this graph for a value of the graph around it."""
        if isinstance(outer.op, ops.Const):
            return emit_node(outer.op, (), loc=outer.loc, name=outer.name).output
        inner = self.graph.input(self._free_name(name or outer.name), outer.type, outer.loc)
        elements = self.session.contents.get(outer)
        if elements is not None:
            self.session.contents.set(inner, elements)
        self.captures.append(outer)
        return inner

    def unused(self, outer: Value) -> None:
        """Add an input that only the other branch of an If reads."""
        self.graph.input(self._free_name(outer.name), outer.type, outer.loc)

    def _free_name(self, wanted: str) -> str:
        taken = {v.name for v in self.graph.inputs}
        name = base = wanted or "captured"
        n = 1
        while name in taken:
            name = f"{base}_{n}"
            n += 1
        return name

    def _from_parent(self, parent: Scope, name: str) -> Any:
        outer = parent.lookup(name)
        if not isinstance(outer, Value) or parent.graph is self.graph:
            return outer
        return self.capture(outer, name)

    def _read(self, name: str) -> Array:
        tensor = self._tensors[name]
        if isinstance(tensor, onnx.SparseTensorProto):
            return self.session.reader.read_sparse(tensor)
        return self.session.reader.read(tensor)


def _type_symbols(v: Value) -> frozenset[str]:
    return frozenset(attribute_symbols(v.type))
