"""Transposed convolutions on a GPU whose windows do not overlap: one product, stored apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from lamina.backends.cuda.request import Boxes, CudaDraft, Launch
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import Convolved
from lamina.backends.cuda.tactics.matmul_case import FLOATS
from lamina.backends.cuda.tactics.product import (
    COPY_ENGINE_SINCE,
    few_tiles,
    padded_depth,
    why_not_shared,
)
from lamina.backends.cuda.tactics.tiles import Tile, Work, precisions, promising, tiles
from lamina.backends.cuda.tactics.windows import Windows, windows
from lamina.backends.cuda.target import CudaTarget
from lamina.errors import BuildError
from lamina.ir.blocks import blocked
from lamina.ir.dims import Dim, ceildiv, dim_min, divides
from lamina.ir.graph import Array, Node
from lamina.ir.pattern import Reject
from lamina.ir.weight import Weight
from lamina.ops import Deconvolution
from lamina.tactics.candidate import Candidate, Packed, Placement

_VECTOR_BYTES: Final = 16
_NARROWEST: Final = 16
_ROWS_OF_GROUP: Final = 8
_RESERVED_BYTES: Final = 1024
_MOST_RESIDENT: Final = 2
_SHARED_COST: Final = 0.8
"""What is left of the time where two programs share a multiprocessor."""
_REGISTERS_OF_SM: Final = 65536
_OTHER_REGISTERS: Final = 64
_WARP: Final = 32


@dataclass(frozen=True)
class _Problem:
    """A transposed convolution, with all windows of it."""

    case: Case
    whole: Windows

    @property
    def stride(self) -> int:
        """Elements from one filter of a tap to the next."""
        return padded_depth(self.whole.channels, self.case.node.inputs[0].tensor.dtype)

    def is_cut_by(self, columns: int) -> bool:
        """Whether tiles of so many columns have whole taps each, or lie in one."""
        filters = self.whole.filters
        halved = columns % filters == 0 and columns // filters in (2, 4, 8, 16)
        return filters % columns == 0 or (halved and self.whole.tap_count * filters % columns == 0)

    def work(self) -> Work:
        """Return the sizes of the product."""
        at = self.whole
        return replace(
            self.case.work(),
            rows=self.case.likely(at.images * at.inner[0] * at.inner[1] * at.inner[2]),
            columns=at.filters * at.tap_count,
            taps=1,
            splittable=False,
        )

    def packed(self, w: Array) -> Array:
        """Return filters as [taps, filters, channels]."""
        at = self.whole
        flat = w.reshape(at.filters, at.channels, at.tap_count)
        return blocked(flat, ((), (), ()), (2, 0, 1), (at.filters, self.stride, at.tap_count))


class TritonSpread:
    """Tiles of pixels and of the filters of one tap."""

    name = "triton-deconv"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer tiles, on Hopper also for programs whose operands the copy engine brings."""
        p = _problem(node, target)
        if p is None or isinstance(p, Reject):
            return p
        return [*_candidates(p, target), *_boxes_candidates(p, target)] or Reject(
            "no tile's columns divide the filters"
        )


def _problem(node: Node, target: CudaTarget) -> _Problem | Reject | None:
    """Return a transposed convolution whose windows are apart, or why a node is none."""
    if not isinstance(node.op, Deconvolution):
        return None
    case = case_of(node, target)
    if not isinstance(case, Case):
        return Reject(case) if isinstance(case, str) else None
    if why := _why_not(case):
        return Reject(why)
    x, w = (v.tensor for v in node.inputs[:2])
    return _Problem(case, windows(case.op, x, w, node.output.tensor))


def _why_not(case: Case) -> str:
    op, x = case.op, case.node.inputs[0].tensor
    assert isinstance(op, Deconvolution)
    w = case.node.inputs[1].tensor
    if x.dtype not in FLOATS:
        return f"the matrix units take f16, bf16 and f32, not {x.dtype}"
    if op.groups != 1 or len(case.node.inputs) > case.bias + 1:
        return "it takes one group, and no residual"
    apart = tuple(w.shape[2:]) == tuple(op.strides) and all(d == 1 for d in op.dilations)
    if not apart or any((*op.pads_begin, *op.pads_end, *op.output_padding)):
        return "windows overlap, or do not cover the result"
    if not divides(_NARROWEST, w.shape[1]):
        return f"{w.shape[1]} filters fill no tile"
    return ""


def _candidates(p: _Problem, target: CudaTarget) -> Iterator[Candidate]:
    dtype = p.case.node.inputs[0].tensor.dtype
    for precision, share in precisions(dtype, target):
        suffix = f" {precision}" if len(precisions(dtype, target)) > 1 else ""
        found = tiles(replace(p.work(), rate_share=share), target)
        for tile, cost in promising([t for t in found if p.is_cut_by(t[0].columns)]):
            name = f"{TritonSpread.name} {tile}{suffix}"
            yield _candidate(name, p, cost, _draft(p, tile, precision, target))


def _boxes_candidates(p: _Problem, target: CudaTarget) -> Iterator[Candidate]:
    if _why_not_boxes(p.case.convolved(p.case.dense, matrix=True)[0], target):
        return
    found = tiles(p.work(), target, boxes=True)
    for tile, cost in promising([t for t in found if p.is_cut_by(t[0].columns)]):
        name = f"{TritonSpread.name}-tma {tile}"
        share = _SHARED_COST if _resident(p, tile, target) > 1 else 1.0
        yield _candidate(name, p, cost * share, _draft(p, tile, "", target))


def _candidate(
    name: str, p: _Problem, cost: float, draft: Callable[[Placement], CudaDraft]
) -> Candidate:
    return Candidate(name, p.case.reads, p.case.writes, cost, draft)  # type: ignore[arg-type]


def _why_not_boxes(c: Convolved, target: CudaTarget) -> str:
    if target.arch < COPY_ENGINE_SINCE:
        return "this GPU has no copy engine"
    if why := why_not_shared(c.x.dtype, target):
        return why
    if not divides(_VECTOR_BYTES // c.x.dtype.itemsize, c.x.spatial[-1]):
        return "pixels do not begin at multiples of 16 bytes"
    return ""


def _draft(
    p: _Problem, tile: Tile, precision: str, target: CudaTarget
) -> Callable[[Placement], CudaDraft]:
    """Return what drafts the kernel of a tile; without a ``precision`` the one with boxes."""

    def draft(at: Placement) -> CudaDraft:
        c = p.case.convolved(at, matrix=True)[0]
        if not c.x.is_run(p.whole.images, p.whole.inner):
            raise BuildError("the pixels of the image do not follow each other at equal distances")
        if not precision and (why := _why_not_boxes(c, target)):
            raise BuildError(f"the copy engine does not read an image that lies like this: {why}")
        return CudaDraft(launches=(_launch(p, c, tile, precision, target),))

    return draft


def _launch(p: _Problem, c: Convolved, tile: Tile, precision: str, target: CudaTarget) -> Launch:
    at, dtype, filters = p.whole, c.x.dtype, p.case.filters
    assert filters is not None
    pixels = at.images * at.inner[0] * at.inner[1] * at.inner[2]
    tiles_m = ceildiv(pixels, tile.rows)
    programs: Dim = tiles_m * (at.filters * at.tap_count // tile.columns)
    size = at.filters * at.tap_count * p.stride * dtype.itemsize
    call = Call("spread", "spread" if precision else "spread_boxes")
    w = Packed(dtype, size, lambda: Weight(p.packed(filters)))
    if precision:
        call.pointer("x", c.x.role, dtype)
        call.pointer("w", w, dtype)
        call.sizes(X_PIXEL=c.x.spatial[-1], W_FILTER=p.stride)
    else:
        shape, stride = (pixels, at.channels), c.x.spatial[-1]
        rows = at.filters * at.tap_count
        call.boxes("x", Boxes(c.x.role, dtype, shape, (stride, 1)), (tile.rows, tile.depth))
        packed = Boxes(w, dtype, (rows, at.channels), (p.stride, 1))
        call.boxes("w", packed, (tile.columns, tile.depth))
    if c.bias is None:
        call.pointer("bias", None)
    else:
        call.pointer("bias", *c.bias)
    call.pointer("y", c.y.role, c.y.dtype)
    call.sizes(PIXELS=pixels)
    call.sizes(**{f"IN_{a}": size for a, size in zip("DHW", at.inner, strict=True)})
    call.sizes(CHANNELS=at.channels, FILTERS=at.filters)
    call.sizes(Y_FIRST=c.y.first, Y_BATCH=c.y.batch)
    call.sizes(**dict(zip(("Y_DEPTH", "Y_ROW", "Y_COLUMN"), c.y.spatial, strict=True)))
    fused = c.fused.constants()
    call.constants(
        **{f"TAPS_{a}": taps for a, taps in zip("DHW", at.taps, strict=True)},
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        BLOCK_K=tile.depth,
        GROUP=_ROWS_OF_GROUP,
        WIDE=c.wide,
        HALVES=tile.halves,
        DEPENDENT=target.dependent,
        **{name: fused[name] for name in ("KIND", "ALPHA", "BETA")},
    )
    if precision:
        call.constants(
            WHOLE_M=divides(tile.rows, pixels),
            WHOLE_K=at.channels % tile.depth == 0,
            PRECISION=precision,
            PREFETCH=target.dependent and few_tiles(tiles_m),
        )
    else:
        programs = dim_min(target.sms * _resident(p, tile, target), programs)
    return call.launch(
        (programs,), warps=tile.warps, stages=tile.stages, dependent=target.dependent
    )


def _resident(p: _Problem, tile: Tile, target: CudaTarget) -> int:
    """Return how many programs share a multiprocessor: one stores while another multiplies."""
    size = p.case.node.inputs[0].tensor.dtype.itemsize
    operands = tile.stages * (tile.rows + tile.columns) * tile.depth * size
    part = min(tile.columns // 2 if tile.halves else tile.columns, p.whole.filters)
    each = operands + tile.rows * part * size + _RESERVED_BYTES
    registers = tile.warps * _WARP * (tile.registers + _OTHER_REGISTERS)
    room = (target.shared_bytes + _RESERVED_BYTES) // each
    return max(1, min(_MOST_RESIDENT, room, _REGISTERS_OF_SM // registers))
