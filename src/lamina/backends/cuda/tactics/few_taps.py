"""Convolutions on a GPU with so few channels and taps that a thread holds whole windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from lamina.backends.cuda.request import CudaDraft, Launch
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.chained_launch import activation_numbers
from lamina.backends.cuda.tactics.convolution_case import Case, cases_in_both_forms
from lamina.backends.cuda.tactics.convolution_launch import (
    ABSENT,
    Convolved,
    Filters,
    pass_image,
    pass_operands,
    window_numbers,
)
from lamina.backends.cuda.tactics.matmul_case import FLOATS
from lamina.backends.cuda.tactics.tf32 import packed_factors, packed_precision
from lamina.backends.cuda.tactics.tiles import Tile, precisions
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.blocks import blocked
from lamina.ir.dims import ceildiv
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.ops import Convolution
from lamina.tactics.candidate import Candidate, Packed, Placement

_MOST_CHANNELS: Final = 8
_MOST_DEPTH: Final = 96
"""What is unrolled: with more the kernels take many seconds to compile."""
_DEPTHS: Final = (16, 32, 64)
_THREADS_OF_WARP: Final = 32
_INSTRUCTIONS_OF_TAP: Final = 5
"""Of a thread, for each number that it gathers, and"""
_INSTRUCTIONS_OF_SUM: Final = 5
"""for each number that it stores."""
_OTHER_INSTRUCTIONS: Final = 40
_ISSUE_SHARE: Final = 0.5
"""Of the instructions that a multiprocessor could begin, what these threads do."""
_LAUNCH_MICROSECONDS: Final = 1.0
_FILL_MICROSECONDS: Final = 1.5
"""From the start of a program to its end, where nothing else is in its way."""


class TritonFewTaps:
    """Unrolls the windows, so that what is gathered lies at constant distances."""

    name = "triton-few-taps"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer tiles for either form of the image."""
        cases = cases_in_both_forms(node, target, _why_not)
        if not isinstance(cases, list):
            return cases
        return [c for case in cases for c in _candidates(self.name, case)]


def _why_not(case: Case) -> str:
    at, dtype = case.windows, case.node.inputs[0].tensor.dtype
    if not isinstance(case.op, Convolution) or case.op.groups != 1 or case.filters is None:
        return "it takes constant filters in one group, not transposed"
    if dtype not in FLOATS:
        return f"the matrix units take f16, bf16 and f32, not {dtype}"
    if at.channels > _MOST_CHANNELS or at.channels * at.tap_count > _MOST_DEPTH:
        return f"{at.channels} channels and {at.tap_count} taps do not fit into registers"
    return ""


def _depth(case: Case, tile: Tile) -> int:
    at = case.windows
    return -(-at.channels * at.tap_count // tile.depth) * tile.depth


def _tiles(case: Case) -> Iterator[Tile]:
    filters = case.windows.filters
    for warps in (4, 8):
        for rows in (warps * _THREADS_OF_WARP, 2 * warps * _THREADS_OF_WARP):
            for columns in (16, 32, 64, 128):
                if columns > max(16, 1 << (filters - 1).bit_length()):
                    continue
                tiles = [Tile(rows, columns, depth, warps, 1) for depth in _DEPTHS]
                least = min(_depth(case, tile) for tile in tiles)
                for tile in tiles:
                    if _depth(case, tile) == least and tile.registers <= 128:
                        yield tile


def _candidates(name: str, case: Case) -> Iterator[Candidate]:
    dtype = case.node.inputs[0].tensor.dtype
    for precision, share in precisions(dtype, case.target):
        suffix = f" {precision}" if dtype is DType.F32 else ""
        for tile in _tiles(case):
            yield Candidate(
                f"{name} {tile}{suffix}",
                case.reads,
                case.writes,
                _estimate(case, tile, share),
                _draft(case, tile, precision),  # type: ignore[arg-type]
            )


def _estimate(case: Case, tile: Tile, rate_share: float) -> float:
    """Return microseconds: the bytes of memory, or instructions and products."""
    work, target, depth = case.work(), case.target, _depth(case, tile)
    programs = math.ceil(work.rows / tile.rows) * math.ceil(work.columns / tile.columns)
    pixel = _INSTRUCTIONS_OF_TAP * depth + _INSTRUCTIONS_OF_SUM * tile.columns + _OTHER_INSTRUCTIONS
    per_sm = target.flops_per_microsecond["f32"] / 2 / target.sms * _ISSUE_SHARE
    issued = math.ceil(programs / target.sms) * tile.rows * pixel / per_sm
    rate = target.rate(work.dtype) * rate_share * _ISSUE_SHARE
    products = 2.0 * programs * tile.rows * tile.columns * depth / rate
    bounds = sorted((issued + products, work.moved_bytes / target.bytes_per_microsecond))
    return _LAUNCH_MICROSECONDS + _FILL_MICROSECONDS + bounds[1] + 0.2 * bounds[0]


def _draft(case: Case, tile: Tile, precision: str) -> Callable[[Placement], CudaDraft]:
    depth = _depth(case, tile)

    def draft(at: Placement) -> CudaDraft:
        (c,) = case.convolved(at, matrix=True)
        given, dtype = case.filters, c.w.dtype
        assert given is not None

        def pack() -> Weight:
            rows = packed_factors(given.reshape(len(given), -1), dtype, case.target)
            return Weight(blocked(rows, ((), ()), (0, 1), (len(given), depth)))

        role = Packed(dtype, len(given) * depth * dtype.itemsize, pack)
        c = replace(c, w=Filters(role, dtype, depth, 1, 1, packed=True))
        return CudaDraft(launches=(_launch(c, tile, depth, precision, case.target),))

    return draft


def _launch(
    c: Convolved, tile: Tile, depth: int, precision: str, target: CudaTarget
) -> Launch:  # fmt: skip
    at = c.windows
    call = Call("few_taps", "few_taps")
    pass_operands(call, c)
    call.sizes(PIXELS=at.pixels)
    for name, sizes in (("IN", at.inner), ("OUT", at.outer)):
        call.sizes(**{f"{name}_{a}": size for a, size in zip("DHW", sizes, strict=True)})
    call.sizes(FILTERS=at.filters, X_CHANNEL=c.x.channel)
    pass_image(call, "X", c.x)
    pass_image(call, "RESIDUAL", c.residual or ABSENT)
    pass_image(call, "Y", c.y)
    call.constants(
        CHANNELS=at.channels,
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        BLOCK_K=tile.depth,
        DEPTH=depth,
        PADDED=at.is_padded,
        Y_DENSE=c.y.is_run(at.images, at.outer),
        RESIDUAL_DENSE=c.residual is not None and c.residual.is_run(at.images, at.outer),
        WIDE=c.wide,
        PRECISION=packed_precision(precision, packed=c.w.packed),
        DEPENDENT=target.dependent,
        **window_numbers(at),
        **activation_numbers(c.fused.activation, ""),
    )
    grid = (ceildiv(at.pixels, tile.rows), ceildiv(at.filters, tile.columns))
    return call.launch(grid, warps=tile.warps, stages=tile.stages, dependent=target.dependent)
