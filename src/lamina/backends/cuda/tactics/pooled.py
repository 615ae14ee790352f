"""Convolutions of a few channels with the maximum over windows that follows, in one kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from lamina.backends.cuda.request import CudaDraft, Launch
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import Convolved
from lamina.backends.cuda.tactics.stages import Stages, stages_of
from lamina.backends.cuda.tactics.windows import image
from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.layout import Layout
from lamina.ir.dims import Dim, ceildiv, divides, evaluate, is_static
from lamina.ir.graph import Array, Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.ops import ActivationKind, Convolution, Epilogue, Pool
from lamina.ops.kinds import PoolKind
from lamina.tactics.candidate import Candidate, Packed, Placement, sizes_known
from lamina.tactics.form import Form

_TAKEN: Final = (DType.F16, DType.BF16)
_SINCE: Final = 80
_IMAGE_RANK: Final = 4
_NEW: Final = 2
"""Columns of the convolution that are new to each window."""
_SMALLEST: Final = 16
_LONGEST_VECTOR: Final = 8
_MOST_DEPTH: Final = 256
_MOST_GATHERED: Final = 64
"""Registers of a thread that hold a row of the image."""
_RISING: Final = (ActivationKind.RELU, ActivationKind.CLIP, ActivationKind.SIGMOID)
"""Activations that the maximum may be taken before."""
_ROW_MICROSECONDS: Final = 1.6
"""For a row of 64 windows, 256 deep, of 64 filters, from its loads to its maxima."""
_START_MICROSECONDS: Final = 2.5


@dataclass(frozen=True)
class _Problem:
    """A convolution and the windows over its result."""

    case: Case
    pool: Pool
    stages: Stages

    @property
    def step(self) -> int:
        """Columns of the image between neighbouring windows."""
        return self.case.windows.strides[2] * _NEW

    @property
    def lowest(self) -> int:
        """First column of the image that window 0 needs."""
        at = self.case.windows
        return -at.strides[2] * self.pool.pads_begin[1] - at.pads[2]

    @property
    def shared(self) -> tuple[bool, bool]:
        """Whether windows overlap by one, along rows and columns."""
        rows, columns = (
            k == s + 1 for k, s in zip(self.pool.kernel, self.pool.strides, strict=True)
        )
        return rows, columns

    def vector(self, x: Layout) -> int:
        """Return how many neighbours one load may bring."""
        at = self.case.windows
        sizes = (x.strides[0], x.strides[1], x.strides[2], at.inner[2], self.step)
        most = _LONGEST_VECTOR
        while most > 1 and not all(divides(most, s) for s in sizes):
            most //= 2
        return most

    def first(self, vector: int) -> int:
        """Return the column where the loads of window 0 begin."""
        return self.lowest // vector * vector

    def vectors(self, vector: int) -> int:
        """Return the loads of a row of a filter."""
        at = self.case.windows
        highest = self.lowest + at.strides[2] + at.taps[2] - 1
        return (highest - self.first(vector)) // vector + 1

    def parts(self, vector: int) -> int:
        """Return the loads of a window, padded to a power of two."""
        at = self.case.windows
        count = at.channels * at.taps[1] * self.vectors(vector)
        return max(_SMALLEST // vector, 1 << (count - 1).bit_length())

    def packed(self, filters: Array, columns: int, vector: int) -> Array:
        """Return filters twice, shifted, as [filters in blocks of 2 * columns, depth]."""
        at = self.case.windows
        blocks = -(-at.filters // columns)
        each = self.vectors(vector)
        whole = np.zeros((blocks * columns, _NEW, self.parts(vector) * vector), filters.dtype)
        shape = (at.channels, at.taps[1], each * vector)
        for new in range(_NEW):
            begin = self.lowest + new * at.strides[2] - self.first(vector)
            row = np.zeros((at.filters, *shape), filters.dtype)
            row[..., begin : begin + at.taps[2]] = filters[:, :, 0]
            whole[: at.filters, new, : math.prod(shape)] = row.reshape(at.filters, -1)
        return whole.reshape(blocks, columns, _NEW, -1).swapaxes(1, 2).reshape(-1, whole.shape[-1])


@dataclass(frozen=True)
class _Tile:
    """Rows and columns of windows, filters, warps."""

    rows: int
    windows: int
    filters: int
    warps: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.windows}x{self.filters} w{self.warps}"


class TritonPooled:
    """Reads row-major images, several neighbours at once; stores only the maxima."""

    name = "triton-conv-pool"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer strips of rows and tiles of windows and filters."""
        stages = stages_of(node)
        if stages is None or not isinstance(stages.nodes[-1].op, Pool):
            return None
        problem = _problem(stages, target)
        if isinstance(problem, str):
            return Reject(problem)
        reads = tuple(Form.PLAIN if i == 0 else f for i, f in enumerate(stages.reads))
        return [
            Candidate(
                f"{self.name} {tile}",
                reads,
                stages.writes,
                _estimate(problem, tile, target),
                _draft(problem, tile, target),  # type: ignore[arg-type]
            )
            for tile in _tiles(problem)
        ]


def _problem(stages: Stages, target: CudaTarget) -> _Problem | str:
    first, last = stages.nodes[0], stages.nodes[-1]
    if len(stages.nodes) != 2 or not isinstance(first.op, Convolution):
        return "it is no convolution with a maximum behind it"
    if not sizes_known(stages.region, target.env):
        return "data decides a size"
    case = case_of(first, target, Form.PLAIN)
    assert isinstance(last.op, Pool)
    if not isinstance(case, Case):
        return case or "it is no convolution"
    return _why_not(case, last.op, target) or _Problem(case, last.op, stages)


def _why_not(case: Case, pool: Pool, target: CudaTarget) -> str:
    x, at = case.node.inputs[0].tensor, case.windows
    if x.rank != _IMAGE_RANK or x.dtype not in _TAKEN or target.arch < _SINCE:
        return "it takes images of f16 and bf16, from compute capability 8.0 on"
    if case.op.groups != 1 or case.filters is None or len(case.node.inputs) > case.bias + 1:
        return "it takes constant filters in one group, and no residual"
    if at.dilations != (1, 1, 1) or pool.dilations != (1, 1) or pool.kind is not PoolKind.MAX:
        return "windows must be dense, and their maximum wanted"
    if pool.strides[1] != _NEW or any(
        k - s not in (0, 1) for k, s in zip(pool.kernel, pool.strides, strict=True)
    ):
        return "windows must advance by two columns and overlap by one at most"
    activation = case.op.activation
    if activation is not None and activation.kind not in _RISING:
        return "the activation does not keep the order of numbers"
    if not all(is_static(s) for s in (*at.inner, *at.outer)):
        return "the size of the image is not known"
    problem = _Problem(case, pool, Stages(case.node, (case.node,), ()))
    vector = problem.vector(case.dense.operands[0])
    if vector == 1 or problem.parts(vector) * vector > _MOST_DEPTH:
        return "rows of the image do not begin at even places, or the filters are too large"
    return ""


def _tiles(p: _Problem) -> Iterator[_Tile]:
    high, wide = (int(n) for n in p.stages.results[0].tensor.shape[2:])  # type: ignore[arg-type]
    strips = sorted({-(-high // n) for n in (1, 2, 4, 8, 16, 32, 64)})
    depth = _MOST_DEPTH
    most = max(_SMALLEST, 1 << (p.case.windows.filters - 1).bit_length())
    for rows in strips:
        for windows in (16, 32, 64, 128):
            if windows > 2 * _SMALLEST and windows >= 4 * wide:
                continue
            for filters in (f for f in (16, 32, 64) if f <= most):
                for warps in (4, 8):
                    threads = warps * 32
                    sums = windows * filters * _NEW // threads
                    if not 8 <= sums <= 64 or windows * depth // 2 // threads > _MOST_GATHERED:
                        continue
                    yield _Tile(rows, windows, filters, warps)


def _estimate(p: _Problem, tile: _Tile, target: CudaTarget) -> float:
    high, wide = (int(n) for n in p.stages.results[0].tensor.shape[2:])  # type: ignore[arg-type]
    at = p.case.windows
    strips = math.ceil(wide / (tile.windows - p.shared[1])) * math.ceil(high / tile.rows)
    programs = strips * math.ceil(at.filters / tile.filters) * p.case.likely(at.images)
    rows = tile.rows * p.pool.strides[0] + p.shared[0]
    size = tile.windows * tile.filters / (64 * 64)
    resident = 2 if tile.warps == 4 else 1
    each = math.ceil(programs / target.sms)
    alone = rows * _ROW_MICROSECONDS * max(0.4, size) * (4 / tile.warps) ** 0.5
    compute = max(each * alone * 0.6, math.ceil(each / resident) * alone)
    values = (*p.stages.region.inputs, *p.stages.region.outputs)
    moved = sum(evaluate(v.tensor.size, target.env) * v.tensor.dtype.itemsize for v in values)
    return float(_START_MICROSECONDS + max(compute, moved / target.bytes_per_microsecond))


def _draft(p: _Problem, tile: _Tile, target: CudaTarget) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        vector = p.vector(at.operands[0])
        c = p.stages.convolved(p.case.node, at, target)
        return CudaDraft(launches=(_launch(p, c, at, tile, vector, target),))

    return draft


def _launch(
    p: _Problem, c: Convolved, where: Placement, tile: _Tile, vector: int, target: CudaTarget
) -> Launch:
    at, result = c.windows, p.stages.results[0]
    y = image(result.tensor, where.results[0], p.stages.role(result))
    filters = p.case.filters
    assert filters is not None
    blocks = -(-at.filters // tile.filters) * tile.filters * _NEW
    depth = p.parts(vector) * vector
    dtype = c.x.dtype

    def pack() -> Weight:
        return Weight(p.packed(filters, tile.filters, vector))

    call = Call("pooled", "pooled")
    call.pointer("x", c.x.role, dtype)
    call.pointer("w", Packed(dtype, blocks * depth * dtype.itemsize, pack), dtype)
    if c.bias is None:
        call.pointer("bias", None)
    else:
        call.pointer("bias", *c.bias)
    call.pointer("y", y.role, y.dtype)
    high, wide = result.tensor.shape[2:]
    call.sizes(IN_H=at.inner[1], IN_W=at.inner[2], CONV_H=at.outer[1], CONV_W=at.outer[2])
    call.sizes(OUT_H=high, OUT_W=wide, FILTERS=at.filters)
    call.sizes(X_BATCH=c.x.batch, X_CHANNEL=c.x.channel, X_ROW=c.x.spatial[1])
    call.sizes(Y_BATCH=y.batch, Y_ROW=y.spatial[1], Y_COLUMN=y.spatial[2])
    activation: Epilogue | None = c.fused.activation
    call.constants(
        CHANNELS=at.channels,
        TAPS_H=at.taps[1],
        STRIDE_H=at.strides[1],
        PAD_H=at.pads[1],
        POOL_STRIDE_H=p.pool.strides[0],
        POOL_PAD_H=p.pool.pads_begin[0],
        POOL_PAD_W=p.pool.pads_begin[1],
        SHARED_H=p.shared[0],
        SHARED_W=p.shared[1],
        ROWS=tile.rows,
        BLOCK_Q=tile.windows,
        BLOCK_N=tile.filters,
        PARTS=p.parts(vector),
        VECTOR=vector,
        VECTORS=p.vectors(vector),
        FIRST=p.first(vector),
        STEP=p.step,
        KIND=activation.kind.value if activation else None,
        ALPHA=activation.alpha if activation else 0.0,
        BETA=activation.beta if activation else 0.0,
        DEPENDENT=target.dependent,
    )
    width = tile.windows - p.shared[1]
    programs: Dim = at.images * ceildiv(high, tile.rows) * ceildiv(wide, width)
    return call.launch(
        (programs, ceildiv(at.filters, tile.filters)),
        warps=tile.warps,
        stages=2,
        dependent=target.dependent,
    )
