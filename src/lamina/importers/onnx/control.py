"""If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from lamina import ops
from lamina.errors import ImportFailed
from lamina.importers.onnx.importer import import_graph
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.scope import Scope
from lamina.importers.onnx.table import Table
from lamina.ir.attributes import attribute_symbols
from lamina.ir.dims import Dim, symbols
from lamina.ir.graph import Graph, Value
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import BinaryKind

table = Table()

MOST_ROUNDS = 8
"""How often the shapes of carried values are made more general before giving up."""


@table.op("If")
def if_(n: OnnxNode, condition: Value) -> tuple[Value, ...]:
    """Import If; when the condition is known, only the branch that is taken."""
    known = n.known(condition)
    if known is not None:
        name = "then_branch" if bool(known.item()) else "else_branch"
        taken = inner_scope(n, n.scope.graph, name)
        return _tensors(n, import_graph(taken, n.graph(name)))
    branches = []
    for name in ("then_branch", "else_branch"):
        scope = inner_scope(n, Graph(name=name), name)
        for value in _tensors(n, import_graph(scope, n.graph(name))):
            scope.graph.output(value)
        branches.append(scope)
    captures = list(dict.fromkeys(v for scope in branches for v in scope.captures))
    then_graph, else_graph = (closed_branch(scope, captures) for scope in branches)
    op = ops.If(
        then_branch=then_graph,
        else_branch=else_graph,
        output_types=joined_types(n, then_graph, else_graph),
    )
    for graph in (then_graph, else_graph):
        n.scope.session.release_dead(graph)
    return n.emit_all(op, condition, *captures)


def inner_scope(n: OnnxNode, graph: Graph, name: str) -> Scope:
    """Return the scope of a graph nested in this node."""
    return Scope(
        n.scope.session,
        graph,
        n.scope.opsets,
        parent=n.scope,
        arguments=n.scope.arguments,
        prefix=f"{n.loc.text}/{name}/",
    )


def _tensors(n: OnnxNode, values: Sequence[object]) -> tuple[Value, ...]:
    """Return the values; control flow over anything but tensors is left to the host."""
    for v in values:
        if not isinstance(v, Value) or not isinstance(v.type, TensorType):
            raise n.unsupported("control flow over values that are not tensors")
    return tuple(values)  # type: ignore[arg-type]


def closed_branch(scope: Scope, captures: list[Value]) -> Graph:
    """Give a branch one input for each value that either branch captures."""
    inner = dict(zip(scope.captures, scope.graph.inputs, strict=True))
    scope.graph.inputs = []
    for outer in captures:
        if outer in inner:
            scope.graph.inputs.append(inner[outer])
        else:
            scope.unused(outer)
    return scope.graph


def joined_types(n: OnnxNode, a: Graph, b: Graph) -> tuple[TensorType, ...]:
    """Return types that fit both branches; empty when the branches agree by themselves."""
    if len(a.outputs) != len(b.outputs):
        raise ImportFailed(f"the branches have {len(a.outputs)} and {len(b.outputs)} results")
    local = a.definers.keys() | b.definers.keys()
    joined = []
    for i, (v, w) in enumerate(zip(a.outputs, b.outputs, strict=True)):
        x, y = v.tensor, w.tensor
        if x.dtype is not y.dtype:
            raise ImportFailed(f"result {i} is {x} in one branch and {y} in the other")
        if x.rank != y.rank:
            raise n.unsupported(f"result {i} is {x} in one branch and {y} in the other")
        joined.append(x.with_shape(_joined_shape(n, x.shape, y.shape, local)))
    same = [v.tensor for v in a.outputs] == joined == [v.tensor for v in b.outputs]
    return () if same else tuple(joined)


def _joined_shape(
    n: OnnxNode, a: tuple[Dim, ...], b: tuple[Dim, ...], local: set[str] | frozenset[str]
) -> tuple[Dim, ...]:
    return tuple(
        d if d == e and not local & set(symbols(d)) else n.count(f"branch_dim{axis}")
        for axis, (d, e) in enumerate(zip(a, b, strict=True))
    )


@dataclass
class LoopBody:
    """What one iteration gives: whether to go on, the carried values, and slices to stack."""

    condition: Value
    carried: tuple[Value, ...]
    slices: tuple[Value, ...]


Build = Callable[[Scope, Value, Value, tuple[Value, ...]], LoopBody]
"""Imports the body from (scope, iteration, condition, carried)."""


@table.op("Loop")
def loop(
    n: OnnxNode, trip_count: Value | None = None, condition: Value | None = None, *carried: Value
) -> tuple[Value, ...]:
    """Import Loop."""
    body = n.graph("body")
    if len(body.input) != len(carried) + 2 or len(body.output) < len(carried) + 1:
        raise ImportFailed(
            f"the body takes {len(body.input)} values and gives {len(body.output)}, "
            f"{len(carried)} are carried"
        )
    _tensors(n, carried)
    if trip_count is None:
        trip_count = n.constant(np.iinfo(np.int64).max, DType.I64)
    if condition is None:
        condition = n.constant(True, DType.BOOL)

    def build(scope: Scope, iteration: Value, going: Value, states: tuple[Value, ...]) -> LoopBody:
        given = (iteration, going, *states)
        scope.values.update(zip((v.name for v in body.input), given, strict=True))
        made = _tensors(n, import_graph(scope, body))
        count = 1 + len(states)
        return LoopBody(made[0], made[1:count], made[count:])

    trip_count = n.reshape(n.cast(trip_count, DType.I64), ())
    return import_loop(n, trip_count, n.reshape(condition, ()), carried, build)


def import_loop(
    n: OnnxNode,
    trip_count: Value,
    condition: Value,
    carried: tuple[Value, ...],
    build: Build,
) -> tuple[Value, ...]:
    """Import the body with ever more general shapes until they do not change any more."""
    types = [v.tensor for v in carried]
    free: set[str] = set()
    report = n.scope.session.report
    for _ in range(MOST_ROUNDS):
        mark = len(report)
        scope = inner_scope(n, Graph(name="body"), "body")
        made, iteration_condition = _import_body(scope, types, build)
        general = [
            _general(n, t, v.tensor, i, free)
            for i, (t, v) in enumerate(zip(types, made.carried, strict=True))
        ]
        if general == types:
            break
        types = general
        del report[mark:]
    else:
        raise n.unsupported("the shapes of carried values keep changing")
    for value in (made.condition, *made.carried, *made.slices):
        scope.graph.output(value)
    endless = n.known(condition) is not None and _stays_true(n, made, iteration_condition)
    counts = tuple(
        _known_count(n, trip_count) if endless else n.count("iterations") for _ in made.slices
    )
    op = ops.Loop(
        body=scope.graph,
        carried=len(carried),
        counts=counts,
        output_types=_loop_types(n, scope.graph, carried, types, made, counts),
    )
    n.scope.session.release_dead(scope.graph)
    return n.emit_all(op, trip_count, condition, *carried, *scope.captures)


def _import_body(scope: Scope, types: list[TensorType], build: Build) -> tuple[LoopBody, Value]:
    graph = scope.graph
    iteration = graph.input("iteration", TensorType(DType.I64, ()))
    condition = graph.input("condition", TensorType(DType.BOOL, ()))
    states = tuple(graph.input(f"carried_{i}", t) for i, t in enumerate(types))
    return build(scope, iteration, condition, states), condition


def _general(
    n: OnnxNode, before: TensorType, after: TensorType, i: int, free: set[str]
) -> TensorType:
    """Return a type that fits a carried value before and after an iteration.

    Sizes that change become symbols, whose names are added to ``free``.
    """
    if before.dtype is not after.dtype or before.rank != after.rank:
        raise ImportFailed(
            f"carried value {i} enters the body as {before} and leaves it as {after}"
        )
    shape: list[Dim] = []
    for axis, (d, e) in enumerate(zip(before.shape, after.shape, strict=True)):
        if d != e and str(d) not in free:
            d = n.scope.session.symbols.fresh(f"carried_{i}_dim{axis}")
            free.add(str(d))
        shape.append(d)
    return before.with_shape(tuple(shape))


def _stays_true(n: OnnxNode, made: LoopBody, given: Value) -> bool:
    known = n.known(made.condition)
    return made.condition is given or (known is not None and bool(known.item()))


def _known_count(n: OnnxNode, trip_count: Value) -> Dim:
    return n.dim(trip_count) if n.is_known(trip_count) else n.count("iterations")


def _loop_types(
    n: OnnxNode,
    body: Graph,
    carried: tuple[Value, ...],
    types: list[TensorType],
    made: LoopBody,
    counts: tuple[Dim, ...],
) -> tuple[TensorType, ...]:
    """Return declared types of the results; empty when they follow from the operands."""
    outer = {s for v in carried for s in attribute_symbols(v.type)}
    inside = {s for t in types for s in attribute_symbols(t)} - outer
    local = inside | body.definers.keys()
    if not local & {s for v in (*made.carried, *made.slices) for s in attribute_symbols(v.type)}:
        return ()
    finals = [_without(n, v.tensor, local) for v in made.carried]
    stacked = [
        _without(n, v.tensor, local).with_shape((c, *_without(n, v.tensor, local).shape))
        for v, c in zip(made.slices, counts, strict=True)
    ]
    return (*finals, *stacked)


def _without(n: OnnxNode, type_: TensorType, local: set[str]) -> TensorType:
    """Replace sizes that only the body knows by symbols of the graph around it."""
    return type_.with_shape(
        tuple(
            n.count(f"loop_dim{a}") if local & set(symbols(d)) else d
            for a, d in enumerate(type_.shape)
        )
    )


@table.op("Scan", since=9)
def scan(n: OnnxNode, *operands: Value) -> tuple[Value, ...]:
    """Import Scan as a Loop that gathers a slice of every scanned operand."""
    count = n.integer("num_scan_inputs")
    states, scanned = operands[: len(operands) - count], operands[len(operands) - count :]
    axes = n.integers("scan_input_axes", (0,) * count)
    axes = tuple(n.wrap(a, v.tensor.rank) for a, v in zip(axes, scanned, strict=True))
    results = _scan(n, states, scanned, axes, n.integers("scan_input_directions", (0,) * count))
    return (*results[: len(states)], *_placed(n, results[len(states) :]))


@table.op("Scan", since=8)
def scan_batched(n: OnnxNode, *given: Value) -> tuple[Value, ...]:
    """Import Scan of opset 8, which has a batch axis before everything."""
    lengths, *operands = given
    batch = operands[0].tensor.shape[0] if operands else 0
    if lengths is not None or not isinstance(batch, int):
        raise n.unsupported("scans of different lengths, or of a batch of unknown size")
    count = n.integer("num_scan_inputs")
    directions = n.integers("directions", (0,) * count)
    parts = []
    for b in range(batch):
        index = n.constant(b, DType.I64)
        rows = [n.emit(ops.Gather(axis=0), v, index) for v in operands]
        states, scanned = tuple(rows[:-count]), tuple(rows[-count:])
        parts.append(_scan(n, states, scanned, (0,) * count, directions))
    rows = [[n.reshape(v, (1, *v.tensor.shape)) for v in part] for part in parts]
    return tuple(n.emit(ops.Concat(axis=0), *column) for column in zip(*rows, strict=True))


def _scan(
    n: OnnxNode,
    states: tuple[Value, ...],
    scanned: tuple[Value, ...],
    axes: tuple[int, ...],
    directions: tuple[int, ...],
) -> tuple[Value, ...]:
    if not scanned:
        raise ImportFailed("it scans nothing")
    body: onnx.GraphProto = n.graph("body")
    steps = n.reshape(n.shape_of(scanned[0], axes[0], axes[0] + 1), ())

    def build(scope: Scope, iteration: Value, going: Value, carried: tuple[Value, ...]) -> LoopBody:
        inside = OnnxNode(n.proto, n.attributes, n.opset, n.loc, scope, [])
        rows = []
        for x, axis, reverse in zip(scanned, axes, directions, strict=True):
            index = iteration
            if reverse:
                after = inside.binary(BinaryKind.ADD, iteration, inside.like(1, iteration))
                index = inside.binary(BinaryKind.SUB, scope.capture(steps), after)
            rows.append(inside.emit(ops.Gather(axis=axis), scope.capture(x), index))
        scope.values.update(zip((v.name for v in body.input), (*carried, *rows), strict=True))
        made = _tensors(n, import_graph(scope, body))
        return LoopBody(going, made[: len(carried)], made[len(carried) :])

    return import_loop(n, steps, n.constant(True, DType.BOOL), states, build)


def _placed(n: OnnxNode, stacked: tuple[Value, ...]) -> list[Value]:
    """Reverse what was stacked backwards and move the stacked axis where it belongs."""
    count = len(stacked)
    axes = n.integers("scan_output_axes", (0,) * count)
    directions = n.integers("scan_output_directions", (0,) * count)
    results = []
    for v, axis, backwards in zip(stacked, axes, directions, strict=True):
        rank = v.tensor.rank
        if backwards:
            size = v.tensor.shape[0]
            op = ops.Slice(
                starts=(size - 1, *(0 for _ in range(rank - 1))),
                sizes=v.tensor.shape,
                steps=(-1, *(1 for _ in range(rank - 1))),
            )
            v = n.emit(op, v)
        order = list(range(1, rank))
        order.insert(n.wrap(axis, rank), 0)
        results.append(n.transpose(v, tuple(order)))
    return results
