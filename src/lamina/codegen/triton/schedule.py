"""Offers tiles for a nest, the likeliest best first.

What decides is which loop lies contiguous in memory: lanes that read neighbours read 16 bytes each.
A loop that is contiguous in what is read but not in what is written needs lanes along both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lamina.codegen.nest import Access, Load, LoopNest, Scan
from lamina.codegen.triton.tile import Tile, power_of_two
from lamina.ir.dims import Dim, evaluate, is_static, symbols

_VECTOR_BYTES = 16
_WARP = 32
_LIKELY = 256
_MOST_RESIDENT = 16384
_MOST_UNROLLED = 32
_MOST_TILES = 4
_NEAR = 4
"""The longest step, in elements, of lanes that still share most of the memory they read."""


@dataclass(frozen=True)
class Sizes:
    """The likeliest value of every size; symbols that nothing is known of count as 256."""

    env: Mapping[str, int]

    def __call__(self, d: Dim) -> int:
        """Return the likeliest value."""
        if isinstance(d, int):
            return d
        known = {s: self.env.get(s, _LIKELY) for s in symbols(d)}
        return int(evaluate(d, known))

    def total(self, nest: LoopNest, loops: Iterable[int]) -> int:
        """Return how many values loops have together."""
        result = 1
        for d in loops:
            result *= self(nest.dims[d].size)
        return result


def accesses(nest: LoopNest) -> list[Access]:
    """Return every access to an operand."""
    loads = [x.access for x in nest.program if isinstance(x, Load) and x.access.operand >= 0]
    return [*(s.access for s in nest.stores), *loads]


def touched_bytes(nest: LoopNest, a: Access, sizes: Sizes) -> int:
    """Return the bytes that an access goes over; windows that overlap count once."""
    reach, count = 1, 1
    for loop, stride in zip(nest.dims, a.strides, strict=True):
        if stride != 0:
            count *= sizes(loop.size)
            reach += abs(sizes(stride)) * (sizes(loop.size) - 1)
    return (count if a.dynamic else min(count, reach)) * a.dtype.itemsize


def tiles(nest: LoopNest, processors: int, env: Mapping[str, int]) -> list[Tile]:
    """Return up to four tiles, each with its order of loops."""
    found = _Chooser(nest, processors, Sizes(env)).tiles()
    return list(dict.fromkeys(found))[:_MOST_TILES]


class _Chooser:
    """The choice for one nest."""

    def __init__(self, nest: LoopNest, processors: int, sizes: Sizes) -> None:
        self.nest, self.processors, self.sizes = nest, processors, sizes
        stores = [s.access for s in nest.stores]
        self.store = max(stores, key=lambda a: touched_bytes(nest, a, sizes))
        kept = [d for d, loop in enumerate(nest.dims) if not loop.reduced]
        self.kept = self.ordered(kept, self.store)
        self.reduced = [d for d, loop in enumerate(nest.dims) if loop.reduced]

    def ordered(self, loops: Iterable[int], a: Access) -> list[int]:
        """Return loops by the distance of their steps in memory, the largest outermost."""
        return sorted(loops, key=lambda d: (a.strides[d] != 0, -abs(self.sizes(a.strides[d]))))

    def tiles(self) -> list[Tile]:
        """Return the tiles, best guess first."""
        if self.reduced:
            return self._reductions()
        partner = self._transposed_loop()
        return self._flat() if partner is None else self._transposed(*partner)

    def _is_symbolic(self, loops: Sequence[int]) -> bool:
        return any(not is_static(self.nest.dims[d].size) for d in loops)

    def _vector(self, loop: int | None) -> int:
        """Return how many neighbouring elements a lane should have."""
        sizes = [
            a.dtype.itemsize
            for a in accesses(self.nest)
            if loop is not None and a.strides[loop] == 1
        ]
        return _VECTOR_BYTES // min(sizes) if sizes else 1

    def _pieces(self, total: int, vector: int, most: int = 2048) -> list[tuple[int, int]]:
        """Return (lanes, warps) that give every processor several programs where possible."""
        smallest = _WARP * vector
        wanted = power_of_two(max(1, total // (4 * self.processors)))
        block = max(smallest, min(wanted, most, 8 * _WARP * vector))
        result = []
        for lanes in (block, block * 2, block // 2):
            if lanes >= smallest and (lanes < 2 * total or lanes == smallest):
                result.append((lanes, max(1, min(8, lanes // smallest))))
        return result

    def _flat(self) -> list[Tile]:
        """Count all loops as one; the inner ones alone when their sizes are symbols."""
        kept = self.kept
        vector = self._vector(kept[-1] if kept else None)
        if not self._is_symbolic(kept[1:]):
            total = self.sizes.total(self.nest, kept)
            pieces = self._pieces(total, vector)
            flat = [Tile(x=tuple(kept), x_block=lanes, warps=warps) for lanes, warps in pieces]
            return flat if len(kept) < 2 else [*flat[:3], *self._lines(vector)]
        inner = self.sizes(self.nest.dims[kept[-1]].size)
        result = []
        for lanes, warps in self._pieces(self.sizes.total(self.nest, kept), vector):
            x_block = min(power_of_two(inner), lanes)
            tile = Tile(outer=tuple(kept[:-2]), y=(kept[-2],), x=(kept[-1],), warps=warps)
            result.append(replace(tile, x_block=x_block, y_block=lanes // x_block))
        return result

    def _lines(self, vector: int) -> list[Tile]:
        """Put lanes along some lines: what lines share is then read once for each of them."""
        inner = self.sizes(self.nest.dims[self.kept[-1]].size)
        x_block = min(8 * _WARP * vector, power_of_two(inner))
        while x_block > 4 * vector and -(-inner // x_block) * x_block * 8 > inner * 9:
            x_block //= 2
        if x_block < 4 * vector:
            return []
        outer, x = tuple(self.kept[:-1]), (self.kept[-1],)
        if x_block >= _WARP * vector:
            # What a line shares is a number of the program, and costs one load.
            return [Tile(outer=outer, x=x, x_block=x_block, warps=x_block // (_WARP * vector))]
        lanes = 4 * _WARP * vector
        return [Tile(y=outer, x=x, y_block=lanes // x_block, x_block=x_block)]

    def _transposed_loop(self) -> tuple[int, Access] | None:
        """Return the loop along which most of what is read lies contiguous, unless it is the last.

        Loads that go with the stores need no care.
        """
        if len(self.kept) < 2:
            return None
        fast = self.kept[-1]
        votes: dict[int, tuple[int, Access]] = {}
        for a in accesses(self.nest):
            steps = {d: abs(self.sizes(a.strides[d])) for d in self.kept}
            if steps[fast] <= _NEAR or any(fast in self.nest.depends[i] for i, _ in a.dynamic):
                continue
            for d in self.kept:
                if 0 < steps[d] <= _NEAR and self.sizes(self.nest.dims[d].size) >= 4:
                    size = touched_bytes(self.nest, a, self.sizes)
                    votes[d] = (votes.get(d, (0, a))[0] + size, a)
        if not votes:
            return None
        best = max(votes, key=lambda d: votes[d][0])
        return best, votes[best][1]

    def _transposed(self, partner: int, a: Access) -> list[Tile]:
        """Put lanes along what is contiguous in the stores, and along what is in the loads."""
        x = self._inner([d for d in self.kept if d != partner])
        y = self._inner([d for d in self.ordered(self.kept, a) if d not in x])
        outer = tuple(d for d in self.kept if d not in (*x, *y))
        widest = max(b.dtype.itemsize for b in accesses(self.nest))
        x_size, y_size = (power_of_two(self.sizes.total(self.nest, g)) for g in (x, y))
        result = []
        for elements, warps in ((4096, 4), (2048, 4), (1024, 4), (8192, 8)):
            lanes = max(256, elements * 2 // max(2, widest))
            x_block = min(x_size, 64 if elements > 1024 else 32)
            y_block = max(1, min(y_size, lanes // x_block))
            x_block = min(x_size, max(x_block, lanes // y_block))
            result.append(
                Tile(outer=outer, y=y, x=x, y_block=y_block, x_block=x_block, warps=warps)
            )
        return result

    def _inner(self, order: list[int]) -> tuple[int, ...]:
        """Return the innermost loops that make up a line of memory; symbols stand alone."""
        taken: list[int] = []
        while order and self.sizes.total(self.nest, taken) < 32:
            if taken and self._is_symbolic(taken):
                break
            taken.insert(0, order[-1])
            order = order[:-1]
        return tuple(taken)

    # Reductions.

    def _reductions(self) -> list[Tile]:
        nest = self.nest
        loads = [
            x.access
            for i, x in enumerate(nest.program)
            if isinstance(x, Load) and nest.depends[i] & frozenset(self.reduced)
        ]
        main = max(loads, key=lambda a: touched_bytes(nest, a, self.sizes), default=self.store)
        z = tuple(self.ordered(self.reduced, main))
        scans = any(isinstance(x, Scan) for x in nest.program)
        count = self.sizes.total(nest, z)
        run = self._run(z, main)
        fast = [d for d in self.kept if main.strides[d] == 1]
        few = count <= _MOST_UNROLLED or (run * main.dtype.itemsize < 64 and count <= 256)
        columns = bool(fast) and main.strides[z[-1]] != 1
        if few and not scans and not self._is_symbolic(z):
            windows = [replace(t, z=z) for t in self._windows(main)]
            if count <= _MOST_UNROLLED or not columns:
                return windows
            tiles = self._columns(z, count, scans)
            few_programs = self.sizes(windows[0].programs(nest)) < self.processors
            return [*tiles[:3], windows[0]] if few_programs else [*windows[:2], *tiles[:2]]
        if columns:
            return self._columns(z, count, scans)
        return self._rows(z, count)

    def _run(self, z: tuple[int, ...], a: Access) -> int:
        """Return how many elements lie one after the other along the reduced loops."""
        length = 1
        for d in reversed(z):
            if a.strides[d] != length:
                break
            length *= self.sizes(self.nest.dims[d].size)
        return length

    def _windows(self, main: Access) -> list[Tile]:
        """Give every lane a few results and the whole of their short sums."""
        kept = self.kept
        vector = self._vector(kept[-1] if kept else None)
        if kept and main.strides[kept[-1]] != 1:
            vector = 1
        vector = min(vector, 8)
        total = self.sizes.total(self.nest, kept)
        pieces = self._pieces(total, vector, 1024)
        if self._is_symbolic(kept[1:]):
            inner = power_of_two(self.sizes(self.nest.dims[kept[-1]].size))
            return [
                Tile(outer=tuple(kept[:-1]), x=(kept[-1],), x_block=min(inner, lanes), warps=warps)
                for lanes, warps in pieces
            ]
        return [Tile(x=tuple(kept), x_block=lanes, warps=warps) for lanes, warps in pieces]

    def _columns(self, z: tuple[int, ...], count: int, scans: bool) -> list[Tile]:
        """Put lanes along the results, which lie contiguous, and along what is reduced."""
        kept = self.kept
        split = len(kept) - 1 if self._is_symbolic(kept[1:]) else 0
        outer, x = tuple(kept[:split]), tuple(kept[split:])
        width = power_of_two(self.sizes.total(self.nest, x))
        result = []
        for lanes, elements, warps in ((64, 4096, 4), (32, 2048, 4), (16, 2048, 4), (64, 8192, 8)):
            x_block = min(width, lanes)
            z_block = max(2, min(power_of_two(count), elements // x_block))
            tile = Tile(outer=outer, x=x, z=z, x_block=x_block, z_block=z_block, warps=warps)
            resident = not self._is_symbolic(z) and z_block >= count
            result.append(replace(tile, resident=resident))
        rows = self.sizes.total(self.nest, kept) // (16 * self.processors)
        result.sort(key=lambda t: t.x_block > max(16, rows))
        if not scans and max(self.nest.stages) > 1 and not self._is_symbolic(z):
            result = [*self._whole(z, count, outer, x), *result]
        return result

    def _whole(
        self, z: tuple[int, ...], count: int, outer: tuple[int, ...], x: tuple[int, ...]
    ) -> list[Tile]:
        """Keep columns in registers from pass to pass when they are short enough."""
        z_block = power_of_two(count)
        x_block = _MOST_RESIDENT // z_block
        if x_block < 8:
            return []
        x_block = min(x_block, 32, power_of_two(self.sizes.total(self.nest, x)))
        tile = Tile(outer=outer, x=x, z=z, x_block=x_block, z_block=z_block, resident=True)
        return [replace(tile, warps=max(4, min(16, tile.elements // 1024)))]

    def _rows(self, z: tuple[int, ...], count: int) -> list[Tile]:
        """Give each program whole rows: in registers when they fit, else block by block."""
        kept = tuple(self.kept)
        rows = self.sizes.total(self.nest, kept)
        z_block = max(2, power_of_two(count))
        tile = Tile(x=kept, z=z)
        if self._is_symbolic(z) or z_block > _MOST_RESIDENT:
            blocks = [(1024, 4), (4096, 8), (2048, 4), (8192, 16)]
            if count > 8192 and rows < 4 * self.processors:
                blocks.reverse()
            if count <= 512:
                blocks = [(z_block, max(1, z_block // 256)), *blocks]
            return [replace(tile, z_block=b, warps=w) for b, w in blocks]
        tile = replace(tile, z_block=z_block, resident=True)
        together = max(1, min(1024 // z_block, rows // (2 * self.processors)))
        together = power_of_two(together + 1) // 2
        result = []
        # Several rows at a time share the barriers between passes; lanes with more numbers of a
        # row need fewer warps to meet there.
        for times, per_lane in ((1, 8), (2, 32), (2, 16), (4, 32), (1, 16)):
            x_block = together * times
            elements = x_block * z_block
            if times > 1 and (x_block > power_of_two(rows) or elements > 8192):
                continue
            warps = max(1, min(16, elements // (_WARP * per_lane)))
            result.append(replace(tile, x_block=x_block, warps=warps))
        return result
