"""Fused attention: scores, softmax and weighted sum of a block of queries, all in the cache.

Each thread takes heads.  It transposes the head's keys once, so that neighbouring lanes are
neighbouring keys; then for a block of query rows it computes all scores with a register-tiled
product, their softmax, and the product with the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lamina.codegen.attention_rows import Geometry, RowBlock
from lamina.codegen.layout import Layout
from lamina.codegen.llvm.builder import F32, I64, Kernel, Value
from lamina.codegen.llvm.module import Module
from lamina.codegen.llvm.nest_schedule import static_size
from lamina.codegen.llvm.nest_tile import transpose
from lamina.codegen.llvm.nest_values import DimValues, Number
from lamina.codegen.llvm.scalar_llvm import MEMORY_TYPES, load_as
from lamina.codegen.nest import Refusal
from lamina.ir.dims import Dim, ceildiv, is_static, symbols
from lamina.ir.types import DType, TensorType
from lamina.ops.attention import Attention

_TYPES = (DType.F32, DType.F16, DType.BF16)
_ROW_PIECES = 4
"""Into how many pieces the queries of a head are cut when there are few heads."""


@dataclass(frozen=True)
class AttentionKernel:
    """Arguments: q, k, v, the mask if there is one, y, workspace."""

    op: Attention
    types: tuple[TensorType, ...]
    layouts: tuple[Layout, ...]
    count_slots: ClassVar[int] = 0

    @property
    def _dims(self) -> list[Dim]:
        dims: list[Dim] = [self.op.causal_offset, self._row_pieces]
        for t, layout in zip(self.types, self.layouts, strict=True):
            dims += [*t.shape, *layout.strides, layout.offset]
        return dims

    @property
    def _row_pieces(self) -> int:
        batch, heads = (static_size(d) for d in self.types[1].shape[:2])
        return 1 if batch * heads >= _ROW_PIECES else _ROW_PIECES

    @property
    def params(self) -> tuple[str, ...]:
        """Return the symbols that the kernel reads."""
        return tuple(sorted({s for d in self._dims for s in symbols(d)}))

    @property
    def phases(self) -> int:
        """Return 1."""
        return 1

    @property
    def max_threads(self) -> int:
        """Return how many threads the heads can feed."""
        q, k, v = (t.shape for t in self.types[:3])
        items = static_size(k[0]) * static_size(k[1]) * self._row_pieces
        products = static_size(q[0]) * static_size(q[1]) * static_size(q[2]) * static_size(k[2])
        products *= static_size(q[3]) + static_size(v[3])
        return max(1, min(items, products // 200_000))

    @property
    def estimated_bytes(self) -> int:
        """Return the bytes of the operands and the result, the arithmetic counted as bytes."""
        total = 0
        for t in self.types:
            size = t.dtype.itemsize
            for d in t.shape:
                size *= static_size(d)
            total += size
        q, k = self.types[0].shape, self.types[1].shape
        scores = static_size(q[0]) * static_size(q[1]) * static_size(q[2]) * static_size(k[2])
        return total + scores * (static_size(q[3]) // 8 + 4)

    def _room_bytes(self) -> Dim:
        """Return the workspace of one thread: transposed keys, scores, values as f32."""
        (_, _, keys, depth), columns = self.types[1].shape, self.types[2].shape[3]
        padded = ceildiv(keys, 16) * 16 + 64
        return (padded * depth + padded * 8 + padded * ceildiv(columns, 16) * 16) * 4

    def workspace_bytes(self, nthreads: int) -> Dim:
        """Return room for each thread's transposed keys, scores and converted values."""
        return self._room_bytes() * nthreads

    def emit(self, module: Module, name: str) -> tuple[str, ...]:
        """Write the kernel."""
        params = {s: i for i, s in enumerate(self.params)}
        with module.kernel(name) as k:
            dims = DimValues(k, params, [*self._dims, self._room_bytes()])
            _Heads(k, self, dims).emit()
        return (name,)


class _Heads:
    """Writes the loops over batch and heads, and the packing of keys and values."""

    def __init__(self, k: Kernel, source: AttentionKernel, dims: DimValues) -> None:
        self.k, self.source, self.dims = k, source, dims
        self.lanes = k.isa.lanes(F32)
        count = len(source.types)
        self.pointers = [k.arg(i) for i in range(count)]
        q, key, value = source.types[:3]
        depth, columns = q.shape[3], value.shape[3]
        assert isinstance(depth, int) and isinstance(columns, int)
        self.keys, self.queries = dims[key.shape[2]], dims[q.shape[2]]
        self.padded = (self.keys + (self.lanes - 1)) // self.lanes * self.lanes
        room = k.arg(count) + k.tid * dims[source._room_bytes()]
        self.packed = room
        scores = room + self.padded * (depth * 4)
        self.values = scores + self.padded * (8 * 4)
        self.geometry = Geometry(depth, columns, self.keys, self.padded, scores)

    def emit(self) -> None:
        """Share (batch, key head, piece of the queries) among the threads."""
        k, source = self.k, self.source
        if any(d == 0 for t in source.types for d in t.shape):
            raise Refusal("attention over nothing")
        batch, heads = (self.dims[d] for d in source.types[1].shape[:2])
        pieces = source._row_pieces
        total = k.coerce(batch, I64) * heads * pieces
        start, stop = k.my_range(total)
        with k.loop(start, stop) as item:
            piece = item.index % pieces
            rest = item.index // pieces
            self._head(rest // heads, rest % heads, piece, pieces)

    def _base(self, operand: int, batch: Value, head: Number) -> Number:
        """Return the element where an operand's [rows, columns] plane of a head starts."""
        layout = self.source.layouts[operand]
        start = batch * self.dims[layout.strides[0]] + self.dims[layout.offset]
        return start + head * self.dims[layout.strides[1]]

    def _head(self, batch: Value, head: Value, piece: Value, pieces: int) -> None:
        k, source = self.k, self.source
        self._pack_keys(self._base(1, batch, head))
        row_values = self._value_rows(self._base(2, batch, head))
        group = self.dims[source.types[0].shape[1]] // self.dims[source.types[1].shape[1]]
        length = (k.coerce(self.queries, I64) + (pieces - 1)) // pieces
        first = piece * length
        last = k.min(first + length, k.coerce(self.queries, I64))
        with k.loop(0, group) as member:
            query_head = head * group + member.index
            block = RowBlock(
                k, source.op, self.geometry, self.dims, self.packed, row_values,
                tuple(zip(source.types, source.layouts, self.pointers, strict=True)),
                (batch, query_head),
            )  # fmt: skip
            rows = 6 if k.isa.name == "avx512" else 4
            if pieces > 1 or not isinstance(self.queries, int):
                self._any_length(block, first, last, rows)
                return
            rows = min(rows, self.queries)
            with k.loop(first, last, rows) as at:
                block.emit(k.min(at.index, last - rows), rows)

    def _any_length(self, block: RowBlock, first: Value, last: Value, rows: int) -> None:
        """Emit blocks of rows, or single rows when there are fewer than a block."""
        k = self.k
        with k.if_(last - first >= rows) as branch, k.loop(first, last, rows) as at:
            # The last block starts early instead of being short.
            block.emit(k.min(at.index, last - rows), rows)
        with branch.otherwise(), k.loop(first, last) as at:
            block.emit(at.index, 1)

    def _pack_keys(self, base: Number) -> None:
        """Write the head's keys transposed: [depth][padded keys] in f32."""
        k, lanes = self.k, self.lanes
        depth = self.geometry.depth
        t, layout, pointer = self.source.types[1], self.source.layouts[1], self.pointers[1]
        type_ = MEMORY_TYPES[t.dtype]
        row_step = self.dims[layout.strides[2]]
        last = self.keys - 1
        row_bytes = self.padded * 4
        with k.loop(0, self.padded, lanes) as column, k.loop(0, depth, lanes) as d:
            partial = depth % lanes != 0
            mask = k.lane_mask(depth - d.index, lanes) if partial else None
            rows = []
            for i in range(lanes):
                row = k.index_min(column.index + i, last)
                place = (row * row_step + base + d.index) * type_.nbytes
                raw = k.load(type_.vector(lanes), pointer, place, mask=mask)
                rows.append(load_as(k, raw, t.dtype))
            target = self.packed + d.index * row_bytes + column.index * 4
            count = k.index_min(depth - d.index, lanes)
            for j, vector in enumerate(transpose(k, rows)):
                if not partial:
                    k.store(vector, target, row_bytes * j)
                    continue
                with k.if_(k.coerce(count, I64) > j):
                    k.store(vector, target, row_bytes * j)

    def _value_rows(self, base: Number) -> tuple[Value, Number]:
        """Return where the values lie as f32 rows, and the bytes between rows."""
        k, lanes = self.k, self.lanes
        t, layout, pointer = self.source.types[2], self.source.layouts[2], self.pointers[2]
        step = self.dims[layout.strides[2]]
        if t.dtype is DType.F32:
            return k.offset(pointer, base * 4), step * 4
        type_ = MEMORY_TYPES[t.dtype]
        columns = self.geometry.columns
        width = -(-columns // lanes) * lanes
        with k.loop(0, self.keys) as row:
            source = row.index * step + base
            target = row.index * (width * 4)

            def body(i: Value, mask: Value | None) -> None:
                raw = k.load(type_.vector(lanes), pointer, (source + i) * type_.nbytes, mask=mask)
                k.store(load_as(k, raw, t.dtype), self.values, target + i * 4)

            k.vectorized(0, columns, lanes, body)
        return self.values, width * 4


def attention_kernel(
    op: Attention, types: list[TensorType], layouts: list[Layout]
) -> AttentionKernel:
    """Return the kernel for q, k, v, an optional mask and y; Refusal when it cannot."""
    q, value = types[0], types[2]
    if q.dtype not in _TYPES:
        raise Refusal(f"attention of {q.dtype}")
    if not (is_static(q.shape[3]) and is_static(value.shape[3])):
        raise Refusal("attention with a symbolic head size")
    if any(layout.is_blocked for layout in layouts):
        raise Refusal("attention of a blocked layout")
    if any(layout.strides[3] != 1 for layout in layouts[:3]) or layouts[-1].strides[3] != 1:
        raise Refusal("attention needs heads whose elements are neighbours")
    if 0 in (*q.shape, *types[1].shape, *value.shape):
        raise Refusal("attention over nothing")
    if int(q.shape[3]) > 512 or int(value.shape[3]) > 512:  # type: ignore[arg-type]
        raise Refusal(f"attention with heads of {q.shape[3]} and {value.shape[3]} elements")
    return AttentionKernel(op, tuple(types), tuple(layouts))
