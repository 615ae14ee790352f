"""Patterns over values and what they matched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lamina.ir.graph import Array, Graph, Node, Op, Value, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.traced import asarray

T = TypeVar("T", bound=Op)


@dataclass(frozen=True, eq=False)
class Pat:
    """Matches a value: any, or the result of an operator with given attributes and inputs.

    Patterns bind by object: the same pattern object in two places must match the same value.
    """

    ops: tuple[type[Op], ...] = ()
    inputs: tuple[Pat, ...] | None = None
    attributes: tuple[tuple[str, Any], ...] = ()
    one_use: bool = False
    alternatives: tuple[Pat, ...] = ()
    test: Callable[[Value], bool] | None = None


def anything(test: Callable[[Value], bool] | None = None) -> Pat:
    """Match any value (for which ``test`` holds)."""
    return Pat(test=test)


def match(
    op: type[Op] | tuple[type[Op], ...], *inputs: Pat, one_use: bool = False, **attributes: Any
) -> Pat:
    """Match a value that ``op`` computes.

    With ``inputs`` the node must have exactly these operands; both orders are tried when the
    operator is commutative.  Keywords are attribute values (a tuple of them: any of these).
    ``one_use`` demands that nothing else reads the value.
    """
    ops = op if isinstance(op, tuple) else (op,)
    return Pat(ops, inputs or None, tuple(attributes.items()), one_use)


def either(*patterns: Pat) -> Pat:
    """Match the first of several patterns that fits."""
    return Pat(alternatives=patterns)


@dataclass(frozen=True)
class Reject:
    """Why a rule or a tactic declined a match; shown by ``lamina inspect``."""

    reason: str

    def __bool__(self) -> bool:
        return False


@dataclass
class Match:
    """What each part of a pattern matched, and the way to build the replacement."""

    rule: str
    graph: Graph
    values: dict[Pat, Value] = field(default_factory=dict)

    def __getitem__(self, p: Pat) -> Value:
        return self.values[p]

    def __contains__(self, p: Pat) -> bool:
        return p in self.values

    def node(self, p: Pat) -> Node:
        """Return the node that made the value matched by ``p``."""
        node = self.values[p].node
        assert node is not None
        return node

    def op(self, p: Pat, kind: type[T]) -> T:
        """Return the operator that made the value matched by ``p``."""
        op = self.node(p).op
        assert isinstance(op, kind)
        return op

    def array(self, p: Pat) -> Array:
        """Return the contents of a constant matched by ``p``."""
        return asarray(self.node(p).op.reference())

    def loc(self) -> Loc:
        """Return the location of something made out of everything that matched."""
        nodes = [v for p, v in self.values.items() if p.ops and v.node is not None]
        return Loc.fused(self.rule, *(v.loc for v in nodes))

    def emit(self, op: Op, *inputs: Value) -> Value:
        """Apply ``op``; the result remembers every matched location."""
        return emit(op, inputs, loc=self.loc())

    def emit_node(self, op: Op, *inputs: Value) -> Node:
        """Apply an operator with several results."""
        return emit_node(op, inputs, loc=self.loc())

    def bind(self, p: Pat, v: Value) -> bool:
        """Try to match ``p`` against ``v``; records what matched, or nothing."""
        before = dict(self.values)
        if self._bind(p, v):
            return True
        self.values = before
        return False

    def _bind(self, p: Pat, v: Value) -> bool:
        if p in self.values:
            return self.values[p] is v
        if p.alternatives:
            if not any(self.bind(q, v) for q in p.alternatives):
                return False
        elif not self._fits(p, v):
            return False
        self.values[p] = v
        return True

    def _fits(self, p: Pat, v: Value) -> bool:
        if p.test is not None and not p.test(v):
            return False
        if not p.ops:
            return True
        node = v.node
        if node is None or not isinstance(node.op, p.ops):
            return False
        if p.one_use and self.graph.uses(v) > 1:
            return False
        for name, wanted in p.attributes:
            have = getattr(node.op, name)
            if have != wanted and not (isinstance(wanted, tuple) and have in wanted):
                return False
        return p.inputs is None or self._inputs(p.inputs, node)

    def _inputs(self, patterns: Sequence[Pat], node: Node) -> bool:
        for operands in _orders(node):
            if len(operands) != len(patterns):
                return False
            before = dict(self.values)
            if all(self.bind(q, w) for q, w in zip(patterns, operands, strict=True)):
                return True
            self.values = before
        return False


def _orders(node: Node) -> Iterator[tuple[Value, ...]]:
    yield node.inputs
    if node.op.commutative and len(node.inputs) == 2 and node.inputs[0] is not node.inputs[1]:
        yield node.inputs[::-1]
