"""Depthwise convolutions in one kernel with the pointwise ones that read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product as cartesian
from typing import Final

from lamina.backends.cuda.request import CudaDraft, Launch, Number
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.chained_launch import (
    SMALLEST,
    activation_numbers,
    padded,
    pass_axes,
    pass_filters,
)
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import (
    ABSENT,
    Convolved,
    needs_wide,
    pass_image,
    window_numbers,
)
from lamina.backends.cuda.tactics.depthwise import block_count, span, why_not_depthwise
from lamina.backends.cuda.tactics.stages import Chain, Stages, chain_of, stages_of
from lamina.backends.cuda.tactics.windows import Windows
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import ceildiv, divides, evaluate
from lamina.ir.graph import Node, Value
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.passes.fusion import is_pointwise
from lamina.tactics.candidate import Candidate, Placement, sizes_known

_HALVES: Final = (DType.F16, DType.BF16)
_SINCE: Final = 80
_WARP: Final = 32
_WARPS: Final = 4
_MOST_FILTERS: Final = 512
_MOST_TAPS: Final = 25
_MOST_WASTED: Final = 0.15
_MOST_NUMBERS: Final = 220
"""Registers of a thread that hold filters, sums and a row of the image."""
_OTHER_REGISTERS: Final = 30
_REGISTERS_OF_SM: Final = 65536
_LAUNCH_MICROSECONDS: Final = 1.0
_STEP_MICROSECONDS: Final = 0.5
"""Loads, and the exchange among threads before a product."""
_ISSUE_SHARE: Final = 0.8
"""Of the instructions that a multiprocessor could begin, what these programs do with"""
_ENOUGH_WARPS: Final = 12
"""warps; with fewer, less."""
_SYSTEM_BYTES: Final = 1024
"""Shared memory of a program that the system takes."""
_INSTRUCTIONS_OF_RESULT: Final = 8
"""Bias, activation, rounding, and the exchange before a store, of each number that is stored."""
_HALF_BYTES: Final = 2
_SECTORS_BYTES: Final = 64
_SHORT_READS: Final = 1.3
"""What loads cost more where less than so many bytes of a pixel are read together."""
_OVERLAP: Final = 0.2
"""What else than the bottleneck costs, of its time."""


@dataclass(frozen=True)
class _Block:
    """Rows and columns of a block of pixels, blocks of a program, channels of a step, and so on.

    ``back`` are the filters of a part of the last convolution.
    """

    rows: int
    columns: int
    blocks: int
    depth: int
    back: int
    warps: int

    def __str__(self) -> str:
        parts = f"{self.blocks}x{self.rows}x{self.columns}x{self.depth}"
        return f"{parts}{f'x{self.back}' if self.back else ''} w{self.warps}"

    @property
    def pixels(self) -> int:
        """Pixels of a block."""
        return self.rows * self.columns

    @property
    def threads(self) -> int:
        """Threads of a program."""
        return self.warps * _WARP

    @property
    def vector(self) -> int:
        """Channels of a thread."""
        return self.blocks * self.depth // self.threads


class TritonSeparable:
    """A depthwise convolution feeds products of matrices, step by step of its channels."""

    name = "triton-separable"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer blocks of pixels for which the numbers of all stages fit into registers."""
        stages = stages_of(node)
        chain = None if stages is None else chain_of(stages)
        if stages is None or chain is None:
            return None
        if not sizes_known(node, target.env):
            return Reject("data decides a size")
        if why := _why_not(stages, chain, target):
            return Reject(why)
        offered = [
            Candidate(
                f"{self.name} {block}",
                stages.reads,
                stages.writes,
                _estimate(stages, chain, block, target),
                _draft(stages, chain, block, target),  # type: ignore[arg-type]
            )
            for block in _blocks(chain, target)
        ]
        return offered or Reject("no block of pixels fits into the registers")


def _why_not(stages: Stages, chain: Chain, target: CudaTarget) -> str:
    if chain.front is None:
        return "nothing is in front of the pointwise convolution"
    if chain.dtype not in _HALVES or target.arch < _SINCE:
        return "it takes f16 and bf16, from compute capability 8.0 on"
    front = case_of(chain.front, target)
    if not isinstance(front, Case):
        return front or "it is no convolution"
    if why := why_not_depthwise(front):
        return why
    if chain.other is not None:
        return "it adds no second convolution"
    rest = [n for n in (chain.middle, chain.back) if n is not None]
    if not all(map(is_pointwise, rest)) or any(n.op.groups != 1 for n in rest):  # type: ignore[attr-defined]
        return "all convolutions but the first must be pointwise"
    if chain.back is not None and chain.back.output not in stages.results:
        return "the last convolution is no result"
    if front.windows.tap_count > _MOST_TAPS or _case(chain.middle, target).windows.filters > (
        _MOST_FILTERS
    ):
        return "filters do not fit into registers"
    return ""


def _case(node: Node, target: CudaTarget) -> Case:
    case = case_of(node, target)
    assert isinstance(case, Case)
    return case


def _front(chain: Chain, target: CudaTarget) -> Case:
    assert chain.front is not None
    return _case(chain.front, target)


def _blocks(chain: Chain, target: CudaTarget) -> Iterator[_Block]:
    front = _front(chain, target)
    at = front.windows
    high, wide = front.likely(at.outer[1]), front.likely(at.outer[2])
    backs: tuple[int, ...] = (0,)
    if chain.back is not None:
        whole = padded(_case(chain.back, target).windows.filters)
        backs = tuple(n for n in (32, 64) if n <= whole) or (whole,)
    for (rows, columns), depth, vector, back in cartesian(
        ((1, 1), (1, 2), (2, 2), (2, 4)),
        (16, 32, 64),
        (4, 8),
        backs,
    ):
        if (
            (rows > 1 and rows > high)
            or (columns > 1 and columns > wide)
            or _wasted(at.groups, depth) > _MOST_WASTED
        ):
            continue
        blocks = vector * _WARPS * _WARP // depth
        block = _Block(rows, columns, blocks, depth, back, _WARPS)
        if block.blocks * block.pixels < SMALLEST or _shared(chain, block, target) > (
            target.shared_bytes
        ):
            continue
        if _registers(chain, block, target) <= _MOST_NUMBERS:
            yield block


def _shared(chain: Chain, block: _Block, target: CudaTarget) -> int:
    """Return about the bytes of shared memory through which threads exchange operands."""
    filters = padded(_filters(chain, target))
    return 2 * (block.pixels * block.blocks * block.depth + filters * max(block.depth, block.back))


def _loads(at: Windows, block: _Block) -> int:
    """Return the pixels of the image that a block meets."""
    found = at.taps[0] * span(block.rows, at.taps[1], at.strides[1], at.dilations[1])
    return found * span(block.columns, at.taps[2], at.strides[2], at.dilations[2])


def _wasted(channels: int, depth: int) -> float:
    """Return the share of steps over channels that do nothing."""
    return -channels % depth / channels


def _registers(chain: Chain, block: _Block, target: CudaTarget) -> int:
    """Return about the registers that filters, sums and a row of the image take."""
    at, filters = _front(chain, target).windows, padded(_filters(chain, target))
    v = block.vector
    products = block.pixels * block.blocks * filters // block.threads
    row = span(block.columns, at.taps[2], at.strides[2], at.dilations[2]) * v
    first = at.tap_count * v + block.pixels * v + row + row // 2
    results = block.pixels * block.blocks * block.back // block.threads
    second = products // 2 + results + results // 4
    return max(products + first, second)


def _filters(chain: Chain, target: CudaTarget) -> int:
    return _case(chain.middle, target).windows.filters


def _estimate(stages: Stages, chain: Chain, block: _Block, target: CudaTarget) -> float:
    """Return microseconds: memory, instructions, products, or the waiting of few programs."""
    front = _front(chain, target)
    at, filters = front.windows, _filters(chain, target)
    back = 0 if chain.back is None else _case(chain.back, target).windows.filters
    d, h, w = (front.likely(n) for n in at.outer)
    count = math.ceil(h / block.rows) * math.ceil(w / block.columns) * d
    programs = math.ceil(count * front.likely(at.images) / block.blocks)
    steps = math.ceil(at.groups / block.depth)
    v = block.vector
    loads = _loads(at, block)
    slow = _SHORT_READS if block.depth * _HALF_BYTES < _SECTORS_BYTES else 1.0
    step = 20.0 + slow * (at.tap_count + loads) * (1.5 + 1.5 * v)
    step += block.pixels * (at.tap_count * v + 4 * v + 12)
    stored = filters * (chain.middle.output in stages.results) + back
    pixels = block.pixels * block.blocks
    results = _INSTRUCTIONS_OF_RESULT * stored * pixels / block.threads
    instructions = block.threads * (steps * step + results)
    registers = min(255, _OTHER_REGISTERS + _registers(chain, block, target))
    shared = _shared(chain, block, target) + _SYSTEM_BYTES
    resident = min(_REGISTERS_OF_SM // (registers * block.threads), target.shared_bytes // shared)
    resident = max(1, resident)
    share = _ISSUE_SHARE * min(1.0, resident * block.warps / _ENOUGH_WARPS)
    per_sm = target.flops_per_microsecond["f32"] / 2 / target.sms * share
    parts = math.ceil(back / block.back) if back else 0
    waves = math.ceil(programs / target.sms / resident)
    waiting = waves * _STEP_MICROSECONDS * (2 + steps + parts)
    products = 2 * (padded(filters) * at.groups + padded(filters) * back) * pixels * programs
    moved = sum(
        evaluate(x.tensor.size, target.env) * x.tensor.dtype.itemsize
        for x in (*stages.region.inputs, *stages.region.outputs)
    )
    bounds = sorted(
        (
            moved / target.bytes_per_microsecond,
            programs / min(target.sms, programs) * instructions / per_sm
            + products / target.rate(chain.dtype) * 2,
            waiting,
        )
    )
    return _LAUNCH_MICROSECONDS + bounds[-1] + _OVERLAP * sum(bounds[:-1])


def _draft(
    stages: Stages, chain: Chain, block: _Block, target: CudaTarget
) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        assert chain.front is not None
        front = stages.convolved(chain.front, at, target, matrix=False)
        middle = stages.convolved(chain.middle, at, target)
        back = None if chain.back is None else stages.convolved(chain.back, at, target)
        values: list[Value] = [*stages.region.inputs, *stages.region.outputs]
        wide = needs_wide([(v.tensor.size, evaluate(v.tensor.size, target.env)) for v in values])
        stored = chain.middle.output in stages.results
        launch = _launch(front, middle, back, block, stored, wide, target)
        return CudaDraft(launches=(launch,))

    return draft


def _launch(
    front: Convolved, middle: Convolved, back: Convolved | None, block: _Block,
    stored: bool, wide: bool, target: CudaTarget,
) -> Launch:  # fmt: skip
    at = front.windows
    call = Call("separable", "separable")
    call.pointer("x", front.x.role, front.x.dtype)
    pass_filters(call, ("front", "front_bias"), front)
    pass_filters(call, ("w", "bias"), middle)
    residual = middle.residual
    call.pointer("residual", None if residual is None else residual.role, middle.x.dtype)
    call.pointer("y", middle.y.role if stored else None, middle.y.dtype)
    pass_filters(call, ("back", "back_bias"), back)
    call.pointer("last", None if back is None else back.y.role, middle.y.dtype)
    call.sizes(IMAGES=at.images)
    pass_axes(call, "IN", front)
    pass_axes(call, "OUT", front, outer=True)
    call.sizes(CHANNELS=at.groups)
    pass_image(call, "X", front.x)
    call.sizes(FRONT_TAP=front.w.tap, FILTERS=middle.windows.filters, W_FILTER=middle.w.filter)
    pass_image(call, "RESIDUAL", residual or ABSENT)
    pass_image(call, "Y", middle.y if stored else ABSENT)
    call.sizes(BACK_FILTERS=back.windows.filters if back else 0)
    call.sizes(BACK_FILTER=back.w.filter if back else 0)
    pass_image(call, "LAST", back.y if back else ABSENT)
    count = block_count(at, block.rows, block.columns)
    units = (block.rows, at.outer[1]), (block.columns, at.outer[2]), (block.blocks, count)
    images = [residual, middle.y if stored else None, None if back is None else back.y]
    runs = all(i is None or i.is_run(at.images, at.outer) for i in images)
    numbers: dict[str, Number] = {
        "ROWS": block.rows,
        "COLUMNS": block.columns,
        "BLOCK_M": block.blocks,
        "BLOCK_K": block.depth,
        "BLOCK_N": padded(middle.windows.filters),
        "BACK_N": block.back or SMALLEST,
        "PADDED": at.is_padded,
        "WHOLE": all(divides(unit, size) for unit, size in units),
        "DENSE": runs and all(divides(unit, size) for unit, size in units[:2]),
        "WIDE": wide,
        "DEPENDENT": target.dependent,
    }
    numbers |= window_numbers(at)
    numbers |= activation_numbers(front.fused.activation, "FRONT_")
    numbers |= activation_numbers(middle.fused.activation, "")
    numbers |= activation_numbers(back.fused.activation if back else None, "BACK_")
    call.constants(**numbers)
    grid = (ceildiv(count, block.blocks),)
    return call.launch(grid, warps=block.warps, stages=1, dependent=target.dependent)
