"""Tiles of contractions, and a model of the time that they take.

The model counts, for one multiprocessor: the operations of its tiles at the rate of the matrix
units, the operands that it reads from the L2 cache, and the latency of a step where too few
loads are in flight; and for the device: the bytes that must cross the memory's pins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import product as cartesian
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lamina.backends.cuda.target import CudaTarget
from lamina.ir.types import DType

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[Any]

_SMALLEST: Final = 16
_THREADS_OF_SM: Final = 2048
_REGISTERS_OF_SM: Final = 65536
_WARP: Final = 32
_STEP_LATENCY_MICROSECONDS: Final = 0.45
_JOIN_MICROSECONDS: Final = 1.2
"""What handing in a share and reading all of them costs, besides the bytes."""
_DESCRIPTOR_MICROSECONDS: Final = 1.0
_SLOWEST_OVER_FASTEST: Final = 4.0
_TF32_SINCE: Final = 80
_COPY_ENGINE_SINCE: Final = 90
_TALL: Final = 256
_SUMS_APART_SINCE: Final = 100
_TALLEST: Final = 128
_MOST_SUMS_OF_ORDINARY: Final = 16
_DEEPEST_OF_ORDINARY: Final = 32
"""Where a product uses no matrix units, a thread holds its part of both operands too."""
_TALLEST_OF_WARPS: Final = 64
"""Rows that the four warps of one matrix instruction of 9.0 share."""
_ISSUED_BYTES_PER_MICROSECOND: Final = 5e4
"""What one warp can ask for."""
_WARPS_OF_SM: Final = 4
"""Warps from which on all matrix units of a multiprocessor work."""
_HALVED: Final = 128
"""Registers of sums from which on a tile is stored in two parts."""
_LIKE_TILES: Final = 2
"""Depths of tiles of equal rows, columns and split that are worth timing."""
_LARGE_TILE: Final = 128 * 128
"""Numbers of a tile from which on other warps for the same tile are worth timing too."""


@dataclass(frozen=True)
class _Costs:
    """What the model counts with, in microseconds unless said.

    Fitted to 3,918 times of f16 tiles for 320 layers on an H200, by least squares of the logarithm
    of estimate over time, in which a tile that is far from the best of its layer counts less.  The
    rest has a standard deviation of 12 % (boxes: 17 %); with what it was by hand, 17 % and 23 %.
    """

    launch: float
    fill: float
    """From the start of a program to its first product: two reads that depend on each other."""
    step: float
    """Waiting for loads and among warps, in each step."""
    gather: float
    """Addresses of a step's loads where a window is gathered."""
    l2: float
    """What multiprocessors read of tiles that they share, over the bandwidth of the memory."""
    stored: float
    """Bytes that storing a number of a tile costs at the bandwidth of L2."""
    wide: float
    """Share of the matrix rate of instructions with 64 rows, less where a tile is small, and"""
    few: float
    """of others."""
    hidden: float
    """What remains of the memory's time behind longer computing, or the other way round."""


_ONE_TILE: Final = _Costs(
    launch=0.86,
    fill=0.48,
    step=0.028,
    gather=0.034,
    l2=2.85,
    stored=7.0,
    wide=1.08,
    few=0.41,
    hidden=0.3,
)
_BOXES: Final = _Costs(
    launch=0.66,
    fill=0.68,
    step=0.123,
    gather=0.0,
    l2=4.87,
    stored=10.4,
    wide=1.59,
    few=0.5,
    hidden=0.42,
)


@dataclass(frozen=True)
class Tile:
    """Rows, columns and depth of a tile, warps, steps in flight, programs that share a tile."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    split: int = 1

    def __str__(self) -> str:
        split = f" split{self.split}" if self.split > 1 else ""
        return f"{self.rows}x{self.columns}x{self.depth} w{self.warps} s{self.stages}{split}"

    @property
    def registers(self) -> int:
        """Registers of a thread that hold sums."""
        return self.rows * self.columns // (self.warps * _WARP)

    @property
    def more_columns(self) -> int:
        """Columns beyond the largest power of two."""
        return self.columns - (1 << (self.columns.bit_length() - 1))

    @property
    def halves(self) -> bool:
        """Whether the tile should be stored in two parts, to save registers."""
        return self.registers >= _HALVED and self.columns >= 2 * _SMALLEST


@dataclass(frozen=True, kw_only=True)
class Work:
    """A contraction of likely sizes: ``taps`` times ``depth`` numbers are summed.

    ``dtype`` is that of the operands, ``rate_share`` what a precision leaves of its matrix rate,
    ``moved_bytes`` what must be read and written at least, ``weight_bytes`` that of it which a
    kernel may not find in L2.
    """

    rows: int
    columns: int
    depth: int
    matrices: int = 1
    taps: int = 1
    dtype: DType
    rate_share: float = 1.0
    moved_bytes: float
    splittable: bool = True


@lru_cache(maxsize=1024)
def tiles(
    work: Work, target: CudaTarget, *, boxes: bool = False, uneven: bool = False
) -> Sequence[tuple[Tile, float]]:
    """Return tiles that fit problem and device with their microseconds, the fastest first.

    ``boxes``: operands come through descriptors, programs go on to further tiles.  ``uneven``:
    numbers of columns that are no power of two.  Tiles that are far slower than the best are left
    away.
    """
    menu = _menu(work, target, boxes=boxes, uneven=uneven)
    if not len(menu.rows):
        return ()
    costs = _estimates(work, menu, target, boxes=boxes)
    order = np.lexsort((menu.order, costs))
    order = order[costs[order] <= _SLOWEST_OVER_FASTEST * costs[order[0]]]
    columns = (menu.rows, menu.columns, menu.depth, menu.warps, menu.stages, menu.split)
    numbers = zip(*(column[order].tolist() for column in columns), strict=True)
    return _Found((Tile(*n), us) for n, us in zip(numbers, costs[order].tolist(), strict=True))


def precisions(dtype: DType, target: CudaTarget) -> list[tuple[str, float]]:
    """Return the ways to multiply numbers of a type, with their share of its matrix rate."""
    if dtype is not DType.F32:
        return [("ieee", 1.0)]
    if target.arch < _TF32_SINCE:
        return [("ieee", 1.0)]
    if target.tf32:
        return [("tf32", 1.0)]
    # Three products of 11-bit parts are as exact as one in f32; ieee uses no matrix units.
    thrice = target.flops_per_microsecond["tf32"] / target.flops_per_microsecond["f32"] / 3
    return [("tf32x3", thrice), ("ieee", 0.7)]


def why_not_multiplied(dtype: DType, target: CudaTarget) -> str:
    """Return why a device's matrix units do not multiply a type; "" where they do."""
    if dtype.itemsize == 1 and target.arch < _TF32_SINCE:
        return "8-bit numbers are multiplied from compute capability 8.0 on"
    return ""


class _Found(tuple[tuple[Tile, float], ...]):
    """Tiles with their microseconds, the fastest first."""

    @cached_property
    def promising(self) -> list[tuple[Tile, float]]:
        """Those that are near the best, and of similar ones the best."""
        return _promising(self)


def promising(found: Sequence[tuple[Tile, float]]) -> list[tuple[Tile, float]]:
    """Keep tiles whose estimate is near the best, and of similar ones the best."""
    return found.promising if isinstance(found, _Found) else _promising(found)


def _promising(found: Sequence[tuple[Tile, float]]) -> list[tuple[Tile, float]]:
    kept: list[tuple[Tile, float]] = []
    seen: dict[tuple[int, ...], list[Tile]] = {}
    for tile, cost in found:
        if kept and cost > _SLOWEST_OVER_FASTEST * kept[0][1]:
            break
        like = seen.setdefault((tile.rows, tile.columns, tile.split), [])
        depths = {t.depth for t in like}
        deeper = tile.depth not in depths and len(depths) < _LIKE_TILES
        wider = tile.rows * tile.columns >= _LARGE_TILE and (tile.depth, tile.warps) not in {
            (t.depth, t.warps) for t in like
        }
        if deeper or (wider and tile.depth == like[0].depth):
            like.append(tile)
            kept.append((tile, cost))
    return kept


def estimate(work: Work, tile: Tile, target: CudaTarget, *, boxes: bool = False) -> float:
    """Return the microseconds that a tile should take."""
    return float(_estimates(work, _Menu.of([tile]), target, boxes=boxes)[0])


@dataclass(frozen=True, eq=False)
class _Menu:
    """Many tiles, as columns of numbers; ``order`` ranks their names."""

    rows: Numbers
    columns: Numbers
    depth: Numbers
    warps: Numbers
    stages: Numbers
    split: Numbers
    order: Numbers

    @staticmethod
    def of(found: Sequence[Tile]) -> _Menu:
        """Return the columns of some tiles."""
        names = [str(t) for t in found]
        rank = {name: i for i, name in enumerate(sorted(names))}
        numbers = [(*vars(t).values(), rank[n]) for t, n in zip(found, names, strict=True)]
        return _Menu(*np.array(numbers, np.int64).reshape(-1, 7).T)

    def where(self, mask: npt.NDArray[np.bool_]) -> _Menu:
        """Return the tiles that a mask picks."""
        return _Menu(*(column[mask] for column in vars(self).values()))

    @property
    def registers(self) -> Numbers:
        """Registers of a thread that hold sums."""
        return self.rows * self.columns // (self.warps * _WARP)


@cache
def _every_tile(uneven: bool = False) -> _Menu:
    sides = (16, 32, 64, 128, 256)
    rows, columns = ((64, 128), (48, 80, 96, 144, 160, 192)) if uneven else (sides, sides)
    numbers = cartesian(rows, columns, sides, (1, 2, 4, 8), (2, 3, 4, 5, 6), (1, 2, 4, 8, 16))
    return _Menu.of([Tile(*n) for n in numbers])


def _estimates(work: Work, t: _Menu, target: CudaTarget, *, boxes: bool) -> Floats:
    cost = _BOXES if boxes else _ONE_TILE
    count = _quotient(work.rows, t.rows) * _quotient(work.columns, t.columns)
    count = count * work.matrices * t.split
    steps = _quotient(work.taps * _quotient(work.depth, t.depth), t.split)
    size = work.dtype.itemsize
    l2 = cost.l2 * target.bytes_per_microsecond / target.sms
    operations = 2 * t.rows * t.columns * t.depth
    rate = target.rate(work.dtype) * work.rate_share / target.sms * _efficiency(t, target, cost)
    loaded = (t.rows + t.columns) * t.depth * size
    # Two steps in flight leave the units idle between them, four hardly.
    overlap = 1 - 0.8 / t.stages**2
    busy = np.maximum(operations / rate, loaded / l2) / overlap + cost.step
    busy = busy + (cost.gather if work.taps > 1 else 0.0)
    warps = np.minimum(1.0, t.warps / _WARPS_OF_SM)
    issued = loaded / (t.warps * _ISSUED_BYTES_PER_MICROSECOND)
    single = np.maximum(np.maximum(busy, operations / (rate * warps)), 0.0 if boxes else issued)
    waiting = _STEP_LATENCY_MICROSECONDS / np.maximum(1, t.stages - 1)
    each = _quotient(count, target.sms)
    alone = cost.fill + steps * np.maximum(single, waiting)
    stored = t.rows * t.columns * cost.stored / l2
    if boxes:
        more = (each - 1) * steps * np.maximum(busy, waiting)
        compute = _DESCRIPTOR_MICROSECONDS + alone + more
    else:
        waves = _quotient(each, _resident(work, t, target))
        compute = np.maximum(waves * alone, each * steps * busy + cost.fill)
    compute = compute + each * stored
    compute = compute + np.where(t.split > 1, _JOIN_MICROSECONDS + stored * (t.split + each), 0.0)
    memory = work.moved_bytes / target.bytes_per_microsecond
    most, least = np.maximum(compute, memory), np.minimum(compute, memory)
    total: Floats = cost.launch + most + cost.hidden * least
    return total


def _quotient(a: Numbers | int, b: Numbers | int) -> Numbers:
    """Return quotients, rounded up."""
    rounded: Any = -(-np.asarray(a) // b)
    result: Numbers = rounded
    return result


def _efficiency(t: _Menu, target: CudaTarget, cost: _Costs) -> Floats:
    """Return the share of the matrix rate that the instructions of tiles reach."""
    area = t.rows * t.columns
    if target.arch >= _COPY_ENGINE_SINCE:
        few = cost.few * np.minimum(1.0, area / 2048)
        wide = cost.wide * np.minimum(1.0, t.columns / 64)
        many = wide * np.minimum(1.0, (t.rows + t.columns) / 256 + 0.4)
        shares: Floats = np.where((t.rows < 64) | (t.warps < 4), few, many)
        return shares
    ordinary: Floats = 0.85 * np.minimum(1.0, area / 4096)
    return ordinary


def _shared_bytes(t: _Menu, size: int) -> Numbers:
    """Return about the shared memory that operands of ``size`` bytes in flight take."""
    return t.stages * (t.rows + t.columns) * t.depth * size


def _resident(work: Work, t: _Menu, target: CudaTarget) -> Numbers:
    shared = np.maximum(1, _shared_bytes(t, work.dtype.itemsize))
    threads = t.warps * _WARP
    registers = threads * np.minimum(255, 48 + (1.2 * t.registers).astype(np.int64))
    fitting = np.minimum((target.shared_bytes + 1024) // (shared + 1024), _THREADS_OF_SM // threads)
    most: Numbers = np.maximum(1, np.minimum(fitting, _REGISTERS_OF_SM // registers))
    return most


def _menu(work: Work, target: CudaTarget, *, boxes: bool, uneven: bool) -> _Menu:
    """Return the tiles that are sensible: of the size of the problem, work for every warp."""
    t, size = _every_tile(uneven), work.dtype.itemsize
    fewest = 64 if boxes else _SMALLEST
    depth_most = max(_ceiling(work.depth, 256), 32 // size)
    sized = (t.rows >= fewest) & (t.rows <= max(_ceiling(work.rows, 256), fewest if boxes else 0))
    sized &= t.columns <= _ceiling(work.columns, 256)
    sized &= (t.depth >= max(_SMALLEST, 32 // size)) & (t.depth <= min(256 // size, depth_most))
    if target.arch < _TF32_SINCE:
        sized &= t.stages == 2
    if boxes or not work.splittable:
        sized &= t.split == 1
    t = t.where(sized)
    steps = work.taps * _quotient(work.depth, t.depth)
    count = _quotient(work.rows, t.rows) * _quotient(work.columns, t.columns) * work.matrices
    useful = t.stages <= np.maximum(2, steps + 1)
    useful &= (t.split == 1) | ((count * t.split <= 2 * target.sms) & (steps >= 2 * t.split))
    t = t.where(useful)
    return t.where(_fits(t, work, target, boxes=boxes))


def _fits(t: _Menu, work: Work, target: CudaTarget, *, boxes: bool) -> npt.NDArray[np.bool_]:
    """Return which tiles need no more registers and shared memory than there are."""
    most = _most_sums(t, work, target)
    tall = t.rows >= _TALLEST_OF_WARPS
    fits = (t.registers >= np.where(t.rows * t.columns > 1024, 8, 4)) & (t.registers <= most)
    if boxes:
        fits &= (t.warps >= 4) & ((t.registers < 128) | (t.rows != _TALLEST_OF_WARPS))
    if target.arch >= _COPY_ENGINE_SINCE:
        fits &= ~tall | (t.warps >= 4)
    fits &= (most != _MOST_SUMS_OF_ORDINARY) | (t.depth <= _DEEPEST_OF_ORDINARY)
    needed = _shared_bytes(t, work.dtype.itemsize) + (_storing_bytes(t) if boxes else 0)
    fits &= needed <= target.shared_bytes - 2048
    return fits


def _storing_bytes(t: _Menu) -> Numbers:
    """Return the shared memory in which programs that go on turn results to rows.

    With one tile for each program it is the operands' memory, which is free by then.
    """
    halves = (t.registers >= _HALVED) & (t.columns >= 2 * _SMALLEST)
    part = t.rows * t.columns // np.where(halves, 2, 1)
    stored: Numbers = part * np.where(halves & (t.rows < _TALL), 2, 4)
    return stored


def _most_sums(t: _Menu, work: Work, target: CudaTarget) -> Numbers:
    """Return how many registers of a thread may hold sums before others are spilled."""
    ordinary = work.dtype is DType.F32 and work.rate_share <= 1 and not target.tf32
    if target.arch < _TF32_SINCE or ordinary:
        return np.full_like(t.rows, _MOST_SUMS_OF_ORDINARY)
    if target.arch < _COPY_ENGINE_SINCE:
        return np.full_like(t.rows, 64)
    # On 9.0 operands stay in shared memory; later, sums come from a memory of their own.
    tallest = 1 << 30 if target.arch < _SUMS_APART_SINCE else _TALLEST
    many = (t.rows >= _TALLEST_OF_WARPS) & (t.rows <= tallest)
    return np.where(many, 128, 64)


def _ceiling(size: int, most: int) -> int:
    """Return the smallest tile that holds ``size``, and no more than ``most``."""
    return min(most, max(_SMALLEST, 1 << max(0, size - 1).bit_length()))
