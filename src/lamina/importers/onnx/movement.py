"""Operators that move elements without computing: shapes, slices, padding, joining."""

from __future__ import annotations

from lamina import ops
from lamina.errors import ImportFailed
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Table
from lamina.importers.onnx.target_shape import target_shape
from lamina.ir.dims import Dim, ceildiv, floordiv, product
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import PadMode

table = Table()


@table.op("Identity")
def identity(n: OnnxNode, x: Value) -> Value:
    """Import Identity: nothing happens."""
    return x


@table.op("Reshape")
def reshape(n: OnnxNode, x: Value, shape: Value | None = None) -> Value:
    """Import Reshape; 0 keeps a size and -1 stands for what is left."""
    if shape is None:
        shape = n.constant(n.integers("shape"), DType.I64)
    return n.reshape(x, target_shape(n, x, shape, zero_keeps=not n.flag("allowzero")))


@table.op("Flatten")
def flatten(n: OnnxNode, x: Value) -> Value:
    """Import Flatten: everything before ``axis`` becomes rows."""
    rank = x.tensor.rank
    axis = n.integer("axis", 1)
    if not -rank <= axis <= rank:
        raise ImportFailed(f"axis {axis} is not one of the {rank} axes")
    axis += rank if axis < 0 else 0
    return n.reshape(x, (product(x.tensor.shape[:axis]), product(x.tensor.shape[axis:])))


@table.op("Transpose")
def transpose(n: OnnxNode, x: Value) -> Value:
    """Import Transpose; without a permutation the axes are reversed."""
    perm = n.integers("perm", tuple(reversed(range(x.tensor.rank))))
    if sorted(perm) != list(range(x.tensor.rank)):
        raise ImportFailed(f"perm {list(perm)} is not an order of the {x.tensor.rank} axes")
    return n.transpose(x, perm)


@table.op("Squeeze")
def squeeze(n: OnnxNode, x: Value, axes: Value | None = None) -> Value:
    """Import Squeeze; without axes every size that is the number 1 goes."""
    shape = x.tensor.shape
    chosen = n.axes(len(shape), axes)
    if chosen is None:
        chosen = tuple(a for a, d in enumerate(shape) if d == 1)
    wrong = [shape[a] for a in chosen if isinstance(shape[a], int) and shape[a] != 1]
    if wrong:
        raise ImportFailed(f"an axis of size {wrong[0]} cannot be squeezed from {x.tensor}")
    return n.reshape(x, tuple(d for a, d in enumerate(shape) if a not in chosen))


@table.op("Unsqueeze")
def unsqueeze(n: OnnxNode, x: Value, axes: Value | None = None) -> Value:
    """Import Unsqueeze."""
    count = n.known(axes).size if axes is not None and n.known(axes) is not None else None  # type: ignore[union-attr]
    rank = x.tensor.rank + (len(n.integers("axes", ())) if count is None else count)
    chosen = n.axes(rank, axes) or ()
    sizes = iter(x.tensor.shape)
    return n.reshape(x, tuple(1 if a in chosen else next(sizes) for a in range(rank)))


@table.op("Expand")
def expand(n: OnnxNode, x: Value, shape: Value) -> Value:
    """Import Expand, which broadcasts in both directions."""
    dims = n.dims(shape)
    if len(dims) < x.tensor.rank:
        dims = (*(1 for _ in range(x.tensor.rank - len(dims))), *dims)
    return n.expand(x, dims)


@table.op("Tile")
def tile_once(n: OnnxNode, x: Value, tiles: Value, axis: Value) -> Value:
    """Import Tile of opset 1 to 5, along one axis."""
    chosen = n.wrap(int(n.required(axis, "the axis").item()), x.tensor.rank)
    count = n.dim(n.cast(tiles, DType.I64))
    repeats = tuple(count if a == chosen else 1 for a in range(x.tensor.rank))
    return n.emit(ops.Tile(repeats=repeats), x)


@table.op("Tile", since=6)
def tile(n: OnnxNode, x: Value, repeats: Value) -> Value:
    """Import Tile."""
    return n.emit(ops.Tile(repeats=n.dims(repeats)), x)


@table.op("Concat")
def concat(n: OnnxNode, *xs: Value) -> Value:
    """Import Concat."""
    if not xs:
        raise ImportFailed("it has no operands")
    return n.emit(ops.Concat(axis=n.axis(xs[0], default=1 if n.opset < 4 else None)), *xs)


@table.op("Split")
def split(n: OnnxNode, x: Value, sizes: Value | None = None) -> tuple[Value, ...]:
    """Import Split into parts of given sizes or, without sizes, into equal ones."""
    axis = n.axis(x, default=0)
    parts: tuple[Dim, ...]
    if sizes is not None:
        parts = n.dims(sizes)
    elif n.has("split"):
        parts = n.integers("split")
    else:
        parts = _equal_parts(n, x.tensor.shape[axis])
    if len(parts) != len(n.proto.output):
        raise ImportFailed(f"{len(parts)} sizes are given for {len(n.proto.output)} results")
    results, start = [], 0
    for size in parts:
        results.append(slice_axis(n, x, axis, start, size))
        start = start + size  # type: ignore[assignment]
    return tuple(results)


def _equal_parts(n: OnnxNode, size: Dim) -> tuple[Dim, ...]:
    count = n.integer("num_outputs", len(n.proto.output))
    if count != len(n.proto.output) or not count:
        raise ImportFailed(f"num_outputs is {count}, but {len(n.proto.output)} are named")
    if n.has("num_outputs"):
        each = ceildiv(size, count)
    else:
        each = floordiv(size, count)
        if isinstance(size, int) and size % count:
            raise ImportFailed(f"an axis of size {size} does not split into {count} equal parts")
    return (*(each for _ in range(count - 1)), size - each * (count - 1))


def slice_axis(n: OnnxNode, x: Value, axis: int, start: Dim, size: Dim, step: int = 1) -> Value:
    """Return ``size`` slices of ``x`` along one axis."""
    shape = x.tensor.shape
    if start == 0 and step == 1 and size == shape[axis]:
        return x
    op = ops.Slice(
        starts=tuple(start if a == axis else 0 for a in range(len(shape))),
        sizes=tuple(size if a == axis else d for a, d in enumerate(shape)),
        steps=tuple(step if a == axis else 1 for a in range(len(shape))),
    )
    return n.emit(op, x)


@table.op("Pad")
def pad_attributes(n: OnnxNode, x: Value) -> Value:
    """Import Pad before opset 11, with everything in attributes."""
    pads = n.integers("pads" if n.opset >= 2 else "paddings")
    return _pad(n, x, pads, tuple(range(x.tensor.rank)), n.like(n.number("value", 0.0), x))


@table.op("Pad", since=11)
def pad(
    n: OnnxNode, x: Value, pads: Value, value: Value | None = None, axes: Value | None = None
) -> Value:
    """Import Pad."""
    chosen = n.axes(x.tensor.rank, axes)
    fill = n.like(0, x) if value is None else n.reshape(value, ())
    every = tuple(range(x.tensor.rank))
    return _pad(n, x, n.dims(pads), every if chosen is None else chosen, fill)


def _pad(n: OnnxNode, x: Value, pads: tuple[Dim, ...], axes: tuple[int, ...], fill: Value) -> Value:
    mode = PadMode(n.choice("mode", "constant", "reflect", "edge", "wrap"))
    if len(pads) != 2 * len(axes):
        raise ImportFailed(f"pads has {len(pads)} entries for {len(axes)} axes")
    begin: list[Dim] = [0] * x.tensor.rank
    end: list[Dim] = [0] * x.tensor.rank
    for i, a in enumerate(axes):
        begin[a], end[a] = pads[i], pads[len(axes) + i]
    op = ops.Pad(mode=mode, pads_begin=tuple(begin), pads_end=tuple(end))
    return n.emit(op, x, fill) if mode is PadMode.CONSTANT else n.emit(op, x)


@table.op("DepthToSpace")
def depth_to_space(n: OnnxNode, x: Value) -> Value:
    """Import DepthToSpace in both orders of the channels."""
    block = n.integer("blocksize")
    batch, channels, height, width = n.rank4(x)
    left = floordiv(channels, block * block)
    if n.choice("mode", "DCR", "CRD") == "DCR":
        x = n.reshape(x, (batch, block, block, left, height, width))
        x = n.transpose(x, (0, 3, 4, 1, 5, 2))
    else:
        x = n.reshape(x, (batch, left, block, block, height, width))
        x = n.transpose(x, (0, 1, 4, 2, 5, 3))
    return n.reshape(x, (batch, left, height * block, width * block))


@table.op("SpaceToDepth")
def space_to_depth(n: OnnxNode, x: Value) -> Value:
    """Import SpaceToDepth in both orders of the channels."""
    block = n.integer("blocksize")
    batch, channels, height, width = n.rank4(x)
    rows, columns = floordiv(height, block), floordiv(width, block)
    x = n.reshape(x, (batch, channels, rows, block, columns, block))
    depth_first = n.choice("mode", "DCR", "CRD") == "DCR"
    x = n.transpose(x, (0, 3, 5, 1, 2, 4) if depth_first else (0, 1, 3, 5, 2, 4))
    return n.reshape(x, (batch, channels * (block * block), rows, columns))
