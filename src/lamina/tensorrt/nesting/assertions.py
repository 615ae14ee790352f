"""Assertions that only a run can tell to hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina import ops
from lamina.importers.onnx.scope import Scope
from lamina.ir.graph import Value
from lamina.tensorrt.lowering.emitter import LayerEmitter

if TYPE_CHECKING:
    from lamina.tensorrt.nesting.build_walk import BuildWalk
    from lamina.tensorrt.network.control import Boundary


def asserted(walk: BuildWalk, scope: Scope, x: Value, loop: Boundary | None = None) -> Value:
    """Return ``x`` behind the assertions about what is computed in a loop, or outside of all.

    Raises GraphError, naming the layer, for one that is known not to hold.
    """
    for layer in walk.state.layers:
        condition = layer._inputs[0] if layer._kind == "ASSERTION" else None
        if condition is None or not _belongs(walk, walk.membership.of(condition), loop):
            continue
        value = walk.value(condition, scope)
        walk.lower(layer, scope)
        e = LayerEmitter(layer, walk, scope)
        if e.known(value) is None:
            x = e.emit(ops.Assertion(message=layer.message), x, value)  # type: ignore[attr-defined]
    return x


def _belongs(walk: BuildWalk, inside: frozenset[Boundary], loop: Boundary | None) -> bool:
    """Whether a tensor inside these boundaries is computed in a loop and in nothing within it."""
    if loop is None:
        return not inside
    return loop in inside and inside <= walk.membership.around(loop) | {loop}
