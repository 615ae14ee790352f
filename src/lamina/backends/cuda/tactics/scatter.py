"""Scatters: a copy, then updates; what several of them do to one place does not depend on luck.

Updates without a reduction look for the last one of each place first.  Sums of wide numbers may
come in any order, which is the second offer; all else is joined by the first update of a place.
"""

from __future__ import annotations

from typing import Final

from lamina.backends.cuda.request import CudaDraft, Launch
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.generated import all_tensors, kernel_launch, rates
from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.kernels import Reject as Refused
from lamina.codegen.kernels import kernel_for
from lamina.codegen.movement_scatter import ScatterKernel
from lamina.codegen.nest import Refusal
from lamina.codegen.triton.cost import LAUNCH_MICROSECONDS, microseconds
from lamina.codegen.triton.kernel import nest_kernel
from lamina.codegen.triton.places import fill_nest, place_nest
from lamina.codegen.triton.schedule import Sizes, tiles
from lamina.codegen.triton.tile import power_of_two
from lamina.codegen.triton.variants import is_empty
from lamina.ir.dims import Dim, ceildiv, product
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import ScatterElements, ScatterNd
from lamina.ops.kinds import ScatterReduction
from lamina.tactics.candidate import Candidate, Placement, Read, Scratch, Write
from lamina.tactics.form import Form

_WORK: Final = 4
"""Number of the workspace behind three operands and one result."""

_BLOCK, _ROWS = 1024, 128
_ATOMIC = (DType.F32, DType.F64, DType.I32, DType.U32, DType.I64, DType.U64)
_BITS = {1: DType.U8, 2: DType.U16, 4: DType.U32, 8: DType.U64}
_OF_BOOL = {"add": "max", "mul": "min"}


class Scatter:
    """Updates of a copy, at places along an axis or by tuples of indices."""

    name = "scatter"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer the repeatable kernels and, for sums, atomic ones."""
        if not isinstance(node.op, ScatterElements | ScatterNd):
            return None
        if not all_tensors(node):
            return Reject("only NumPy can run it")
        source = kernel_for(node)
        if isinstance(source, Refused):
            return Reject(source.reason)
        assert isinstance(source, ScatterKernel)
        try:
            drafts = _drafts(source, target)
        except Refusal as reason:
            return Reject(str(reason))
        plain = Form.PLAIN
        return [
            Candidate(
                tactic=f"scatter {how}",
                reads=(plain,) * 3,
                writes=(plain,),
                estimate_microseconds=time,
                draft=_Draft(draft),  # type: ignore[arg-type]
                takes_strides=False,
            )
            for how, draft, time in drafts
        ]


class _Draft:
    """Returns the one draft that there is: places are row-major."""

    def __init__(self, draft: CudaDraft) -> None:
        self.draft = draft

    def __call__(self, placement: Placement) -> CudaDraft:
        return self.draft


def _drafts(source: ScatterKernel, target: CudaTarget) -> list[tuple[str, CudaDraft, float]]:
    """Return the ways with their estimates."""
    depth = 0 if source.axis is not None else int(source.indices.shape[-1])  # type: ignore[arg-type]
    slices, size = source.x.size, 1
    count: Dim = source.indices.size
    if source.axis is None:
        count = product(source.indices.shape[:-1])
        slices = product(source.x.shape[:depth])
        size = product(source.x.shape[depth:])  # type: ignore[assignment]
    ways = ["last"] if source.reduction is ScatterReduction.NONE else ["first"]
    if source.reduction is ScatterReduction.ADD and source.x.dtype in _ATOMIC:
        ways.append("atomic")
    result = []
    for way in ways:
        marks = way != "atomic"
        start, time = _start(source, target, count, slices if marks else 0, way)
        launches = [start]
        if count != 0 and size != 0:
            launches += [_mark(count, way == "first", target)] if marks else []
            launches.append(_updates(source, target, (count, size), way))
        work = (count + (slices if marks else 0)) * 4
        likely = Sizes(target.env)
        updates = likely(count) * likely(size)
        time += LAUNCH_MICROSECONDS * (len(launches) - 1)
        time += 2 * updates * source.x.dtype.itemsize / target.bytes_per_microsecond
        if way == "first":
            time += likely(count) ** 2 / 1e7
        result.append((way, CudaDraft(launches=tuple(launches), workspace_bytes=work), time))
    return result


def _start(
    source: ScatterKernel, target: CudaTarget, count: Dim, slices: Dim, way: str
) -> tuple[Launch, float]:
    """Return the launch that copies, computes places and clears, with its estimated time."""
    nests = [n for phase in source.copy.nests for n in phase]
    nests.append(place_nest(source.x, source.indices, source.axis, 1, _WORK))
    if slices != 0:
        number = -1 if way == "last" else (1 << 31) - 1
        nests.append(fill_nest(slices, count, number, _WORK))
    nests = [n for n in nests if not is_empty(n)]
    device = rates(target)
    pairs = [(n, tiles(n, device.processors, device.env)[0]) for n in nests]
    time = LAUNCH_MICROSECONDS + sum(microseconds(n, t, device) for n, t in pairs)
    return kernel_launch(nest_kernel(pairs, "scatter_start"), (3, 1), target), time


def _mark(count: Dim, first: bool, target: CudaTarget) -> Launch:
    call = Call("scatter", "mark")
    call.pointer("work", Scratch(), DType.I32)
    call.sizes(COUNT=count)
    call.constants(FIRST=first, BLOCK=_BLOCK, DEPENDENT=target.dependent)
    return call.launch((ceildiv(count, _BLOCK),), warps=4, stages=1, dependent=target.dependent)


def _updates(source: ScatterKernel, target: CudaTarget, sizes: tuple[Dim, Dim], way: str) -> Launch:
    """Return the launch that writes updates."""
    count, size = sizes
    call = Call("scatter", {"last": "put", "atomic": "add", "first": "join"}[way])
    dtype = source.x.dtype
    kind = source.reduction.value
    if way == "last":
        dtype = _BITS[dtype.itemsize]
    elif dtype is DType.BOOL:
        dtype, kind = DType.U8, _OF_BOOL.get(kind, kind)
    call.pointer("work", Scratch(), DType.I32)
    call.pointer("updates", Read(2), dtype)
    call.pointer("y", Write(0), dtype)
    call.sizes(COUNT=count, SLICE=size)
    call.constants(DEPENDENT=target.dependent)
    grid: tuple[Dim, ...] = (ceildiv(count * size, _BLOCK),)
    if way == "first":
        lanes = min(64, power_of_two(Sizes(target.env)(size)))
        call.constants(KIND=kind, ROWS=_ROWS, BLOCK=lanes)
        grid = (count, ceildiv(size, lanes))
    else:
        call.constants(BLOCK=_BLOCK)
    return call.launch(grid, warps=4, stages=1, dependent=target.dependent)
