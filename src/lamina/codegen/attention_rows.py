"""The part of fused attention that works on one block of query rows."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.codegen.layout import Layout
from lamina.codegen.llvm import vector_math
from lamina.codegen.llvm.builder import F32, I8, I64, Kernel, Value
from lamina.codegen.llvm.nest_values import DimValues, Number
from lamina.codegen.llvm.scalar_llvm import MEMORY_TYPES, load_as, store_as
from lamina.ir.types import DType, TensorType
from lamina.ops.attention import Attention

Operand = tuple[TensorType, Layout, Value]
_NEGATIVE_INFINITY = float("-inf")


@dataclass(frozen=True)
class Geometry:
    """Sizes of a head; ``padded`` keys fill whole vectors, ``scores`` holds 8 rows of them."""

    depth: int
    columns: int
    keys: Number
    padded: Number
    scores: Value


@dataclass(frozen=True)
class RowBlock:
    """Emits attention for a few rows of queries of one head.

    ``packed`` are the transposed keys, ``values`` the f32 rows of values with their distance in
    bytes; ``operands`` are q, k, v, perhaps a mask, and y.
    """

    k: Kernel
    op: Attention
    geometry: Geometry
    dims: DimValues
    packed: Value
    values: tuple[Value, Number]
    operands: tuple[Operand, ...]
    place: tuple[Value, Value]

    def emit(self, row: Value, rows: int) -> None:
        """Compute ``rows`` rows from ``row`` on."""
        queries = self._queries(row, rows)
        keys = self._visible_keys(row, rows)
        tops = self._scores(row, rows, queries, keys)
        totals = self._softmax(rows, tops, keys)
        self._sum_values(row, rows, totals, keys)

    @property
    def _lanes(self) -> int:
        return self.k.isa.lanes(F32)

    def _element(self, operand: Operand, row: Number) -> Number:
        """Return the element where a row of a head's plane starts."""
        shape, layout = operand[0].shape, operand[1]
        batch, head = self.place
        total: Number = self.dims[layout.offset]
        for index, axis in ((batch, 0), (head, 1), (row, 2)):
            if shape[axis] != 1:
                total = index * self.dims[layout.strides[axis]] + total
        return total

    def _queries(self, row: Value, rows: int) -> Value:
        """Copy the queries to the stack, in f32 and scaled: [rows][depth]."""
        k, depth = self.k, self.geometry.depth
        t, _, pointer = self.operands[0]
        type_ = MEMORY_TYPES[t.dtype]
        lanes = self._lanes
        stack = k.alloca((rows * depth + lanes) * 4)
        for i in range(rows):
            start = self._element(self.operands[0], row + i)

            def body(d: Value, mask: Value | None, i: int = i, start: Number = start) -> None:
                place = (d + start) * type_.nbytes
                raw = k.load(type_.vector(lanes), pointer, place, mask=mask)
                scaled = load_as(k, raw, t.dtype) * self.op.scale
                k.store(scaled, stack, (d + i * depth) * 4, mask=mask)

            k.vectorized(0, depth, lanes, body)
        return stack

    def _visible_keys(self, row: Value, rows: int) -> Value:
        """Return how many keys some row of the block sees."""
        k = self.k
        keys = k.coerce(self.geometry.keys, I64)
        if not self.op.causal:
            return keys
        seen = row + (self.dims[self.op.causal_offset] + rows)
        return k.max(k.min(keys, seen), k.const(I64, 0))

    def _scores(self, row: Value, rows: int, queries: Value, keys: Value) -> list[Value]:
        """Compute and store the masked scores; return each row's vector of maxima."""
        k, lanes = self.k, self._lanes
        vectors = 4 if k.isa.name == "avx512" else 2
        low = k.const(F32.vector(lanes), _NEGATIVE_INFINITY)
        # Whole groups of vectors first; then single vectors, the last one partial.
        whole = keys // (lanes * vectors) * (lanes * vectors)
        with k.loop(0, whole, lanes * vectors, carry=[low] * rows) as tile:
            tops = self._score_tile(row, rows, queries, tile.index, vectors, list(tile.values))
            tile.next(*tops)
        with k.loop(whole, keys, lanes, carry=tile.results) as rest:
            rest.next(*self._score_tile(row, rows, queries, rest.index, 1, list(rest.values)))
        return list(rest.results)

    def _score_tile(
        self, row: Value, rows: int, queries: Value, key: Value, vectors: int, tops: list[Value]
    ) -> list[Value]:
        k, lanes = self.k, self._lanes
        type_ = F32.vector(lanes)
        depth, row_bytes = self.geometry.depth, self.geometry.padded * 4
        zero = [k.const(type_, 0.0)] * (rows * vectors)
        with k.loop(0, depth, carry=zero) as d:
            sums = list(d.values)
            column = self.packed + d.index * row_bytes + key * 4
            loaded = [k.load(type_, column, j * lanes * 4) for j in range(vectors)]
            for i in range(rows):
                q = k.load_broadcast(type_, queries, (d.index + i * depth) * 4)
                for j, x in enumerate(loaded):
                    sums[i * vectors + j] = k.fma(q, x, sums[i * vectors + j])
            d.next(*sums)
        for i in range(rows):
            for j in range(vectors):
                at = key + j * lanes
                score = self._masked(d.results[i * vectors + j], row + i, at, partial=vectors == 1)
                k.store(score, self.geometry.scores, row_bytes * i + at * 4)
                tops[i] = k.max(score, tops[i])
        return tops

    def _masked(self, score: Value, row: Value, key: Value, *, partial: bool) -> Value:
        """Apply softcap, mask and causality to the scores of one row."""
        k, lanes = self.k, self._lanes
        if self.op.softcap > 0:
            score = vector_math.tanh(k, score * (1 / self.op.softcap)) * self.op.softcap
        seen = k.lane_mask(k.coerce(self.geometry.keys, I64) - key, lanes) if partial else None
        if len(self.operands) > 4:
            score = self._with_mask(score, row, key, seen)
        if self.op.causal:
            last = row + self.dims[self.op.causal_offset]
            visible = k.lane_mask(k.max(last - key + 1, k.const(I64, 0)), lanes)
            seen = visible if seen is None else seen & visible
        return score if seen is None else k.select(seen, score, _NEGATIVE_INFINITY)

    def _with_mask(self, score: Value, row: Value, key: Value, seen: Value | None) -> Value:
        k, lanes = self.k, self._lanes
        operand = self.operands[3]
        t, layout, pointer = operand
        type_ = MEMORY_TYPES[t.dtype]
        start = self._element(operand, row)
        if t.shape[3] == 1:
            raw = k.load_broadcast(type_.vector(lanes), pointer, start * type_.nbytes)
        else:
            place = (key * self.dims[layout.strides[3]] + start) * type_.nbytes
            raw = k.load(type_.vector(lanes), pointer, place, mask=seen)
        if t.dtype is DType.BOOL:
            assert type_ == I8
            return k.select(k.ne(raw, 0), score, _NEGATIVE_INFINITY)
        return score + load_as(k, raw, t.dtype)

    def _softmax(self, rows: int, tops: list[Value], keys: Value) -> list[Value]:
        """Replace the scores by exponentials; return the reciprocal of each row's sum."""
        k, lanes = self.k, self._lanes
        type_ = F32.vector(lanes)
        result = []
        for i in range(rows):
            top = k.reduce("max", tops[i])
            shift = k.select(k.eq(top, _NEGATIVE_INFINITY), k.const(F32, 0.0), top)
            line = self.geometry.scores + self.geometry.padded * (4 * i)
            with k.loop(0, keys, lanes, carry=[k.const(type_, 0.0)]) as t:
                e = vector_math.exp(k, k.load(type_, line, t.index * 4) - shift)
                k.store(e, line, t.index * 4)
                t.next(t.values[0] + e)
            total = k.reduce("add", t.results[0])
            result.append(1.0 / k.select(k.eq(total, 0.0), 1.0, total))
        return result

    def _sum_values(self, row: Value, rows: int, totals: list[Value], keys: Value) -> None:
        """Store the weighted sums of the values."""
        k, lanes = self.k, self._lanes
        columns = self.geometry.columns
        group = (4 if k.isa.name == "avx512" else 2) * lanes
        for first in range(0, columns, group):
            self._value_tile(row, rows, totals, keys, first, min(group, columns - first))

    def _value_tile(
        self, row: Value, rows: int, totals: list[Value], keys: Value, first: int, width: int
    ) -> None:
        k, lanes = self.k, self._lanes
        type_ = F32.vector(lanes)
        vectors = -(-width // lanes)
        pointer, row_bytes = self.values
        masks: list[Value | None] = [None] * vectors
        if width % lanes:
            masks[-1] = k.lane_mask(width % lanes, lanes)
        line_bytes = self.geometry.padded * 4
        with k.loop(0, keys, carry=[k.const(type_, 0.0)] * (rows * vectors)) as t:
            sums = list(t.values)
            base = pointer + (t.index * row_bytes + first * 4)
            loaded = [k.load(type_, base, j * lanes * 4, mask=masks[j]) for j in range(vectors)]
            for i in range(rows):
                p = k.load_broadcast(type_, self.geometry.scores, line_bytes * i + t.index * 4)
                for j, x in enumerate(loaded):
                    sums[i * vectors + j] = k.fma(p, x, sums[i * vectors + j])
            t.next(*sums)
        y, _, target = self.operands[-1]
        nbytes = MEMORY_TYPES[y.dtype].nbytes
        for i in range(rows):
            start = self._element(self.operands[-1], row + i)
            for j in range(vectors):
                value = store_as(k, t.results[i * vectors + j] * totals[i], y.dtype)
                place = (k.coerce(start, I64) + (first + j * lanes)) * nbytes
                k.store(value, target, place, mask=masks[j])
