"""Convolutions on a GPU: implicit matrix products, channels last.

There is no Winograd kernel.  F(2x2, 3x3) needs 2.25 times fewer multiplications, but these are 16
products, one for each place of a 4x4 tile, whose operands are made by additions on the ordinary
units: 8 additions for each pixel and channel and tile of filters, in f32 to keep f16's accuracy,
and their results have to reach shared memory in four times the bytes of the image.  For 64
channels of 56x56 the direct product takes 37 microseconds a batch of 128 at full rate, of which
24 are memory traffic that Winograd has as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache
from itertools import product as cartesian
from math import prod
from typing import Final

from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import (
    boxes_fit,
    boxes_launch,
    implicit_launch,
)
from lamina.backends.cuda.tactics.matmul_case import FLOATS
from lamina.backends.cuda.tactics.product import (
    boxes_draft,
    matmul_draft,
    shared_bytes,
    why_not_boxes,
)
from lamina.backends.cuda.tactics.tiles import (
    Tile,
    precisions,
    promising,
    tiles,
    why_not_multiplied,
)
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import Dim, dim_max
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import QuantizedConvolution
from lamina.ops.quantized import EIGHT_BIT
from lamina.tactics.candidate import Candidate, Placement

_FEWEST_CHANNELS: Final = 8
_LONGEST_SIDE: Final = 256
Box = tuple[int, int, int]


class TritonConvolution:
    """A tile of pixels and filters for each program, the depth split where that pays."""

    name = "triton-conv"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer the tiles that the cost model finds promising, at every precision allowed."""
        case = _case(node, target)
        if not isinstance(case, Case):
            return case
        pointwise = case.windows.is_pointwise and case.op.groups == 1 and case.filters is not None
        build = _pointwise_draft if pointwise else _implicit_draft
        work = case.work()
        found = []
        for precision, share in precisions(work.dtype, target):
            suffix = f" {precision}" if work.dtype is DType.F32 else ""
            sized = replace(work, rate_share=share)
            for tile, cost in promising(tiles(sized, target)):
                draft = build(case, tile, precision)
                name = f"{self.name}{'-1x1' if pointwise else ''} {tile}{suffix}"
                found.append(_candidate(name, case, cost, draft))
        return found


class TritonConvolutionBoxes:
    """Programs that work off all tiles, boxes of pixels through the copy engine of Hopper."""

    name = "triton-conv-tma"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer tiles for images whose pixels and filters lie at multiples of 16 bytes."""
        case = _case(node, target)
        if not isinstance(case, Case):
            return case
        if case.windows.is_pointwise:
            if why := why_not_boxes(case.product(case.dense), target):
                return Reject(why)
            return [
                _candidate(
                    f"{self.name}-1x1 {tile}", case, cost, _pointwise_boxes_draft(case, tile)
                )
                for tile, cost in promising(tiles(case.work(), target, boxes=True))
            ]
        parts = case.convolved(case.dense, matrix=True)
        if len(parts) != 1 or (why := boxes_fit(parts[0], target)):
            return Reject(why if len(parts) == 1 else "it is a transposed convolution")
        found = []
        for tile, cost in promising(tiles(case.work(), target, boxes=True)):
            if case.windows.channels % tile.depth:
                continue
            box, waste = _box(case, tile.rows)
            name = f"{self.name} {tile} box {'x'.join(map(str, box))}"
            found.append(_candidate(name, case, cost * waste, _boxes_draft(case, tile, box)))
        return found or Reject("no tile's depth divides the channels")


def _case(node: Node, target: CudaTarget) -> Case | Reject | None:
    case = case_of(node, target)
    if not isinstance(case, Case):
        return Reject(case) if isinstance(case, str) else None
    x = node.inputs[0].tensor
    taken = EIGHT_BIT if isinstance(case.op, QuantizedConvolution) else FLOATS
    if x.dtype not in taken:
        return Reject(f"the matrix units take f16, bf16 and f32, not {x.dtype}")
    if why := why_not_multiplied(x.dtype, target):
        return Reject(why)
    channels = case.windows.channels
    if channels < _FEWEST_CHANNELS:
        return Reject(f"{channels} channels in a group leave matrix units idle")
    return case


def _candidate(
    name: str, case: Case, cost: float, draft: Callable[[Placement], CudaDraft]
) -> Candidate:
    return Candidate(name, case.reads, case.writes, cost, draft)  # type: ignore[arg-type]


def _implicit_draft(case: Case, tile: Tile, precision: str) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        parts = case.convolved(at, matrix=True)
        launches = tuple(implicit_launch(c, tile, precision, case.target) for c in parts)
        space: list[Dim] = [shared_bytes(tile, launch.grid[0]) for launch in launches]
        return CudaDraft(launches=launches, workspace_bytes=dim_max(*space))

    return draft


def _pointwise_draft(case: Case, tile: Tile, precision: str) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        return matmul_draft(case.product(at), tile, precision, case.target)

    return draft


def _pointwise_boxes_draft(case: Case, tile: Tile) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        return boxes_draft(case.product(at), tile, case.target)

    return draft


def _boxes_draft(case: Case, tile: Tile, box: Box) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        (c,) = case.convolved(at, matrix=True)
        return CudaDraft(launches=(boxes_launch(c, box, tile, case.target),))

    return draft


def _box(case: Case, pixels: int) -> tuple[Box, float]:
    """Return the box of ``pixels`` that covers the images best, and computed over real pixels."""
    at = case.windows
    batch, height, width = (case.likely(size) for size in (at.images, *at.outer[1:]))
    return covering((batch, height, width), pixels)


@lru_cache(maxsize=4096)
def covering(sizes: tuple[int, int, int], pixels: int) -> tuple[Box, float]:
    """Return the box of ``pixels`` that covers images best, and computed over real pixels."""

    def waste(box: Box) -> float:
        computed = real = 1
        for size, side in zip(sizes, box, strict=True):
            computed *= -(-size // side) * side
            real *= size
        return computed / real

    # Of equal ones the widest: neighbours in a row are neighbours in memory.
    best = min(_boxes(pixels), key=lambda box: (waste(box), -box[2], -box[1]))
    return best, waste(best)


@cache
def _boxes(pixels: int) -> list[Box]:
    sides = [1 << i for i in range(pixels.bit_length()) if 1 << i <= _LONGEST_SIDE]
    return [box for box in cartesian(sides, repeat=3) if prod(box) == pixels]  # type: ignore[misc]
