"""Convolutions on Hopper by warps that load, multiply or finish."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from lamina.backends.cuda.request import CudaDraft, Launch
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.convolution import Box, covering
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import (
    ABSENT,
    Convolved,
    boxes_fit,
    pass_operands,
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
_FILTERS: Final = 128
_DEPTH: Final = 64
_FEWEST_FILTERS: Final = 96
_FEWEST_TILES: Final = 64
"""With fewer there is no next tile that hides what comes after a sum."""
_SHAPES: Final = ((256, 3), (128, 5))
"""Pixels of a tile and steps in flight."""
_SHAPES_OF_SUMS: Final = ((128, 5),)
"""The same where there is something to add to what is summed."""
_VECTOR: Final = 8
"""Numbers of 16 bits at whose multiples the copy engine begins."""
_WARPS: Final = 4
_REGISTERS: Final = 128
"""Of each of 512 threads at the start: the kernel deals them out anew."""
_LAUNCH_MICROSECONDS: Final = 5.0
_RATE_SHARE: Final = 0.85


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
        if why := _why_not(c, target):
            return Reject(why)
        shapes = _SHAPES if c.residual is None else _SHAPES_OF_SUMS
        found = [_candidate(case, pixels, stages, target) for pixels, stages in shapes]
        return [c for c in found if c] or Reject("too few tiles follow each other in a program")


def why_not_alike(c: Convolved) -> str:
    """Return why operands and result are not of one type of 16 bits; "" when they are."""
    types = {i.dtype for i in (c.x, c.residual, c.y) if i is not None} | {c.w.dtype}
    types |= set() if c.bias is None else {c.bias[1]}
    if types not in ({DType.F16}, {DType.BF16}):
        return "it takes operands and results of one type of 16 bits"
    return ""


def _why_not(c: Convolved, target: CudaTarget) -> str:
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


def _candidate(case: Case, pixels: int, stages: int, target: CudaTarget) -> Candidate | None:
    at, work = case.windows, case.work()
    sizes = tuple(case.likely(size) for size in (at.images, *at.outer[1:]))
    box, _ = covering(sizes, pixels)
    tiles = math.prod(-(-n // side) for n, side in zip(sizes, box, strict=True))
    tiles *= -(-at.filters // _FILTERS)
    if tiles < _FEWEST_TILES:
        return None
    depth = at.channels * at.tap_count
    rate = target.rate(work.dtype) * _RATE_SHARE / target.sms
    busy = math.ceil(tiles / target.sms) * 2.0 * pixels * _FILTERS * depth / rate
    memory = work.moved_bytes / target.bytes_per_microsecond
    cost = _LAUNCH_MICROSECONDS + max(busy, memory) + 0.1 * min(busy, memory)

    def draft(at: Placement) -> CudaDraft:
        (c,) = case.convolved(at, matrix=True)
        if why := _why_not_read(c, target):
            raise BuildError(f"the copy engine does not read an image that lies like this: {why}")
        return CudaDraft(launches=(_launch(c, box, stages, target),))

    name = f"{SpecializedConvolution.name} {_FILTERS}x{pixels} box {'x'.join(map(str, box))}"
    return Candidate(name, case.reads, case.writes, cost, draft)  # type: ignore[arg-type]


def _launch(c: Convolved, box: Box, stages: int, target: CudaTarget) -> Launch:
    at = c.windows
    call = Call("specialized_boxes", "convolution_specialized")
    pass_operands(call, c)
    call.sizes(IMAGES=at.images, IN_H=at.inner[1], IN_W=at.inner[2])
    call.sizes(OUT_H=at.outer[1], OUT_W=at.outer[2], CHANNELS=at.channels, FILTERS=at.filters)
    pass_strides(call, c)
    fused = c.fused.constants()
    tiles: Dim = 1
    for size, side in zip((at.images, *at.outer[1:]), box, strict=True):
        tiles = tiles * ceildiv(size, side)
    call.constants(
        BOX_N=box[0],
        BOX_H=box[1],
        BOX_W=box[2],
        GROUP=rows_of_group(tiles),
        STAGES=stages,
        DEPENDENT=target.dependent,
        **{name: n for name, n in window_numbers(at).items() if not name.endswith("_D")},
        **{name: fused[name] for name in ("KIND", "ALPHA", "BETA")},
    )
    programs = dim_min(target.sms, tiles * ceildiv(at.filters, _FILTERS))
    launch = call.launch((programs,), warps=_WARPS, stages=1, dependent=target.dependent)
    return replace(launch, kernel=replace(launch.kernel, most_registers=_REGISTERS))


def pass_strides(call: Call, c: Convolved) -> None:
    """Pass where pixels and filters of images of up to two axes lie."""
    call.sizes(X_BATCH=c.x.batch, X_ROW=c.x.spatial[1], X_COLUMN=c.x.spatial[2])
    call.sizes(W_FILTER=c.w.filter, W_TAP=c.w.tap)
    for name, image in (("RESIDUAL", c.residual or ABSENT), ("Y", c.y)):
        call.sizes(**{f"{name}_BATCH": image.batch, f"{name}_ROW": image.spatial[1]})
        call.sizes(**{f"{name}_COLUMN": image.spatial[2]})
