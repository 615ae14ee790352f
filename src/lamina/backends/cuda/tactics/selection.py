"""Top-k by ranks: every element counts those that come before it.

That is n*n comparisons, which many processors share; long rows are narrowed down in parts first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lamina.backends.cuda.request import CudaDraft, Launch
from lamina.backends.cuda.tactics.call import Call, OnlyDraft
from lamina.backends.cuda.tactics.generated import all_tensors
from lamina.backends.cuda.target import CudaTarget
from lamina.backends.cuda.triton_types import TRITON_TYPES
from lamina.codegen.scalar import SCALAR_DTYPES
from lamina.codegen.triton.cost import LAUNCH_MICROSECONDS
from lamina.codegen.triton.schedule import Sizes
from lamina.codegen.triton.tile import power_of_two
from lamina.ir.dims import Dim, ceildiv, is_static, product
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import TopK
from lamina.tactics.candidate import Candidate, Read, Scratch, Write
from lamina.tactics.form import Form

_SHORT: Final = 4096
"""A list that is ranked as a whole, unless nothing can make it shorter."""

_TILES: Final = ((64, 64, 4), (16, 256, 4), (128, 64, 8))
_OPERATIONS: Final = 6
"""Instructions of a comparison of two elements."""


@dataclass(frozen=True)
class _Level:
    """A launch: the length of the lists, of the parts, and where the lists begin (elements)."""

    count: Dim
    part: Dim
    source_at: Dim | None
    kept_at: Dim


class TopKByRank:
    """The largest or smallest elements along an axis, in order."""

    name = "ranks"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer some tiles of comparisons."""
        if not isinstance(node.op, TopK):
            return None
        if not all_tensors(node):
            return Reject("only NumPy can run it")
        x = node.inputs[0].tensor
        if x.dtype not in SCALAR_DTYPES or x.dtype not in TRITON_TYPES:
            return Reject(f"{x.dtype} has no order")
        levels, words = _levels(node, Sizes(target.env))
        plain = Form.PLAIN
        return [
            Candidate(
                tactic=f"ranks {tile[0]}x{tile[1]} w{tile[2]}",
                reads=(plain,),
                writes=(plain, plain),
                estimate_microseconds=_estimate(node, levels, tile, target),
                draft=OnlyDraft(_draft(node, node.op, (levels, words), tile, target)),  # type: ignore[arg-type]
                takes_strides=False,
            )
            for tile in _TILES
        ]


def _rows(node: Node, op: TopK) -> tuple[Dim, Dim]:
    """Return how many rows there are, and how many of them lie side by side."""
    shape = node.inputs[0].tensor.shape
    inner = product(shape[op.axis + 1 :])
    return product(shape[: op.axis]) * inner, inner


def _levels(node: Node, sizes: Sizes) -> tuple[list[_Level], Dim]:
    """Return the launches, and the elements of workspace for all lists."""
    op = node.op
    assert isinstance(op, TopK)
    rows, _ = _rows(node, op)
    count: Dim = node.inputs[0].tensor.shape[op.axis]
    source: Dim | None = None
    used: Dim = 0
    levels = []
    while is_static(op.k) and sizes(count) > _SHORT:
        k = int(op.k)  # type: ignore[arg-type]
        part = max(1024, 4 * power_of_two(k))
        parts = ceildiv(count, part)
        if sizes(parts) * k * 2 > sizes(count):
            break
        levels.append(_Level(count, part, source, used))
        count, source = parts * k, used
        used = used + rows * count
    levels.append(_Level(count, count, source, 0))
    return levels, used


def _estimate(
    node: Node, levels: list[_Level], tile: tuple[int, int, int], target: CudaTarget
) -> float:
    op, sizes = node.op, Sizes(target.env)
    assert isinstance(op, TopK)
    rows = sizes(_rows(node, op)[0])
    time = 0.0
    for level in levels:
        count, part = sizes(level.count), sizes(level.part)
        programs = rows * max(1, -(-count // tile[0]))
        busy = min(1.0, programs * tile[2] / (target.sms * 8))
        work = rows * count * -(-part // tile[1]) * tile[1] * _OPERATIONS
        rate = target.flops_per_microsecond["f32"] / 2
        time += LAUNCH_MICROSECONDS + work / rate / max(busy, 1e-3)
    return time


def _draft(
    node: Node,
    op: TopK,
    levels: tuple[list[_Level], Dim],
    tile: tuple[int, int, int],
    target: CudaTarget,
) -> CudaDraft:
    if op.k == 0 or node.inputs[0].tensor.size == 0:
        return CudaDraft(launches=())
    found, words = levels
    last = found[-1]
    launches = tuple(_launch(node, op, level, level is last, tile, target) for level in found)
    return CudaDraft(launches=launches, workspace_bytes=words * 4)


def _launch(
    node: Node,
    op: TopK,
    level: _Level,
    last: bool,
    tile: tuple[int, int, int],
    target: CudaTarget,
) -> Launch:
    x = node.inputs[0].tensor
    rows, inner = _rows(node, op)
    block, step, warps = tile
    narrowed = level.source_at is not None
    call = Call("selection", "rank")
    call.pointer("x", Read(0), x.dtype)
    call.pointer("source", Scratch() if narrowed else None)
    call.pointer("kept", None if last else Scratch())
    call.pointer("values", Write(0) if last else None, x.dtype)
    call.pointer("indices", Write(1) if last else None, DType.I64)
    call.sizes(SIZE=x.shape[op.axis], INNER=inner, COUNT=level.count, PART=level.part, K=op.k)
    call.sizes(SOURCE_AT=level.source_at or 0, KEPT_AT=level.kept_at)
    call.constants(NARROWED=narrowed, LAST=last, LARGEST=op.largest, BOOL=x.dtype is DType.BOOL)
    call.constants(BLOCK=block, STEP=step, DEPENDENT=target.dependent)
    programs = rows * ceildiv(level.count, level.part) * ceildiv(level.part, block)
    return call.launch((programs,), warps=warps, stages=1, dependent=target.dependent)
