"""Loops as Loop operators with nested graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lamina import ops
from lamina.errors import GraphError
from lamina.importers.onnx.control import LoopBody, import_loop
from lamina.importers.onnx.scope import Scope
from lamina.ir.dims import Dim
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, PadMode
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.lowering.walk import key
from lamina.tensorrt.nesting.assertions import asserted

if TYPE_CHECKING:
    from lamina.tensorrt.nesting.build_walk import BuildWalk
    from lamina.tensorrt.network.control import ILoop, ILoopOutputLayer
    from lamina.tensorrt.network.tensor import ITensor


def lower_loop(walk: BuildWalk, e: LayerEmitter, loop: ILoop) -> None:
    """Lower a loop with everything inside it and remember what leaves it."""
    _check(loop)
    scope = e.scope
    joined = [o for o in loop._outputs if o._output != "LAST_VALUE"]
    condition = _limit(loop, "WHILE")

    def build(inner: Scope, iteration: Value, going: Value, states: tuple[Value, ...]) -> LoopBody:
        walk.inside[inner] = loop
        inside = LayerEmitter(e.layer, walk, inner)
        _enter(loop, inside, states, iteration)
        after = tuple(walk.value(_next(r), inner) for r in loop._recurrences)
        slices = tuple(walk.value(_first(o), inner) for o in joined)
        goes_on = going
        if condition is not None:
            following = inside.binary(BinaryKind.ADD, iteration, inside.like(1, iteration))
            goes_on = _condition(walk, inside, loop, condition, after, following)
        return LoopBody(asserted(walk, inner, goes_on, loop), after, slices)

    carried = tuple(scope.lookup(key(_first(r))) for r in loop._recurrences)
    start = e.constant(True, DType.BOOL)
    if condition is not None:
        start = _condition(walk, e, loop, condition, carried, e.constant(0, DType.I64))
    results = import_loop(e, _trip_count(e, loop), start, carried, build)
    for recurrence, value in zip(loop._recurrences, results, strict=False):
        for output in loop._outputs:
            if output._output == "LAST_VALUE" and _first(output) is recurrence._outputs[0]:
                _leave(walk, output, scope, value)
    for output, value in zip(joined, results[len(carried) :], strict=True):
        own = LayerEmitter(output, walk, scope)
        _leave(walk, output, scope, _placed(own, output, value))


def _check(loop: ILoop) -> None:
    if not loop._limits:
        raise GraphError("it has no trip limit", hint="call add_trip_limit")
    for recurrence in loop._recurrences:
        if len(recurrence._inputs) < 2:
            raise GraphError(
                f"recurrence {recurrence._name!r} has no next value", hint="call set_input(1, …)"
            )
    given = {r._outputs[0] for r in loop._recurrences}
    for output in loop._outputs:
        if output._output == "LAST_VALUE" and _first(output) not in given:
            raise GraphError(
                f"{output._name!r} takes the last value of {_first(output)._name!r}, which is no "
                f"recurrence",
                hint="hand the value on by add_recurrence, or join values by CONCATENATE",
            )


def _first(layer: object) -> ITensor:
    tensor: ITensor = layer._inputs[0]  # type: ignore[attr-defined]
    return tensor


def _next(layer: object) -> ITensor:
    tensor: ITensor = layer._inputs[1]  # type: ignore[attr-defined]
    return tensor


def _limit(loop: ILoop, kind: str) -> ITensor | None:
    return next((_first(limit) for limit in loop._limits if limit._limit == kind), None)


def _trip_count(e: LayerEmitter, loop: ILoop) -> Value:
    limit = _limit(loop, "COUNT")
    if limit is None:
        return e.constant(np.iinfo(np.int64).max, DType.I64)
    count: Value = e.scope.lookup(key(limit))
    return e.reshape(e.cast(count, DType.I64), ())


def _enter(loop: ILoop, e: LayerEmitter, states: tuple[Value, ...], iteration: Value) -> None:
    """Give recurrences and iterators their values in the scope of ``e``."""
    values = e.scope.values
    for recurrence, state in zip(loop._recurrences, states, strict=True):
        values[key(recurrence._outputs[0])] = state
    for iterator in loop._iterators:
        x: Value = e.scope.lookup(key(_first(iterator)))
        axis = e.wrap(iterator.axis, x.tensor.rank)
        size = e.reshape(e.shape_of(x, axis, axis + 1), ())
        last = e.binary(BinaryKind.SUB, size, e.like(1, size))
        index = e.binary(BinaryKind.MIN, iteration, last)
        if iterator.reverse:
            index = e.binary(BinaryKind.SUB, last, index)
        values[key(iterator._outputs[0])] = e.gather(x, index, axis)


def _condition(
    walk: BuildWalk,
    e: LayerEmitter,
    loop: ILoop,
    tensor: ITensor,
    states: tuple[Value, ...],
    iteration: Value,
) -> Value:
    """Return whether an iteration with these states runs.

    TensorRT looks at the condition before an iteration, the Loop operator gets the next one's from
    the body; so the layers that compute it are lowered once more, with the next states.
    """
    scope = e.scope
    ahead = Scope(walk.session, scope.graph, scope.opsets, parent=scope)
    walk.inside[ahead] = loop
    _enter(loop, LayerEmitter(e.layer, walk, ahead), states, iteration)
    return e.reshape(walk.value(tensor, ahead), ())


def _leave(walk: BuildWalk, output: ILoopOutputLayer, scope: Scope, value: Value) -> None:
    walk.finish(LayerEmitter(output, walk, scope), [value], scope)


def _placed(e: LayerEmitter, output: ILoopOutputLayer, stacked: Value) -> Value:
    """Bring values that are stacked on axis 0 to their number, order and axis."""
    count = stacked.tensor.shape[0]
    length: Dim = count
    if len(output._inputs) > 1 and output._inputs[1] is not None:
        length = e.dim(e.scope.lookup(key(output._inputs[1])))
    backwards = output._output == "REVERSE"
    if backwards:
        stacked = e.slice(stacked, 0, count - 1, count, -1)
    if length != count:
        rest = (0,) * (stacked.tensor.rank - 1)
        missing: Dim = length - count
        begin, end = (missing, 0) if backwards else (0, missing)
        op = ops.Pad(mode=PadMode.CONSTANT, pads_begin=(begin, *rest), pads_end=(end, *rest))
        stacked = e.emit(op, stacked)
    order = list(range(1, stacked.tensor.rank))
    order.insert(e.wrap(output.axis, stacked.tensor.rank), 0)
    return e.transpose(stacked, tuple(order))
