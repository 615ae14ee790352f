"""Operators whose data decides the size of their result."""

from __future__ import annotations

from typing import Final

from lamina.backends.cuda.request import CudaDraft, Launch
from lamina.backends.cuda.tactics.call import Call, OnlyDraft
from lamina.backends.cuda.tactics.generated import all_tensors
from lamina.backends.cuda.target import CudaTarget
from lamina.backends.cuda.triton_types import TRITON_TYPES
from lamina.codegen.scalar import SCALAR_DTYPES
from lamina.codegen.triton.cost import LAUNCH_MICROSECONDS
from lamina.codegen.triton.schedule import Sizes
from lamina.ir.dims import Dim, ceildiv, dim_max, product, sym, symbols
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import Nms, NonZero
from lamina.tactics.candidate import Candidate, Count, Read, Scratch, Write
from lamina.tactics.form import Form

_CHUNK, _STEP = 1024, 256
_BOXES: Final = 1024
_PASS_MICROSECONDS: Final = 3.0
"""A pass over a block of boxes: reductions among the threads of a program."""
_LIKELY_KEPT: Final = 100


class Counting:
    """Kernels that write into memory for the largest result and say how much they wrote."""

    name = "counting"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer the one way that there is, for row-major operands."""
        op = node.op
        if not isinstance(op, NonZero | Nms):
            return None
        if not all_tensors(node):
            return Reject("only NumPy can run it")
        names = tuple(symbols(op.count))
        if len(names) != 1 or op.count != sym(names[0]):
            return Reject(f"the number of results is {op.count}, not a symbol of its own")
        if why := _refusal(node):
            return Reject(why)
        draft = _nonzero(node, target) if isinstance(op, NonZero) else _nms(node, op, target)
        time = LAUNCH_MICROSECONDS * len(draft.launches)
        if isinstance(op, Nms):
            blocks = -(-Sizes(target.env)(node.inputs[1].tensor.shape[2]) // _BOXES)
            time += _LIKELY_KEPT * blocks * _PASS_MICROSECONDS
        return [
            Candidate(
                tactic="counting",
                reads=(Form.PLAIN,) * len(node.inputs),
                writes=(Form.PLAIN,),
                estimate_microseconds=time,
                draft=OnlyDraft(draft),  # type: ignore[arg-type]
                takes_strides=False,
            )
        ]


def _refusal(node: Node) -> str:
    for v in node.inputs:
        if v.tensor.dtype not in SCALAR_DTYPES or v.tensor.dtype not in TRITON_TYPES:
            return f"{v.tensor.dtype} is only stored, never computed with"
    if isinstance(node.op, NonZero) and not node.inputs[0].tensor.rank:
        return "a scalar has no coordinates"
    if isinstance(node.op, Nms):
        if node.inputs[1].tensor.dtype not in (DType.F16, DType.F32, DType.F64):
            return f"scores of {node.inputs[1].tensor.dtype}"
        if not all(v.tensor.dtype.is_float for v in node.inputs[3:]):
            return "a limit is no float"
    return ""


def _nonzero(node: Node, target: CudaTarget) -> CudaDraft:
    """Count the chunks, then list one axis after the other."""
    x = node.inputs[0].tensor
    chunks = dim_max(1, ceildiv(x.size, _CHUNK))
    count = Call("counting", "count_set")
    count.pointer("x", Read(0), x.dtype)
    count.pointer("counts", Scratch(), DType.I32)
    count.sizes(SIZE=x.size)
    count.constants(BLOCK=_CHUNK, DEPENDENT=target.dependent)
    launches = [count.launch((chunks,), warps=4, stages=1, dependent=target.dependent)]
    for axis, length in enumerate(x.shape):
        call = Call("counting", "list_set")
        call.pointer("x", Read(0), x.dtype)
        call.pointer("counts", Scratch(), DType.I32)
        call.pointer("y", Write(0), DType.I64)
        call.pointer("slot", Count(), DType.I64)
        stride = product(x.shape[axis + 1 :])
        call.sizes(SIZE=x.size, CHUNKS=chunks, STRIDE=dim_max(1, stride), LENGTH=dim_max(1, length))
        call.constants(AXIS=axis, BLOCK=_CHUNK, STEP=_STEP, DEPENDENT=target.dependent)
        launches.append(call.launch((chunks,), warps=4, stages=1, dependent=target.dependent))
    return _counted(node, launches, chunks * 4, x.size)


def _nms(node: Node, op: Nms, target: CudaTarget) -> CudaDraft:
    """Keep boxes of every class by itself, then list them."""
    scores = node.inputs[1].tensor
    images, classes, count = scores.shape
    labels = images * classes
    real = DType.F64 if scores.dtype is DType.F64 else DType.F32
    words = labels * (count + 1)
    if real is DType.F64:
        words = ceildiv(words, 2)
    keep = Call("counting", "keep")
    for number, name in enumerate(("boxes", "scores", "most", "overlap", "least")):
        keep.pointer(name, Read(number), node.inputs[number].tensor.dtype)
    keep.pointer("work", Scratch(), DType.I32)
    keep.pointer("open_scores", Scratch(), real)
    keep.sizes(KEPT_AT=labels, SCORES_AT=words, CLASSES=dim_max(1, classes), COUNT=count)
    keep.constants(CENTERS=op.center_point_box, BLOCK=_BOXES, DEPENDENT=target.dependent)
    launches = [keep.launch((labels,), warps=8, stages=1, dependent=target.dependent)]
    call = Call("counting", "list_kept")
    call.pointer("work", Scratch(), DType.I32)
    call.pointer("y", Write(0), DType.I64)
    call.pointer("slot", Count(), DType.I64)
    call.sizes(KEPT_AT=labels, CLASSES=dim_max(1, classes), LABELS=labels, COUNT=count)
    call.constants(BLOCK=_STEP, DEPENDENT=target.dependent)
    grid = (dim_max(1, labels),)
    launches.append(call.launch(grid, warps=4, stages=1, dependent=target.dependent))
    return _counted(node, launches, (words + labels * count) * real.itemsize, scores.size)


def _counted(node: Node, launches: list[Launch], work: Dim, most: Dim) -> CudaDraft:
    op = node.op
    assert isinstance(op, NonZero | Nms)
    return CudaDraft(
        launches=tuple(launches),
        workspace_bytes=work,
        defines=tuple(symbols(op.count)),
        largest_count=most,
    )
