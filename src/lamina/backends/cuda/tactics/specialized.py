"""Large products of 16-bit numbers on Hopper, by warps that load, multiply or finish.

Activations take no time from the matrix units: other warps apply them to one tile while the next
one is summed.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final

from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.matmul_case import MatmulCase, matmul_case
from lamina.backends.cuda.tactics.product import (
    Product,
    pass_added,
    pass_factors,
    rows_of_group,
    why_not_boxes,
)
from lamina.backends.cuda.tactics.tiles import Work
from lamina.backends.cuda.target import CudaTarget
from lamina.errors import BuildError
from lamina.ir.dims import Dim, ceildiv, dim_min, divides
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.tactics.candidate import Candidate, Placement

_ARCH: Final = 90
"""The one with these matrix instructions; later ones keep sums in a memory of their own."""
_ROWS: Final = 128
_BOX_ROWS: Final = 64
_WARPS: Final = 4
"""Of the first group that multiplies; Gluon adds those of the other groups."""
_REGISTERS: Final = {4: 128, 2: 168}
"""Of each thread at the start, by the warps that finish: there are 512 threads, or 384."""
_VECTOR_BYTES: Final = 16
_WIDEST: Final = 256
_FEWEST_TILES: Final = 64
"""Of the widest: with fewer there is no next tile that hides what comes after a sum."""
_LAUNCH_MICROSECONDS: Final = 3.5
_RATE_SHARE: Final = 0.92
"""Of the matrix rate that tiles of 256 columns reach."""
_NARROW_SHARE: Final = 0.1
"""What of it tiles of few columns lose."""
_PAIRS_SHARE: Final = 0.03
"""What of it is gained by pairs, which load less."""


@dataclass(frozen=True)
class _Shape:
    """Columns of a tile, depth of a step, steps in flight, warps that finish, what pairs share.

    Two warps that finish leave the others registers for wider instructions, by which tiles of 256
    columns gain 2 to 7 % on an H200; with an activation they only keep up where products are deep.
    Two programs that share their part of operand ``a`` or ``b`` compute neighbouring tiles.
    """

    columns: int
    depth: int
    stages: int
    finishers: int
    paired: str = ""

    def __str__(self) -> str:
        text = f"{_ROWS}x{self.columns}x{self.depth} s{self.stages} f{self.finishers}"
        return f"{text} pairs share {self.paired}" if self.paired else text

    @property
    def boxes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and depth of what a copy brings of the first operand, and of the second one."""
        return (_BOX_ROWS, self.depth), (_BOX_ROWS, self.depth)

    def tiles(self, rows: Dim, columns: Dim) -> tuple[Dim, Dim]:
        """Return rows and columns of tiles, whole pairs of them."""
        down, across = (2 if self.paired == side else 1 for side in ("b", "a"))
        tiles_m = down * ceildiv(rows, down * _ROWS)
        return tiles_m, across * ceildiv(columns, across * self.columns)

    def programs(self, target: CudaTarget) -> int:
        """Return how many programs run at the same time, whole pairs of them."""
        return target.sms // 2 * 2 if self.paired else target.sms


SHAPES: Final = (_Shape(_WIDEST, 64, 3, 2), _Shape(192, 64, 4, 4))
ACTIVATED: Final = _Shape(_WIDEST, 64, 3, 4)
"""Is offered besides where there is an activation."""


class TritonMatmulSpecialized:
    """Programs of 12 or 16 warps with different tasks that work off all tiles."""

    name = "triton-matmul-specialized"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer tiles for one large matrix of rows that begin at multiples of 16 bytes."""
        case = matmul_case(node, target)
        if not isinstance(case, MatmulCase):
            return case
        p = case.product(case.dense)
        if why := _why_not(p, case.work, target):
            return Reject(why)
        activated = p.fused.activation is not None
        shapes = offered_shapes(case.work, target, activated=activated)
        return [_candidate(case, shape, target) for shape in shapes]


def offered_shapes(work: Work, target: CudaTarget, *, activated: bool) -> list[_Shape]:
    """Return the tiles to choose from; the widest ones without activations also for pairs.

    On an H200 these gain 2 to 7 % by pairs, others up to 1 %.  Pairs share what takes them fewer
    rounds: what reaches over the end is computed too.  Where that is the same they share columns,
    of which a tile has more than rows.
    """
    if activated:
        return [ACTIVATED, *SHAPES]
    pairs = [dataclasses.replace(SHAPES[0], paired=shared) for shared in ("b", "a")]
    return [min(pairs, key=lambda pair: _rounds(work, pair, target)), *SHAPES]


def _why_not(p: Product, work: Work, target: CudaTarget) -> str:
    if target.arch != _ARCH:
        return f"it is made for compute capability 9.0, not {target.arch / 10}"
    if why := why_not_boxes(p, target) or _why_not_stored(p):
        return why
    types = {m.dtype for m in (p.a, p.b, p.bias, p.residual, p.y) if m is not None}
    if types not in ({DType.F16}, {DType.BF16}):
        return "it takes operands and results of one type of 16 bits"
    if _tiles(work, SHAPES[0]) < _FEWEST_TILES:
        return "too few tiles follow each other in a program"
    return ""


def _why_not_stored(p: Product) -> str:
    unit = _VECTOR_BYTES // p.y.dtype.itemsize
    rows = [m.row for m in (p.y, p.residual) if m is not None]
    if not all(divides(unit, n) for n in (*rows, p.columns)):
        return "rows of residual or result do not begin at multiples of 16 bytes"
    return ""


def _candidate(case: MatmulCase, shape: _Shape, target: CudaTarget) -> Candidate:
    def draft(at: Placement) -> CudaDraft:
        p = case.product(at)
        if why := _why_not_stored(p):
            raise BuildError(f"the kernel does not store a result that lies like this: {why}")
        return _draft(p, shape, target)

    name = f"{TritonMatmulSpecialized.name} {shape}"
    cost = _estimate(case.work, shape, target)
    return Candidate(name, case.reads, case.writes, cost, draft)  # type: ignore[arg-type]


def _draft(p: Product, shape: _Shape, target: CudaTarget) -> CudaDraft:
    call = Call("specialized", "matmul_specialized")
    pass_factors(call, p, *shape.boxes, target)
    pass_added(call, p)
    tiles_m, tiles_n = shape.tiles(p.rows, p.columns)
    call.sizes(M=p.rows, N=p.columns, K=p.depth)
    call.sizes(RESIDUAL_ROW=p.residual.row if p.residual else 0, Y_ROW=p.y.row)
    call.direction("BACKWARDS")
    fused = p.fused.constants()
    wide = 1 << (shape.columns.bit_length() - 1)
    call.constants(
        BLOCK_N=wide,
        MORE=shape.columns - wide,
        BLOCK_K=shape.depth,
        STAGES=shape.stages,
        FINISHERS=shape.finishers,
        GROUP=rows_of_group(tiles_m),
        DEPENDENT=target.dependent,
        PAIRED=shape.paired,
        **{name: fused[name] for name in ("KIND", "ALPHA", "BETA")},
    )
    programs = dim_min(shape.programs(target), tiles_m * tiles_n)
    launch = call.launch((programs,), warps=_WARPS, stages=1, dependent=target.dependent)
    kernel = dataclasses.replace(launch.kernel, most_registers=_REGISTERS[shape.finishers])
    return CudaDraft(launches=(dataclasses.replace(launch, kernel=kernel),))


def _tiles(work: Work, shape: _Shape) -> int:
    tiles_m, tiles_n = shape.tiles(work.rows, work.columns)
    return int(tiles_m) * int(tiles_n)  # type: ignore[arg-type]


def _rounds(work: Work, shape: _Shape, target: CudaTarget) -> int:
    return math.ceil(_tiles(work, shape) / shape.programs(target))


def _estimate(work: Work, shape: _Shape, target: CudaTarget) -> float:
    """Return microseconds: rounds of tiles at the rate that tiles of this width reach."""
    share = _RATE_SHARE - _NARROW_SHARE * (1 - shape.columns / _WIDEST)
    share += _PAIRS_SHARE if shape.paired else 0.0
    rate = target.rate(work.dtype) * share / target.sms
    each = _rounds(work, shape, target)
    depth = math.ceil(work.depth / shape.depth) * shape.depth
    busy = each * 2.0 * _ROWS * shape.columns * depth / rate
    memory = work.moved_bytes / target.bytes_per_microsecond
    return _LAUNCH_MICROSECONDS + max(busy, memory) + 0.1 * min(busy, memory)
