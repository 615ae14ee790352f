"""Convolutions on Hopper with three rows of taps and so few channels that filters stay on chip."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from lamina.backends.cuda.request import Boxes, CudaDraft, Launch
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import (
    ABSENT,
    Convolved,
    boxes_fit,
    pass_added,
    pass_filter_boxes,
)
from lamina.backends.cuda.tactics.specialized_boxes import why_not_alike
from lamina.backends.cuda.target import CudaTarget
from lamina.errors import BuildError
from lamina.ir.dims import Dim, ceildiv
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ops import Convolution
from lamina.tactics.candidate import Candidate, Placement

_ARCH: Final = 90
"""The one with these matrix instructions; later ones keep sums in a memory of their own."""
_TAPS: Final = 3
_PIXELS: Final = 128
_FILTERS: Final = 64
_CHANNELS: Final = 64
_BLOCK_BYTES: Final = _FILTERS * _CHANNELS * 2
_ROW_BYTES: Final = _PIXELS * _CHANNELS * 2
_SUM_BYTES: Final = _PIXELS * _FILTERS * 2
_BARRIER_BYTES: Final = 1024
_FEWEST_STAGES: Final = 3
_MOST_STAGES: Final = 6
_WARPS: Final = 4
_REGISTERS: Final = 168
"""Of each of 384 threads at the start: the kernel deals them out anew."""
_START_MICROSECONDS: Final = 4.0
"""A launch, and the way of filters and of the first row to the chip."""
_RATE_SHARE: Final = 0.8
_ROUND_MICROSECONDS: Final = 0.3
"""Waiting for the last products of three rows."""


@dataclass(frozen=True)
class _Strip:
    """Images and columns of a row of pixels, and times that a program goes on by three rows."""

    images: int
    columns: int
    rounds: int
    stages: int

    @property
    def rows(self) -> int:
        """Rows of results."""
        return _TAPS * self.rounds - (_TAPS - 1)

    def __str__(self) -> str:
        return f"{self.images}x{self.rows}x{self.columns} s{self.stages}"

    def programs(self, images: Dim, height: Dim, width: Dim, filters: int) -> Dim:
        """Return how many cover a result."""
        strips = ceildiv(images, self.images) * ceildiv(height, self.rows)
        return strips * ceildiv(width, self.columns) * (filters // _FILTERS)


class RollingConvolution:
    """Programs that go down strips of the image, with warps for loading, products and results."""

    name = "gluon-conv-rolling"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer strips for filters that fit beside the pixels in shared memory."""
        if not isinstance(node.op, Convolution):
            return None
        case = case_of(node, target)
        if not isinstance(case, Case):
            return Reject(case) if isinstance(case, str) else None
        if case.filters is None:
            return Reject("it takes constant filters")
        if why := _why_not(case.convolved(case.dense, matrix=True)[0], target):
            return Reject(why)
        return [
            _candidate(case, strip, estimate, target) for strip, estimate in _strips(case, target)
        ]


def _why_not(c: Convolved, target: CudaTarget) -> str:
    at = c.windows
    if target.arch != _ARCH:
        return f"it is made for compute capability 9.0, not {target.arch / 10}"
    if why := why_not_alike(c):
        return why
    if at.taps[1] != _TAPS or at.strides != (1, 1, 1) or at.dilations[1] != 1:
        return "windows have no three dense rows, or advance by more than one"
    if at.channels % _CHANNELS or at.filters % _FILTERS:
        return "channels or filters are no multiples of 64"
    if _stages(c.windows.taps[2] * at.channels, target) < _FEWEST_STAGES:
        return "the filters leave no room for pixels in shared memory"
    return boxes_fit(c, target)


def _stages(depth: int, target: CudaTarget) -> int:
    """Return the rows in flight that fit beside filters of three rows of a ``depth``."""
    kept = _TAPS * depth // _CHANNELS * _BLOCK_BYTES
    room = target.shared_bytes - kept - _SUM_BYTES - _BARRIER_BYTES
    return min(_MOST_STAGES, room // _ROW_BYTES)


def _strips(case: Case, target: CudaTarget) -> list[tuple[_Strip, float]]:
    """Return the best strip of each shape of rows of pixels, with its microseconds."""
    at = case.windows
    images, height, width = (case.likely(size) for size in (at.images, *at.outer[1:]))
    stages = _stages(at.taps[2] * at.channels, target)
    operations = 2.0 * _PIXELS * _FILTERS * _TAPS * at.taps[2] * at.channels
    row = operations / (target.rate(case.work().dtype) / target.sms * _RATE_SHARE)
    memory = case.work().moved_bytes / target.bytes_per_microsecond
    found = []
    for columns in (128, 64, 32, 16, 8):
        options = []
        for rounds in range(1, math.ceil((height + _TAPS - 1) / _TAPS) + 1):
            strip = _Strip(_PIXELS // columns, columns, rounds, stages)
            programs = int(strip.programs(images, height, width, at.filters))  # type: ignore[arg-type]
            each = strip.rows * row + rounds * _ROUND_MICROSECONDS
            time = math.ceil(programs / target.sms) * (each + _START_MICROSECONDS)
            options.append((max(time, memory) + 0.1 * min(time, memory), rounds, strip))
        time, _, strip = min(options, key=lambda o: o[:2])
        found.append((strip, time))
    # Of strips as good as each other those with the widest rows: they are one piece of memory.
    found.sort(key=lambda f: f[1])
    return found[:2]


def _candidate(case: Case, strip: _Strip, estimate: float, target: CudaTarget) -> Candidate:
    def draft(at: Placement) -> CudaDraft:
        (c,) = case.convolved(at, matrix=True)
        if why := boxes_fit(c, target):
            raise BuildError(f"the copy engine does not read an image that lies like this: {why}")
        return CudaDraft(launches=(_launch(c, strip, target),))

    name = f"{RollingConvolution.name} {strip}"
    return Candidate(name, case.reads, case.writes, estimate, draft)  # type: ignore[arg-type]


def _launch(c: Convolved, strip: _Strip, target: CudaTarget) -> Launch:
    at = c.windows
    call = Call("rolling", "convolution_rolling")
    sizes, strides = (at.images, *at.inner[1:], at.channels), (c.x.batch, *c.x.spatial[1:], 1)
    pixels = Boxes(c.x.role, c.x.dtype, sizes, strides)
    call.boxes("x", pixels, (strip.images, 1, strip.columns, _CHANNELS))
    pass_filter_boxes(call, "w", c, (_FILTERS, _CHANNELS))
    pass_added(call, c)
    call.sizes(IMAGES=at.images, OUT_H=at.outer[1], OUT_W=at.outer[2], FILTERS=at.filters)
    call.sizes(W_TAP=c.w.tap)
    for name, image in (("RESIDUAL", c.residual or ABSENT), ("Y", c.y)):
        call.sizes(**{f"{name}_BATCH": image.batch, f"{name}_ROW": image.spatial[1]})
        call.sizes(**{f"{name}_COLUMN": image.spatial[2]})
    call.direction("BACKWARDS")
    fused = c.fused.constants()
    call.constants(
        TAPS_W=at.taps[2],
        DILATION_W=at.dilations[2],
        PAD_H=at.pads[1],
        PAD_W=at.pads[2],
        BOX_N=strip.images,
        BOX_W=strip.columns,
        ROUNDS=strip.rounds,
        STAGES=strip.stages,
        CHUNKS=at.channels // _CHANNELS,
        DEPENDENT=target.dependent,
        **{name: fused[name] for name in ("KIND", "ALPHA", "BETA")},
    )
    programs = strip.programs(at.images, at.outer[1], at.outer[2], at.filters)
    launch = call.launch((programs,), warps=_WARPS, stages=1, dependent=target.dependent)
    return replace(launch, kernel=replace(launch.kernel, most_registers=_REGISTERS))
