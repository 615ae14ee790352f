"""Tiles of contractions, and a model of the time that they take.

The model counts, for one multiprocessor: the operations of its tiles at the rate of the matrix
units, the operands that it reads from the L2 cache, and the latency of a step where too few
loads are in flight; and for the device: the bytes that must cross the memory's pins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from lamina.backends.cuda.target import CudaTarget
from lamina.ir.types import DType

_SMALLEST: Final = 16
_THREADS_OF_SM: Final = 2048
_REGISTERS_OF_SM: Final = 65536
_WARP: Final = 32
_LAUNCH_MICROSECONDS: Final = 1.0
_FILL_MICROSECONDS: Final = 0.8
"""From the start of a program to its first product: two reads that depend on each other."""
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
_L2_TO_MEMORY: Final = 2.5
"""What multiprocessors read of tiles that they share, over the bandwidth of the memory."""
_STEP_MICROSECONDS: Final = 0.03
"""Waiting for loads and among warps, in each step."""
_ISSUED_BYTES_PER_MICROSECOND: Final = 5e4
"""What one warp can ask for."""
_WARPS_OF_SM: Final = 4
"""Warps from which on all matrix units of a multiprocessor work."""
_LIKE_TILES: Final = 2
"""Depths of tiles of equal rows, columns and split that are worth timing."""
_LARGE_TILE: Final = 128 * 128
"""Numbers of a tile from which on other warps for the same tile are worth timing too."""


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
    def halves(self) -> bool:
        """Whether the tile should be stored in two parts, to save registers."""
        return self.registers >= 128 and self.columns >= 2 * _SMALLEST


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


def tiles(work: Work, target: CudaTarget, *, boxes: bool = False) -> list[tuple[Tile, float]]:
    """Return tiles that fit problem and device with their microseconds, the fastest first.

    ``boxes``: operands come through descriptors, programs go on to further tiles.
    """
    found = [
        (tile, estimate(work, tile, target, boxes=boxes))
        for tile in _menu(work, target, boxes=boxes)
    ]
    return sorted(found, key=lambda f: (f[1], str(f[0])))


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


def promising(found: Sequence[tuple[Tile, float]]) -> list[tuple[Tile, float]]:
    """Keep tiles whose estimate is near the best, and of similar ones the best."""
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
    count = math.ceil(work.rows / tile.rows) * math.ceil(work.columns / tile.columns)
    count *= work.matrices * tile.split
    steps = math.ceil(work.taps * math.ceil(work.depth / tile.depth) / tile.split)
    size = work.dtype.itemsize
    l2 = _L2_TO_MEMORY * target.bytes_per_microsecond / target.sms
    operations = 2 * tile.rows * tile.columns * tile.depth
    rate = target.rate(work.dtype) * work.rate_share / target.sms * _efficiency(tile, target)
    loaded = (tile.rows + tile.columns) * tile.depth * size
    # Two steps in flight leave the units idle between them, four hardly.
    overlap = 1 - 0.8 / tile.stages**2
    busy = max(operations / rate, loaded / l2) / overlap + _STEP_MICROSECONDS
    warps = min(1.0, tile.warps / _WARPS_OF_SM)
    issued = loaded / (tile.warps * _ISSUED_BYTES_PER_MICROSECOND)
    single = max(busy, operations / (rate * warps), 0.0 if boxes else issued)
    waiting = _STEP_LATENCY_MICROSECONDS / max(1, tile.stages - 1)
    resident = 1 if boxes else _resident(work, tile, target)
    each = math.ceil(count / target.sms)
    waves = math.ceil(each / resident)
    alone = _FILL_MICROSECONDS + steps * max(single, waiting)
    stored = tile.rows * tile.columns * 4 / l2
    if boxes:
        compute = _DESCRIPTOR_MICROSECONDS + alone + (each - 1) * steps * max(busy, waiting)
    else:
        compute = max(waves * alone, each * steps * busy + _FILL_MICROSECONDS)
    compute += each * stored
    if tile.split > 1:
        compute += _JOIN_MICROSECONDS + stored * (tile.split + each)
    memory = work.moved_bytes / target.bytes_per_microsecond
    # What is not the bottleneck costs a little too.
    return _LAUNCH_MICROSECONDS + max(compute, memory) + 0.1 * min(compute, memory)


def _efficiency(tile: Tile, target: CudaTarget) -> float:
    """Return the share of the matrix rate that a tile's instructions reach."""
    if target.arch >= _COPY_ENGINE_SINCE:
        if tile.rows < 64 or tile.warps < 4:
            return 0.5 * min(1.0, tile.rows * tile.columns / 2048)
        return 0.9 * min(1.0, tile.columns / 64) * min(1.0, (tile.rows + tile.columns) / 256 + 0.4)
    return 0.85 * min(1.0, tile.rows * tile.columns / 4096)


def shared_bytes(tile: Tile, size: int) -> int:
    """Return about the shared memory that operands of ``size`` bytes in flight take."""
    return tile.stages * (tile.rows + tile.columns) * tile.depth * size


def _resident(work: Work, tile: Tile, target: CudaTarget) -> int:
    shared = max(1, shared_bytes(tile, work.dtype.itemsize))
    threads = tile.warps * _WARP
    registers = threads * min(255, 48 + int(1.2 * tile.registers))
    return max(
        1,
        min(
            (target.shared_bytes + 1024) // (shared + 1024),
            _THREADS_OF_SM // threads,
            _REGISTERS_OF_SM // registers,
        ),
    )


def _menu(work: Work, target: CudaTarget, *, boxes: bool) -> Iterator[Tile]:
    size = work.dtype.itemsize
    rows_most, columns_most = _ceiling(work.rows, 256), _ceiling(work.columns, 256)
    depth_most = max(_ceiling(work.depth, 256), 32 // size)
    for rows in _powers(64 if boxes else _SMALLEST, max(rows_most, 64 if boxes else 0)):
        for columns in _powers(_SMALLEST, columns_most):
            for depth in _powers(max(_SMALLEST, 32 // size), min(256 // size, depth_most)):
                for tile in _variants(work, rows, columns, depth, target, boxes=boxes):
                    if _fits(tile, work, target, boxes=boxes):
                        yield tile


def _variants(
    work: Work, rows: int, columns: int, depth: int, target: CudaTarget, *, boxes: bool
) -> Iterator[Tile]:
    steps = work.taps * math.ceil(work.depth / depth)
    count = math.ceil(work.rows / rows) * math.ceil(work.columns / columns) * work.matrices
    for warps in (1, 2, 4, 8):
        for stages in (2, 3, 4, 5, 6) if target.arch >= _TF32_SINCE else (2,):
            if stages > max(2, steps + 1):
                continue
            for split in _splits(work, count, steps, target, boxes=boxes):
                yield Tile(rows, columns, depth, warps, stages, split)


def _splits(
    work: Work, count: int, steps: int, target: CudaTarget, *, boxes: bool
) -> Iterable[int]:
    if boxes or not work.splittable:
        return (1,)
    enough = 2 * target.sms
    return [s for s in (1, 2, 4, 8, 16) if s == 1 or (count * s <= enough and steps >= 2 * s)]


def _fits(tile: Tile, work: Work, target: CudaTarget, *, boxes: bool) -> bool:
    """Whether a tile is sensible: registers without spilling, work for every warp."""
    most = _most_sums(tile, work, target)
    least = 8 if tile.rows * tile.columns > 1024 else 4
    if not least <= tile.registers <= most:
        return False
    if boxes and (tile.warps < 4 or (tile.registers >= 128 and tile.rows == _TALLEST_OF_WARPS)):
        return False
    if target.arch >= _COPY_ENGINE_SINCE and tile.rows >= _TALLEST_OF_WARPS and tile.warps < 4:
        return False
    if most == _MOST_SUMS_OF_ORDINARY and tile.depth > _DEEPEST_OF_ORDINARY:
        return False
    stored = _storing_bytes(tile) if boxes else 0
    return shared_bytes(tile, work.dtype.itemsize) + stored <= target.shared_bytes - 2048


def _storing_bytes(tile: Tile) -> int:
    """Return the shared memory in which a program that goes on turns results to rows.

    With one tile for each program it is the operands' memory, which is free by then.
    """
    part = tile.rows * tile.columns // (2 if tile.halves else 1)
    return part * (2 if tile.halves and tile.rows < _TALL else 4)


def _most_sums(tile: Tile, work: Work, target: CudaTarget) -> int:
    """Return how many registers of a thread may hold sums before others are spilled."""
    ordinary = work.dtype is DType.F32 and work.rate_share <= 1 and not target.tf32
    if target.arch < _TF32_SINCE or ordinary:
        return _MOST_SUMS_OF_ORDINARY
    if target.arch >= _COPY_ENGINE_SINCE and tile.rows >= _TALLEST_OF_WARPS:
        # On 9.0 operands stay in shared memory; later, sums come from a memory of their own.
        return 128 if target.arch < _SUMS_APART_SINCE or tile.rows <= _TALLEST else 64
    return 64


def _powers(low: int, high: int) -> Iterator[int]:
    while low <= high:
        yield low
        low *= 2


def _ceiling(size: int, most: int) -> int:
    """Return the smallest tile that holds ``size``, and no more than ``most``."""
    return min(most, max(_SMALLEST, 1 << max(0, size - 1).bit_length()))
