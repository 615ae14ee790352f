"""Slice in its two forms, with bounds that are numbers, expressions, or data."""

from __future__ import annotations

from lamina import ops
from lamina.errors import ImportFailed
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Table
from lamina.importers.onnx.target_shape import as_value, from_front
from lamina.ir.dims import Dim, bounds, ceildiv, dim_max, dim_min
from lamina.ir.graph import Array, Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind

table = Table()

Part = tuple[Dim, Dim]
"""First index and number of elements."""


@table.op("Slice")
def slice_attributes(n: OnnxNode, x: Value) -> Value:
    """Import Slice before opset 10, with the bounds in attributes."""
    starts, ends = n.integers("starts"), n.integers("ends")
    axes = n.axes(x.tensor.rank) or tuple(range(len(starts)))
    parts = {
        a: _known_part(x.tensor.shape[a], s, e, 1)
        for a, s, e in zip(axes, starts, ends, strict=True)
    }
    return _emit(n, x, {a: p for a, p in parts.items() if p is not None}, {})


@table.op("Slice", since=10)
def slice_operands(
    n: OnnxNode,
    x: Value,
    starts: Value,
    ends: Value,
    axes: Value | None = None,
    steps: Value | None = None,
) -> Value:
    """Import Slice."""
    count = starts.tensor.shape[0]
    if not isinstance(count, int):
        raise n.unsupported(f"the number of starts ({starts.tensor}) is not known")
    chosen = n.axes(x.tensor.rank, axes) if axes is not None else tuple(range(count))
    pace = (1,) * count if steps is None else _numbers(n.required(steps, "the steps"))
    if chosen is None or len(chosen) != count or len(pace) != count or 0 in pace:
        raise ImportFailed(f"axes {chosen} and steps {pace} do not fit {count} starts")
    parts: dict[int, Part] = {}
    for i, (axis, step) in enumerate(zip(chosen, pace, strict=True)):
        parts[axis] = _part(n, x, axis, step, (starts, ends), i)
    return _emit(n, x, parts, dict(zip(chosen, pace, strict=True)))


def _numbers(array: Array) -> tuple[int, ...]:
    return tuple(int(v) for v in array.reshape(-1))


def _part(n: OnnxNode, x: Value, axis: int, step: int, limits: tuple[Value, Value], i: int) -> Part:
    size = x.tensor.shape[axis]
    if all(n.is_known(v) for v in limits):
        start, end = (n.dims(v)[i] for v in limits)
        part = _known_part(size, start, end, step)
        if part is not None:
            return part
    return _bound_part(n, x, axis, step, limits, i)


def _known_part(size: Dim, start: Dim, end: Dim, step: int) -> Part | None:
    """Clamp bounds as ONNX does; None when a sign is not known before the run."""
    low: Dim = 0 if step > 0 else -1
    high: Dim = size if step > 0 else size - 1
    first, last = (_clamped(d, size, low, high) for d in (start, end))
    if first is None or last is None:
        return None
    if step > 0:
        return first, dim_max(0, ceildiv(last - first, step))
    if isinstance(first, int) and isinstance(last, int):
        return first, max(0, -((last - first) // -step))
    return first, dim_max(0, ceildiv(first - last, -step))


def _clamped(d: Dim, size: Dim, low: Dim, high: Dim) -> Dim | None:
    """Return an index between ``low`` and ``high``; very large numbers mean the ends."""
    if isinstance(d, int) and d >= 2**31 - 1:
        return high
    if isinstance(d, int) and d <= -(2**31 - 1):
        return low
    index = from_front(d, size)
    if index is None:
        return None
    if bounds(high - index, {})[0] >= 0 and bounds(index - low, {})[0] >= 0:
        return index
    return dim_max(low, dim_min(index, high))


def _bound_part(
    n: OnnxNode, x: Value, axis: int, step: int, limits: tuple[Value, Value], i: int
) -> Part:
    """Emit the arithmetic of clamping and bind start and size to its results."""
    size = as_value(n, x.tensor.shape[axis], x, axis)
    low = n.like(0 if step > 0 else -1, size)
    high = size if step > 0 else n.binary(BinaryKind.SUB, size, n.like(1, size))
    ends = []
    for limit in limits:
        take = ops.Slice(starts=(i,), sizes=(1,), steps=(1,))
        v = n.cast(n.emit(take, limit), DType.I64)
        negative = n.binary(BinaryKind.LESS, v, n.like(0, v))
        v = n.emit(ops.Select(), negative, n.binary(BinaryKind.ADD, v, size), v)
        ends.append(n.binary(BinaryKind.MIN, n.binary(BinaryKind.MAX, v, low), high))
    start, end = ends
    length = n.binary(BinaryKind.SUB, end, start)
    towards = abs(step) - 1
    if step < 0:
        length = n.binary(BinaryKind.SUB, start, end)
    length = n.binary(BinaryKind.MAX, length, n.like(0, length))
    length = n.binary(BinaryKind.ADD, length, n.like(towards, length))
    length = n.binary(BinaryKind.DIV, length, n.like(abs(step), length))
    return n.dim(start), n.dim(length)


def _emit(n: OnnxNode, x: Value, parts: dict[int, Part], steps: dict[int, int]) -> Value:
    shape = x.tensor.shape
    whole = [(0, d) for d in shape]
    chosen = [parts.get(a, whole[a]) for a in range(len(shape))]
    op = ops.Slice(
        starts=tuple(start for start, _ in chosen),
        sizes=tuple(size for _, size in chosen),
        steps=tuple(steps.get(a, 1) for a in range(len(shape))),
    )
    if op.sizes == shape and all(s == 0 for s in op.starts) and set(op.steps) <= {1}:
        return x
    return n.emit(op, x)
