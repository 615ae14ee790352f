"""Products with a constant matrix in tiles whose width is no power of two.

With them ViT-B/16 at batch 1 takes 363 microseconds on an H200 and 373 without, BERT-base 274 and
277.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.matmul_case import MatmulCase, matmul_case
from lamina.backends.cuda.tactics.product import (
    Product,
    few_tiles,
    not_simple,
    pass_added,
    pieces,
    rows_of_group,
    shared,
    shared_bytes,
)
from lamina.backends.cuda.tactics.tf32 import packed_precision
from lamina.backends.cuda.tactics.tiles import Tile, Work, precisions, promising, tiles
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import ceildiv, divides
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.tactics.candidate import Candidate, Placement, constant

_WORTH_TRYING: Final = 0.97
"""Share of the time of the best tile whose sides are powers of two."""


class TritonUneven:
    """Tiles of a product whose number of columns is no power of two."""

    name = "triton-matmul-uneven"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer the tiles that should take less time than any ordinary one."""
        case = matmul_case(node, target)
        if not isinstance(case, MatmulCase):
            return case
        p = case.product(case.dense)
        if why := why_not_uneven(p):
            return Reject(why)
        if any(constant(v) is None for v in node.inputs[1:3]):
            return Reject("it reads the bias before it waits for the kernel ahead")
        found = []
        for precision, share in precisions(p.a.dtype, target):
            suffix = f" {precision}" if p.a.dtype is DType.F32 else ""
            for tile, cost in uneven_tiles(replace(case.work, rate_share=share), target):

                def draft(
                    at: Placement, tile: Tile = tile, precision: str = precision
                ) -> CudaDraft:
                    return uneven_draft(case.product(at), tile, precision, target)

                name = f"{self.name} {tile}{suffix}"
                found.append(_candidate(name, case, cost, draft))
        return found or Reject("ordinary tiles fit as well")


def _candidate(
    name: str, case: MatmulCase, cost: float, draft: Callable[[Placement], CudaDraft]
) -> Candidate:
    return Candidate(name, case.reads, case.writes, cost, draft)  # type: ignore[arg-type]


def uneven_tiles(work: Work, target: CudaTarget) -> Iterator[tuple[Tile, float]]:
    """Yield tiles whose depth divides the problem's, if they promise more than ordinary ones."""
    best = min((cost for _, cost in tiles(work, target)), default=0.0)
    for tile, cost in promising(tiles(work, target, uneven=True)):
        if cost < _WORTH_TRYING * best and work.depth % tile.depth == 0:
            yield tile, cost


def why_not_uneven(p: Product) -> str:
    """Return why the kernel cannot compute a product; "" when it can."""
    return "it does not multiply integers" if p.fused.factors is not None else not_simple(p)


def uneven_draft(p: Product, tile: Tile, precision: str, target: CudaTarget) -> CudaDraft:
    """Return the launch of one tile for each program."""
    tiles_m, tiles_n = ceildiv(p.rows, tile.rows), ceildiv(p.columns, tile.columns)
    programs = tiles_m * tiles_n
    split, count = pieces(tile, programs)
    call = Call("uneven", "uneven")
    call.pointer("x", p.a.role, p.a.dtype)
    call.pointer("w", p.b.role, p.b.dtype)
    pass_added(call, p)
    shared(call, tile.split, programs, False)
    call.sizes(M=p.rows, N=p.columns, K=p.depth, X_ROW=p.a.row, W_COLUMN=p.b.column)
    call.sizes(RESIDUAL_ROW=p.residual.row if p.residual else 0, Y_ROW=p.y.row)
    fused = p.fused.constants()
    call.constants(
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns - tile.more_columns,
        MORE_N=tile.more_columns,
        BLOCK_K=tile.depth,
        SPLIT=split,
        GROUP=rows_of_group(tiles_m),
        WHOLE_M=divides(tile.rows, p.rows),
        WHOLE_N=divides(tile.columns, p.columns),
        PRECISION=packed_precision(precision, packed=p.packed),
        PREFETCH=target.dependent and few_tiles(tiles_m),
        HALVES=tile.halves,
        DEPENDENT=target.dependent,
        **{name: fused[name] for name in ("KIND", "ALPHA", "BETA")},
    )
    launch = call.launch(
        (programs, count), warps=tile.warps, stages=tile.stages, dependent=target.dependent
    )
    return CudaDraft(launches=(launch,), workspace_bytes=shared_bytes(tile, programs))
