"""Depthwise convolutions on a GPU: threads that walk down the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product as cartesian
from typing import Final

from lamina.backends.cuda.request import CudaDraft, Launch
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import (
    ABSENT,
    Convolved,
    pass_image,
    pass_operands,
    window_numbers,
)
from lamina.backends.cuda.tactics.matmul_case import FLOATS
from lamina.backends.cuda.tactics.windows import Windows
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import Dim, ceildiv, divides
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.tactics.candidate import Candidate, Placement

_VECTOR_BYTES: Final = 16
_WARP: Final = 32
_AHEAD: Final = 3
"""Rows that are asked for before they are needed."""
_MOST_KEPT: Final = 100
"""Registers of a thread that hold filters."""
_MOST_NUMBERS: Final = 210
"""Registers of a thread that hold filters, sums and rows on their way."""
_MOST_PRODUCTS: Final = 1024
"""Products that the code of a thread may hold: more do not fit into the cache of instructions."""
_MOST_ROWS: Final = 8
"""Rows of a thread that does not walk down all of the image."""
_OTHER_REGISTERS: Final = 30
_REGISTERS_OF_SM: Final = 65536
_WARPS_OF_SM: Final = 64
_LEAST_ISSUED: Final = 0.6
"""Of the instructions that a multiprocessor could begin, what these threads do, and"""
_ISSUED_OF_WARP: Final = 0.012
"""what each warp adds to it, up to"""
_MOST_ISSUED: Final = 0.9
_CYCLES_OF_INSTRUCTION: Final = 2.0
"""Of a warp that is alone."""
_LANES_OF_SM: Final = 128
_COLUMN_SHARE: Final = 0.01
"""What each column costs more than a row: the rows of a thread need no registers at once."""
_LAUNCH_MICROSECONDS: Final = 1.0
_FILL_MICROSECONDS: Final = 0.9
"""Two loads that depend on each other, and the store."""
_BYTES_IN_FLIGHT: Final = 24e3
"""What a multiprocessor must wait for at once to keep the memory busy."""


@dataclass(frozen=True)
class Walk:
    """Rows, columns and channels of the result in a thread, and warps."""

    rows: int
    columns: int
    vector: int
    warps: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}x{self.vector} w{self.warps}"

    @property
    def threads(self) -> int:
        """Threads of a program."""
        return self.warps * _WARP


class TritonDepthwise:
    """Every number that is loaded serves all windows of the thread that hold it."""

    name = "triton-depthwise"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer blocks of the result for a thread."""
        case = case_of(node, target)
        if not isinstance(case, Case):
            return Reject(case) if isinstance(case, str) else None
        if why := why_not_depthwise(case):
            return Reject(why)
        found = sorted((_estimate(case, walk), str(walk), walk) for walk in _walks(case))
        return [
            Candidate(
                f"{self.name} {name}",
                case.reads,
                case.writes,
                cost,
                _draft(case, walk),  # type: ignore[arg-type]
            )
            for cost, name, walk in found
        ] or Reject("its windows do not fit into registers")


def why_not_depthwise(case: Case) -> str:
    """Return why a convolution does not treat every channel alone; "" where it does."""
    at, dtype = case.windows, case.node.inputs[0].tensor.dtype
    if at.channels != 1 or at.filters != 1 or at.groups == 1:
        return "channels meet each other"
    if dtype not in FLOATS:
        return f"it sums f16, bf16 and f32, not {dtype}"
    return "" if case.filters is not None else "it takes constant filters"


def is_depthwise(case: Case) -> bool:
    """Whether there is a kernel for a convolution that treats every channel alone."""
    return not why_not_depthwise(case) and next(_walks(case), None) is not None


def span(outputs: int, taps: int, stride: int, dilation: int) -> int:
    """Return how far the windows of some results reach."""
    return (outputs - 1) * stride + (taps - 1) * dilation + 1


def block_count(at: Windows, rows: int, columns: int) -> Dim:
    """Return the number of blocks of pixels that make up the result."""
    d, h, w = at.outer
    return ceildiv(h, rows) * ceildiv(w, columns) * d * at.images


def _walks(case: Case) -> Iterator[Walk]:
    at = case.windows
    size = case.node.inputs[0].tensor.dtype.itemsize
    high, wide = case.likely(at.outer[1]), case.likely(at.outer[2])
    vectors = [v for v in (8, 4, 2, 1) if v * size <= _VECTOR_BYTES and at.groups % v == 0][:3]
    sides = (1, 2, 3, 4, 5, 7, 8)
    for rows, columns, vector in cartesian((*sides, 14), sides, vectors):
        if (rows > 1 and rows > high) or (columns > 1 and columns > wide):
            continue
        if rows > _MOST_ROWS and rows != high:
            continue
        if rows * columns * at.tap_count * vector > _MOST_PRODUCTS:
            continue
        walk = Walk(rows, columns, vector, 4)
        if _registers(at, walk, size) <= _MOST_NUMBERS:
            for warps in (2, 4):
                yield Walk(rows, columns, vector, warps)


def _keeps(at: Windows, walk: Walk) -> bool:
    return at.tap_count * walk.vector <= _MOST_KEPT


def _registers(at: Windows, walk: Walk, size: int) -> int:
    """Return about the registers that filters, sums and rows on their way take."""
    kept = at.tap_count * walk.vector if _keeps(at, walk) else walk.vector
    across = span(walk.columns, at.taps[2], at.strides[2], at.dilations[2])
    open_rows = min(walk.rows, math.ceil(((at.taps[1] - 1) * at.dilations[1] + 1) / at.strides[1]))
    if at.taps[0] > 1:
        open_rows = walk.rows
    sums = open_rows * walk.columns * walk.vector
    row = across * walk.vector
    return kept + sums + row + math.ceil(_AHEAD * row * size / 4)


def _estimate(case: Case, walk: Walk) -> float:
    """Return microseconds: the bytes of memory, instructions, or the waiting of few threads."""
    at, target = case.windows, case.target
    size = case.node.inputs[0].tensor.dtype.itemsize
    d, h, w = (case.likely(n) for n in at.outer)
    count = math.ceil(h / walk.rows) * math.ceil(w / walk.columns) * d
    count *= case.likely(at.images) * (at.groups // walk.vector)
    programs = math.ceil(count / walk.threads)
    steps = at.taps[0] * span(walk.rows, at.taps[1], at.strides[1], at.dilations[1])
    loads = steps * span(walk.columns, at.taps[2], at.strides[2], at.dilations[2])
    pixels, v = walk.rows * walk.columns, walk.vector
    narrow = size < 4
    factors = at.tap_count * (1 if _keeps(at, walk) else walk.rows)
    instructions = 60 + 4 * steps + (factors + loads) * (1 + v * (1.5 if narrow else 1.0))
    instructions += pixels * (at.tap_count * v + 3 * v + 5)
    registers = min(255, _OTHER_REGISTERS + _registers(at, walk, size))
    resident = min(_WARPS_OF_SM, _REGISTERS_OF_SM // (registers * _WARP)) // walk.warps or 1
    lanes = target.flops_per_microsecond["f32"] / 2 / target.sms
    busy = min(resident, math.ceil(programs / target.sms))
    share = min(_MOST_ISSUED, _LEAST_ISSUED + _ISSUED_OF_WARP * resident * walk.warps)
    issued = busy * walk.threads * instructions / (lanes * share)
    # Threads of few warps wait for their own instructions.
    waited = instructions * _CYCLES_OF_INSTRUCTION * _LANES_OF_SM / lanes
    compute = max(1.0, programs / target.sms / resident) * max(issued, waited)
    values = (*case.node.inputs, case.node.output)
    moved = sum(case.likely(x.tensor.size) * x.tensor.dtype.itemsize for x in values)
    fetched = loads / steps / span(walk.columns, 1, at.strides[2], 1)
    flying = resident * walk.threads * _AHEAD * loads / steps * v * size / max(1.0, fetched)
    memory = moved / target.bytes_per_microsecond * max(1.0, _BYTES_IN_FLIGHT / flying)
    low, high = sorted((compute, memory))
    wide = 1.0 + _COLUMN_SHARE * walk.columns
    return _LAUNCH_MICROSECONDS + _FILL_MICROSECONDS + wide * (high + 0.2 * low)


def _draft(case: Case, walk: Walk) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        convolved = case.convolved(at, matrix=False)
        return CudaDraft(launches=tuple(_launch(c, walk, case.target) for c in convolved))

    return draft


def _launch(c: Convolved, walk: Walk, target: CudaTarget) -> Launch:
    at = c.windows
    call = Call("depthwise", "depthwise")
    pass_operands(call, c)
    call.sizes(IMAGES=at.images)
    for name, sizes in (("IN", at.inner), ("OUT", at.outer)):
        call.sizes(**{f"{name}_{a}": size for a, size in zip("DHW", sizes, strict=True)})
    call.sizes(CHANNELS=at.groups)
    pass_image(call, "X", c.x)
    call.sizes(W_TAP=c.w.tap)
    for name, image in (("RESIDUAL", c.residual), ("Y", c.y)):
        part = ABSENT if image is None else at.part(image)
        call.sizes(**{f"{name}_FIRST": part.first})
        pass_image(call, name, part)
    count = block_count(at, walk.rows, walk.columns) * (at.groups // walk.vector)
    whole = (walk.rows, at.outer[1]), (walk.columns, at.outer[2]), (walk.threads, count)
    call.constants(
        ROWS=walk.rows,
        COLUMNS=walk.columns,
        VECTOR=walk.vector,
        THREADS=walk.threads,
        AHEAD=_AHEAD,
        KEEP=_keeps(at, walk),
        PADDED=at.is_padded,
        WHOLE=all(divides(unit, size) for unit, size in whole),
        WIDE=c.wide,
        DEPENDENT=target.dependent,
        **window_numbers(at),
        **c.fused.constants(),
    )
    grid = (ceildiv(count, walk.threads),)
    return call.launch(grid, warps=walk.warps, stages=1, dependent=target.dependent)
