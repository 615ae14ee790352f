"""Pointwise convolutions that feed each other, on Hopper: pixels stream past filters in one kernel.

Other than in :mod:`lamina.backends.cuda.tactics.chained`, whose tiles wait for their own products,
a program fetches the next tiles while it works on others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

from lamina.backends.cuda.request import CudaDraft, Launch
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.chained import chain_case, moved_bytes, parts_at
from lamina.backends.cuda.tactics.chained_launch import Parts, activation_numbers, pass_filters
from lamina.backends.cuda.tactics.convolution_launch import Convolved
from lamina.backends.cuda.tactics.specialized_boxes import why_not_alike
from lamina.backends.cuda.tactics.stages import Chain, Stages
from lamina.backends.cuda.tactics.windows import Image
from lamina.backends.cuda.target import CudaTarget
from lamina.errors import BuildError
from lamina.ir.dims import ceildiv, dim_min, divides, evaluate
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.tactics.candidate import Candidate, Placement

_ARCH: Final = 90
"""The one with these matrix instructions; later ones keep sums in a memory of their own."""
_SIDE: Final = 64
"""Pixels of a tile, and channels of a part of it."""
_GROUPS: Final = 2
_SLOTS: Final = 2
_BLOCK_BYTES: Final = _SIDE * _SIDE * 2
_BARRIER_BYTES: Final = 1024
_FEWEST_TILES: Final = 1024
"""With fewer, programs have too few that follow each other."""
_VECTOR: Final = 8
"""Numbers of 16 bits at whose multiples the copy engine begins."""
_WARPS: Final = 4
_REGISTERS: Final = 168
"""Of each of 384 threads at the start: the kernel deals them out anew."""
_LAUNCH_MICROSECONDS: Final = 4.0
_MEMORY_SHARE: Final = 0.9
_RATE_SHARE: Final = 0.4
"""Of the matrix rate, what products reach that wait for each other."""


class StreamedChain:
    """Programs that keep the filters of up to three pointwise convolutions and go on by tiles."""

    name = "gluon-conv-chain"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer the one kernel for images of many pixels."""
        found = chain_case(node, target)
        if found is None or isinstance(found, Reject):
            return found
        stages, chain = found
        if target.arch != _ARCH:
            return Reject(f"it is made for compute capability 9.0, not {target.arch / 10}")
        if chain.front is not None:
            return Reject("a convolution in front is not pointwise")
        if chain.back is not None and chain.back.output not in stages.results:
            return Reject("the last convolution is no result")
        parts = parts_at(stages, chain, stages.dense, target)
        if why := _why_not(parts, target) or _why_not_read(parts):
            return Reject(why)
        cost = _estimate(stages, chain, parts, target)
        draft = _draft(stages, chain, target)
        name = f"{self.name} {_GROUPS}x{_SIDE}"
        return [Candidate(name, stages.reads, stages.writes, cost, draft)]  # type: ignore[arg-type]


def _convolutions(p: Parts) -> list[Convolved]:
    return [c for c in (p.middle, p.other, p.back) if c is not None]


def _why_not(p: Parts, target: CudaTarget) -> str:
    for c in _convolutions(p):
        if why := why_not_alike(c):
            return why
        if not c.windows.is_pointwise or not c.w.packed:
            return "a convolution is not pointwise"
    if p.back is not None and p.back.windows.filters > _SIDE:
        return f"the last convolution has more than {_SIDE} filters"
    if _shared(p) > target.shared_bytes - _BARRIER_BYTES:
        return "shared memory does not hold filters and tiles"
    likely = evaluate(p.middle.windows.pixels, target.env)
    return "" if likely >= _FEWEST_TILES * _SIDE else "too few tiles follow each other in a program"


def _why_not_read(p: Parts) -> str:
    for image in _images(p):
        at = p.middle.windows
        if not image.is_run(at.images, at.outer) or not divides(_VECTOR, image.spatial[-1]):
            return "pixels of an image do not follow each other at multiples of 16 bytes"
    if any(c.w.filter % _VECTOR for c in _convolutions(p)):
        return "filters do not begin at multiples of 16 bytes"
    return ""


def _images(p: Parts) -> list[Image]:
    found = [c.x for c in (p.middle, p.other) if c is not None]
    found += [] if p.residual is None else [p.residual]
    found += [p.middle.y] if p.stored else []
    return found + ([] if p.back is None else [p.back.y])


def _blocks(c: Convolved | None) -> int:
    """Return the parts of the channels that a convolution reads; 0 for none."""
    return 0 if c is None else -(-c.windows.channels // _SIDE)


def _shared(p: Parts) -> int:
    """Return the bytes of filters and tiles in shared memory."""
    parts, read = -(-p.middle.windows.filters // _SIDE), _blocks(p.middle) + _blocks(p.other)
    filters = parts * (read + (p.back is not None))
    tiles = _GROUPS * (_SLOTS * read + (1 if p.residual is None else _SLOTS) * parts)
    return (filters + tiles) * _BLOCK_BYTES


def _estimate(stages: Stages, chain: Chain, p: Parts, target: CudaTarget) -> float:
    pixels = evaluate(p.middle.windows.pixels, target.env)
    products = sum(c.windows.channels * c.windows.filters for c in _convolutions(p))
    busy = 2.0 * pixels * products / (target.rate(chain.dtype) * _RATE_SHARE)
    memory = moved_bytes(stages, chain, target) / (target.bytes_per_microsecond * _MEMORY_SHARE)
    return _LAUNCH_MICROSECONDS + max(busy, memory)


def _draft(stages: Stages, chain: Chain, target: CudaTarget) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        parts = parts_at(stages, chain, at, target)
        if why := _why_not_read(parts):
            raise BuildError(f"the copy engine does not read images that lie like this: {why}")
        return CudaDraft(launches=(_launch(parts, target),))

    return draft


def _launch(p: Parts, target: CudaTarget) -> Launch:
    middle, other, back = p.middle, p.other, p.back
    at, dtype = middle.windows, middle.x.dtype
    call = Call("streamed", "streamed")
    call.pointer("x", middle.x.role, dtype)
    pass_filters(call, ("w", "bias"), middle)
    call.pointer("z", None if other is None else other.x.role, dtype)
    pass_filters(call, ("v", "other_bias"), other)
    call.pointer("residual", None if p.residual is None else p.residual.role, dtype)
    call.pointer("y", middle.y.role if p.stored else None, dtype)
    pass_filters(call, ("back", "back_bias"), back)
    call.pointer("last", None if back is None else back.y.role, dtype)
    call.sizes(PIXELS=at.pixels, DEPTH=at.channels)
    call.sizes(Z_DEPTH=other.windows.channels if other else 0, FILTERS=at.filters)
    call.sizes(BACK_FILTERS=back.windows.filters if back else 0)
    call.sizes(X_PIXEL=middle.x.spatial[-1], W_FILTER=middle.w.filter)
    call.sizes(Z_PIXEL=other.x.spatial[-1] if other else 0)
    call.sizes(V_FILTER=other.w.filter if other else 0)
    call.sizes(RESIDUAL_PIXEL=p.residual.spatial[-1] if p.residual else 0)
    call.sizes(Y_PIXEL=middle.y.spatial[-1], BACK_FILTER=back.w.filter if back else 0)
    call.sizes(LAST_PIXEL=back.y.spatial[-1] if back else 0)
    call.direction("BACKWARDS")
    call.constants(
        CHUNKS=_blocks(middle),
        Z_CHUNKS=_blocks(other),
        PARTS=-(-at.filters // _SIDE),
        DEPENDENT=target.dependent,
        **activation_numbers(middle.fused.activation, ""),
        **activation_numbers(back.fused.activation if back else None, "BACK_"),
    )
    programs = dim_min(target.sms, ceildiv(at.pixels, _GROUPS * _SIDE))
    launch = call.launch((programs,), warps=_WARPS, stages=1, dependent=target.dependent)
    kernel = dataclasses.replace(launch.kernel, most_registers=_REGISTERS)
    return dataclasses.replace(launch, kernel=kernel)
