"""Convolutions on a GPU without matrix units: depthwise ones, small groups, any numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import direct_launch
from lamina.backends.cuda.tactics.depthwise import is_depthwise
from lamina.backends.cuda.target import CudaTarget
from lamina.backends.cuda.triton_types import TRITON_TYPES
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import QuantizedConvolution
from lamina.ops.kinds import ActivationKind
from lamina.ops.quantized import EIGHT_BIT
from lamina.tactics.candidate import Candidate, Placement

_LAUNCH_MICROSECONDS: Final = 2.0
_MOST_UNROLLED: Final = 150
"""Products of a tap and a row that the code of a program may hold."""
_MOST_CHANNELS: Final = 32
"""Channels of a group up to which it may be better than the matrix units."""
_MOST_CHANNELS_UNROLLED: Final = 4
_MOST_SUMS: Final = 32
"""Sums that a thread holds in registers, beside what it loads; half of it with many taps."""
_MANY_TAPS: Final = 10
_MATRIX_TYPES: Final = (DType.F16, DType.BF16, DType.F32, *EIGHT_BIT)
_CACHE_BYTES_PER_MICROSECOND: Final = 1.1e5
"""What a multiprocessor loads from its first cache."""
_INSTRUCTIONS_OF_LOAD: Final = 12
"""Of a thread: the address, whether it is inside of the image, the loads themselves."""
_NUMBERS_OF_THREAD: Final = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class _Block:
    """Rows (0: one, with a loop over taps), columns and filters of a program, and its warps."""

    rows: int
    columns: int
    filters: int
    warps: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}x{self.filters} w{self.warps}"


class TritonDirect:
    """Multiplies and adds on the ordinary units; rows that are loaded serve several results."""

    name = "triton-direct"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer blocks of pixels and filters."""
        case = case_of(node, target)
        if not isinstance(case, Case):
            return Reject(case) if isinstance(case, str) else None
        if why := _why_not(case):
            return Reject(why)
        blocks = [(_estimate(case, block), str(block), block) for block in _blocks(case)]
        return [
            Candidate(
                f"{self.name} {name}",
                case.reads,
                case.writes,
                cost,
                _draft(case, block),  # type: ignore[arg-type]
            )
            for cost, name, block in sorted(blocks, key=lambda b: b[:2])
        ]


def _why_not(case: Case) -> str:
    dtype = case.node.inputs[0].tensor.dtype
    if dtype not in TRITON_TYPES or (dtype.is_float and dtype.bits == 8):
        return f"no kernel computes with {dtype}"
    if is_depthwise(case):
        return "depthwise convolutions have a kernel of their own"
    if case.windows.channels > _MOST_CHANNELS and dtype in _MATRIX_TYPES:
        return f"{case.windows.channels} channels in a group are work for matrix units"
    activation = case.op.activation
    if (
        dtype.is_integer
        and activation is not None
        and activation.kind is not ActivationKind.RELU
        and not isinstance(case.op, QuantizedConvolution)
    ):
        return f"no kernel applies {activation.kind} to {dtype}"
    return ""


def _blocks(case: Case) -> Iterator[_Block]:
    at = case.windows
    width = case.likely(at.outer[2])
    filters = at.filters * at.groups
    most = _MOST_SUMS // (2 if at.tap_count >= _MANY_TAPS else 1)
    for rows in (0, 1, 2, 4):
        span = (rows - 1) * at.strides[1] + (at.taps[1] - 1) * at.dilations[1] + 1
        if rows and max(at.tap_count * rows, span * at.taps[0] * at.taps[2]) > _MOST_UNROLLED:
            continue
        if rows and at.channels > _MOST_CHANNELS_UNROLLED:
            continue
        if rows > 1 and case.likely(at.outer[1]) < rows:
            continue
        for columns in (1, 2, 4, 8, 16, 32, 64):
            if columns > 1 << (width - 1).bit_length():
                continue
            for across in (16, 32, 64, 128, 256):
                if across > max(16, 1 << (filters - 1).bit_length()):
                    continue
                for warps in (1, 2, 4, 8):
                    numbers = columns * across // (32 * warps)
                    if numbers in _NUMBERS_OF_THREAD and numbers * max(rows, 1) <= most:
                        yield _Block(rows, columns, across, warps)


def _estimate(case: Case, block: _Block) -> float:
    """Return microseconds: the bytes of memory, of the first cache, or the operations."""
    at, target = case.windows, case.target
    size = case.node.inputs[0].tensor.dtype.itemsize
    rows = max(block.rows, 1)
    d, h, w = (case.likely(n) for n in at.outer)
    programs = math.ceil(w / block.columns) * math.ceil(h / rows) * d * case.likely(at.images)
    programs *= math.ceil(at.filters * at.groups / block.filters)
    numbers = block.columns * block.filters
    span = (rows - 1) * at.strides[1] + (at.taps[1] - 1) * at.dilations[1] + 1
    loads = at.taps[0] * at.taps[2] * span * at.channels * numbers * size
    loads += at.tap_count * rows * at.channels * block.filters * size * block.warps
    threads = 32 * block.warps
    steps = at.taps[0] * at.taps[2] * span * at.channels
    instructions = steps * (_INSTRUCTIONS_OF_LOAD * threads + numbers)
    instructions += 2 * at.tap_count * rows * at.channels * numbers
    sms = min(target.sms, programs)
    rate = target.flops_per_microsecond["f32"] / 2 / target.sms
    compute = programs / sms * max(loads / _CACHE_BYTES_PER_MICROSECOND, instructions / rate)
    values = (*case.node.inputs, case.node.output)
    moved = sum(case.likely(v.tensor.size) * v.tensor.dtype.itemsize for v in values)
    looped = 0.0 if block.rows else 0.02 * at.tap_count * at.channels
    memory = moved / target.bytes_per_microsecond
    # What is not the bottleneck costs a little too.
    return _LAUNCH_MICROSECONDS + looped + max(compute, memory) + 0.1 * min(compute, memory)


def _draft(case: Case, block: _Block) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        return CudaDraft(
            launches=tuple(
                direct_launch(c, block.rows, block.columns, block.filters, block.warps, case.target)
                for c in case.convolved(at, matrix=False)
            )
        )

    return draft
