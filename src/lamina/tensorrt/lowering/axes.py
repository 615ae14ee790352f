"""Axes as TensorRT gives them: bit masks, and counted without an implicit batch."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.errors import GraphError
from lamina.ir.graph import Value
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.lowering.emitter import LayerEmitter


def at(e: LayerEmitter, axis: int, x: Value) -> int:
    """Return the IR's axis of ``x`` for the user's, which may be negative."""
    offset = 1 if e.implicit_batch else 0
    rank = x.tensor.rank - offset
    if not -rank <= axis < rank:
        raise GraphError(f"axis {axis} is not one of the {rank} axes of {x.tensor}")
    return axis % rank + offset


def in_mask(e: LayerEmitter, mask: int, x: Value) -> tuple[int, ...]:
    """Return the IR's axes for a bit mask."""
    offset = 1 if e.implicit_batch else 0
    rank = x.tensor.rank - offset
    if mask >> rank:
        raise GraphError(f"axes {mask:#b} name more than the {rank} axes of {x.tensor}")
    return tuple(a + offset for a in range(rank) if mask >> a & 1)


def one_in_mask(e: LayerEmitter, mask: int, x: Value) -> int:
    """Return the IR's axis for a bit mask with one bit."""
    axes = in_mask(e, mask, x)
    if len(axes) != 1:
        raise GraphError(f"axes {mask:#b} must name one axis, got {len(axes)}")
    return axes[0]


def default_axis(e: LayerEmitter, x: Value) -> int:
    """Return the third axis from the end, or the first: TensorRT's channel axis."""
    offset = 1 if e.implicit_batch else 0
    return max(x.tensor.rank - offset - 3, 0) + offset


def per_axis(given: Dims | Sequence[int], count: int, what: str) -> tuple[int, ...]:
    """Return one number per spatial axis; raises GraphError for another count of numbers."""
    if len(given) != count:
        raise GraphError(f"{what} has {len(given)} entries, expected {count}: {tuple(given)}")
    return tuple(given)


def with_batch(e: LayerEmitter, given: Sequence[int], fill: int) -> tuple[int, ...]:
    """Return per-axis numbers with one for the implicit batch in front."""
    return (fill, *given) if e.implicit_batch else tuple(given)
