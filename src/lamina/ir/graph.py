"""Graph, node, value and the base class of operators.

A graph is a typed SSA program.  Values know the nodes that use them, so a rewrite costs what it
touches and not the size of the graph.  Nodes are made only by :func:`emit_node` (and its shorthand
:func:`emit`), which types them; a graph changes only through :meth:`Graph.replace`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import numpy.typing as npt

from lamina.errors import GraphError, TypeMismatch, where
from lamina.ir.attributes import (
    NestedGraph,
    attribute_symbols,
    format_attribute,
    substitute_attribute,
)
from lamina.ir.dims import Dim, Expr
from lamina.ir.loc import Loc
from lamina.ir.types import TensorType, ValueType

Array = npt.NDArray[Any]
T = TypeVar("T", bound="type[Op]")


@dataclass(frozen=True, kw_only=True)
class Op:
    """What a node computes: the operator and its attributes, never its inputs.

    A subclass is the one place where an operator is defined.  Its fields are the attributes,
    ``infer`` is the typing rule and ``reference`` is the meaning; the parameters of ``infer`` name
    the operands.  A parameter with default ``None`` is an operand that may be absent (only at the
    end); ``*name`` takes any number.
    """

    name: ClassVar[str]
    operands: ClassVar[tuple[str, ...]]
    required: ClassVar[int]
    variadic: ClassVar[bool]

    def infer(self, *inputs: Any, **named: Any) -> ValueType | tuple[ValueType, ...]:
        """Return the type of each result, or raise TypeMismatch."""
        raise NotImplementedError

    def reference(self, *inputs: Any, **named: Any) -> Any:
        """Compute the result(s) with NumPy; slow, obvious and authoritative.

        Attributes hold numbers here: whoever calls substitutes symbols first.
        """
        raise NotImplementedError

    def binds(self, *inputs: Array) -> dict[str, int]:
        """Return symbols that get their value from the *contents* of the operands."""
        return {}

    @property
    def pure(self) -> bool:
        """Whether equal operands always give equal results, so that it may be folded or shared."""
        return True

    @property
    def commutative(self) -> bool:
        """Whether the two operands may be exchanged."""
        return False

    def symbols(self) -> frozenset[str]:
        """Return the symbols in the attributes."""
        return frozenset(s for f in fields(self) for s in attribute_symbols(getattr(self, f.name)))

    def substitute(self, env: Mapping[str, Dim]) -> Self:
        """Replace symbols in the attributes."""
        changed = {}
        for f in fields(self):
            old = getattr(self, f.name)
            new = substitute_attribute(old, env)
            if new is not old:
                changed[f.name] = new
        return replace(self, **changed) if changed else self

    def __str__(self) -> str:
        attrs = (
            f"{f.name}={format_attribute(v)}"
            for f in fields(self)
            if (v := getattr(self, f.name)) != f.default
        )
        return f"{self.name} {' '.join(attrs)}".rstrip()


@dataclass_transform(frozen_default=True, kw_only_default=True)
def operator(cls: T) -> T:
    """Turn a class into an operator; see Op."""
    dataclass(frozen=True, kw_only=True)(cls)
    infer, reference = (list(inspect.signature(f).parameters) for f in (cls.infer, cls.reference))
    if infer != reference:
        raise TypeError(f"{cls.__name__}: infer{infer} and reference{reference} disagree")
    parameters = list(inspect.signature(cls.infer).parameters.values())[1:]
    cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
    cls.operands = tuple(p.name for p in parameters)
    cls.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    cls.required = sum(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in parameters)
    return cls


@dataclass(eq=False, slots=True)
class Value:
    """One result in a graph; ``node`` is None for graph inputs.

    ``users`` are the nodes that read it, each once, in the order in which they were made.
    """

    type: Any
    name: str
    loc: Loc
    node: Node | None = None
    index: int = 0
    users: dict[Node, None] = field(default_factory=dict)

    @property
    def tensor(self) -> TensorType:
        """Return the type of a value that is known to be a tensor."""
        if not isinstance(self.type, TensorType):
            raise TypeMismatch(f"%{self.name} is {self.type}, not a tensor")
        return self.type

    @property
    def op(self) -> Op | None:
        """Return the operator that makes this value (None for graph inputs)."""
        return self.node.op if self.node is not None else None

    def __repr__(self) -> str:
        return f"Value(%{self.name}: {self.type})"


@dataclass(eq=False, slots=True)
class Node:
    """One application of an operator."""

    op: Op
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    loc: Loc

    @property
    def output(self) -> Value:
        """Return the only result."""
        assert len(self.outputs) == 1, f"{self.op.name} has {len(self.outputs)} results"
        return self.outputs[0]

    def __str__(self) -> str:
        args = ", ".join(f"%{v.name}" for v in self.inputs)
        results = ", ".join(f"%{v.name}: {v.type}" for v in self.outputs)
        op, _, attrs = str(self.op).partition(" ")
        return f"{results} = {op}({args}) {attrs}".rstrip()


@dataclass(eq=False)
class Graph(NestedGraph):
    """A program over values, with named inputs and outputs.

    ``definers`` names, for each symbol that data decides (the count of NonZero, the contents of a
    shape input), the value whose computation gives the symbol its number.  ``bound`` holds numbers
    for symbols that come from the graph around a nested one.
    """

    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    output_names: list[str] = field(default_factory=list)
    definers: dict[str, Value] = field(default_factory=dict)
    name: str = ""
    bound: dict[str, int] = field(default_factory=dict)

    def input(self, name: str, type: ValueType, loc: Loc | None = None) -> Value:
        """Declare a graph input."""
        v = Value(type, name, loc or Loc(name))
        self.inputs.append(v)
        return v

    def output(self, value: Value, name: str | None = None) -> None:
        """Declare a graph output; the name defaults to the value's."""
        self.outputs.append(value)
        self.output_names.append(value.name if name is None else name)

    def nodes(self) -> Iterator[Node]:
        """Yield the live nodes, operands (and definers of symbols) first.

        The order is fixed when iteration starts; raises GraphError for a cycle.
        """
        yield from _ordered(self)

    def uses(self, v: Value) -> int:
        """Return how many nodes and graph outputs read ``v``."""
        held = sum(d is v for d in self.definers.values())
        return len(v.users) + sum(o is v for o in self.outputs) + held

    def replace(self, old: Value, new: Value) -> None:
        """Point every use of ``old`` at ``new`` and erase what nothing needs any more."""
        if old is new:
            return
        for node in list(old.users):
            if new.node is node:
                continue
            node.inputs = tuple(new if v is old else v for v in node.inputs)
            del old.users[node]
            new.users[node] = None
        self.outputs = [new if v is old else v for v in self.outputs]
        for name, v in self.definers.items():
            if v is old:
                self.definers[name] = new
        self.erase_dead(old)

    def erase_dead(self, value: Value) -> None:
        """Erase the node of ``value`` when nothing reads its results, and so on upwards."""
        stack = [value]
        while stack:
            node = stack.pop().node
            if node is None or any(self.uses(o) for o in node.outputs):
                continue
            for v in node.inputs:
                if v.users.pop(node, 0) is None:
                    stack.append(v)

    def symbols(self) -> set[str]:
        """Return the symbols of the inputs and of the definers."""
        inputs = (s for v in self.inputs for s in attribute_symbols(v.type))
        return {*inputs, *self.definers}

    def free_symbols(self) -> frozenset[str]:
        """Return the symbols that neither inputs, definers nor ``bound`` give a number."""
        given = {
            str(d) for v in self.inputs if isinstance(v.type, TensorType) for d in v.type.shape
        }
        return frozenset(self._mentioned() - given - self.definers.keys() - self.bound.keys())

    def with_symbols(self, env: Mapping[str, Dim]) -> Graph:
        """Return this graph with symbols replaced; the same object when it has none of them.

        Numbers are remembered in a shallow copy and used when it is interpreted; other expressions
        need a copy of every node, see :meth:`substitute`.
        """
        used = {s: env[s] for s in sorted(self._mentioned() - self.definers.keys()) if s in env}
        numbers = {s: d for s, d in used.items() if not isinstance(d, Expr)}
        if len(numbers) < len(used):
            return self.substitute(used)
        if numbers.items() <= self.bound.items():
            return self
        return replace(self, bound={**self.bound, **numbers})

    def substitute(self, env: Mapping[str, Dim]) -> Graph:
        """Return a copy with symbols replaced in every operator and all types inferred again."""
        known: dict[str, Dim] = {**self.bound, **env}
        copy = Graph(name=self.name)
        made = {
            v: copy.input(v.name, substitute_attribute(v.type, known), v.loc) for v in self.inputs
        }
        for node in self.nodes():
            operands = [made[v] for v in node.inputs]
            new = emit_node(node.op.substitute(known), operands, loc=node.loc)
            for old_value, new_value in zip(node.outputs, new.outputs, strict=True):
                new_value.name = old_value.name
                made[old_value] = new_value
        for v, name in zip(self.outputs, self.output_names, strict=True):
            copy.output(made[v], name)
        copy.definers = {s: made[v] for s, v in self.definers.items()}
        return copy

    def _mentioned(self) -> set[str]:
        values = [*self.inputs, *(v for node in self.nodes() for v in node.outputs)]
        in_types = {s for v in values for s in attribute_symbols(v.type)}
        return in_types.union(*(node.op.symbols() for node in self.nodes()))


def emit_node(op: Op, inputs: Sequence[Value], *, loc: Loc, name: str = "") -> Node:
    """Apply ``op`` to ``inputs`` and type the results; the only way to make a node."""
    try:
        if len(inputs) < op.required or (not op.variadic and len(inputs) > len(op.operands)):
            raise TypeMismatch(f"{op.name} takes {_arity(op)} operands, got {len(inputs)}")
        inferred = op.infer(*(v.type for v in inputs))
    except GraphError as e:
        args = ", ".join(f"%{v.name}: {v.type}" for v in inputs)
        e.where += [f"from {loc}", f"in {op.name}({args})"]
        raise
    types = inferred if isinstance(inferred, tuple) else (inferred,)
    outputs = tuple(
        Value(t, name if not i else f"{name}_{i}" if name else "", loc, None, i)
        for i, t in enumerate(types)
    )
    node = Node(op, tuple(inputs), outputs, loc)
    for v in outputs:
        v.node = node
    for v in inputs:
        v.users[node] = None
    return node


def emit(op: Op, inputs: Sequence[Value], *, loc: Loc, name: str = "") -> Value:
    """Apply an operator that has one result and return that result."""
    return emit_node(op, inputs, loc=loc, name=name).output


def _arity(op: Op) -> str:
    if op.variadic:
        return f"at least {op.required}"
    most = len(op.operands)
    return str(most) if most == op.required else f"{op.required} to {most}"


@lru_cache(maxsize=4096)
def _op_symbols(op: Op) -> frozenset[str]:
    return op.symbols()


def _needs(graph: Graph, node: Node) -> list[Value]:
    """Return what must be computed before ``node``."""
    if not graph.definers:
        return list(node.inputs)
    extra = [graph.definers[s] for s in sorted(_op_symbols(node.op)) if s in graph.definers]
    return [*node.inputs, *(v for v in extra if v.node is not node)]


def _ordered(graph: Graph) -> list[Node]:
    order: list[Node] = []
    state: dict[Node, bool] = {}  # False while being visited, True when done
    for root in (*graph.outputs, *graph.definers.values()):
        stack = [(root.node, False)] if root.node is not None else []
        while stack:
            node, leave = stack.pop()
            if leave:
                state[node] = True
                order.append(node)
                continue
            if node in state:
                if not state[node]:
                    raise GraphError(f"the graph has a cycle through {node}")
                continue
            state[node] = False
            stack.append((node, True))
            for v in reversed(_needs(graph, node)):
                if v.node is not None and not state.get(v.node, False):
                    if v.node in state:
                        with where(f"from {v.node.loc}"):
                            raise GraphError(f"the graph has a cycle through {v.node}")
                    stack.append((v.node, False))
    return order
