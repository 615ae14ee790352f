"""Matrix products on a GPU: of floats and of 8-bit integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.tactics.matmul_case import MatmulCase, matmul_case
from lamina.backends.cuda.tactics.product import (
    Product,
    boxes_draft,
    matmul_draft,
    matvec_draft,
    not_simple,
    why_not_boxes,
)
from lamina.backends.cuda.tactics.tiles import (
    Tile,
    precisions,
    promising,
    tiles,
)
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.tactics.candidate import Candidate, Placement

_MOST_ROWS_OF_MATVEC: Final = 4
_FEWEST_SUMS: Final = 8
_MOST_SUMS: Final = 64


class TritonMatmul:
    """Tiles on the matrix units, the depth split between programs where that pays."""

    name = "triton-matmul"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer the tiles that the cost model finds promising, at every precision allowed."""
        case = matmul_case(node, target)
        if not isinstance(case, MatmulCase):
            return case
        p = case.product(case.dense)
        found = []
        for precision, share in precisions(p.a.dtype, target):
            work = replace(case.work, rate_share=share)
            suffix = f" {precision}" if p.a.dtype is DType.F32 else ""
            for tile, cost in promising(tiles(work, target)):

                def draft(
                    at: Placement, tile: Tile = tile, precision: str = precision
                ) -> CudaDraft:
                    return matmul_draft(case.product(at), tile, precision, target)

                found.append(_candidate(f"{self.name} {tile}{suffix}", case, cost, draft))
        return found


class TritonMatmulBoxes:
    """Programs that work off all tiles, operands through the copy engine of Hopper."""

    name = "triton-matmul-tma"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer tiles for one matrix of 16-byte aligned rows."""
        case = matmul_case(node, target)
        if not isinstance(case, MatmulCase):
            return case
        if why := why_not_boxes(case.product(case.dense), target):
            return Reject(why)
        found = []
        for tile, cost in promising(tiles(case.work, target, boxes=True)):

            def draft(at: Placement, tile: Tile = tile) -> CudaDraft:
                return boxes_draft(case.product(at), tile, target)

            found.append(_candidate(f"{self.name} {tile}", case, cost, draft))
        return found


class TritonMatvec:
    """A few rows times a constant matrix, without matrix units."""

    name = "triton-matvec"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer blocks of columns for 1, 2 or 4 rows."""
        case = matmul_case(node, target)
        if not isinstance(case, MatmulCase):
            return case
        p = case.product(case.dense)
        if p.rows not in (1, 2, _MOST_ROWS_OF_MATVEC):
            return Reject(f"it takes 1, 2 or {_MOST_ROWS_OF_MATVEC} rows, not {p.rows}")
        if p.fused.factors is not None:
            return Reject("it does not multiply integers")
        if why := not_simple(p):
            return Reject(why)
        return [_matvec(case, tile, cost, target) for tile, cost in _vector_tiles(p, target)]


def _candidate(
    name: str, case: MatmulCase, cost: float, draft: Callable[[Placement], CudaDraft]
) -> Candidate:
    return Candidate(name, case.reads, case.writes, cost, draft)  # type: ignore[arg-type]


def _matvec(case: MatmulCase, tile: Tile, cost: float, target: CudaTarget) -> Candidate:
    def draft(at: Placement) -> CudaDraft:
        return matvec_draft(case.product(at), tile, target)

    return _candidate(f"{TritonMatvec.name} {tile}", case, cost, draft)


def _vector_tiles(p: Product, target: CudaTarget) -> list[tuple[Tile, float]]:
    """Return blocks of the matrix whose products fit into registers."""
    rows, columns, depth = int(p.rows), int(p.columns), int(p.depth)  # type: ignore[arg-type]
    bytes_ = columns * depth * p.b.dtype.itemsize
    found = []
    for width in (4, 8, 16, 32, 64):
        for deep in (128, 256, 512, 1024):
            if deep >= 2 * depth:
                continue
            for warps in (2, 4, 8):
                sums = width * deep // (warps * 32)
                if not _FEWEST_SUMS <= sums <= _MOST_SUMS // rows:
                    continue
                for split in (1, 2, 4, 8):
                    steps = -(-depth // deep)
                    programs = -(-columns // width) * split
                    if split > 1 and (steps < 2 * split or programs > 8 * target.sms):
                        continue
                    # Bytes in flight hide the latency: few programs leave bandwidth unused.
                    share = min(1.0, programs * warps / (target.sms * 16))
                    cost = 2.0 + bytes_ / (target.bytes_per_microsecond * share)
                    cost += 0.2 * steps / split + (1.2 if split > 1 else 0.0)
                    found.append((Tile(rows, width, deep, warps, 2, split), cost))
    return sorted(found, key=lambda f: (f[1], str(f[0])))
