"""Convolutions with 3x3 and 5x5 filters in f32 through Winograd's minimal filtering.

In f32 a product costs three of the matrix units, or one without them, so that saving three of four
multiplications (2.25 times for tiles of 2x2) pays for memory traffic.  On an H200, 128 images, 29.6
GFLOP: directly, at 110 TFLOP/s, 270 microseconds; by tiles of 4x4 the products take 67, and the
transforms move 283 MB with 256 channels of 14x14 (71 microseconds at 4 TB/s), 1130 MB with 64
channels of 56x56.  Measured (`python -m benchmarks.cuda_contractions_bench --only f32-b128`): 240
against 374 directly and 378 in torch for the former, 348 against 547 and 904 for the latter.
With factors rounded to 11 bits (TF32) the
direct product takes a third of the time, and tiles of 4x4 would lose another 3 bits: there it is
not offered.

Fourier transforms save less at these sizes: tiles of 8x8 pixels have 40 complex points of three
products each, 120 products for 36 results of 9 taps (2.7 times fewer) or 16 results of 25 taps
(3.3 times), and twice the memory; tiles of 4x4 save 4 times, those of 2x2 with 25 taps 2.8 times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from lamina.backends.cuda.request import CudaDraft, Launch
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import Convolved
from lamina.backends.cuda.tactics.product import padded_depth, rows_of_group
from lamina.backends.cuda.tactics.tiles import Tile, Work, precisions, promising, tiles
from lamina.backends.cuda.tactics.windows import Image
from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.triton.cost import LAUNCH_MICROSECONDS
from lamina.ir.blocks import blocked
from lamina.ir.dims import Dim, ceildiv, product
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.ops import Convolution
from lamina.tactics.candidate import Candidate, Packed, Placement, Scratch
from lamina.tactics.winograd import weights_matrix

_SIDES: Final = {3: (4, 2), 5: (2,)}
"""Results of a tile along an axis, by the taps of filters."""
_FEWEST_CHANNELS: Final = 32
_MOST_TILES: Final = 4
"""Configurations of the products that are offered for each side."""
_TRANSFORM: Final = {6: (4, 64, 4), 4: (8, 64, 4)}
"""Tiles, channels and warps of a program of the transforms, by the points of a line."""
_BYTES: Final = 4


@dataclass(frozen=True)
class _Tiling:
    """A convolution cut into tiles of ``side`` x ``side`` results."""

    convolved: Convolved
    side: int

    @property
    def taps(self) -> int:
        """Return the taps of a filter along an axis."""
        return self.convolved.windows.taps[2]

    @property
    def line(self) -> int:
        """Return the points of a tile along an axis."""
        return self.side + self.taps - 1

    @property
    def points(self) -> int:
        """Return the points of a tile."""
        return self.line**2

    @property
    def down(self) -> Dim:
        """Return the tiles of a column."""
        return ceildiv(self.convolved.windows.outer[1], self.side)

    @property
    def across(self) -> Dim:
        """Return the tiles of a row."""
        return ceildiv(self.convolved.windows.outer[2], self.side)

    @property
    def count(self) -> Dim:
        """Return the tiles of all images."""
        return product((self.convolved.windows.images, self.down, self.across))

    @property
    def inputs(self) -> Dim:
        """Return the points of all tiles and channels, behind which those of results lie."""
        return product((self.count, self.points * self.convolved.windows.channels))


class TritonWinograd:
    """Transforms, products at every point, and transforms back."""

    name = "triton-winograd"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer both sizes of tiles with the most promising products."""
        case = case_of(node, target)
        if not isinstance(case, Case):
            return Reject(case) if isinstance(case, str) else None
        if why := _why_not(case):
            return Reject(why)
        (whole,) = case.convolved(case.dense, matrix=True)
        found = []
        for side in _SIDES[case.windows.taps[2]]:
            tiling = _Tiling(whole, side)
            for precision, share in precisions(DType.F32, target):
                work = _products(case, tiling, share)
                moving = _moving_microseconds(case, tiling)
                for tile, cost in promising(tiles(work, target))[:_MOST_TILES]:
                    found.append(
                        Candidate(
                            f"{self.name} {side}x{side} {tile} {precision}",
                            case.reads,
                            case.writes,
                            cost + moving,
                            _draft(case, side, tile, precision),  # type: ignore[arg-type]
                        )
                    )
        return found


def _why_not(case: Case) -> str:
    op, at = case.op, case.windows
    if not isinstance(op, Convolution) or op.groups != 1 or case.filters is None:
        return "it takes constant filters in one group, not transposed"
    if case.node.inputs[0].tensor.dtype is not DType.F32:
        return "16-bit products are cheaper than moving the points of tiles"
    if case.target.tf32:
        return "with factors of 11 bits products are cheaper than moving the points of tiles"
    unit = (1, 1, 1)
    square = at.taps == (1, at.taps[2], at.taps[2]) and at.taps[2] in _SIDES
    if not square or at.strides != unit or at.dilations != unit:
        return "it takes filters of 3x3 or 5x5 without strides"
    if min(at.channels, at.filters) < _FEWEST_CHANNELS:
        return f"{at.channels} channels and {at.filters} filters leave the products small"
    return ""


def _products(case: Case, tiling: _Tiling, share: float) -> Work:
    at = tiling.convolved.windows
    count = case.likely(tiling.count)
    moved = tiling.points * count * (at.channels + at.filters)
    return Work(
        rows=count,
        columns=at.filters,
        depth=at.channels,
        matrices=tiling.points,
        taps=1,
        dtype=DType.F32,
        rate_share=share,
        moved_bytes=float(_BYTES * (moved + tiling.points * at.channels * at.filters)),
        splittable=False,
    )


def _moving_microseconds(case: Case, tiling: _Tiling) -> float:
    """Return the time of both transforms, which wait for memory."""
    at = tiling.convolved.windows
    points = tiling.points * case.likely(tiling.count) * (at.channels + at.filters)
    images = sum(case.likely(v.tensor.size) for v in case.images)
    rate = case.target.bytes_per_microsecond
    return 2 * LAUNCH_MICROSECONDS + _BYTES * (points + images) / rate


def _draft(case: Case, side: int, tile: Tile, precision: str) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        (c,) = case.convolved(at, matrix=True)
        t = _Tiling(c, side)
        launches = (
            _input_launch(t, case.target),
            _product_launch(case, t, tile, precision),
            _output_launch(t, case.target),
        )
        results = product((t.count, t.points * c.windows.filters))
        return CudaDraft(launches=launches, workspace_bytes=(t.inputs + results) * _BYTES)

    return draft


def _input_launch(t: _Tiling, target: CudaTarget) -> Launch:
    c, at = t.convolved, t.convolved.windows
    call = Call("winograd", "input_points")
    call.pointer("x", c.x.role, c.x.dtype)
    call.pointer("v", Scratch(), DType.F32)
    call.sizes(IN_H=at.inner[1], IN_W=at.inner[2], DOWN=t.down, ACROSS=t.across, TILES=t.count)
    call.sizes(CHANNELS=at.channels)
    _place(call, "X", c.x)
    call.constants(PAD_H=at.pads[1], PAD_W=at.pads[2])
    return _transform(call, t, at.channels, target)


def _output_launch(t: _Tiling, target: CudaTarget) -> Launch:
    c, at = t.convolved, t.convolved.windows
    call = Call("winograd", "output_points")
    call.pointer("m", Scratch(), DType.F32)
    call.pointer("bias", *(c.bias or (None,)))
    call.pointer("residual", c.residual.role if c.residual else None, DType.F32)
    call.pointer("y", c.y.role, c.y.dtype)
    call.sizes(OUT_H=at.outer[1], OUT_W=at.outer[2], DOWN=t.down, ACROSS=t.across, TILES=t.count)
    call.sizes(FILTERS=at.filters, M_AT=t.inputs)
    _place(call, "RESIDUAL", c.residual)
    _place(call, "Y", c.y)
    call.constants(**c.fused.constants())
    return _transform(call, t, at.filters, target)


def _place(call: Call, name: str, image: Image | None) -> None:
    batch, row, column = (image.batch, *image.spatial[1:]) if image else (0, 0, 0)
    call.sizes(**{f"{name}_BATCH": batch, f"{name}_ROW": row, f"{name}_COLUMN": column})


def _transform(call: Call, t: _Tiling, channels: int, target: CudaTarget) -> Launch:
    tile_count, width, warps = _TRANSFORM[t.line]
    call.constants(
        M=t.side, N=t.line, BLOCK_T=tile_count, BLOCK_C=width, DEPENDENT=target.dependent
    )
    grid = (ceildiv(t.count, tile_count), ceildiv(channels, width))
    return call.launch(grid, warps=warps, stages=1, dependent=target.dependent)


def _product_launch(case: Case, t: _Tiling, tile: Tile, precision: str) -> Launch:
    at = t.convolved.windows
    depth = padded_depth(at.channels, DType.F32)
    filters = case.filters
    assert filters is not None

    def pack() -> Weight:
        taps = filters.reshape(at.filters, at.channels, t.taps**2).astype(np.float64)
        points = np.matmul(taps, weights_matrix(t.side, t.taps).T)
        shape = (at.filters, depth, t.points)
        return Weight(blocked(points, ((), (), ()), (2, 0, 1), shape, np.float32))

    tiles_m, tiles_n = ceildiv(t.count, tile.rows), ceildiv(at.filters, tile.columns)
    call = Call("winograd", "products")
    call.pointer("v", Scratch(), DType.F32)
    size_bytes = t.points * at.filters * depth * _BYTES
    call.pointer("u", Packed(DType.F32, size_bytes, pack), DType.F32)
    call.pointer("m", Scratch(), DType.F32)
    call.sizes(TILES=t.count, FILTERS=at.filters, CHANNELS=at.channels)
    call.sizes(U_FILTER=depth, M_AT=t.inputs)
    call.constants(
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        BLOCK_K=tile.depth,
        GROUP=rows_of_group(tiles_m),
        WHOLE_N=at.filters % tile.columns == 0,
        WHOLE_K=at.channels % tile.depth == 0,
        PRECISION=precision,
        DEPENDENT=case.target.dependent,
    )
    return call.launch(
        (tiles_m * tiles_n * t.points,),
        warps=tile.warps,
        stages=tile.stages,
        dependent=case.target.dependent,
    )
