"""Attention in one sweep: scores, softmax and weighted sum of one block of keys at a time.

Each task is a chunk of queries of one head.  Keys and values come in blocks that fit the cache;
each block is packed once for the chunk (keys transposed), so that both products run on the
register tile of :mod:`.microkernel`.  Between blocks the running maximum and sum of each query are
kept, after Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018), and Dao et
al., "FlashAttention" (2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lamina.backends.cpu.kernels.microkernel import RowAccess, Tile, multiply_accumulate
from lamina.codegen.llvm import vector_math
from lamina.codegen.llvm.builder import BF16, F16, F32, I8, I64, Kernel, Module, Type, Value
from lamina.codegen.llvm.target import Isa
from lamina.ir.dims import Dim, Expr

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

    ``queries`` and ``keys`` are S and T; ``shared`` query heads read the same keys and values.
    """

    batch: Dim
    heads: Dim
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
    def parameters(self) -> tuple[Expr, ...]:
        """Return the sizes and strides that the kernel takes at run time."""
        found: dict[Expr, None] = {}
        for d in self._dims():
            if isinstance(d, Expr):
                found.setdefault(d)
        return tuple(found)

    def _dims(self) -> Iterator[Dim]:
        yield from (self.batch, self.heads, self.queries, self.keys, self.shared)
        yield self.causal_offset
        for where in (self.q, self.k, self.v, self.y):
            yield from (where.batch, where.head, where.position, where.offset)
        if self.mask is not None:
            yield from (self.mask.batch, self.mask.head, self.mask.query)


@dataclass(frozen=True)
class AttentionConfig:
    """Queries of a task and keys of a block."""

    queries: int
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


def configs(
    problem: AttentionProblem, queries: int, keys: int, heads: int, threads: int = 2
) -> Iterator[AttentionConfig]:
    """Yield configurations for the likeliest sizes (``heads`` counts those of all batches)."""
    chunks = 1 if heads % threads == 0 or heads >= 8 * threads else 4 * threads
    chunk = max(1, -(-queries // max(chunks, -(-queries // 256))))
    block = min(512, -(-keys // 64) * 64)
    yield AttentionConfig(-(-chunk // _ROWS) * _ROWS, max(64, block))


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
        value_bytes = self.value_vectors * self.lanes * 4
        self.nbytes = 0
        self.q = self._take(c.queries * p.head_size * 4)
        self.sums = self._take(c.queries * value_bytes)
        self.top = self._take(c.queries * 4)
        self.total = self._take(c.queries * 4)
        self.scores = self._take(_ROWS * c.keys * 4)
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
        """Write the loop over this thread's chunks of queries."""
        k, p, c = self.k, self.p, self.c
        queries, heads = self.dim(p.queries), self.dim(p.heads)
        chunks = (queries + (c.queries - 1)) // c.queries
        first, last = k.my_range(self.dim(p.batch) * heads * chunks)
        with k.loop(first, last) as tasks:
            head_index = tasks.index // chunks
            row = tasks.index % chunks * c.queries
            batch, head = head_index // heads, head_index % heads
            count = k.min(k.const(I64, c.queries), queries - row)
            self._chunk(batch, head, row, count)

    def _chunk(self, batch: Value, head: Value, row: Value, count: Value) -> None:
        k, p, c = self.k, self.p, self.c
        self._pack_queries(self._at(0, p.q, batch, head) + row * self.dim(p.q.position), count)
        shared = head // self.dim(p.shared) if p.shared != 1 else head
        keys, values = self._at(1, p.k, batch, shared), self._at(2, p.v, batch, shared)
        length = self.dim(p.keys)
        seen = length
        if p.causal:
            reach = row + count + self.dim(p.causal_offset)
            seen = k.max(k.const(I64, 0), k.min(length, reach))
        self._clear(count)
        with k.loop(0, seen, c.keys) as blocks:
            start = blocks.index
            here = k.min(k.const(I64, c.keys), length - start)
            self._pack_keys(keys + start * self.dim(p.k.position), here)
            self._pack_values(values + start * self.dim(p.v.position), here)
            with k.loop(0, count, _ROWS) as tiles:
                self._tile(batch, head, row, tiles.index, start, here)
        self._finish(self._at(-2, p.y, batch, head) + row * self.dim(p.y.position), count)

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

    def _pack_queries(self, source: Value, count: Value) -> None:
        """Copy the chunk's queries, scaled; a last tile repeats the last query."""
        k, p = self.k, self.p
        whole = (count + (_ROWS - 1)) // _ROWS * _ROWS
        with k.loop(0, whole) as rows:
            x = source + k.min(rows.index, count - 1) * self.dim(p.q.position)
            y = self.q + rows.index * (p.head_size * 4)
            for column in range(0, p.head_size, self.lanes):
                scaled = self._element(x, column, p.head_size, p.q.dtype) * p.scale
                self._put(scaled, y, column, p.head_size, F32)

    def _clear(self, count: Value) -> None:
        k = self.k
        row_bytes = self.plan.value_vectors * self.lanes * 4
        with k.loop(0, (count + (_ROWS - 1)) // _ROWS * _ROWS) as rows:
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
        with k.loop(0, (count + (columns - 1)) // columns * columns, lanes) as loop:
            group, within = loop.index // columns, loop.index % columns
            target = self.keys + group * (columns * p.head_size * 4) + within * 4
            rows = [source + k.min(loop.index + i, count - 1) * step for i in range(lanes)]
            for column in range(0, p.head_size, lanes):
                square = [self._element(r, column, p.head_size, p.k.dtype) for r in rows]
                flipped = _transposed(k, square)
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
        self, batch: Value, head: Value, row: Value, tile: Value, start: Value, here: Value
    ) -> None:
        """Add a block of keys to the results of six queries."""
        k, p = self.k, self.p
        seen = here
        if p.causal:
            reach = row + tile + _ROWS + self.dim(p.causal_offset) - start
            seen = k.min(here, k.max(k.const(I64, 0), reach))
        query = self.q + tile * (p.head_size * 4)
        columns = self.plan.columns
        masks = self._mask_rows(batch, head, row, tile, start)
        lowest = [k.const(self.vector, -math.inf)] * _ROWS
        with k.loop(0, seen, columns, carry=lowest) as groups:
            column = groups.index
            access = RowAccess(p.head_size * 4, p.head_size, p.head_size * 4)
            unroll = next(u for u in (_UNROLL, 2, 1) if p.head_size % u == 0)
            scores = multiply_accumulate(
                k,
                query,
                access,
                self.keys + column * (p.head_size * 4),
                Tile(_ROWS, self.plan.vectors, unroll),
                blocks=1,
            )
            tops = list(groups.values)
            for j in range(self.plan.vectors):
                at = column + j * self.lanes
                for i in range(_ROWS):
                    last = seen
                    if p.causal:
                        reach = row + tile + (i + 1) + self.dim(p.causal_offset) - start
                        last = k.min(seen, reach)
                    x = self._score(scores[i * self.plan.vectors + j], masks, i, at, last, here)
                    k.store(x, self.scores + at * 4, i * self.c.keys * 4)
                    tops[i] = k.max(tops[i], x)
            groups.next(*tops)
        self._weigh(tile, seen, list(groups.results))
        self._sum(tile, seen)

    def _mask_rows(
        self, batch: Value, head: Value, row: Value, tile: Value, start: Value
    ) -> list[Value]:
        """Return where the mask of each query of a tile begins."""
        k, mask = self.k, self.p.mask
        if mask is None:
            return []
        base = self.args[3] + batch * self.dim(mask.batch) + head * self.dim(mask.head)
        base = base + start * mask.key
        last = self.dim(self.p.queries) - 1
        return [base + k.min(row + tile + i, last) * self.dim(mask.query) for i in range(_ROWS)]

    def _score(
        self, x: Value, masks: list[Value], i: int, at: Value, last: Value, here: Value
    ) -> Value:
        """Cap and mask a register of scores; keys from ``last`` on are not seen."""
        k, p = self.k, self.p
        if p.softcap > 0:
            x = vector_math.tanh(k, x * (1 / p.softcap)) * p.softcap
        hidden = k.const(self.vector, -math.inf)
        exists = k.lane_mask(last - at, self.lanes)
        if p.mask is not None:
            inside = k.lane_mask(here - at, self.lanes)
            element = _TYPES.get(p.mask.dtype, I8)
            if p.mask.key:
                m = k.load(element.vector(self.lanes), masks[i] + at * p.mask.key, mask=inside)
            else:
                m = k.load_broadcast(element.vector(self.lanes), masks[i])
            if element is not I8:
                x = x + (m if element is F32 else k.convert(m, F32))
            else:
                x = k.select(k.ne(m, 0), x, hidden)
        return k.select(exists, x, hidden)

    def _weigh(self, tile: Value, seen: Value, tops: list[Value]) -> None:
        """Replace scores by their exponentials; update the maximum, the sum and the results."""
        k, plan = self.k, self.plan
        whole = (seen + (plan.columns - 1)) // plan.columns * plan.columns
        row_bytes = plan.value_vectors * self.lanes * 4
        for i, top in enumerate(tops):
            at = (tile + i) * 4
            before = k.load(F32, self.top, at)
            now = k.max(before, k.reduce("max", top))
            base = k.select(k.eq(now, -math.inf), k.const(F32, 0.0), now)
            wide = k.broadcast(base, self.lanes)
            fade = vector_math.exp(k, k.broadcast(before - base, self.lanes))
            scores = self.scores + i * self.c.keys * 4
            with k.loop(0, whole, self.lanes, carry=[k.const(self.vector, 0.0)]) as loop:
                x = vector_math.exp(k, k.load(self.vector, scores, loop.index * 4) - wide)
                k.store(x, scores, loop.index * 4)
                loop.next(loop.values[0] + x)
            total = k.load(F32, self.total, at) * k.extract(fade, 0)
            k.store(total + k.reduce("add", loop.results[0]), self.total, at)
            k.store(now, self.top, at)
            for j in range(plan.value_vectors):
                place = self.sums + (tile + i) * row_bytes + j * self.lanes * 4
                k.store(k.load(self.vector, place) * fade, place)

    def _sum(self, tile: Value, seen: Value) -> None:
        """Add the weighted values of a block."""
        k, plan = self.k, self.plan
        row_bytes = plan.value_vectors * self.lanes * 4
        base = self.sums + tile * row_bytes
        access = RowAccess(self.c.keys * 4, _UNROLL, _UNROLL * 4)
        for group, width in self._value_groups():
            places = [
                (i * row_bytes + (group + j) * self.lanes * 4)
                for i in range(_ROWS)
                for j in range(width)
            ]
            results = multiply_accumulate(
                k,
                self.scores,
                access,
                self.values + group * self.lanes * 4 * self.c.keys,
                Tile(_ROWS, width, _UNROLL),
                blocks=(seen + (_UNROLL - 1)) // _UNROLL,
                start=[k.load(self.vector, base, at) for at in places],
            )
            for at, value in zip(places, results, strict=True):
                k.store(value, base, at)

    def _finish(self, target: Value, count: Value) -> None:
        """Divide by the sums and store; queries that saw no key give zeros."""
        k, p, plan = self.k, self.p, self.plan
        row_bytes = plan.value_vectors * self.lanes * 4
        with k.loop(0, count) as rows:
            total = k.load(F32, self.total, rows.index * 4)
            factor = k.const(F32, 1.0) / k.select(k.eq(total, 0.0), k.const(F32, 1.0), total)
            wide = k.broadcast(factor, self.lanes)
            y = target + rows.index * self.dim(p.y.position)
            for j in range(plan.value_vectors):
                x = k.load(self.vector, self.sums, rows.index * row_bytes + j * self.lanes * 4)
                self._put(x * wide, y, j * self.lanes, p.value_size, _TYPES[p.y.dtype])


def _transposed(k: Kernel, rows: list[Value]) -> list[Value]:
    """Return the columns of a square of registers, by exchanging halves, quarters, ... ."""
    n = len(rows)
    x = list(rows)
    width = n // 2
    while width:
        keep = [e if not e & width else n + (e ^ width) for e in range(n)]
        take = [e | width if not e & width else n + e for e in range(n)]
        for i in range(n):
            if not i & width:
                a, b = x[i], x[i | width]
                x[i], x[i | width] = k.shuffle(a, b, keep), k.shuffle(a, b, take)
        width //= 2
    return x


__all__ = [
    "AttentionConfig",
    "AttentionProblem",
    "HeadsLayout",
    "MaskLayout",
    "build",
    "configs",
    "why_not",
    "workspace_bytes",
]
