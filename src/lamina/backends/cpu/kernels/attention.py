"""Attention in one sweep: scores, softmax and weighted sum of one block of keys at a time.

Each task is a chunk of the rows that read one head of keys: the queries of each head that shares
it, one head after the other.  Keys and values come in blocks that fit the cache; each block is
packed once for the chunk (keys transposed), so that both products run on the register tile of
:mod:`.microkernel`.  Between blocks the running maximum and sum of each query are
kept, after Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018), and Dao et
al., "FlashAttention" (2022).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from lamina.backends.cpu.kernels.microkernel import RowAccess, Tile, multiply_accumulate
from lamina.codegen.llvm import vector_math
from lamina.codegen.llvm.builder import BF16, F16, F32, I8, I64, Kernel, Module, Type, Value
from lamina.codegen.llvm.nest_tile import transpose
from lamina.codegen.llvm.target import Isa
from lamina.ir.dims import Dim, Expr, is_static

_TYPES = {"f32": F32, "bf16": BF16, "f16": F16}
_MOST_HEAD_ELEMENTS = 512
_ROWS = 6
_UNROLL = 4


@dataclass(frozen=True)
class HeadsLayout:
    """Bytes from one batch, head and position to the next; a head's elements are adjacent."""

    batch: Dim
    head: Dim
    position: Dim
    offset: Dim = 0
    dtype: str = "f32"


@dataclass(frozen=True)
class MaskLayout:
    """Where the mask lies: bytes between batches, heads, queries and keys, 0 where it repeats.

    Masks of numbers are added; those of type ``bool`` have one byte per key, which is seen unless
    it is 0.
    """

    batch: Dim
    head: Dim
    query: Dim
    key: int
    dtype: str = "f32"


@dataclass(frozen=True)
class AttentionProblem:
    """``softmax(softcap(scale * q @ k^T) + mask) @ v``; sizes may be expressions.

    ``queries`` and ``keys`` are S and T; ``shared`` query heads read each of the ``key_heads``.
    """

    batch: Dim
    key_heads: Dim
    queries: Dim
    keys: Dim
    head_size: int
    value_size: int
    q: HeadsLayout
    k: HeadsLayout
    v: HeadsLayout
    y: HeadsLayout
    scale: float
    shared: Dim = 1
    mask: MaskLayout | None = None
    causal: bool = False
    causal_offset: Dim = 0
    softcap: float = 0.0

    @property
    def rows(self) -> Dim:
        """Return how many queries read one head of keys."""
        return self.queries * self.shared

    @property
    def parameters(self) -> tuple[Expr, ...]:
        """Return the sizes and strides that the kernel takes at run time."""
        found: dict[Expr, None] = {}
        for d in self._dims():
            if isinstance(d, Expr):
                found.setdefault(d)
        return tuple(found)

    def _dims(self) -> Iterator[Dim]:
        yield from (self.batch, self.key_heads, self.queries, self.rows, self.keys)
        yield self.causal_offset
        for where in (self.q, self.k, self.v, self.y):
            yield from (where.batch, where.head, where.position, where.offset)
        if self.mask is not None:
            yield from (self.mask.batch, self.mask.head, self.mask.query)


@dataclass(frozen=True)
class AttentionConfig:
    """Rows (queries of all heads that share keys) of a task, and keys of a block."""

    rows: int
    keys: int


def why_not(problem: AttentionProblem) -> str | None:
    """Return why the kernel cannot compute the problem, or None when it can."""
    for where in (problem.q, problem.k, problem.v, problem.y, problem.mask):
        if where is not None and where.dtype not in (*_TYPES, "bool"):
            return f"needs f32, bf16 or f16, got {where.dtype}"
    size = max(problem.head_size, problem.value_size)
    if not 0 < min(problem.head_size, problem.value_size) <= size <= _MOST_HEAD_ELEMENTS:
        return f"needs heads of 1 to {_MOST_HEAD_ELEMENTS} elements, got {size}"
    return None


def choose(rows: int, keys: int, heads: int, threads: int) -> AttentionConfig:
    """Return the configuration for the likeliest sizes; ``heads`` counts keys' of all batches."""
    chunks = 1 if heads % threads == 0 or heads >= 8 * threads else 4 * threads
    chunk = max(1, -(-rows // max(chunks, -(-rows // 256))))
    block = min(512, -(-keys // 64) * 64)
    return AttentionConfig(-(-chunk // _ROWS) * _ROWS, max(64, block))


def workspace_bytes(problem: AttentionProblem, config: AttentionConfig, isa: Isa) -> int:
    """Return the workspace of one thread."""
    return _Plan(problem, config, isa).nbytes


class _Plan:
    """Where a thread's buffers lie in its workspace."""

    def __init__(self, p: AttentionProblem, c: AttentionConfig, isa: Isa) -> None:
        self.lanes = isa.lanes(F32)
        self.vectors = 4 if isa.registers >= 32 else 2
        self.columns = self.vectors * self.lanes
        self.value_vectors = -(-p.value_size // self.lanes)
        self.rows = min(_ROWS, int(p.rows)) if is_static(p.rows) else _ROWS  # type: ignore[arg-type]
        self.is_single = is_static(p.keys) and int(p.keys) <= c.keys  # type: ignore[arg-type]
        value_bytes = self.value_vectors * self.lanes * 4
        self.nbytes = 0
        self.q = self._take(c.rows * p.head_size * 4)
        self.sums = self._take(c.rows * value_bytes)
        self.top = self._take(c.rows * 4)
        self.total = self._take(c.rows * 4)
        self.scores = self._take(self.rows * c.keys * 4)
        self.k = self._take(c.keys * p.head_size * 4)
        self.v = self._take(c.keys * value_bytes)

    def _take(self, nbytes: int) -> int:
        at = self.nbytes
        self.nbytes += -(-nbytes // 64) * 64 + 64  # buffers a power of two apart share sets
        return at


def build(
    module: Module, name: str, problem: AttentionProblem, config: AttentionConfig
) -> tuple[str, ...]:
    """Write the kernel and return its name.  Operands: q, k, v, mask?, y, workspace."""
    with module.kernel(name) as k:
        _Writer(k, problem, config).write()
    return (name,)


@dataclass(frozen=True)
class _Block:
    """A block of keys as a tile of rows sees it.

    ``here`` keys exist, of which row i sees those before ``ends[i]``; ``masks`` has where the mask
    of each row begins.
    """

    tile: Value
    here: Value
    ends: list[Value]
    masks: list[Value]


class _Writer:
    """Writes the loops over tasks, blocks of keys and rows."""

    def __init__(self, k: Kernel, p: AttentionProblem, c: AttentionConfig) -> None:
        self.k, self.p, self.c = k, p, c
        self.plan = _Plan(p, c, k.isa)
        self.lanes = self.plan.lanes
        self.vector = F32.vector(self.lanes)
        self.args = [k.arg(i) for i in range(6 if p.mask else 5)]
        self._parameters = {d: k.param(i) for i, d in enumerate(p.parameters)}
        work = self.args[-1] + k.tid * self.plan.nbytes
        plan = self.plan
        self.q, self.sums, self.top = work + plan.q, work + plan.sums, work + plan.top
        self.total, self.scores = work + plan.total, work + plan.scores
        self.keys, self.values = work + plan.k, work + plan.v

    def dim(self, d: Dim) -> Value:
        """Return a size as an i64."""
        return self._parameters[d] if isinstance(d, Expr) else self.k.const(I64, d)

    def write(self) -> None:
        """Write the loop over this thread's chunks of rows."""
        k, p, c = self.k, self.p, self.c
        rows, heads = self.dim(p.rows), self.dim(p.key_heads)
        chunks = (rows + (c.rows - 1)) // c.rows
        first, last = k.my_range(self.dim(p.batch) * heads * chunks)
        with k.loop(first, last) as tasks:
            head_index = tasks.index // chunks
            row = tasks.index % chunks * c.rows
            batch, head = head_index // heads, head_index % heads
            self._chunk(batch, head, row, k.min(k.const(I64, c.rows), rows - row))

    def _chunk(self, batch: Value, head: Value, row: Value, count: Value) -> None:
        k, p, c = self.k, self.p, self.c
        self._pack_queries(batch, head, row, count)
        keys, values = self._at(1, p.k, batch, head), self._at(2, p.v, batch, head)
        length = self.dim(p.keys)
        seen = length
        if p.causal and p.shared == 1:
            seen = self._reach(row + count, length)
        self._clear(count)
        with k.loop(0, seen, c.keys) as blocks:
            start = blocks.index
            here = k.min(k.const(I64, c.keys), length - start)
            self._pack_keys(keys + start * self.dim(p.k.position), here)
            self._pack_values(values + start * self.dim(p.v.position), here)
            with k.loop(0, count, self.plan.rows) as tiles:
                self._tile((batch, head), row, tiles.index, start, here)
        self._finish(batch, head, row, count)

    def _reach(self, end: Value, most: Value) -> Value:
        """Return how many keys the queries before ``end`` see when the mask is causal."""
        k = self.k
        return k.max(k.const(I64, 0), k.min(most, end + self.dim(self.p.causal_offset)))

    def _query(self, head: Value, row: Value) -> tuple[Value, Value]:
        """Return the query head and the query of a row."""
        if self.p.shared == 1:
            return head, row
        queries = self.dim(self.p.queries)
        return head * (self.dim(self.p.rows) // queries) + row // queries, row % queries

    def _at(self, argument: int, where: HeadsLayout, batch: Value, head: Value) -> Value:
        base = self.args[argument] + self.dim(where.offset)
        return base + batch * self.dim(where.batch) + head * self.dim(where.head)

    def _element(self, source: Value, column: int, size: int, dtype: str) -> Value:
        """Load a register of a row as f32; elements past ``size`` read as 0."""
        k = self.k
        rest = size - column
        mask = k.lane_mask(k.const(I64, rest), self.lanes) if rest < self.lanes else None
        type_ = _TYPES[dtype]
        x = k.load(type_.vector(self.lanes), source, column * type_.nbytes, mask=mask)
        return x if type_ is F32 else k.convert(x, F32)

    def _put(self, x: Value, target: Value, column: int, size: int, type_: Type) -> None:
        """Store the elements of a register that are inside the row."""
        k = self.k
        rest = size - column
        mask = k.lane_mask(k.const(I64, rest), self.lanes) if rest < self.lanes else None
        x = x if type_ is F32 else k.convert(x, type_)
        k.store(x, target, column * type_.nbytes, mask=mask)

    def _pack_queries(self, batch: Value, head: Value, row: Value, count: Value) -> None:
        """Copy the chunk's queries, scaled; a last tile repeats the last query."""
        k, p = self.k, self.p
        with k.loop(0, self._whole(count)) as rows:
            own, query = self._query(head, row + k.min(rows.index, count - 1))
            x = self._at(0, p.q, batch, own) + query * self.dim(p.q.position)
            y = self.q + rows.index * (p.head_size * 4)
            for column in range(0, p.head_size, self.lanes):
                scaled = self._element(x, column, p.head_size, p.q.dtype) * p.scale
                self._put(scaled, y, column, p.head_size, F32)

    def _whole(self, count: Value) -> Value:
        """Return a number of rows, rounded up to whole tiles."""
        rows = self.plan.rows
        return (count + (rows - 1)) // rows * rows

    def _clear(self, count: Value) -> None:
        k = self.k
        row_bytes = self.plan.value_vectors * self.lanes * 4
        with k.loop(0, self._whole(count)) as rows:
            k.store(k.const(F32, -math.inf), self.top, rows.index * 4)
            k.store(k.const(F32, 0.0), self.total, rows.index * 4)
            for j in range(self.plan.value_vectors):
                zero = k.const(self.vector, 0.0)
                k.store(zero, self.sums, rows.index * row_bytes + j * self.lanes * 4)

    def _pack_keys(self, source: Value, count: Value) -> None:
        """Transpose the keys of a block to [group of columns][element][key]."""
        k, p, lanes = self.k, self.p, self.lanes
        columns = self.plan.columns
        step = self.dim(p.k.position)
        with k.loop(0, count, lanes) as loop:
            group, within = loop.index // columns, loop.index % columns
            target = self.keys + group * (columns * p.head_size * 4) + within * 4
            rows = [source + k.min(loop.index + i, count - 1) * step for i in range(lanes)]
            for column in range(0, p.head_size, lanes):
                square = [self._element(r, column, p.head_size, p.k.dtype) for r in rows]
                flipped = transpose(k, square)
                for d, x in enumerate(flipped[: p.head_size - column]):
                    k.store(x, target, (column + d) * columns * 4)

    def _pack_values(self, source: Value, count: Value) -> None:
        """Copy the values of a block to [group of vectors][key][element], padded with zeros."""
        k, p = self.k, self.p
        step = self.dim(p.v.position)
        with k.loop(0, count) as rows:
            x = source + rows.index * step
            for group, width in self._value_groups():
                row = self.values + rows.index * (width * self.lanes * 4)
                for j in range(width):
                    column = (group + j) * self.lanes
                    value = self._element(x, column, p.value_size, p.v.dtype)
                    k.store(value, row, group * self.lanes * 4 * self.c.keys + j * self.lanes * 4)
        # The second product takes keys four at a time: their weights are 0, so must the values be.
        with k.loop(count, (count + (_UNROLL - 1)) // _UNROLL * _UNROLL) as rows:
            for group, width in self._value_groups():
                row = self.values + rows.index * (width * self.lanes * 4)
                for j in range(width):
                    zero = k.const(self.vector, 0.0)
                    k.store(zero, row, group * self.lanes * 4 * self.c.keys + j * self.lanes * 4)

    def _value_groups(self) -> list[tuple[int, int]]:
        """Return (first vector, vectors) of each register tile of a row of values."""
        most, whole = self.plan.vectors, self.plan.value_vectors
        return [(g, min(most, whole - g)) for g in range(0, whole, most)]

    def _tile(
        self, place: tuple[Value, Value], row: Value, tile: Value, start: Value, here: Value
    ) -> None:
        """Add a block of keys to the results of a tile of rows of a (batch, head)."""
        k, p, plan = self.k, self.p, self.plan
        last = self.dim(p.rows) - 1
        queries = [
            self._query(place[1], k.min(row + tile + i, last)) if p.mask or p.causal else place
            for i in range(plan.rows)
        ]
        ends = [here] * plan.rows
        seen = here
        if p.causal:
            ends = [self._reach(query + 1 - start, here) for _, query in queries]
            seen = functools.reduce(k.max, ends)
        block = _Block(tile, here, ends, self._mask_rows(place[0], queries, start))
        whole = seen // plan.columns * plan.columns
        tops = [k.const(self.vector, -math.inf)] * plan.rows
        for first, last, vectors in ((0, whole, plan.vectors), (whole, seen, 1)):
            with k.loop(first, last, vectors * self.lanes, carry=tops) as groups:
                groups.next(*self._scores(block, groups.index, vectors, list(groups.values)))
            tops = list(groups.results)
        self._weigh(tile, seen, tops)
        self._sum(tile, seen)

    def _scores(self, block: _Block, key: Value, vectors: int, tops: list[Value]) -> list[Value]:
        """Store the scores of a tile for a few registers of keys; return the maxima with them."""
        k, p, plan = self.k, self.p, self.plan
        size = p.head_size
        column = key
        if vectors < plan.vectors:
            column = key // plan.columns * plan.columns
        packed = self.keys + column * (size * 4) + (key - column) * 4
        unroll = next(u for u in (_UNROLL, 2, 1) if size % u == 0)
        scores = multiply_accumulate(
            k,
            self.q + block.tile * (size * 4),
            RowAccess(size * 4, size, size * 4),
            packed,
            Tile(plan.rows, vectors, unroll, pitch=plan.vectors),
            blocks=1,
        )
        for j in range(vectors):
            at = key + j * self.lanes
            for i in range(plan.rows):
                x = self._score(scores[i * vectors + j], block, i, at, whole=vectors > 1)
                k.store(x, self.scores + at * 4, i * self.c.keys * 4)
                tops[i] = k.max(tops[i], x)
        return tops

    def _mask_rows(
        self, batch: Value, queries: list[tuple[Value, Value]], start: Value
    ) -> list[Value]:
        """Return where the mask of each (head, query) of a tile begins."""
        mask = self.p.mask
        if mask is None:
            return []
        base = self.args[3] + batch * self.dim(mask.batch) + start * mask.key
        return [
            base + head * self.dim(mask.head) + query * self.dim(mask.query)
            for head, query in queries
        ]

    def _score(self, x: Value, block: _Block, i: int, at: Value, *, whole: bool) -> Value:
        """Cap and mask a register of scores; ``whole`` says that all its keys exist."""
        k, p = self.k, self.p
        if p.softcap > 0:
            x = vector_math.tanh(k, x * (1 / p.softcap)) * p.softcap
        hidden = k.const(self.vector, -math.inf)
        if p.mask is not None:
            inside = None if whole else k.lane_mask(block.here - at, self.lanes)
            element = _TYPES.get(p.mask.dtype, I8)
            if p.mask.key:
                place = block.masks[i] + at * p.mask.key
                m = k.load(element.vector(self.lanes), place, mask=inside)
            else:
                m = k.load_broadcast(element.vector(self.lanes), block.masks[i])
            if element is not I8:
                x = x + (m if element is F32 else k.convert(m, F32))
            else:
                x = k.select(k.ne(m, 0), x, hidden)
        if whole and not p.causal:
            return x
        return k.select(k.lane_mask(block.ends[i] - at, self.lanes), x, hidden)

    def _weigh(self, tile: Value, seen: Value, tops: list[Value]) -> None:
        """Replace scores by their exponentials; update the maximum, the sum and the results."""
        k = self.k
        for i, top in enumerate(tops):
            at = (tile + i) * 4
            now = k.reduce("max", top)
            if not self.plan.is_single:
                now = k.max(k.load(F32, self.top, at), now)
            base = k.select(k.eq(now, -math.inf), k.const(F32, 0.0), now)
            wide = k.broadcast(base, self.lanes)
            scores = self.scores + i * self.c.keys * 4
            with k.loop(0, seen, self.lanes, carry=[k.const(self.vector, 0.0)]) as loop:
                x = vector_math.exp(k, k.load(self.vector, scores, loop.index * 4) - wide)
                k.store(x, scores, loop.index * 4)
                loop.next(loop.values[0] + x)
            total = k.reduce("add", loop.results[0])
            if not self.plan.is_single:
                total = total + self._faded(tile + i, base)
                k.store(now, self.top, at)
            k.store(total, self.total, at)

    def _faded(self, row: Value, base: Value) -> Value:
        """Bring a row's results of earlier blocks to a new maximum; return their sum of weights."""
        k, vectors = self.k, self.plan.value_vectors
        before = k.load(F32, self.top, row * 4)
        fade = vector_math.exp(k, k.broadcast(before - base, self.lanes))
        for j in range(vectors):
            place = self.sums + (row * vectors + j) * self.lanes * 4
            k.store(k.load(self.vector, place) * fade, place)
        return k.load(F32, self.total, row * 4) * k.extract(fade, 0)

    def _sum(self, tile: Value, seen: Value) -> None:
        """Add the weighted values of a block."""
        k, plan = self.k, self.plan
        row_bytes = plan.value_vectors * self.lanes * 4
        base = self.sums + tile * row_bytes
        access = RowAccess(self.c.keys * 4, _UNROLL, _UNROLL * 4)
        for group, width in self._value_groups():
            places = [
                (i * row_bytes + (group + j) * self.lanes * 4)
                for i in range(plan.rows)
                for j in range(width)
            ]
            results = multiply_accumulate(
                k,
                self.scores,
                access,
                self.values + group * self.lanes * 4 * self.c.keys,
                Tile(plan.rows, width, _UNROLL),
                blocks=(seen + (_UNROLL - 1)) // _UNROLL,
                start=None if plan.is_single else [k.load(self.vector, base, at) for at in places],
            )
            for at, value in zip(places, results, strict=True):
                k.store(value, base, at)

    def _finish(self, batch: Value, head: Value, row: Value, count: Value) -> None:
        """Divide by the sums and store; queries that saw no key give zeros."""
        k, p, plan = self.k, self.p, self.plan
        row_bytes = plan.value_vectors * self.lanes * 4
        with k.loop(0, count) as rows:
            total = k.load(F32, self.total, rows.index * 4)
            factor = k.const(F32, 1.0) / k.select(k.eq(total, 0.0), k.const(F32, 1.0), total)
            wide = k.broadcast(factor, self.lanes)
            own, query = self._query(head, row + rows.index)
            y = self._at(-2, p.y, batch, own) + query * self.dim(p.y.position)
            for j in range(plan.value_vectors):
                x = k.load(self.vector, self.sums, rows.index * row_bytes + j * self.lanes * 4)
                self._put(x * wide, y, j * self.lanes, p.value_size, _TYPES[p.y.dtype])
