"""Convolutions of a few channels with the maximum over windows that follows, in one kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product as cartesian
from typing import Final

import numpy as np

from lamina.backends.cuda.request import CudaDraft, Launch, Number
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.convolution_launch import Convolved
from lamina.backends.cuda.tactics.stages import Stages, stages_of
from lamina.backends.cuda.tactics.windows import image
from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.layout import Layout
from lamina.errors import BuildError
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
_TENSOR_MEMORY: Final = 10
_IMAGE_RANK: Final = 4
_NEW: Final = 2
"""Columns of the convolution that are new to each window."""
_SMALLEST: Final = 16
_LOADED: Final = (2, 4, 8)
"""Numbers of 16 bits that one load may bring."""
_MOST_DEPTH: Final = 256
_MOST_GATHERED: Final = 64
"""Registers of a thread that hold a row of the image."""
_RISING: Final = (ActivationKind.RELU, ActivationKind.CLIP, ActivationKind.SIGMOID)
"""Activations that the maximum may be taken before."""
_ROW_MICROSECONDS: Final = 2.4
"""For a row of 64 windows, 256 deep, of 64 filters, from its loads to its maxima."""
_START_MICROSECONDS: Final = 2.5
_FULL: Final = 64
"""Windows and filters for which that holds; a matrix instruction of 9.0 takes as many rows."""


@dataclass(frozen=True)
class _Problem:
    """A convolution and the windows over its result."""

    case: Case
    pool: Pool
    stages: Stages

    @property
    def sizes(self) -> tuple[int, int]:
        """Rows and columns of the result."""
        high, wide = self.stages.results[0].tensor.shape[2:]
        return int(high), int(wide)  # type: ignore[arg-type]

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

    def is_aligned(self, x: Layout) -> bool:
        """Whether a load of ``step`` neighbours lies inside or outside of the image as a whole."""
        sizes = (x.strides[0], x.strides[1], x.strides[2], self.case.windows.inner[2])
        return self.step in _LOADED and all(divides(self.step, s) for s in sizes)

    @property
    def first(self) -> int:
        """Return the column where the loads of window 0 begin."""
        return self.lowest // self.step * self.step

    @property
    def vectors(self) -> int:
        """Return the loads of a row of a filter."""
        at = self.case.windows
        highest = self.lowest + at.strides[2] + at.taps[2] - 1
        return (highest - self.first) // self.step + 1

    @property
    def parts(self) -> int:
        """Return the loads of a window, padded to a power of two."""
        at = self.case.windows
        count = at.channels * at.taps[1] * self.vectors
        return max(_NEW * _SMALLEST // self.step, 1 << (count - 1).bit_length())

    def packed(self, filters: Array, columns: int) -> Array:
        """Return filters twice, shifted, as [filters in blocks of 2 * columns, depth]."""
        at = self.case.windows
        blocks = -(-at.filters // columns)
        whole = np.zeros((blocks * columns, _NEW, self.parts * self.step), filters.dtype)
        shape = (at.channels, at.taps[1], self.vectors * self.step)
        for new in range(_NEW):
            begin = self.lowest + new * at.strides[2] - self.first
            row = np.zeros((at.filters, *shape), filters.dtype)
            row[..., begin : begin + at.taps[2]] = filters[:, :, 0]
            whole[: at.filters, new, : math.prod(shape)] = row.reshape(at.filters, -1)
        return whole.reshape(blocks, columns, _NEW, -1).swapaxes(1, 2).reshape(-1, whole.shape[-1])


@dataclass(frozen=True)
class _Tile:
    """Rows and columns of windows, filters, warps, rows of the image in flight."""

    rows: int
    windows: int
    filters: int
    warps: int
    stages: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.windows}x{self.filters} w{self.warps} s{self.stages}"


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
    if target.arch // 10 == _TENSOR_MEMORY:
        return "Triton does not arrange the windows for the tensor memory of 10.x"
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
    if not problem.is_aligned(case.dense.operands[0]) or problem.parts * problem.step > _MOST_DEPTH:
        return "rows of the image do not begin at multiples of a step, or the filters are too large"
    return ""


def _tiles(p: _Problem) -> Iterator[_Tile]:
    high, wide = p.sizes
    strips = sorted({-(-high // n) for n in (1, 2, 4, 8, 16, 32, 64)})
    most = max(_SMALLEST, 1 << (p.case.windows.filters - 1).bit_length())
    columns = [n for n in (16, 32, 64, 128) if n <= 2 * _SMALLEST or n < 4 * wide]
    for rows, windows, filters, warps, stages in cartesian(
        strips, columns, (16, 32, 64), (4, 8), (1, 2)
    ):
        sums = windows * filters * _NEW // (warps * 32)
        gathered = windows * _MOST_DEPTH // 2 // (warps * 32)
        if filters <= most and 8 <= sums <= 64 and gathered <= _MOST_GATHERED:
            yield _Tile(rows, windows, filters, warps, stages)


def _estimate(p: _Problem, tile: _Tile, target: CudaTarget) -> float:
    high, wide = p.sizes
    at = p.case.windows
    strips = math.ceil(wide / (tile.windows - p.shared[1])) * math.ceil(high / tile.rows)
    programs = strips * math.ceil(at.filters / tile.filters) * p.case.likely(at.images)
    rows = tile.rows * p.pool.strides[0] + p.shared[0]
    tall = max(tile.windows, _FULL) / _FULL
    row = _ROW_MICROSECONDS * tall * (0.4 + 0.6 * tile.filters / _FULL)
    resident = 2 if tile.warps == 4 else 1
    each = math.ceil(programs / target.sms)
    compute = rows * row * max(0.6 * each, math.ceil(each / resident))
    values = (*p.stages.region.inputs, *p.stages.region.outputs)
    moved = sum(evaluate(v.tensor.size, target.env) * v.tensor.dtype.itemsize for v in values)
    return float(_START_MICROSECONDS + max(compute, moved / target.bytes_per_microsecond))


def _draft(p: _Problem, tile: _Tile, target: CudaTarget) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        if not p.is_aligned(at.operands[0]):
            raise BuildError("rows of the image do not begin at multiples of a step")
        c = p.stages.convolved(p.case.node, at, target)
        return CudaDraft(launches=(_launch(p, c, at, tile, target),))

    return draft


def _launch(p: _Problem, c: Convolved, where: Placement, tile: _Tile, target: CudaTarget) -> Launch:
    at, result = c.windows, p.stages.results[0]
    y = image(result.tensor, where.results[0], p.stages.role(result))
    filters = p.case.filters
    assert filters is not None
    blocks = -(-at.filters // tile.filters) * tile.filters * _NEW
    depth = p.parts * p.step
    dtype = c.x.dtype

    def pack() -> Weight:
        return Weight(p.packed(filters, tile.filters))

    call = Call("pooled", "pooled")
    call.pointer("x", c.x.role, dtype)
    call.pointer("w", Packed(dtype, blocks * depth * dtype.itemsize, pack), dtype)
    if c.bias is None:
        call.pointer("bias", None)
    else:
        call.pointer("bias", *c.bias)
    call.pointer("y", y.role, y.dtype)
    high, wide = p.sizes
    call.sizes(IN_H=at.inner[1], IN_W=at.inner[2], CONV_H=at.outer[1], CONV_W=at.outer[2])
    call.sizes(OUT_H=high, OUT_W=wide, FILTERS=at.filters)
    call.sizes(X_BATCH=c.x.batch, X_CHANNEL=c.x.channel, X_ROW=c.x.spatial[1])
    call.sizes(Y_BATCH=y.batch, Y_ROW=y.spatial[1], Y_COLUMN=y.spatial[2])
    call.constants(DEPENDENT=target.dependent, **_constants(p, tile, c.fused.activation))
    width = tile.windows - p.shared[1]
    programs: Dim = at.images * ceildiv(high, tile.rows) * ceildiv(wide, width)
    return call.launch(
        (programs, ceildiv(at.filters, tile.filters)),
        warps=tile.warps,
        stages=tile.stages,
        dependent=target.dependent,
    )


def _constants(p: _Problem, tile: _Tile, activation: Epilogue | None) -> dict[str, Number]:
    at, pool = p.case.windows, p.pool
    high, wide = p.sizes
    rows, columns = (int(n) for n in at.outer[1:])  # type: ignore[arg-type]
    below = (high - 1) * pool.strides[0] + pool.kernel[0] - pool.pads_begin[0]
    first = -pool.pads_begin[1]
    last = first + _NEW * wide
    return {
        "CHANNELS": at.channels,
        "TAPS_H": at.taps[1],
        "STRIDE_H": at.strides[1],
        "PAD_H": at.pads[1],
        "POOL_STRIDE_H": pool.strides[0],
        "POOL_PAD_H": pool.pads_begin[0],
        "POOL_PAD_W": pool.pads_begin[1],
        "SHARED_H": p.shared[0],
        "SHARED_W": p.shared[1],
        "CUT_ROWS": below > rows,
        "CUT_EVEN": first < 0 or last >= columns,
        "CUT_ODD": first + 1 < 0 or last > columns,
        "ROWS": tile.rows,
        "BLOCK_Q": tile.windows,
        "BLOCK_N": tile.filters,
        "PARTS": p.parts,
        "VECTORS": p.vectors,
        "FIRST": p.first,
        "STEP": p.step,
        "KIND": activation.kind.value if activation else None,
        "ALPHA": activation.alpha if activation else 0.0,
        "BETA": activation.beta if activation else 0.0,
    }
