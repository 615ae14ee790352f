"""Operators that contain graphs.

A nested graph is closed: what it reads from outside arrives through its inputs, and only symbols
are shared with the graph around it.  Symbols that stand alone in the shape of an input get their
value from the operand each time the graph runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.attributes import attribute_symbols, substitute_attribute
from lamina.ir.dims import Dim, Expr, evaluate, never_equal, substitute, symbols
from lamina.ir.graph import Array, Graph, Op, operator
from lamina.ir.interpret import bind_shape, interpret
from lamina.ir.types import DType, OptionalType, SequenceType, TensorType, ValueType
from lamina.ops.check import has_dtype, rank_is


@operator
class Region(Op):
    """A fused part of a graph; it means what its body means."""

    body: Graph
    kind: str = "pointwise"

    @property
    def pure(self) -> bool:
        """Whether every operator of the body is pure."""
        return is_pure(self.body)

    def infer(self, *inputs: ValueType) -> tuple[ValueType, ...]:
        return result_types("the body", self.body, inputs)

    def reference(self, *inputs: Any) -> tuple[Any, ...]:
        return tuple(interpret(self.body, inputs))


@operator
class If(Op):
    """Run one of two graphs on the captures; both give results of the same types.

    ``output_types`` is needed where the branches differ in shape, or where data decides a size
    inside a branch: it names such sizes by symbols of their own.
    """

    then_branch: Graph
    else_branch: Graph
    output_types: tuple[ValueType, ...] = ()

    @property
    def pure(self) -> bool:
        """Whether every operator of both branches is pure."""
        return is_pure(self.then_branch) and is_pure(self.else_branch)

    def infer(self, condition: TensorType, *captures: ValueType) -> tuple[ValueType, ...]:
        has_dtype("the condition", condition, DType.BOOL)
        if condition.size != 1:
            raise TypeMismatch(f"the condition must be one element, got {condition}")
        then_types = result_types("then_branch", self.then_branch, captures)
        else_types = result_types("else_branch", self.else_branch, captures)
        if self.output_types:
            _check_declared("then_branch", then_types, self.output_types)
            _check_declared("else_branch", else_types, self.output_types)
            return self.output_types
        local = {*self.then_branch.definers, *self.else_branch.definers}
        if then_types != else_types or local & set(attribute_symbols(then_types)):
            raise TypeMismatch(
                f"the branches give {_text(then_types)} and {_text(else_types)}",
                hint="declare output_types with a new symbol for each size that differs",
            )
        return then_types

    def reference(self, condition: Array, *captures: Any) -> tuple[Any, ...]:
        chosen = self.then_branch if condition.item() else self.else_branch
        return tuple(interpret(chosen, captures))


@operator
class Loop(Op):
    """Run the body while the condition holds, at most ``trip_count`` times.

    Operands after the condition are the ``carried`` values and then the captures.  The body takes
    (iteration i64[], condition, carried, captures) and gives (condition, carried, slices); the
    results are the last carried values and each kind of slice stacked on a new first axis, whose
    size is the symbol in ``counts``.  An unlimited loop has the largest i64 as trip count.
    ``output_types`` is needed where the shape of a carried value changes between iterations.
    """

    body: Graph
    carried: int
    counts: tuple[Dim, ...] = ()
    output_types: tuple[ValueType, ...] = ()

    @property
    def pure(self) -> bool:
        """Whether every operator of the body is pure."""
        return is_pure(self.body)

    def infer(
        self, trip_count: TensorType, condition: TensorType, *values: ValueType
    ) -> tuple[ValueType, ...]:
        has_dtype("trip_count", trip_count, DType.I64)
        has_dtype("the condition", condition, DType.BOOL)
        rank_is("trip_count", trip_count, 0)
        rank_is("the condition", condition, 0)
        made = result_types("the body", self.body, (trip_count, condition, *values))
        if len(made) != 1 + self.carried + len(self.counts) or len(values) < self.carried:
            raise TypeMismatch(
                f"the body gives {len(made)} results, expected a condition, {self.carried} carried "
                f"values and {len(self.counts)} slices"
            )
        carried = made[1 : 1 + self.carried]
        scans = tuple(
            _stacked(t, n) for t, n in zip(made[1 + self.carried :], self.counts, strict=True)
        )
        if self.output_types:
            _check_declared("the body", (*carried, *scans), self.output_types)
            return self.output_types
        for i, (before, after) in enumerate(zip(values, carried, strict=False)):
            if before != after:
                raise TypeMismatch(
                    f"carried value {i} enters the body as {before} and leaves it as {after}",
                    hint="declare output_types with a new symbol for each size that changes",
                )
        return (*carried, *scans)

    def reference(self, trip_count: Array, condition: Array, *values: Any) -> tuple[Any, ...]:
        carried, captures = list(values[: self.carried]), values[self.carried :]
        slices: list[list[Array]] = [[] for _ in self.counts]
        running, iteration = bool(condition.item()), 0
        while running and iteration < int(trip_count.item()):
            number = np.array(iteration, np.int64)
            results = interpret(self.body, [number, np.array(running), *carried, *captures])
            running = bool(results[0].item())
            carried = results[1 : 1 + self.carried]
            for kept, result in zip(slices, results[1 + self.carried :], strict=True):
                kept.append(result)
            iteration += 1
        empty = self._empty_scans((trip_count, condition, *values))
        scans = (np.stack(s) if s else e for s, e in zip(slices, empty, strict=True))
        return (*carried, *scans)

    def _empty_scans(self, operands: Sequence[Any]) -> Iterator[Array]:
        """Yield what a loop without iterations stacks; sizes that nothing tells are zero."""
        env = dict(self.body.bound)
        for v, x in zip(self.body.inputs, operands, strict=True):
            if isinstance(v.type, TensorType):
                bind_shape(v.type, x.shape, env, f"input {v.name!r}")
        for v in self.body.outputs[1 + self.carried :]:
            known = (
                evaluate(d, env) if set(symbols(d)) <= env.keys() else 0 for d in v.tensor.shape
            )
            yield np.zeros((0, *known), v.tensor.dtype.numpy)


def is_pure(graph: Graph) -> bool:
    """Whether equal inputs give equal results."""
    return all(node.op.pure for node in graph.nodes())


def result_types(what: str, graph: Graph, operands: Sequence[ValueType]) -> tuple[ValueType, ...]:
    """Return the types that ``graph`` gives; raises TypeMismatch when the operands do not fit."""
    if len(operands) != len(graph.inputs):
        raise TypeMismatch(f"{what} takes {len(graph.inputs)} values, got {len(operands)}")
    env: dict[str, Dim] = dict(graph.bound)
    for v, operand in zip(graph.inputs, operands, strict=True):
        _bind_type(f"input %{v.name} of {what}", v.type, operand, env)
    return tuple(substitute_attribute(v.type, env) for v in graph.outputs)


def _bind_type(what: str, declared: ValueType, given: ValueType, env: dict[str, Dim]) -> None:
    if isinstance(declared, SequenceType | OptionalType) and type(declared) is type(given):
        _bind_type(what, declared.element, given.element, env)
        return
    if not isinstance(declared, TensorType) or not isinstance(given, TensorType):
        raise TypeMismatch(f"{what} is {declared} but gets {given}")
    if declared.dtype is not given.dtype or declared.rank != given.rank:
        raise TypeMismatch(f"{what} is {declared} but gets {given}")
    for d, n in zip(declared.shape, given.shape, strict=True):
        name = str(d) if isinstance(d, Expr) else ""
        if name.isidentifier() and name not in env:
            env[name] = n
        elif never_equal(substitute(d, env), n):
            raise TypeMismatch(f"{what} is {declared} but gets {given}")


def _check_declared(what: str, made: Sequence[ValueType], declared: Sequence[ValueType]) -> None:
    """Raise TypeMismatch unless every result can have its declared type."""
    if len(made) != len(declared):
        raise TypeMismatch(f"{what} gives {len(made)} results, {len(declared)} are declared")
    for i, (a, b) in enumerate(zip(made, declared, strict=True)):
        if not _can_be(a, b):
            raise TypeMismatch(f"result {i} of {what} is {a}, declared as {b}")


def _can_be(a: ValueType, b: ValueType) -> bool:
    if isinstance(b, OptionalType):
        return _can_be(a.element if isinstance(a, OptionalType) else a, b.element)
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        return _can_be(a.element, b.element)
    if not isinstance(a, TensorType) or not isinstance(b, TensorType):
        return False
    same = a.dtype is b.dtype and a.rank == b.rank
    return same and not any(never_equal(d, n) for d, n in zip(a.shape, b.shape, strict=True))


def _stacked(slice_type: ValueType, count: Dim) -> TensorType:
    if not isinstance(slice_type, TensorType):
        raise TypeMismatch(f"a loop stacks tensors, got {slice_type}")
    return slice_type.with_shape((count, *slice_type.shape))


def _text(types: Sequence[ValueType]) -> str:
    return f"({', '.join(map(str, types))})"
