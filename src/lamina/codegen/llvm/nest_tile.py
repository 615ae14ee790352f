"""Emits loop nests whose loads run along another loop than their stores, in square tiles.

A tile is read as vectors along the tile loop, transposed in registers, and then handled as
vectors along the vector loop.  Tiles that the end of a loop cuts go through a small buffer.
"""

from __future__ import annotations

from collections.abc import Callable

from lamina.codegen.llvm.builder import I64, Builder, Value
from lamina.codegen.llvm.nest_llvm import NestEmitter
from lamina.codegen.llvm.nest_schedule import static_size, total_weight
from lamina.codegen.llvm.nest_values import Number
from lamina.codegen.llvm.scalar_llvm import MEMORY_TYPES, load_as
from lamina.codegen.nest import Load

_TILES_PER_BLOCK = 4
_MOST_INLINE_WEIGHT = 12


def transpose(k: Builder, rows: list[Value]) -> list[Value]:
    """Return the columns of a square block given as row vectors: swap halves at every scale."""
    rows = list(rows)
    lanes = len(rows)
    step = 1
    while step < lanes:
        low = [i if not i & step else lanes + i - step for i in range(lanes)]
        high = [i + step if not i & step else lanes + i for i in range(lanes)]
        for i in range(lanes):
            if not i & step:
                a, b = rows[i], rows[i + step]
                rows[i], rows[i + step] = k.shuffle(a, b, low), k.shuffle(a, b, high)
        step *= 2
    return rows


class TileEmitter(NestEmitter):
    """Writes a nest that has a tile loop."""

    def emit(self) -> None:
        """Emit this thread's share of the nest."""
        if any(d.size == 0 for d in self.nest.dims):
            return
        k, plan = self.k, self.plan
        self._entered(())
        outer = [d for d in plan.kept if d not in (plan.vector, plan.tile)]
        sizes = [self._extent(d) for d in outer]
        block = plan.lanes * _TILES_PER_BLOCK
        length = self.values.dims[self.nest.dims[plan.tile].size]
        blocks = (length + (block - 1)) // block
        total: Number = blocks
        for size in sizes:
            total = size * total
        start, stop = k.my_range(total)
        with k.loop(start, stop) as loop, self.values.scope():
            first = loop.index % blocks * block
            rest = loop.index // blocks
            for d, size in zip(reversed(outer), reversed(sizes), strict=True):
                self.values.index[d] = rest % size
                rest = rest // size
            self._entered(outer)
            self._block(first, block)

    def _block(self, first: Value, block: int) -> None:
        k, plan = self.k, self.plan
        across = self._extent(plan.tile)
        last = k.index_min(first + block, across)
        along = self.values.dims[self.nest.dims[plan.vector].size]
        with (
            k.loop(0, along, plan.lanes) as columns,
            k.loop(first, last, plan.lanes) as rows,
            self.values.scope(),
        ):
            self._tile(rows.index, columns.index, across)

    def _tile(self, row: Value, column: Value, across: Number) -> None:
        k, plan = self.k, self.plan
        valid = self._valid()
        whole = (
            (across - row >= plan.lanes)
            if isinstance(across, Value)
            else (k.const(I64, across) - row >= plan.lanes)
        )
        column_whole = k.coerce(valid, I64) - column >= plan.lanes
        sizes = [self.nest.dims[d] for d in (plan.vector, plan.tile)]
        if all(d.guard is None and static_size(d.size) % plan.lanes == 0 for d in sizes) and all(
            isinstance(d.size, int) for d in sizes
        ):
            self._full(row, column)
            return
        with k.if_(whole & column_whole) as branch:
            self._full(row, column)
        with branch.otherwise():
            self._edge(row, column, across, valid)

    def _valid(self) -> Number:
        """Return how many positions of the vector loop hold elements."""
        size = self.values.dims[self.nest.dims[self.plan.vector].size]
        limit = self._limit(self.plan.vector)
        return size if limit is None else self.k.index_min(limit, size)

    def _transposed(self) -> list[int]:
        """Return the loads that run along the tile loop."""
        plan = self.plan
        return [
            i
            for i, x in enumerate(self.nest.program)
            if isinstance(x, Load)
            and x.access.strides[plan.tile] == 1
            and x.access.strides[plan.vector] not in (0, 1, 2)
            and not x.access.dynamic
            and x.access.predicate is None
            and x.access.operand >= 0
        ]

    def _tile_columns(
        self, i: int, row: Number, pick: Callable[[int], Number], mask: Value | None
    ) -> list[Value]:
        """Load the rows of a tile and return its columns, as memory holds them."""
        x = self.nest.program[i]
        assert isinstance(x, Load)
        type_ = MEMORY_TYPES[x.dtype].vector(self.plan.lanes)
        vectors = []
        for lane in range(self.plan.lanes):
            self.values.index[self.plan.vector] = pick(lane)
            self.values.index[self.plan.tile] = row
            pointer, _, _ = self.values.address(x.access)
            vectors.append(self.k.load(type_, pointer, mask=mask))
        return transpose(self.k, vectors)

    def _full(self, row: Value, column: Value) -> None:
        k, plan = self.k, self.plan
        with self.values.scope():
            loads = self._transposed()
            columns = {i: self._tile_columns(i, row, lambda j: column + j, None) for i in loads}
            self.values.index[plan.vector] = column
            self.values.mask = self.store_mask = None
            if total_weight(self.nest) <= _MOST_INLINE_WEIGHT:
                for lane in range(plan.lanes):
                    self._stored(row + lane, {i: c[lane] for i, c in columns.items()})
                return
            buffers = self._buffered(columns)
            with k.loop(0, plan.lanes) as loop:
                self._stored(row + loop.index, self._reloaded(buffers, loop.index))

    def _edge(self, row: Value, column: Value, across: Number, valid: Number) -> None:
        k, plan = self.k, self.plan
        count = k.index_min(across - row, plan.lanes)
        mask = k.lane_mask(count, plan.lanes)
        last = valid - 1
        with self.values.scope():
            columns = {
                i: self._tile_columns(i, row, lambda j: k.index_min(column + j, last), mask)
                for i in self._transposed()
            }
            buffers = self._buffered(columns)
            self.values.index[plan.vector] = column
            self._set_masks(column, self.nest.dims[plan.vector].size != plan.lanes)
            with k.loop(0, count) as loop:
                self._stored(row + loop.index, self._reloaded(buffers, loop.index))
            self.values.mask = self.store_mask = None

    def _buffered(self, columns: dict[int, list[Value]]) -> dict[int, Value]:
        """Write the columns of tiles to the stack."""
        buffers = {}
        for i, vectors in columns.items():
            nbytes = vectors[0].type.nbytes
            buffers[i] = self.k.alloca(nbytes * len(vectors))
            for lane, vector in enumerate(vectors):
                self.k.store(vector, buffers[i], lane * nbytes)
        return buffers

    def _reloaded(self, buffers: dict[int, Value], index: Value) -> dict[int, Value]:
        found = {}
        for i, pointer in buffers.items():
            type_ = MEMORY_TYPES[self.nest.program[i].dtype].vector(self.plan.lanes)
            found[i] = self.k.load(type_, pointer, index * type_.nbytes)
        return found

    def _stored(self, row: Number, loaded: dict[int, Value]) -> None:
        """Compute and store one vector of results from the vectors of the transposed loads."""
        with self.values.scope():
            self.values.index[self.plan.tile] = row
            for i, raw in loaded.items():
                self.values.set(i, load_as(self.k, raw, self.nest.program[i].dtype))
            for s in self.nest.stores:
                self.values.store(s, self.store_mask)
