"""Products whose operands and results all go through the copy engine.

Storing through shared memory takes no registers for addresses, and where two programs share a
multiprocessor, one multiplies while the other applies its activation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.tactics.matmul_case import MatmulCase, matmul_case
from lamina.backends.cuda.tactics.product import Product, boxes_call, why_not_boxes
from lamina.backends.cuda.tactics.tiles import Tile, Work
from lamina.backends.cuda.target import CudaTarget
from lamina.errors import BuildError
from lamina.ir.dims import ceildiv, dim_min, divides
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.tactics.candidate import Candidate, Placement

_DEPTH_BYTES: Final = 128
"""Of a row in a box: as wide as shared memory."""
_VECTOR_BYTES: Final = 16
_RESERVED_BYTES: Final = 1024
"""Shared memory that the system takes of each program."""
_BARRIER_BYTES: Final = 128
_ADDED_BYTES: Final = 8 << 10
"""In which what is added to sums is dealt out as they are."""
_NARROWEST: Final = 16
_WARP: Final = 32
_MANY_SUMS: Final = 128
"""In the registers of a thread."""
_LAUNCH_MICROSECONDS: Final = 2.5
_FILL_MICROSECONDS: Final = 0.8
_RATE_SHARE: Final = 0.82
"""Share of the matrix rate that large tiles reach together."""
_STORED_BYTES_PER_MICROSECOND: Final = 6e4
"""What a multiprocessor finishes and stores."""


@dataclass(frozen=True)
class _Box:
    """Rows and columns of a tile, warps, steps in flight, programs on a multiprocessor."""

    rows: int
    columns: int
    warps: int
    stages: int
    resident: int


_BOXES: Final = tuple(
    _Box(*b)
    for b in (
        (128, 256, 8, 4, 1), (128, 256, 8, 3, 1), (128, 128, 4, 3, 2), (128, 128, 8, 3, 2),
        (128, 64, 4, 4, 2), (64, 128, 4, 4, 2), (64, 64, 4, 4, 3),
    )
)  # fmt: skip


class TritonMatmulBoxed:
    """Programs that work off all tiles, operands and results through the copy engine of Hopper."""

    name = "triton-matmul-boxed"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer tiles for one matrix of rows that begin at multiples of 16 bytes."""
        case = matmul_case(node, target)
        if not isinstance(case, MatmulCase):
            return case
        p = case.product(case.dense)
        if why := why_not_boxes(p, target) or _why_not_stored(p):
            return Reject(why)
        return [
            _candidate(case, box, parts, target)
            for box in _BOXES
            if (parts := _parts(box, p, target))
        ] or Reject("shared memory holds no tile")


def _candidate(case: MatmulCase, box: _Box, parts: int, target: CudaTarget) -> Candidate:
    depth = _DEPTH_BYTES // case.work.dtype.itemsize
    tile = Tile(box.rows, box.columns, depth, box.warps, box.stages)
    cost = _estimate(case.work, box, target)

    def draft(at: Placement) -> CudaDraft:
        p = case.product(at)
        if why := _why_not_stored(p):
            raise BuildError(f"the copy engine does not store a result that lies like this: {why}")
        tiles_m, tiles_n = ceildiv(p.rows, box.rows), ceildiv(p.columns, box.columns)
        stored = (box.rows, box.columns // parts)
        call = boxes_call(p, ("boxed", "matmul_boxed"), tile, tiles_m, target, stored)
        call.constants(PARTS=parts)
        programs = dim_min(target.sms * box.resident, tiles_m * tiles_n)
        launch = call.launch(
            (programs,), warps=box.warps, stages=box.stages, dependent=target.dependent
        )
        return CudaDraft(launches=(launch,))

    name = f"{TritonMatmulBoxed.name} {tile} x{box.resident}"
    return Candidate(name, case.reads, case.writes, cost, draft)  # type: ignore[arg-type]


def _why_not_stored(p: Product) -> str:
    if not divides(_VECTOR_BYTES // p.y.dtype.itemsize, p.y.row):
        return "rows of the result do not begin at multiples of 16 bytes"
    return ""


def _parts(box: _Box, p: Product, target: CudaTarget) -> int:
    """Return into how few parts a tile is stored so that all programs fit, 0 for none."""
    room = (target.shared_bytes + _RESERVED_BYTES) // box.resident - _RESERVED_BYTES
    room -= box.stages * (box.rows + box.columns) * _DEPTH_BYTES + _BARRIER_BYTES
    if p.bias is not None or p.residual is not None:
        room -= _ADDED_BYTES
    # Halves of large tiles leave registers to what is added.
    parts = 2 if box.rows * box.columns // (box.warps * _WARP) >= _MANY_SUMS else 1
    while box.columns // parts >= _NARROWEST:
        if box.rows * box.columns // parts * p.y.dtype.itemsize <= room:
            return parts
        parts *= 2
    return 0


def _estimate(work: Work, box: _Box, target: CudaTarget) -> float:
    """Return microseconds: tiles on each multiprocessor, the last ones stored alone."""
    count = math.ceil(work.rows / box.rows) * math.ceil(work.columns / box.columns)
    # Products for each number that is read: small tiles wait for the L2 cache.
    intensity = box.rows * box.columns / (box.rows + box.columns)
    rate = target.rate(work.dtype) * _RATE_SHARE / target.sms * min(1.0, 0.7 + intensity / 280)
    depth = -(-work.depth * work.dtype.itemsize // _DEPTH_BYTES) * _DEPTH_BYTES
    product = 2.0 * box.rows * box.columns * depth / work.dtype.itemsize / rate
    stored = box.rows * box.columns * work.dtype.itemsize / _STORED_BYTES_PER_MICROSECOND
    each = math.ceil(count / target.sms)
    # Programs that share a multiprocessor store while others multiply.
    waiting = each * stored if box.resident == 1 else stored
    # One alone on a multiprocessor has its warps' part of the matrix units.
    alone = min(each, box.resident) * box.warps / 8
    busy = each * product / min(1.0, max(alone, 0.5)) + waiting
    memory = work.moved_bytes / target.bytes_per_microsecond
    compute = _FILL_MICROSECONDS + busy
    return _LAUNCH_MICROSECONDS + max(compute, memory) + 0.1 * min(compute, memory)
