"""Convolutions on a GPU of images with few channels, such as the first layer of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Final

import numpy as np

from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.tactics.convolution_case import Case, cases_in_both_forms
from lamina.backends.cuda.tactics.convolution_launch import Convolved, Filters, few_launch
from lamina.backends.cuda.tactics.matmul_case import FLOATS
from lamina.backends.cuda.tactics.tf32 import packed_factors
from lamina.backends.cuda.tactics.tiles import Tile, Work, estimate, precisions, why_not_multiplied
from lamina.backends.cuda.tactics.windows import Image, Sizes, Three, Windows
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import divides, evaluate, floordiv, is_static
from lamina.ir.graph import Array, Node
from lamina.ir.pattern import Reject
from lamina.ir.traced import dense
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.ops import Deconvolution, QuantizedConvolution
from lamina.ops.quantized import EIGHT_BIT
from lamina.tactics.candidate import Blob, Candidate, Placement

_MOST_CHANNELS: Final = 8
_MOST_DEPTH: Final = 1024
_OUTSIDE: Final = 1 << 20
"""A step that leads out of every image."""
_HALF: Final = 2
_MOST_GATHERED: Final = 32
"""Numbers or words of a step that a thread holds in registers."""
_LOADS_PER_MICROSECOND: Final = 2.0e4
"""Numbers that a multiprocessor gathers: about 10 instructions each."""


class TritonFewChannels:
    """Gathers windows through a table; reads row-major images as they come."""

    name = "triton-few-channels"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer tiles for either form of the image, in words of two numbers where that can be."""
        cases = cases_in_both_forms(node, target, _why_not)
        if not isinstance(cases, list):
            return cases
        found: list[Candidate] = []
        for case in cases:
            whole = case.convolved(case.dense, matrix=True)[0]
            for words in (False, True):
                if words and not _has_words(whole):
                    continue
                found += _candidates(self.name, case, words)
        return found


def _candidates(name: str, case: Case, words: bool) -> list[Candidate]:
    dtype = case.node.inputs[0].tensor.dtype
    at, steps, moved = case.windows, _depth(case, words), case.work().moved_bytes
    depth = len(steps)
    found = []
    for precision, share in precisions(dtype, case.target):
        suffix = f"{' words' if words else ''}{f' {precision}' if dtype is DType.F32 else ''}"
        for tile in _tiles(case):
            work = Work(
                rows=case.likely(at.pixels),
                columns=at.filters,
                depth=depth * (_HALF if words else 1),
                dtype=dtype,
                rate_share=share,
                moved_bytes=moved,
            )
            programs = -(-work.rows // tile.rows) * -(-work.columns // tile.columns)
            gathered = programs * tile.rows * depth / case.target.sms / _LOADS_PER_MICROSECOND
            cost = estimate(work, tile, case.target) + gathered
            draft = _draft(case, tile, steps, words, precision)
            tactic = f"{name} {tile}{suffix}"
            found.append(
                Candidate(tactic, case.reads, case.writes, cost, draft)  # type: ignore[arg-type]
            )
    return found


def _why_not(case: Case) -> str:
    op, at = case.op, case.windows
    x = case.node.inputs[0].tensor
    if isinstance(op, Deconvolution) or op.groups != 1 or case.filters is None:
        return "it takes constant filters in one group, not transposed"
    if x.dtype not in (EIGHT_BIT if isinstance(op, QuantizedConvolution) else FLOATS):
        return f"the matrix units take f16, bf16 and f32, not {x.dtype}"
    if why := why_not_multiplied(x.dtype, case.target):
        return why
    if at.channels > _MOST_CHANNELS or at.channels * at.tap_count > _MOST_DEPTH:
        return f"{at.channels} channels and {at.tap_count} taps are not few"
    if not all(is_static(size) for size in at.inner):
        return "the size of the image is not known"
    return ""


def _tiles(case: Case) -> list[Tile]:
    filters = case.windows.filters
    narrow = 1 if case.target.arch < 80 else 4
    dtype = case.node.inputs[0].tensor.dtype
    found = []
    for rows in (32, 64, 128, 256):
        for columns in (16, 32, 64, 128):
            if columns > max(16, 1 << (filters - 1).bit_length()):
                continue
            for depth in (16, 32, 64) if dtype.itemsize > 1 else (32, 64):
                for warps in (4, 8):
                    tile = Tile(rows, columns, depth, warps, 2)
                    gathered = rows * depth // (warps * 32)
                    if 4 <= tile.registers <= 16 * narrow and gathered <= _MOST_GATHERED:
                        found.append(tile)
    return found


def _has_words(c: Convolved) -> bool:
    """Whether neighbours in a row can be read in words of two, whatever the window."""
    at = c.windows
    strides = (c.x.batch, c.x.channel, *c.x.spatial[:2], at.inner[2])
    return (
        c.x.dtype.itemsize == _HALF
        and c.x.spatial[2] == 1
        and at.strides[2] == _HALF
        and at.dilations[2] == 1
        and all(divides(_HALF, s) for s in strides)
    )


@dataclass(frozen=True)
class _Step:
    """One element of the depth: its channel and taps, in words two taps (-1: none)."""

    channel: int
    d: int
    h: int
    column: int
    taps: tuple[int, ...]


def _depth(case: Case, words: bool) -> list[_Step]:
    at = case.windows
    taps = at.taps[2]
    columns: list[tuple[int, ...]] = [(t,) for t in range(taps)]
    if words:
        shift = at.pads[2] % _HALF  # words begin at even columns
        padded = [-1] * shift + list(range(taps))
        padded += [-1] * (len(padded) % _HALF)
        columns = list(zip(padded[::_HALF], padded[1::_HALF], strict=True))
    return [
        _Step(channel, d, h, i, chosen)
        for channel in range(at.channels)
        for d in range(at.taps[0])
        for h in range(at.taps[1])
        for i, chosen in enumerate(columns)
    ]


def _draft(
    case: Case, tile: Tile, steps: list[_Step], words: bool, precision: str
) -> Callable[[Placement], CudaDraft]:
    depth = -(-len(steps) // tile.depth) * tile.depth

    def draft(at: Placement) -> CudaDraft:
        (c,) = case.convolved(at, matrix=True)
        if words:
            c = _in_words(c)
        table = Blob(Weight(_table(c, steps, depth)))
        assert case.filters is not None
        taps = packed_factors(case.filters, c.w.dtype, case.target)
        packed = Blob(Weight(_packed(taps, steps, depth)))
        filters = Filters(packed, c.w.dtype, depth, 1, 1, packed=True)
        c = replace(c, w=filters)
        launch = few_launch(c, table, depth, words, tile, precision, case.target)
        return CudaDraft(launches=(launch,))

    return draft


def _in_words(c: Convolved) -> Convolved:
    """Return a convolution that counts columns and strides of the image in words."""
    at, x = c.windows, c.x

    def half(sizes: Sizes) -> Sizes:
        return (floordiv(sizes[0], _HALF), floordiv(sizes[1], _HALF), 1)

    pads: Three = (*at.pads[:2], -(-at.pads[2] // _HALF))
    inner: Sizes = (*at.inner[:2], floordiv(at.inner[2], _HALF))
    windows: Windows = replace(at, strides=(*at.strides[:2], 1), pads=pads, inner=inner)
    image: Image = replace(
        x,
        batch=floordiv(x.batch, _HALF),
        channel=floordiv(x.channel, _HALF),
        spatial=half(x.spatial),
    )
    return replace(c, windows=windows, x=image)


def _table(c: Convolved, steps: list[_Step], depth: int) -> Array:
    """Return [4, depth]: offset, steps along depth, row and column of the image."""
    table = np.zeros((4, depth), np.int32)
    table[1:, len(steps) :] = _OUTSIDE
    at = c.windows
    strides = [evaluate(stride, {}) for stride in (c.x.channel, *c.x.spatial)]
    for i, step in enumerate(steps):
        column = step.column * (at.dilations[2] if len(step.taps) == 1 else 1)
        places = (step.d * at.dilations[0], step.h * at.dilations[1], column)
        moves = zip((step.channel, *places), strides, strict=True)
        table[0, i] = sum(n * stride for n, stride in moves)
        table[1:, i] = places
    return table


def _packed(filters: Array, steps: list[_Step], depth: int) -> Array:
    """Return [taps of a step, filters, depth]."""
    count = prod(filters.shape[1:])
    # What is no tap of the filters is the zero behind the last one.
    flat = np.pad(filters.reshape(len(filters), count), ((0, 0), (0, 1)))
    taps = np.full((len(steps[0].taps), depth), count)
    for i, step in enumerate(steps):
        for half, tap in enumerate(step.taps):
            if tap >= 0:
                place = (step.channel, step.d, step.h, tap)
                taps[half, i] = np.ravel_multi_index(place, filters.shape[1:])
    return dense(np.take(flat, taps, axis=1).swapaxes(0, 1))
