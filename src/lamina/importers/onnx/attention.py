"""Attention and rotary position embedding."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from lamina import ops
from lamina.errors import ImportFailed
from lamina.importers.onnx.movement import slice_axis
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Table
from lamina.ir.dims import Dim, floordiv
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, PadMode

table = Table()

_DOUBLE = 11


@table.op("Attention", since=23)
def attention(
    n: OnnxNode,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    past_key: Value | None = None,
    past_value: Value | None = None,
    lengths: Value | None = None,
) -> tuple[Value, ...]:
    """Import Attention; masks of every kind become one mask."""
    if n.wants(3) or (n.integer("softmax_precision", 0) == _DOUBLE and q.tensor.dtype != DType.F64):
        raise n.unsupported("the scores are read, or the softmax is computed in f64")
    flat = q.tensor.rank == 3
    if flat:
        q = _split_heads(n, q, n.integer("q_num_heads"))
        k, v = (_split_heads(n, x, n.integer("kv_num_heads")) for x in (k, v))
    past: Dim = 0
    if past_key is not None and past_value is not None:
        past = past_key.tensor.shape[2]
        k = n.emit(ops.Concat(axis=2), past_key, k)
        v = n.emit(ops.Concat(axis=2), past_value, v)
    mask = _all_masks(n, q, k, _full_length(n, mask, k), lengths, past)
    y = _attend(n, q, k, v, mask, causal=n.flag("is_causal") and lengths is None, past=past)
    return (_join_heads(n, y) if flat else y), k, v


def _attend(
    n: OnnxNode, q: Value, k: Value, v: Value, mask: Value | None, *, causal: bool, past: Dim
) -> Value:
    head, dtype = q.tensor.shape[3], q.tensor.dtype
    if n.has("scale"):
        scale = n.number("scale")
    elif isinstance(head, int) and head:
        scale = 1 / math.sqrt(head)
    else:
        raise n.unsupported(f"a head size that is not fixed ({head})")
    softcap = n.number("softcap", 0.0)
    op = ops.Attention(scale=scale, causal=causal, softcap=softcap, causal_offset=past)
    operands = (q, n.cast(k, dtype), n.cast(v, dtype))
    return n.emit(op, *operands) if mask is None else n.emit(op, *operands, mask)


def _split_heads(n: OnnxNode, x: Value, heads: int) -> Value:
    """Turn [B, S, heads * D] into [B, heads, S, D]."""
    batch, length, width = x.tensor.shape
    split = n.reshape(x, (batch, length, heads, floordiv(width, heads)))
    return n.transpose(split, (0, 2, 1, 3))


def _join_heads(n: OnnxNode, y: Value) -> Value:
    batch, heads, length, width = y.tensor.shape
    return n.reshape(n.transpose(y, (0, 2, 1, 3)), (batch, length, heads * width))


def _full_length(n: OnnxNode, mask: Value | None, k: Value) -> Value | None:
    """Extend a mask that covers only the first keys; it hides the others."""
    if mask is None:
        return None
    missing = k.tensor.shape[2] - mask.tensor.shape[-1]
    if missing == 0:
        return mask
    if not isinstance(missing, int) or missing < 0:
        raise n.unsupported(f"a mask {mask.tensor} for {k.tensor.shape[2]} keys")
    zeros = (0,) * (mask.tensor.rank - 1)
    op = ops.Pad(mode=PadMode.CONSTANT, pads_begin=(*zeros, 0), pads_end=(*zeros, missing))
    return n.emit(op, mask, n.like(0 if mask.tensor.dtype is DType.BOOL else -np.inf, mask))


def _all_masks(
    n: OnnxNode, q: Value, k: Value, mask: Value | None, lengths: Value | None, past: Dim
) -> Value | None:
    """Join the given mask with those of windows and of the number of valid keys."""
    left = n.integer("left_window_size", -1)
    right = n.integer("right_window_size", -1)
    keeps: list[Value] = []
    if lengths is not None or left >= 0 or right >= 0:
        rows, columns = _positions(n, q, k, lengths, past)
        if lengths is not None:
            limit = n.reshape(n.cast(lengths, DType.I64), (q.tensor.shape[0], 1, 1, 1))
            keeps.append(n.binary(BinaryKind.LESS, columns, limit))
            if n.flag("is_causal"):
                keeps.append(n.binary(BinaryKind.LESS_EQUAL, columns, rows))
        if left >= 0:
            first = n.binary(BinaryKind.SUB, rows, n.like(left, rows))
            keeps.append(n.binary(BinaryKind.GREATER_EQUAL, columns, first))
        if right >= 0:
            last = n.binary(BinaryKind.ADD, rows, n.like(right, rows))
            keeps.append(n.binary(BinaryKind.LESS_EQUAL, columns, last))
    if mask is not None and mask.tensor.dtype is DType.BOOL:
        keeps.append(mask)
        mask = None
    if not keeps:
        return mask
    keep = reduce(lambda a, b: n.binary(BinaryKind.LOGICAL_AND, a, b), keeps)
    return keep if mask is None else n.emit(ops.Select(), keep, mask, n.like(-np.inf, mask))


def _positions(
    n: OnnxNode, q: Value, k: Value, lengths: Value | None, past: Dim
) -> tuple[Value, Value]:
    """Return the places of queries [..., S, 1] and of keys [T] in the whole sequence, as i64."""
    queries, keys = q.tensor.shape[2], k.tensor.shape[2]
    zero, one = n.constant(0, DType.I64), n.constant(1, DType.I64)
    columns = n.emit(ops.Range(length=keys), zero, one)
    rows = n.reshape(n.emit(ops.Range(length=queries), zero, one), (queries, 1))
    if lengths is not None:
        limit = n.reshape(n.cast(lengths, DType.I64), (q.tensor.shape[0], 1, 1, 1))
        offset = n.binary(BinaryKind.SUB, limit, n.shape_of(q, 2, 3))
        rows = n.binary(BinaryKind.ADD, rows, offset)
    elif past != 0:
        rows = n.binary(BinaryKind.ADD, rows, n.shape_of(n.inputs[4], 2, 3))
    return rows, columns


@table.op("RotaryEmbedding", since=23)
def rotary_embedding(
    n: OnnxNode, x: Value, cosines: Value, sines: Value, positions: Value | None = None
) -> Value:
    """Import RotaryEmbedding: pairs of elements are rotated by the angle of their position."""
    shape = x.tensor.shape
    flat = x.tensor.rank == 3
    if flat:
        heads = n.integer("num_heads")
        x = n.reshape(x, (*shape[:2], heads, floordiv(shape[2], heads)))
    size = x.tensor.shape[3]
    turned = n.integer("rotary_embedding_dim", 0) or size
    if not isinstance(turned, int) or not isinstance(size, int):
        raise n.unsupported(f"a head size that is not fixed ({size})")
    if turned % 2 or turned > size:
        raise ImportFailed(f"the rotated part has {turned} of {size} elements")
    tables = [_per_position(n, t, positions, flat) for t in (cosines, sines)]
    y = _rotated(n, slice_axis(n, x, 3, 0, turned), tables[0], tables[1])
    if turned < size:
        y = n.emit(ops.Concat(axis=3), y, slice_axis(n, x, 3, turned, size - turned))
    return n.reshape(y, shape)


def _per_position(n: OnnxNode, angles: Value, positions: Value | None, flat: bool) -> Value:
    """Return a table of angles as [B, S, 1, pairs], or [B, 1, S, pairs] for heads before time."""
    if positions is not None:
        angles = n.emit(ops.Gather(axis=0), angles, positions)
    batch, length, pairs = angles.tensor.shape
    return n.reshape(angles, (batch, length, 1, pairs) if flat else (batch, 1, length, pairs))


def _rotated(n: OnnxNode, x: Value, cosines: Value, sines: Value) -> Value:
    shape = x.tensor.shape
    pairs = floordiv(shape[3], 2)
    interleaved = n.flag("interleaved")
    step = 2 if interleaved else 1
    first = slice_axis(n, x, 3, 0, pairs, step)
    second = slice_axis(n, x, 3, 1 if interleaved else pairs, pairs, step)
    real = n.binary(BinaryKind.SUB, n.multiply(cosines, first), n.multiply(sines, second))
    imaginary = n.binary(BinaryKind.ADD, n.multiply(sines, first), n.multiply(cosines, second))
    if not interleaved:
        return n.emit(ops.Concat(axis=3), real, imaginary)
    columns = [n.reshape(v, (*v.tensor.shape, 1)) for v in (real, imaginary)]
    return n.reshape(n.emit(ops.Concat(axis=4), *columns), shape)
