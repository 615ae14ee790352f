"""Convolutions that share a sum or feed each other, in one kernel each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product as cartesian
from typing import Final

from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.tactics.chained_launch import (
    SMALLEST,
    ChainTile,
    Parts,
    chain_launch,
    padded,
    pair_launch,
)
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import Convolved, needs_wide
from lamina.backends.cuda.tactics.matmul_case import FLOATS
from lamina.backends.cuda.tactics.product import shared_bytes
from lamina.backends.cuda.tactics.stages import (
    Chain,
    Stages,
    chain_of,
    stages_of,
)
from lamina.backends.cuda.tactics.tiles import Tile, precisions, promising, tiles
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import evaluate
from lamina.ir.graph import Node, Value
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.passes.fusion import is_pointwise
from lamina.tactics.candidate import Candidate, Placement, sizes_known

_HALVES: Final = (DType.F16, DType.BF16)
_SINCE: Final = 80
_MOST_DEPTH: Final = 256
_MOST_BACK: Final = 256
_WARP: Final = 32
_MOST_NUMBERS: Final = 192
"""Registers of a thread that hold sums and what they are multiplied with."""
_RATE_SHARE: Final = 0.45
"""Of the matrix rate, what products reach whose operands change all the time."""
_L2_TO_MEMORY: Final = 2.0
_OVERLAP: Final = 0.15
"""What else than the bottleneck costs, of its time."""
_LAUNCH_MICROSECONDS: Final = 1.0
_FILL_MICROSECONDS: Final = 1.5
_STEP_MICROSECONDS: Final = 0.35
_PART_MICROSECONDS: Final = 0.5
_FETCHED_BYTES_PER_MICROSECOND: Final = 4.5e4
"""Filters that one program gets hold of."""
_BEST_COLUMNS: Final = 64
_REGISTERS_OF_SM: Final = 65536
_OTHER_REGISTERS: Final = 60


class TritonPaired:
    """The sum of two convolutions: what a block's shortcut adds needs no memory."""

    name = "triton-conv-pair"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer the tiles of a convolution with the depth of both."""
        found = pair_case(node, target)
        if found is None or isinstance(found, Reject):
            return found
        stages, chain = found
        assert chain.other is not None
        first, second = (_case(n, target) for n in (chain.middle, chain.other))
        works = [case.work() for case in (first, second)]
        work = replace(
            works[0],
            depth=sum(w.taps * w.depth for w in works),
            taps=1,
            moved_bytes=moved_bytes(stages, chain, target),
        )
        offered = []
        for precision, share in precisions(work.dtype, target):
            suffix = f" {precision}" if work.dtype is DType.F32 else ""
            for tile, cost in promising(tiles(replace(work, rate_share=share), target)):
                draft = _pair_draft(stages, chain, tile, precision, target)
                offered.append(_candidate(f"{self.name} {tile}{suffix}", stages, cost, draft))
        return offered


class TritonChained:
    """Up to three convolutions of a tile of pixels, whose sums stay on the chip."""

    name = "triton-conv-chain"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer tiles for which the numbers of all stages fit into registers."""
        found = chain_case(node, target)
        if found is None or isinstance(found, Reject):
            return found
        stages, chain = found
        if why := _why_not_chained(stages, chain, target):
            return Reject(why)
        sizes = _Sizes.of(chain, target)
        return [
            _candidate(
                f"{self.name}{'-stays' if tile.stays else ''} {tile}",
                stages,
                _estimate(stages, chain, sizes, tile, target),
                _chain_draft(stages, chain, tile, target),
            )
            for tile in _tiles(sizes, target)
        ] or Reject("no tile fits into the registers")


@dataclass(frozen=True)
class _Sizes:
    """Likely rows, and the widths of the stages (0: there is none) as the kernel pads them."""

    rows: int
    taps: int
    channels: int
    depth: int
    other: int
    filters: int
    back: int

    @staticmethod
    def of(chain: Chain, target: CudaTarget) -> _Sizes:
        middle = _case(chain.middle, target).windows
        front = None if chain.front is None else _case(chain.front, target).windows
        return _Sizes(
            rows=_case(chain.middle, target).likely(middle.pixels),
            taps=front.tap_count if front else 0,
            channels=front.channels if front else 0,
            depth=padded(middle.channels),
            other=padded(_case(chain.other, target).windows.channels) if chain.other else 0,
            filters=middle.filters,
            back=padded(_case(chain.back, target).windows.filters) if chain.back else 0,
        )

    @property
    def products(self) -> int:
        """Multiplications for each pixel."""
        front = self.taps * self.channels * self.depth
        return front + self.filters * (self.depth + self.other + self.back)

    def held(self, tile: ChainTile) -> int:
        """Return the numbers of a row that registers hold at once, in 32 bits."""
        left = 0 if tile.stays else (self.depth + self.other) // 2
        return max(self.back + tile.columns, self.depth) + left


def _case(node: Node, target: CudaTarget) -> Case:
    case = case_of(node, target)
    assert isinstance(case, Case)
    return case


def chain_case(node: Node, target: CudaTarget) -> tuple[Stages, Chain] | Reject | None:
    """Return the convolutions of a region and what they are to each other, if kernels take them."""
    stages = stages_of(node)
    chain = None if stages is None else chain_of(stages)
    if stages is None or chain is None:
        return None
    if not sizes_known(node, target.env):
        return Reject("data decides a size")
    for n in stages.nodes:
        case = case_of(n, target)
        if not isinstance(case, Case):
            return Reject(case or "it is no convolution")
        if case.filters is None or case.op.groups != 1:
            return Reject("it takes constant filters in one group")
        if n.output.tensor.dtype not in FLOATS:
            return Reject(f"the matrix units take f16, bf16 and f32, not {n.output.tensor.dtype}")
    return stages, chain


def pair_case(node: Node, target: CudaTarget) -> tuple[Stages, Chain] | Reject | None:
    """Return two convolutions of a region that meet in a sum, if they are all of it."""
    found = chain_case(node, target)
    if isinstance(found, tuple):
        chain = found[1]
        if chain.other is None or chain.front is not None or chain.back is not None:
            return Reject("it is not one sum of two convolutions")
    return found


def _why_not_chained(stages: Stages, chain: Chain, target: CudaTarget) -> str:
    if chain.dtype not in _HALVES or target.arch < _SINCE:
        return "it takes f16 and bf16, from compute capability 8.0 on"
    pointwise = [n for n in (chain.middle, chain.back) if n is not None]
    if not all(map(is_pointwise, pointwise)):
        return "all convolutions but the first must be pointwise"
    if chain.other is not None and not _case(chain.other, target).windows.reads_one_pixel:
        return "the second image is not read pixel by pixel"
    if chain.back is not None and chain.back.output not in stages.results:
        return "the last convolution is no result"
    sizes = _Sizes.of(chain, target)
    if max(sizes.depth, sizes.other) > _MOST_DEPTH or sizes.back > _MOST_BACK:
        return "the stages are too wide for one tile"
    return ""


def _tiles(sizes: _Sizes, target: CudaTarget) -> Iterator[ChainTile]:
    depth = min(64, padded(sizes.channels or SMALLEST))
    whole = padded(sizes.filters)
    for rows, warps, stages in cartesian((32, 64, 128), (4, 8), (1, 2, 3)):
        if rows // warps < 8:
            continue
        for columns in sorted({32, 64, 128, whole}):
            tile = ChainTile(rows, columns, depth, warps, stages)
            if columns <= min(128, whole) and stages < 3:
                yield from _fitting(sizes, tile, target)
            if columns == whole and not sizes.taps and stages > 1:
                yield from _fitting(sizes, replace(tile, stays=True), target)


def _fitting(sizes: _Sizes, tile: ChainTile, target: CudaTarget) -> Iterator[ChainTile]:
    """Yield a tile if its numbers fit into registers and shared memory."""
    if sizes.held(tile) * tile.rows // (tile.warps * _WARP) > _MOST_NUMBERS:
        return
    if _shared(sizes, tile) <= target.shared_bytes - 2048:
        yield tile


def _shared(sizes: _Sizes, tile: ChainTile) -> int:
    """Return about the shared memory that a tile takes."""
    filters = tile.columns * (sizes.depth + sizes.other + sizes.back)
    if tile.stays:
        images = sizes.depth + sizes.other + (0 if sizes.other else tile.columns)
        return 2 * (filters + tile.stages * tile.rows * images)
    parts = tile.rows * tile.columns + filters
    front = 3 * (tile.rows + sizes.depth) * tile.depth if sizes.taps else 0
    return 2 * max(front, tile.stages * parts)


def _estimate(
    stages: Stages, chain: Chain, sizes: _Sizes, tile: ChainTile, target: CudaTarget
) -> float:
    """Return the microseconds: memory, products, the L2 cache, and what one program waits for."""
    programs = math.ceil(sizes.rows / tile.rows)
    threads = tile.warps * _WARP
    registers = min(255, _OTHER_REGISTERS + sizes.held(tile) * tile.rows // threads)
    resident = max(
        1,
        min(
            _REGISTERS_OF_SM // (registers * threads),
            target.shared_bytes // (_shared(sizes, tile) + 1024),
        ),
    )
    filters = 2 * (sizes.products - sizes.taps * sizes.channels * sizes.depth)
    parts = math.ceil(sizes.filters / tile.columns)
    steps = sizes.taps * math.ceil(sizes.channels / tile.depth)
    part = _PART_MICROSECONDS + filters / parts / _FETCHED_BYTES_PER_MICROSECOND
    alone = _FILL_MICROSECONDS + steps * _STEP_MICROSECONDS + parts * part
    waiting = math.ceil(programs / target.sms / resident) * alone
    moved = moved_bytes(stages, chain, target)
    fetched = moved + 2 * sizes.products * (target.sms if tile.stays else programs)
    rate = target.rate(chain.dtype) * _RATE_SHARE * min(1.0, tile.rows / 64)
    bounds = sorted(
        (
            moved / target.bytes_per_microsecond,
            fetched / target.bytes_per_microsecond / _L2_TO_MEMORY,
            2 * sizes.products * max(sizes.rows, target.sms * tile.rows) / rate,
            0.0 if tile.stays else waiting,
        )
    )
    uneven = 1.0 + 0.05 * (tile.columns != _BEST_COLUMNS) + 0.15 * (tile.stages == 1)
    return _LAUNCH_MICROSECONDS + uneven * (bounds[-1] + _OVERLAP * sum(bounds[:-1]))


def moved_bytes(stages: Stages, chain: Chain, target: CudaTarget) -> float:
    """Return the bytes that are read and written; strides skip pixels of the second image."""
    values = (*stages.region.inputs, *stages.region.outputs)
    sizes = {v: evaluate(v.tensor.size, target.env) * v.tensor.dtype.itemsize for v in values}
    moved = float(sum(sizes.values()))
    if chain.other is not None:
        at = _case(chain.other, target).windows
        if at.reads_one_pixel:
            moved -= sizes[chain.other.inputs[0]] * (1 - 1 / math.prod(at.strides))
    return moved


def parts_at(stages: Stages, chain: Chain, at: Placement, target: CudaTarget) -> Parts:
    """Return the convolutions of a chain with their operands."""

    def part(node: Node | None) -> Convolved | None:
        return None if node is None else stages.convolved(node, at, target)

    stored = chain.middle.output in stages.results
    middle = stages.convolved(chain.middle, at, target)
    return Parts(part(chain.front), middle, part(chain.other), part(chain.back), stored)


def _candidate(
    name: str, stages: Stages, cost: float, draft: Callable[[Placement], CudaDraft]
) -> Candidate:
    return Candidate(name, stages.reads, stages.writes, cost, draft)  # type: ignore[arg-type]


def _pair_draft(
    stages: Stages, chain: Chain, tile: Tile, precision: str, target: CudaTarget
) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        assert chain.other is not None
        c = stages.convolved(chain.middle, at, target)
        d = stages.convolved(chain.other, at, target)
        launch = pair_launch(c, d, tile, precision, target)
        return CudaDraft(launches=(launch,), workspace_bytes=shared_bytes(tile, launch.grid[0]))

    return draft


def _chain_draft(
    stages: Stages, chain: Chain, tile: ChainTile, target: CudaTarget
) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        parts = parts_at(stages, chain, at, target)
        values: list[Value] = [*stages.region.inputs, *stages.region.outputs]
        sizes = [(v.tensor.size, evaluate(v.tensor.size, target.env)) for v in values]
        return CudaDraft(launches=(chain_launch(parts, tile, needs_wide(sizes), target),))

    return draft
