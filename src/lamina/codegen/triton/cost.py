"""Estimates how long a nest takes on a GPU: bytes, operations, and how much of the GPU is busy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lamina.codegen.nest import Access, Apply, Fold, LoopNest
from lamina.codegen.triton.schedule import Sizes, accesses, touched_bytes
from lamina.codegen.triton.tile import Tile
from lamina.ir.dims import Dim

LAUNCH_MICROSECONDS = 2.0
_SECTOR = 32
"""Bytes that memory moves at least."""

_BUSY_WARPS = 16
"""Warps on each processor that keep its share of the memory busy."""

_READ_AGAIN = 0.25
"""What reading a row again costs, which the caches still hold, of reading it."""

_OPERATIONS = 1.5
"""Instructions of a scalar operation, on average."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """A GPU: its processors, what it moves and computes, and the likeliest sizes of symbols."""

    processors: int
    bytes_per_microsecond: float
    operations_per_microsecond: float
    env: Mapping[str, int] = field(default_factory=dict)


def microseconds(nest: LoopNest, tile: Tile, rates: Rates) -> float:
    """Return the estimated time of a nest, its share of a launch not included."""
    sizes = Sizes(rates.env)
    passes = _passes(nest, tile)
    reading = 1 + (passes - 1) * _READ_AGAIN
    groups: dict[tuple[int, tuple[Dim, ...]], list[Access]] = {}
    for a in dict.fromkeys(accesses(nest)):
        groups.setdefault((a.operand, a.strides), []).append(a)
    total = sum(_group_bytes(nest, g, tile, sizes) * reading for g in groups.values())
    elements = sizes.total(nest, range(len(nest.dims)))
    work = sum(isinstance(x, Apply | Fold) for x in nest.program)
    operations = elements * work * _OPERATIONS * passes * _idle_lanes(nest, tile, sizes)
    programs = max(1, sizes(tile.programs(nest)))
    busy = min(1.0, programs * tile.warps / (rates.processors * _BUSY_WARPS))
    busy = max(busy, 1 / (rates.processors * _BUSY_WARPS))
    moved = total / rates.bytes_per_microsecond / busy
    computed = operations / rates.operations_per_microsecond / busy
    return max(moved, computed) + _tail(programs, tile, rates) * moved


def _group_bytes(nest: LoopNest, group: list[Access], tile: Tile, sizes: Sizes) -> float:
    """Return the bytes that accesses move which differ in where they begin; overlaps count once."""
    first = group[0]
    each = touched_bytes(nest, first, sizes) * _waste(nest, first, tile, sizes)
    if first.dynamic:
        return each * len(group)
    begins = [sizes(a.offset) for a in group]
    steps = zip(nest.dims, first.strides, strict=True)
    reach = 1 + sum(abs(sizes(s)) * (sizes(d.size) - 1) for d, s in steps)
    whole = (reach + max(begins) - min(begins)) * first.dtype.itemsize
    return max(each, min(each * len(group), whole))


def _passes(nest: LoopNest, tile: Tile) -> int:
    """Return how often a program walks through what is reduced."""
    if not tile.z or tile.resident:
        return 1
    elements = any(nest.depends[s.value] & frozenset(tile.z) for s in nest.stores)
    return max(1, max(nest.stages, default=0) + elements)


def _tail(programs: int, tile: Tile, rates: Rates) -> float:
    """Return the share of time in which the last programs leave processors idle."""
    at_once = rates.processors * max(1, 32 // tile.warps)
    waves = programs / at_once
    return 0.0 if waves <= 1 else (-(-programs // at_once) - waves) / (4 * waves)


def _idle_lanes(nest: LoopNest, tile: Tile, sizes: Sizes) -> float:
    """Return how many lanes there are for each element."""
    result = 1.0
    for loops, block in ((tile.y, tile.y_block), (tile.x, tile.x_block), (tile.z, tile.z_block)):
        total = sizes.total(nest, loops)
        if block > 1 and total:
            result *= -(-total // block) * block / total
    return result


def _waste(nest: LoopNest, a: Access, tile: Tile, sizes: Sizes) -> float:
    """Return the bytes that memory moves for each byte that an access wants."""
    fast = [g[-1] for g, b in ((tile.y, tile.y_block), (tile.x, tile.x_block)) if g and b > 1]
    fast += [tile.z[-1]] if tile.z else []
    steps = [abs(sizes(a.strides[d])) for d in fast if a.strides[d] != 0]
    touched = {d for i, _ in a.dynamic for d in nest.depends[i]}
    if touched & set(fast):
        return _SECTOR / a.dtype.itemsize
    if not steps:
        return 1.0
    # Loops further out may fill what the steps of the innermost leave.
    return min(_SECTOR / a.dtype.itemsize, max(1.0, min(steps)))
