"""Convolutions that share a sum or feed each other, in one kernel each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product as cartesian
from typing import Final

from lamina.backends.cuda.request import CudaDraft, Launch, Number
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import Convolved, needs_wide
from lamina.backends.cuda.tactics.matmul_case import FLOATS
from lamina.backends.cuda.tactics.product import pieces, rows_of_group, shared, shared_bytes
from lamina.backends.cuda.tactics.stages import (
    Chain,
    Stages,
    chain_of,
    stages_of,
)
from lamina.backends.cuda.tactics.tiles import Tile, precisions, promising, tiles
from lamina.backends.cuda.tactics.windows import Image
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import ceildiv, dim_min, divides, evaluate
from lamina.ir.graph import Node, Value
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import Epilogue
from lamina.passes.fusion import is_pointwise
from lamina.tactics.candidate import Candidate, Placement, Scratch, sizes_known

_ABSENT: Final = Image(role=Scratch(), dtype=DType.F32, batch=0, channel=0, spatial=(0, 0, 0))
_HALVES: Final = (DType.F16, DType.BF16)
_SINCE: Final = 80
_MOST_DEPTH: Final = 256
_MOST_BACK: Final = 256
_SMALLEST: Final = 16
_WARP: Final = 32
_MOST_NUMBERS: Final = 192
"""Registers of a thread that hold sums and what they are multiplied with."""
_RATE_SHARE: Final = 0.45
"""Of the matrix rate, what products reach whose operands change all the time."""
_L2_TO_MEMORY: Final = 2.5
_START_MICROSECONDS: Final = 3.0


class TritonPaired:
    """The sum of two convolutions: what a block's shortcut adds needs no memory."""

    name = "triton-conv-pair"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer the tiles of a convolution with the depth of both."""
        found = _chain(node, target)
        if found is None or isinstance(found, Reject):
            return found
        stages, chain = found
        if chain.other is None or chain.front is not None or chain.back is not None:
            return Reject("it is not one sum of two convolutions")
        first, second = (_case(n, target) for n in (chain.middle, chain.other))
        works = [case.work() for case in (first, second)]
        work = replace(
            works[0],
            depth=math.ceil(sum(w.taps * w.depth for w in works)),
            taps=1,
            moved_bytes=_moved(stages, chain, target),
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
        found = _chain(node, target)
        if found is None or isinstance(found, Reject):
            return found
        stages, chain = found
        if why := _why_not_chained(stages, chain, target):
            return Reject(why)
        sizes = _Sizes.of(chain, target)
        return [
            _candidate(
                f"{self.name} {tile}",
                stages,
                _estimate(stages, chain, sizes, tile, target),
                _chain_draft(stages, chain, tile, target),
            )
            for tile in _tiles(sizes, target)
        ] or Reject("no tile fits into the registers")


@dataclass(frozen=True)
class _ChainTile:
    """Rows, columns of a part of the middle, depth of a step in front, warps, parts in flight.

    ``programs`` of a multiprocessor share all tiles, where programs go on to further ones.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    programs: int = 1

    def __str__(self) -> str:
        size = f"{self.rows}x{self.columns}x{self.depth}"
        return f"{size} w{self.warps} s{self.stages} p{self.programs}"


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
            depth=_padded(middle.channels),
            other=_padded(_case(chain.other, target).windows.channels) if chain.other else 0,
            filters=middle.filters,
            back=_padded(_case(chain.back, target).windows.filters) if chain.back else 0,
        )

    @property
    def products(self) -> int:
        """Multiplications for each pixel."""
        front = self.taps * self.channels * self.depth
        return front + self.filters * (self.depth + self.other + self.back)


def _padded(size: int) -> int:
    return max(_SMALLEST, 1 << (size - 1).bit_length())


def _case(node: Node, target: CudaTarget) -> Case:
    case = case_of(node, target)
    assert isinstance(case, Case)
    return case


def _chain(node: Node, target: CudaTarget) -> tuple[Stages, Chain] | Reject | None:
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


def _tiles(sizes: _Sizes, target: CudaTarget) -> Iterator[_ChainTile]:
    depth = min(64, _padded(sizes.channels or _SMALLEST))
    for rows, columns, warps in cartesian((32, 64, 128), (32, 64, 128), (4, 8)):
        threads = warps * _WARP
        left = (sizes.depth + sizes.other) // 2 if sizes.taps else 0
        held = max(sizes.back + columns, sizes.depth) + left
        if columns > sizes.filters or rows // warps < 8:
            continue
        if rows * held // threads > _MOST_NUMBERS:
            continue
        for stages in (1, 2) if sizes.taps else (2, 3, 4):
            tile = _ChainTile(rows, columns, depth, warps, stages)
            each = _shared(sizes, tile) + 1024
            most = min(target.shared_bytes // each, 16 // warps)
            for programs in (1,) if sizes.taps else range(1, most + 1):
                if programs > 1 or each <= target.shared_bytes - 2048:
                    yield replace(tile, programs=programs)


def _shared(sizes: _Sizes, tile: _ChainTile) -> int:
    """Return about the shared memory that a tile takes."""
    parts = tile.columns * (sizes.depth + sizes.other + sizes.back + tile.rows)
    if not sizes.taps:
        parts += tile.rows * (sizes.depth + sizes.other)
    front = 3 * (tile.rows + sizes.depth) * tile.depth if sizes.taps else 0
    flying = max(1, tile.stages - 1) if sizes.taps else tile.stages
    return 2 * max(front, flying * parts)


def _estimate(
    stages: Stages, chain: Chain, sizes: _Sizes, tile: _ChainTile, target: CudaTarget
) -> float:
    """Return the microseconds: memory, products, filters out of the L2 cache, whole waves."""
    programs = math.ceil(sizes.rows / tile.rows)
    resident = max(1, min(16 // tile.warps, target.shared_bytes // (_shared(sizes, tile) + 1024)))
    each = math.ceil(programs / target.sms)
    rate = target.rate(stages.region.outputs[0].tensor.dtype) / target.sms * _RATE_SHARE
    busy = 2 * sizes.products * tile.rows / (rate * min(1.0, tile.rows / 64))
    l2 = _L2_TO_MEMORY * target.bytes_per_microsecond / target.sms
    loaded = 2 * sizes.products / l2
    alone = 1.0 + 0.5 * (sizes.taps + math.ceil(sizes.filters / tile.columns) / tile.stages)
    waves = math.ceil(each / resident)
    compute = max(each * max(busy, loaded), waves * alone)
    memory = _moved(stages, chain, target) / target.bytes_per_microsecond
    return _START_MICROSECONDS + max(compute, memory) + 0.2 * min(compute, memory)


def _moved(stages: Stages, chain: Chain, target: CudaTarget) -> float:
    """Return the bytes that are read and written; strides skip pixels of the second image."""
    values = (*stages.region.inputs, *stages.region.outputs)
    sizes = {v: evaluate(v.tensor.size, target.env) * v.tensor.dtype.itemsize for v in values}
    moved = float(sum(sizes.values()))
    if chain.other is not None:
        at = _case(chain.other, target).windows
        if at.reads_one_pixel:
            moved -= sizes[chain.other.inputs[0]] * (1 - 1 / math.prod(at.strides))
    return moved


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
        launch = _pair_launch(c, d, tile, precision, target)
        return CudaDraft(launches=(launch,), workspace_bytes=shared_bytes(tile, launch.grid[0]))

    return draft


def _pair_launch(
    c: Convolved, d: Convolved, tile: Tile, precision: str, target: CudaTarget
) -> Launch:
    at, other = c.windows, d.windows
    tiles_m, tiles_n = ceildiv(at.pixels, tile.rows), ceildiv(at.filters, tile.columns)
    merged = all(w.reads_one_pixel and w.channels % tile.depth == 0 for w in (at, other))
    split, count = pieces(tile, tiles_m * tiles_n)
    call = Call("chained", "paired")
    call.pointer("x", c.x.role, c.x.dtype)
    call.pointer("w", c.w.role, c.w.dtype)
    call.pointer("z", d.x.role, d.x.dtype)
    call.pointer("v", d.w.role, d.w.dtype)
    _bias(call, "bias", c)
    _bias(call, "other_bias", d)
    call.pointer("y", c.y.role, c.y.dtype)
    shared(call, tile.split, tiles_m * tiles_n, False)
    call.sizes(PIXELS=at.pixels, FILTERS=at.filters)
    _axes(call, "OUT", c, outer=True)
    _axes(call, "IN", c)
    call.sizes(CHANNELS=at.channels)
    _image(call, "X", c.x)
    call.sizes(W_FILTER=c.w.filter, W_TAP=c.w.tap)
    _axes(call, "Z_IN", d)
    call.sizes(Z_CHANNELS=other.channels)
    _image(call, "Z", d.x)
    call.sizes(V_FILTER=d.w.filter, V_TAP=d.w.tap)
    _image(call, "Y", c.y)
    call.constants(
        PADDED=at.is_padded,
        Z_PADDED=other.is_padded,
        WHOLE_K=at.channels % tile.depth == 0,
        Z_WHOLE_K=other.channels % tile.depth == 0,
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        BLOCK_K=tile.depth,
        SPLIT=split,
        GROUP=rows_of_group(tiles_m),
        WHOLE_N=at.filters % tile.columns == 0,
        DEEP=c.deep,
        Y_DENSE=c.y.is_run(at.images, at.outer),
        WIDE=c.wide or d.wide,
        PRECISION=precision,
        HALVES=tile.halves,
        MERGED=merged,
        DEPENDENT=target.dependent,
        **_windows(c, ""),
        **_windows(d, "Z_"),
        **_activation(c.fused.activation, ""),
    )
    return call.launch(
        (tiles_m * tiles_n, count),
        warps=tile.warps,
        stages=tile.stages,
        dependent=target.dependent,
    )


def _chain_draft(
    stages: Stages, chain: Chain, tile: _ChainTile, target: CudaTarget
) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        def part(node: Node | None) -> Convolved | None:
            return None if node is None else stages.convolved(node, at, target)

        stored = chain.middle.output in stages.results
        middle = stages.convolved(chain.middle, at, target)
        parts = _Parts(part(chain.front), middle, part(chain.other), part(chain.back), stored)
        values: list[Value] = [*stages.region.inputs, *stages.region.outputs]
        sizes = [(v.tensor.size, evaluate(v.tensor.size, target.env)) for v in values]
        return CudaDraft(launches=(_chain_launch(parts, tile, needs_wide(sizes), target),))

    return draft


@dataclass(frozen=True)
class _Parts:
    """The convolutions of a chain with their operands; the middle's result may be ``stored``."""

    front: Convolved | None
    middle: Convolved
    other: Convolved | None
    back: Convolved | None
    stored: bool

    @property
    def residual(self) -> Image | None:
        """Return what the middle adds from memory."""
        return None if self.other is not None else self.middle.residual


def _chain_launch(p: _Parts, tile: _ChainTile, wide: bool, target: CudaTarget) -> Launch:
    front, middle, other, back = p.front, p.middle, p.other, p.back
    source, at = front or middle, middle.windows
    call = Call("chained", "chained")
    call.pointer("x", source.x.role, source.x.dtype)
    _filters(call, ("front", "front_bias"), front)
    _filters(call, ("w", "bias"), middle)
    call.pointer("z", None if other is None else other.x.role, middle.x.dtype)
    _filters(call, ("v", "other_bias"), other)
    call.pointer("residual", None if p.residual is None else p.residual.role, middle.x.dtype)
    call.pointer("y", middle.y.role if p.stored else None, middle.y.dtype)
    _filters(call, ("back", "back_bias"), back)
    call.pointer("last", None if back is None else back.y.role, middle.y.dtype)
    call.sizes(PIXELS=at.pixels)
    _axes(call, "OUT", middle, outer=True)
    _axes(call, "IN", source)
    call.sizes(CHANNELS=source.windows.channels)
    _image(call, "X", source.x)
    call.sizes(FRONT_FILTER=front.w.filter if front else 0, FRONT_TAP=front.w.tap if front else 0)
    call.sizes(DEPTH=at.channels, W_FILTER=middle.w.filter)
    call.sizes(Z_CHANNELS=other.windows.channels if other else 0)
    _image(call, "Z", other.x if other else _ABSENT)
    call.sizes(V_FILTER=other.w.filter if other else 0, FILTERS=at.filters)
    _image(call, "RESIDUAL", p.residual or _ABSENT)
    _image(call, "Y", middle.y if p.stored else _ABSENT)
    call.sizes(BACK_FILTERS=back.windows.filters if back else 0)
    call.sizes(BACK_FILTER=back.w.filter if back else 0)
    _image(call, "LAST", back.y if back else _ABSENT)
    stored = [p.residual, middle.y if p.stored else None, back.y if back else None]
    strides = (other or middle).windows.strides
    call.constants(
        PADDED=source.windows.is_padded,
        **{f"Z_STRIDE_{a}": s for a, s in zip("DHW", strides, strict=True)},
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        BLOCK_K=tile.depth,
        FRONT_N=_padded(at.channels),
        Z_SIZE=_padded(other.windows.channels) if other else _SMALLEST,
        BACK_N=_padded(back.windows.filters) if back else _SMALLEST,
        STAGES=tile.stages,
        WHOLE_M=divides(tile.rows, at.pixels),
        DEEP=middle.deep,
        WIDE=wide,
        DENSE=all(i is None or i.is_run(at.images, at.outer) for i in stored),
        DEPENDENT=target.dependent,
        **_windows(source, ""),
        **_activation(front.fused.activation if front else None, "FRONT_"),
        **_activation(middle.fused.activation, ""),
        **_activation(back.fused.activation if back else None, "BACK_"),
    )
    count = ceildiv(at.pixels, tile.rows)
    return call.launch(
        (count if front else dim_min(tile.programs * target.sms, count),),
        warps=tile.warps,
        stages=3,
        dependent=target.dependent,
    )


def _filters(call: Call, names: tuple[str, str], c: Convolved | None) -> None:
    if c is None:
        for name in names:
            call.pointer(name, None)
        return
    call.pointer(names[0], c.w.role, c.w.dtype)
    _bias(call, names[1], c)


def _bias(call: Call, name: str, c: Convolved) -> None:
    if c.bias is None:
        call.pointer(name, None)
    else:
        call.pointer(name, *c.bias)


def _axes(call: Call, name: str, c: Convolved, *, outer: bool = False) -> None:
    sizes = c.windows.outer if outer else c.windows.inner
    call.sizes(**{f"{name}_{a}": size for a, size in zip("DHW", sizes, strict=True)})


def _image(call: Call, name: str, image: Image) -> None:
    call.sizes(**{f"{name}_BATCH": image.batch})
    names = (f"{name}_DEPTH", f"{name}_ROW", f"{name}_COLUMN")
    call.sizes(**dict(zip(names, image.spatial, strict=True)))


def _windows(c: Convolved, prefix: str) -> dict[str, int]:
    at = c.windows
    rows = (("TAPS", at.taps), ("STRIDE", at.strides), ("DILATION", at.dilations), ("PAD", at.pads))
    return {
        f"{prefix}{name}_{axis}": value
        for name, values in rows
        for axis, value in zip("DHW", values, strict=True)
    }


def _activation(a: Epilogue | None, prefix: str) -> dict[str, Number]:
    return {
        f"{prefix}KIND": a.kind.value if a else None,
        f"{prefix}ALPHA": a.alpha if a else 0.0,
        f"{prefix}BETA": a.beta if a else 0.0,
    }
