"""Output sizes of sliding windows."""

from __future__ import annotations

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim, bounds, ceildiv, dim_min, floordiv


def window_span(kernel: Dim, dilation: int) -> Dim:
    """Return how many elements a dilated window covers from its first to its last tap."""
    return (kernel - 1) * dilation + 1


def window_count(size: Dim, span: Dim, stride: int, begin: int, end: int) -> Dim:
    """Return how many windows of ``span`` elements fit into the padded axis.

    Raises TypeMismatch when not even one fits.
    """
    room = size + (begin + end) - span
    _require_room(room, size, span, begin, end)
    return floordiv(room, stride) + 1


def window_count_ceil(size: Dim, span: Dim, stride: int, begin: int, end: int) -> Dim:
    """Return the count that includes a last partial window, if it starts before the end padding."""
    room = size + (begin + end) - span
    _require_room(room, size, span, begin, end)
    return dim_min(ceildiv(room, stride) + 1, ceildiv(size + begin, stride))


def _require_room(room: Dim, size: Dim, span: Dim, begin: int, end: int) -> None:
    if bounds(room, {})[1] < 0:
        raise TypeMismatch(
            f"a window of {span} elements does not fit into {size} elements "
            f"with {begin} + {end} of padding"
        )
