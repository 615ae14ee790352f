"""RoiAlign whose regions decide how many samples they take; generated kernels do the others."""

from __future__ import annotations

from typing import Final

from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.tactics.call import Call, OnlyDraft
from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.triton.cost import LAUNCH_MICROSECONDS
from lamina.codegen.triton.schedule import Sizes
from lamina.codegen.triton.tile import power_of_two
from lamina.ir.dims import ceildiv
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import RoiAlign
from lamina.ops.kinds import RoiCoordinateMode, RoiMode
from lamina.tactics.candidate import Candidate, Read, Write
from lamina.tactics.form import Form

_LANES: Final = (256, 1024)
"""Elements of the result that a program computes."""
_LIKELY_SAMPLES: Final = 4
_OPERATIONS: Final = 60
"""Instructions of a sample with its four neighbours."""


class Regions:
    """One program for a region and some channels, with loops over the samples of a bin."""

    name = "regions"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer two sizes of tiles."""
        op = node.op
        if not isinstance(op, RoiAlign) or op.sampling_ratio > 0:
            return None
        x = node.inputs[0].tensor
        if x.dtype not in (DType.F16, DType.BF16, DType.F32, DType.F64):
            return Reject(f"regions of {x.dtype}")
        work = Sizes(target.env)(node.output.tensor.size) * _LIKELY_SAMPLES * _OPERATIONS
        time = LAUNCH_MICROSECONDS + work / (target.flops_per_microsecond["f32"] / 2)
        plain = Form.PLAIN
        return [
            Candidate(
                tactic=f"regions {lanes}",
                reads=(plain,) * 3,
                writes=(plain,),
                estimate_microseconds=time,
                draft=OnlyDraft(_draft(node, op, lanes, target)),  # type: ignore[arg-type]
                takes_strides=False,
            )
            for lanes in _LANES
        ]


def _draft(node: Node, op: RoiAlign, lanes: int, target: CudaTarget) -> CudaDraft:
    x, rois, images = (v.tensor for v in node.inputs)
    bins = power_of_two(op.output_height * op.output_width)
    block = max(1, lanes // bins)
    if node.output.tensor.size == 0:
        return CudaDraft(launches=())
    call = Call("regions", "align")
    call.pointer("x", Read(0), x.dtype)
    call.pointer("rois", Read(1), rois.dtype)
    call.pointer("images", Read(2), images.dtype)
    call.pointer("y", Write(0), x.dtype)
    count, channels, height, width = x.shape
    call.sizes(IMAGES=count, CHANNELS=channels, HEIGHT=height, WIDTH=width)
    call.constants(
        OUT_H=op.output_height,
        OUT_W=op.output_width,
        SCALE=op.spatial_scale,
        HALF_PIXEL=op.coordinate_mode is RoiCoordinateMode.HALF_PIXEL,
        MEAN=op.mode is RoiMode.AVG,
        WIDE=x.dtype is DType.F64,
        BINS=bins,
        BLOCK=block,
        DEPENDENT=target.dependent,
    )
    grid = (rois.shape[0], ceildiv(channels, block))
    return CudaDraft(launches=(call.launch(grid, warps=4, stages=1, dependent=target.dependent),))
