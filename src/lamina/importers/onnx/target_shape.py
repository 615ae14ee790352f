"""Shapes, starts and lengths that data decide, brought into the form that operators take.

ONNX gives some integers a meaning that depends on their sign (-1 in Reshape, negative starts in
Slice).  Where the number is known the meaning is resolved here; where it comes from data, operators
that resolve it are emitted, and the dimensions are bound to their result.
"""

from __future__ import annotations

from lamina import ops
from lamina.errors import ImportFailed
from lamina.importers.onnx.node import OnnxNode
from lamina.ir.dims import Dim, Expr, bounds, floordiv, product
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, ReduceKind


def target_shape(n: OnnxNode, x: Value, shape: Value, *, zero_keeps: bool) -> tuple[Dim, ...]:
    """Return the shape that Reshape gives; every dimension is explicit."""
    if not n.is_known(shape):
        return n.dims(_resolved_at_run_time(n, x, shape, zero_keeps))
    dims = list(n.dims(shape))
    if zero_keeps:
        for i, d in enumerate(dims):
            if d == 0:
                if i >= x.tensor.rank:
                    raise ImportFailed(f"shape[{i}] is 0 but {x.tensor} has no axis {i}")
                dims[i] = x.tensor.shape[i]
    open_axes = [i for i, d in enumerate(dims) if d == -1]
    if len(open_axes) > 1:
        raise ImportFailed(f"shape {dims} has more than one -1")
    if open_axes:
        rest = product(d for d in dims if d != -1)
        dims[open_axes[0]] = _quotient(x, rest)
    return tuple(dims)


def _quotient(x: Value, rest: Dim) -> Dim:
    if rest == 0:
        return 0
    size = x.tensor.size
    if isinstance(size, int) and isinstance(rest, int) and size % rest:
        raise ImportFailed(f"{x.tensor} has {size} elements, not a multiple of {rest}")
    return floordiv(size, rest)


def _resolved_at_run_time(n: OnnxNode, x: Value, shape: Value, zero_keeps: bool) -> Value:
    """Emit what replaces 0 and -1 in a shape that is not known before the run."""
    shape = n.cast(shape, DType.I64)
    count = shape.tensor.shape[0]
    if zero_keeps and isinstance(count, int):
        sizes = x.tensor.shape[:count]
        kept = n.shape_of(x, 0, len(sizes))
        if len(sizes) < count:
            fill = n.fill(0, DType.I64, (count - len(sizes),))
            kept = n.emit(ops.Concat(axis=0), kept, fill)
        zero = n.binary(BinaryKind.EQUAL, shape, n.like(0, shape))
        shape = n.emit(ops.Select(), zero, kept, shape)
    unknown = n.binary(BinaryKind.EQUAL, shape, n.like(-1, shape))
    ones = n.emit(ops.Select(), unknown, n.like(1, shape), shape)
    rest = n.reduce(ReduceKind.PROD, ones, (0,), keepdims=True)
    size = n.reduce(ReduceKind.PROD, n.shape_of(x), (0,), keepdims=True)
    left = n.binary(BinaryKind.DIV, size, n.binary(BinaryKind.MAX, rest, n.like(1, rest)))
    return n.emit(ops.Select(), unknown, left, shape)


def from_front(d: Dim, size: Dim) -> Dim | None:
    """Count an index that may be negative from the front; None when its sign is not known."""
    if d == size:
        return d
    low, high = bounds(d, {})
    if high < 0:
        return d + size
    return d if low >= 0 else None


def as_value(n: OnnxNode, d: Dim, x: Value, axis: int) -> Value:
    """Return the size of ``x`` on an axis, which is ``d``, as an i64 vector of one element."""
    if isinstance(d, Expr):
        return n.shape_of(x, axis, axis + 1)
    return n.constant([d], DType.I64)
