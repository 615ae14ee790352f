"""First layers on Hopper: few channels, windows that advance by two columns, perhaps a maximum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from lamina.backends.cuda.request import CudaDraft, Launch, Number
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import Convolved
from lamina.backends.cuda.tactics.specialized_boxes import why_not_alike
from lamina.backends.cuda.tactics.stages import Stages, stages_of
from lamina.backends.cuda.tactics.windows import image
from lamina.backends.cuda.target import CudaTarget
from lamina.errors import BuildError
from lamina.ir.blocks import blocked
from lamina.ir.dims import Dim, ceildiv, divides, evaluate, is_static
from lamina.ir.graph import Array, Node
from lamina.ir.pattern import Reject
from lamina.ir.weight import Weight
from lamina.ops import ActivationKind, Convolution, Pool
from lamina.ops.kinds import PoolKind
from lamina.tactics.candidate import Candidate, Packed, Placement, sizes_known
from lamina.tactics.form import Form

_ARCH: Final = 90
"""The one with these matrix instructions; later ones keep sums in a memory of their own."""
_IMAGE_RANK: Final = 4
_STEP: Final = 2
"""Columns that windows advance by: a word of two numbers."""
_FILTERS: Final = 64
_PIXELS: Final = 128
_RUN: Final = 16
"""Columns that a thread takes the maxima of, and"""
_MAXIMA: Final = 7
"""how many maxima of three columns, every other one, they give."""
_WORDS: Final = 8
"""Words that are the depth of a matrix instruction."""
_MOST_PRODUCTS: Final = 16
"""Matrix instructions for a row of results: a thread holds the filters of all."""
_EARLY: Final = 4
"""Groups of rows that may be there before they are needed."""
_PART_BYTES: Final = _PIXELS * _WORDS * 4
_OTHER_BYTES: Final = _PIXELS * _FILTERS * 2 + 2048
_WARPS: Final = 4
_AHEAD: Final = 4
"""Groups of rows between asking memory for rows and loading them."""
_REGISTERS: Final = 128
"""Of each of 512 threads at the start: the kernel deals them out anew."""
_RISING: Final = (ActivationKind.RELU, ActivationKind.CLIP, ActivationKind.SIGMOID)
"""Activations that the maximum may be taken before."""
_START_MICROSECONDS: Final = 1.0
"""The way of filters and of the first rows to the chip."""
_RATE_SHARE: Final = 0.9
_ROW_MICROSECONDS: Final = 0.25
"""What a row of the convolution takes besides its products, and"""
_STORE_MICROSECONDS: Final = 0.35
"""what it takes where all of it is stored."""


@dataclass(frozen=True)
class Problem:
    """A convolution, and the windows over its result whose maxima are wanted, if any."""

    case: Case
    pool: Pool | None
    stages: Stages | None
    high: int
    wide: int
    """Rows and columns of the result."""

    @property
    def first(self) -> int:
        """Return the word of a row of the image where window 0 begins."""
        return -ceildiv(self.case.windows.pads[2], _STEP)  # type: ignore[return-value]

    @property
    def unused(self) -> int:
        """Return how many numbers of that word the window does not see."""
        return -self.case.windows.pads[2] - _STEP * self.first

    @property
    def words(self) -> int:
        """Return the words of a row of a window."""
        return -(-(self.unused + self.case.windows.taps[2]) // _STEP)

    @property
    def deep(self) -> int:
        """Return how often a window contains as many rows as windows advance by."""
        at = self.case.windows
        return -(-at.taps[1] // at.strides[1])

    @property
    def chunks(self) -> int:
        """Return the matrix instructions for that many rows."""
        at = self.case.windows
        return -(-at.strides[1] * at.channels * self.words // _WORDS)

    @property
    def last(self) -> int:
        """Return the matrix instructions for the rows of the filters' end."""
        at = self.case.windows
        rows = at.taps[1] - (self.deep - 1) * at.strides[1]
        return -(-rows * at.channels * self.words // _WORDS)

    @property
    def products(self) -> int:
        """Return the matrix instructions for a row of results."""
        return (self.deep - 1) * self.chunks + self.last

    @property
    def ring(self) -> int:
        """Return the groups of rows that are kept or on their way."""
        return self.deep + _EARLY

    @property
    def columns(self) -> int:
        """Return the columns of results of a program."""
        return _PIXELS if self.pool is None else _PIXELS // _RUN * _MAXIMA

    def is_aligned(self, at: Placement) -> bool:
        """Whether rows of the image begin at words."""
        x = at.operands[0]
        sizes = (x.strides[0], x.strides[1], x.strides[2], self.case.windows.inner[2])
        return x.strides[3] == 1 and all(divides(_STEP, s) for s in sizes)

    def packed(self, filters: Array) -> Array:
        """Return [filters, groups of rows, rows in them, channels, columns], each part padded."""
        at = self.case.windows
        rows = self.deep * at.strides[1] - at.taps[1]
        behind = self.words * _STEP - self.unused - at.taps[2]
        whole = np.pad(filters[:, :, 0], ((0, 0), (0, 0), (0, rows), (self.unused, behind)))
        parts = whole.reshape(at.filters, at.channels, self.deep, at.strides[1], -1)
        parts = parts.transpose(0, 2, 3, 1, 4).reshape(at.filters, self.deep, -1)
        padded = (self.rows_of_filters, self.deep, self.chunks * _WORDS * _STEP)
        return blocked(parts, ((), (), ()), (0, 1, 2), padded)

    @property
    def rows_of_filters(self) -> int:
        """Return the filters with padding."""
        return -(-self.case.windows.filters // _FILTERS) * _FILTERS


class StemConvolution:
    """Programs that go down strips of a row-major image and copy each part of it once."""

    name = "gluon-stem"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer strips, for a convolution alone or with the maximum behind it."""
        problem = problem_of(node, target)
        if not isinstance(problem, Problem):
            return Reject(problem) if problem else None
        stages, case = problem.stages, problem.case
        reads = case.reads if stages is None else (Form.PLAIN, *stages.reads[1:])
        writes = case.writes if stages is None else stages.writes
        return [
            Candidate(
                f"{self.name} {rows}x{problem.columns}",
                reads,
                writes,
                estimate,
                _draft(problem, rows, target),  # type: ignore[arg-type]
            )
            for rows, estimate in _strips(problem, target)
        ]


def problem_of(node: Node, target: CudaTarget) -> Problem | str | None:
    """Return a node as a problem, or why it is none, or None for foreign operators."""
    stages, pool = stages_of(node), None
    first, result = node, node.output if len(node.outputs) == 1 else None
    if stages is not None:
        first, last = stages.nodes[0], stages.nodes[-1]
        if len(stages.nodes) != 2 or not isinstance(last.op, Pool):
            return "it is no convolution with a maximum behind it"
        pool, result = last.op, stages.results[0]
    if not isinstance(first.op, Convolution):
        return None
    if not sizes_known(node, target.env):
        return "data decides a size"
    case = case_of(first, target, Form.PLAIN)
    if not isinstance(case, Case):
        return case
    assert result is not None
    if why := _why_not(case, pool, target):
        return why
    high, wide = result.tensor.shape[2:]
    return _checked(Problem(case, pool, stages, int(high), int(wide)), target)  # type: ignore[arg-type]


def _why_not(case: Case, pool: Pool | None, target: CudaTarget) -> str:
    at = case.windows
    if target.arch != _ARCH:
        return f"it is made for compute capability 9.0, not {target.arch / 10}"
    if case.node.inputs[0].tensor.rank != _IMAGE_RANK or case.filters is None:
        return "it takes images of two axes and constant filters"
    if case.op.groups != 1 or len(case.node.inputs) > case.bias + 1:
        return "it takes one group and no residual"
    if at.strides[2] != _STEP or at.dilations != (1, 1, 1):
        return "windows must be dense and advance by two columns"
    if not all(is_static(s) for s in (*at.inner, *at.outer)):
        return "the size of the image is not known"
    if pool is None:
        return ""
    if pool.kind is not PoolKind.MAX or pool.kernel != (3, 3) or pool.strides != (2, 2):
        return "the maximum must be that of three rows and columns, every other one"
    if pool.dilations != (1, 1):
        return "windows over the result must be dense"
    activation = case.op.activation
    if activation is not None and activation.kind not in _RISING:
        return "the activation does not keep the order of numbers"
    return ""


def _checked(p: Problem, target: CudaTarget) -> Problem | str:
    if why := why_not_alike(p.case.convolved(p.case.dense, matrix=True)[0]):
        return why
    if not p.is_aligned(p.case.dense):
        return "rows of the image do not begin at multiples of two columns"
    room = target.shared_bytes - _OTHER_BYTES
    if p.products > _MOST_PRODUCTS or p.ring * p.chunks * _PART_BYTES > room:
        return "the filters are too large"
    return p


def _strips(p: Problem, target: CudaTarget) -> list[tuple[int, float]]:
    """Return the rows of the best strips, with their microseconds."""
    operations = 2.0 * _PIXELS * _FILTERS * _WORDS * _STEP * p.products
    rate = target.rate(p.case.work().dtype) / target.sms * _RATE_SHARE
    row = operations / rate + _ROW_MICROSECONDS
    row += _STORE_MICROSECONDS if p.pool is None else 0.0
    node = p.stages.region if p.stages else p.case.node
    values = [v.tensor for v in (*node.inputs, *node.outputs)]
    moved = sum(evaluate(t.size, target.env) * t.dtype.itemsize for t in values)
    memory = moved / target.bytes_per_microsecond
    options = []
    for rows in sorted({-(-p.high // bands) for bands in range(1, p.high + 1)}):
        programs = p.case.likely(_programs(p, rows)) * (p.rows_of_filters // _FILTERS)
        made = rows if p.pool is None else 2 * rows + 1
        each = _START_MICROSECONDS + (made + p.deep - 1) * row
        options.append((max(math.ceil(programs / target.sms) * each, memory), rows))
    return [(rows, float(time)) for time, rows in sorted(options)[:2]]


def _programs(p: Problem, rows: int) -> Dim:
    images = p.case.windows.images
    return images * ceildiv(p.high, rows) * ceildiv(p.wide, p.columns)


def _draft(p: Problem, rows: int, target: CudaTarget) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        if not p.is_aligned(at):
            raise BuildError("rows of the image do not begin at multiples of two columns")
        if p.stages is None:
            (c,) = p.case.convolved(at, matrix=True)
        else:
            c = p.stages.convolved(p.case.node, at, target)
            result = p.stages.results[0]
            c = replace(c, y=image(result.tensor, at.results[0], p.stages.role(result)))
        return CudaDraft(launches=(_launch(p, c, rows, target),))

    return draft


def _launch(p: Problem, c: Convolved, rows: int, target: CudaTarget) -> Launch:
    at, filters, dtype = c.windows, p.case.filters, c.x.dtype
    assert filters is not None
    numbers = p.rows_of_filters * p.deep * p.chunks * _WORDS * _STEP

    def pack() -> Weight:
        return Weight(p.packed(filters))

    call = Call("stem", "stem")
    call.pointer("x", c.x.role, dtype)
    call.pointer("w", Packed(dtype, numbers * dtype.itemsize, pack), dtype)
    if c.bias is None:
        call.pointer("bias", None)
    else:
        call.pointer("bias", *c.bias)
    call.pointer("y", c.y.role, c.y.dtype)
    batch, channel, row = (n // _STEP for n in (c.x.batch, c.x.channel, c.x.spatial[1]))
    call.sizes(IN_H=at.inner[1], WIDTH=at.inner[2] // _STEP, CONV_H=at.outer[1], CONV_W=at.outer[2])
    call.sizes(OUT_H=p.high, OUT_W=p.wide, FILTERS=at.filters)
    call.sizes(X_BATCH=batch, X_CHANNEL=channel, X_ROW=row)
    call.sizes(Y_BATCH=c.y.batch, Y_ROW=c.y.spatial[1], Y_COLUMN=c.y.spatial[2])
    call.constants(DEPENDENT=target.dependent, **_constants(p, c, rows))
    grid = (_programs(p, rows), p.rows_of_filters // _FILTERS)
    launch = call.launch(grid, warps=_WARPS, stages=1, dependent=target.dependent)
    return replace(launch, kernel=replace(launch.kernel, most_registers=_REGISTERS))


def _constants(p: Problem, c: Convolved, rows: int) -> dict[str, Number]:
    at, pool = c.windows, p.pool
    pads = (0, 0) if pool is None else pool.pads_begin
    fused = c.fused.constants()
    return {
        "CHANNELS": at.channels,
        "WORDS": p.words,
        "STRIDE_H": at.strides[1],
        "PAD_H": at.pads[1],
        "FIRST": p.first,
        "CHUNKS": p.chunks,
        "LAST": p.last,
        "DEEP": p.deep,
        "POOLED": pool is not None,
        "POOL_PAD_H": pads[0],
        "POOL_PAD_W": pads[1],
        "CUT": pool is not None and 2 * p.wide + 1 - pads[1] > int(at.outer[2]),  # type: ignore[arg-type]
        "ROWS": rows,
        "STAGES": p.ring,
        "AHEAD": _AHEAD,
        **{name: fused[name] for name in ("KIND", "ALPHA", "BETA")},
    }
