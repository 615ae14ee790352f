"""Sums of two convolutions on Hopper, by warps that load, multiply or finish.

The steps of the second follow those of the first, through the same memory.
"""

from __future__ import annotations

import math

from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.tactics.chained import moved_bytes, pair_case
from lamina.backends.cuda.tactics.convolution import covering
from lamina.backends.cuda.tactics.convolution_launch import Convolved
from lamina.backends.cuda.tactics.specialized_boxes import (
    FEWEST_TILES,
    FILTERS,
    LAUNCH_MICROSECONDS,
    RATE_SHARE,
    SHAPES,
    Shape,
    specialized_launch,
    why_not_specialized,
)
from lamina.backends.cuda.tactics.stages import Chain, Stages
from lamina.backends.cuda.target import CudaTarget
from lamina.errors import BuildError
from lamina.ir.dims import evaluate
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.tactics.candidate import Candidate, Placement


class SpecializedPair:
    """Programs of 16 warps with different tasks that work off all tiles of one sum."""

    name = "gluon-conv-pair"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer tiles for a second convolution that reads one pixel for each result."""
        found = pair_case(node, target)
        if found is None or isinstance(found, Reject):
            return found
        stages, chain = found
        if why := _why_not(*_both(stages, chain, stages.dense, target), target):
            return Reject(why)
        offered = [_candidate(stages, chain, shape, target) for shape in SHAPES]
        return [c for c in offered if c] or Reject("too few tiles follow each other in a program")


def _both(
    stages: Stages, chain: Chain, at: Placement, target: CudaTarget
) -> tuple[Convolved, Convolved]:
    assert chain.other is not None
    first = stages.convolved(chain.middle, at, target)
    return first, stages.convolved(chain.other, at, target)


def _why_not(first: Convolved, second: Convolved, target: CudaTarget) -> str:
    if not second.windows.reads_one_pixel:
        return "the second image is not read pixel by pixel"
    return why_not_specialized(first, target) or why_not_specialized(second, target)


def _candidate(stages: Stages, chain: Chain, shape: Shape, target: CudaTarget) -> Candidate | None:
    first, second = _both(stages, chain, stages.dense, target)
    at = first.windows
    sizes = tuple(evaluate(size, target.env) for size in (at.images, *at.outer[1:]))
    box, _ = covering(sizes, shape.pixels)
    tiles = math.prod(-(-n // side) for n, side in zip(sizes, box, strict=True))
    tiles *= -(-at.filters // FILTERS)
    if tiles < FEWEST_TILES:
        return None
    depth = at.channels * at.tap_count + second.windows.channels
    rate = target.rate(chain.dtype) * RATE_SHARE / target.sms
    busy = math.ceil(tiles / target.sms) * 2.0 * shape.pixels * FILTERS * depth / rate
    memory = moved_bytes(stages, chain, target) / target.bytes_per_microsecond
    cost = LAUNCH_MICROSECONDS + max(busy, memory) + 0.1 * min(busy, memory)

    def draft(at: Placement) -> CudaDraft:
        both = _both(stages, chain, at, target)
        if why := _why_not(*both, target):
            raise BuildError(f"the copy engine does not read images that lie like this: {why}")
        return CudaDraft(launches=(specialized_launch(*both, box, shape, target),))

    name = f"{SpecializedPair.name} {FILTERS}x{shape} box {'x'.join(map(str, box))}"
    return Candidate(name, stages.reads, stages.writes, cost, draft)  # type: ignore[arg-type]
