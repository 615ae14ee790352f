"""Convolutions on Hopper by warps that load, multiply or finish."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from lamina.backends.cuda.request import Boxes, CudaDraft, Launch
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.convolution import Box, covering
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import (
    Convolved,
    boxes_fit,
    pass_bias,
    pass_filter_boxes,
    pass_pixel_boxes,
    window_numbers,
)
from lamina.backends.cuda.tactics.product import rows_of_group
from lamina.backends.cuda.target import CudaTarget
from lamina.errors import BuildError
from lamina.ir.dims import Dim, ceildiv, dim_min, divides
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import Convolution
from lamina.tactics.candidate import Candidate, Placement

_ARCH: Final = 90
"""The one with these matrix instructions; later ones keep sums in a memory of their own."""
FILTERS: Final = 128
_DEPTH: Final = 64
_FEWEST_FILTERS: Final = 96
FEWEST_TILES: Final = 64
"""With fewer there is no next tile that hides what comes after a sum."""


@dataclass(frozen=True)
class Shape:
    """Pixels of a tile, steps in flight, tiles of a residual in flight, groups that finish."""

    pixels: int
    stages: int
    slots: int = 1
    finishers: int = 1

    def __str__(self) -> str:
        return f"{self.pixels}" + (f" f{self.finishers}" if self.finishers > 1 else "")


SHAPES: Final = (Shape(256, 3), Shape(128, 5))
_SHAPES_OF_SUMS: Final = (Shape(128, 5), Shape(128, 4, slots=2, finishers=2))
"""The same where there is something to add to what is summed."""
_VECTOR: Final = 8
"""Numbers of 16 bits at whose multiples the copy engine begins."""
_WARPS: Final = 4
_REGISTERS: Final = {1: 128, 2: 96}
"""Of each thread at the start, by the groups that finish: there are 512 or 640 threads."""
LAUNCH_MICROSECONDS: Final = 5.0
RATE_SHARE: Final = 0.85


class SpecializedConvolution:
    """Programs of 16 warps with different tasks that work off all tiles."""

    name = "gluon-conv-specialized"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer tiles for many pixels and filters."""
        if not isinstance(node.op, Convolution):
            return None
        case = case_of(node, target)
        if not isinstance(case, Case):
            return Reject(case) if isinstance(case, str) else None
        if case.filters is None:
            return Reject("it takes constant filters")
        c = case.convolved(case.dense, matrix=True)[0]
        if why := why_not_specialized(c, target):
            return Reject(why)
        shapes = SHAPES if c.residual is None else _SHAPES_OF_SUMS
        found = [_candidate(case, shape, target) for shape in shapes]
        return [c for c in found if c] or Reject("too few tiles follow each other in a program")


def why_not_alike(c: Convolved) -> str:
    """Return why operands and result are not of one type of 16 bits; "" when they are."""
    types = {i.dtype for i in (c.x, c.residual, c.y) if i is not None} | {c.w.dtype}
    types |= set() if c.bias is None else {c.bias[1]}
    if types not in ({DType.F16}, {DType.BF16}):
        return "it takes operands and results of one type of 16 bits"
    return ""


def why_not_specialized(c: Convolved, target: CudaTarget) -> str:
    """Return why these warps do not compute a convolution; "" where they do."""
    if target.arch != _ARCH:
        return f"it is made for compute capability 9.0, not {target.arch / 10}"
    if why := why_not_alike(c):
        return why
    if c.windows.channels % _DEPTH or c.windows.filters < _FEWEST_FILTERS:
        return "channels are no multiple of 64, or there are few filters"
    return _why_not_read(c, target)


def _why_not_read(c: Convolved, target: CudaTarget) -> str:
    rest = c.residual
    if rest and not all(divides(_VECTOR, n) for n in (rest.batch, *rest.spatial[1:])):
        return "what is added does not begin at multiples of 16 bytes"
    return boxes_fit(c, target)


def _candidate(case: Case, shape: Shape, target: CudaTarget) -> Candidate | None:
    at, work, pixels = case.windows, case.work(), shape.pixels
    sizes = tuple(case.likely(size) for size in (at.images, *at.outer[1:]))
    box, _ = covering(sizes, pixels)
    tiles = math.prod(-(-n // side) for n, side in zip(sizes, box, strict=True))
    tiles *= -(-at.filters // FILTERS)
    if tiles < FEWEST_TILES:
        return None
    depth = at.channels * at.tap_count
    rate = target.rate(work.dtype) * RATE_SHARE / target.sms
    busy = math.ceil(tiles / target.sms) * 2.0 * pixels * FILTERS * depth / rate
    memory = work.moved_bytes / target.bytes_per_microsecond
    cost = LAUNCH_MICROSECONDS + max(busy, memory) + 0.1 * min(busy, memory)

    def draft(at: Placement) -> CudaDraft:
        (c,) = case.convolved(at, matrix=True)
        if why := _why_not_read(c, target):
            raise BuildError(f"the copy engine does not read an image that lies like this: {why}")
        return CudaDraft(launches=(specialized_launch(c, None, box, shape, target),))

    name = f"{SpecializedConvolution.name} {FILTERS}x{shape} box {'x'.join(map(str, box))}"
    return Candidate(name, case.reads, case.writes, cost, draft)  # type: ignore[arg-type]


def specialized_launch(
    c: Convolved,
    other: Convolved | None,
    box: Box,
    shape: Shape,
    target: CudaTarget,
) -> Launch:
    """Return the launch of a convolution, or of its sum with an ``other`` of single pixels."""
    at = c.windows
    call = Call("specialized_boxes", "convolution_specialized")
    for names, of in ((("x", "w", "bias"), c), (("z", "v", "other_bias"), other)):
        pass_pixel_boxes(call, names[0], of, box, _DEPTH)
        pass_filter_boxes(call, names[1], of, (FILTERS, _DEPTH))
        pass_bias(call, names[2], of)
    call.boxes("residual", None if other else _rest(c), (*box, FILTERS // 2))
    call.pointer("y", c.y.role, c.y.dtype)
    call.sizes(IMAGES=at.images, OUT_H=at.outer[1], OUT_W=at.outer[2])
    call.sizes(CHANNELS=at.channels, FILTERS=at.filters, X_COLUMN=c.x.spatial[2], W_TAP=c.w.tap)
    call.sizes(Z_CHANNELS=other.windows.channels if other else 0)
    call.sizes(Y_BATCH=c.y.batch, Y_ROW=c.y.spatial[1], Y_COLUMN=c.y.spatial[2])
    call.direction("BACKWARDS")
    fused = c.fused.constants()
    tiles: Dim = 1
    for size, side in zip((at.images, *at.outer[1:]), box, strict=True):
        tiles = tiles * ceildiv(size, side)
    call.constants(
        BOX_N=box[0],
        BOX_H=box[1],
        BOX_W=box[2],
        GROUP=rows_of_group(tiles),
        STAGES=shape.stages,
        SLOTS=shape.slots,
        FINISHERS=shape.finishers,
        DEPENDENT=target.dependent,
        **{name: n for name, n in window_numbers(at).items() if not name.endswith("_D")},
        **{name: fused[name] for name in ("KIND", "ALPHA", "BETA")},
    )
    programs = dim_min(target.sms, tiles * ceildiv(at.filters, FILTERS))
    launch = call.launch((programs,), warps=_WARPS, stages=1, dependent=target.dependent)
    return replace(
        launch, kernel=replace(launch.kernel, most_registers=_REGISTERS[shape.finishers])
    )


def _rest(c: Convolved) -> Boxes | None:
    """Return what is added to the sums; its columns and rows are those of the result."""
    if c.residual is None:
        return None
    at, added = c.windows, c.residual
    sizes = (at.images, *at.outer[1:], at.filters)
    return Boxes(added.role, added.dtype, sizes, (added.batch, *added.spatial[1:], 1))
