"""Quantization of images through Lamina's own kernel."""

from __future__ import annotations

import numpy as np

from lamina.backends.cpu.kernels import image
from lamina.backends.cpu.kernels.image import ImageProblem
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm.builder import Module
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import Quantize
from lamina.plan.plan import StepKind
from lamina.tactics.candidate import Candidate, Draft, Placement, Read, Write, constant
from lamina.tactics.form import Form

_BYTES_PER_MICROSECOND = 2e4


class OwnQuantize:
    """The kernel of :mod:`lamina.backends.cpu.kernels.image`: row-major in, channels last out."""

    name = "lamina"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer one candidate for an image with one scale."""
        if not isinstance(node.op, Quantize):
            return None
        problem = _problem(node)
        if isinstance(problem, Reject):
            return problem

        def draft(p: Placement) -> Draft:
            module = Module(target.isa)
            image.build(module, p.name, problem)
            return Draft(
                kind=StepKind.KERNEL,
                arguments=(Read(0), Write(0)),
                symbols=(p.name,),
                threads=target.threads,
                module=str(module),
            )

        size = problem.images * problem.channels * problem.pixels
        reads: list[Form | None] = [Form.PLAIN, None, None]
        cost = 1.0 + 5.0 * size / _BYTES_PER_MICROSECOND
        return [
            Candidate("image", tuple(reads[: len(node.inputs)]), (Form.CHANNELS_LAST,), cost, draft)
        ]


def _problem(node: Node) -> ImageProblem | Reject:
    op, x, y = node.op, node.inputs[0].tensor, node.output.tensor
    assert isinstance(op, Quantize)
    parameters = [constant(v) for v in node.inputs[1:]]
    if x.rank != 4 or not x.is_static or x.dtype is not DType.F32:
        return Reject(f"needs an f32 image of known size, got {x}")
    images, channels, *pixels = x.static_shape
    if not 1 < channels <= image.MOST_CHANNELS or 0 in x.static_shape:
        return Reject(f"needs two to {image.MOST_CHANNELS} channels, got {channels}")
    if y.dtype not in (DType.I8, DType.U8):
        return Reject(f"needs an 8-bit result, got {y.dtype}")
    if op.axis is not None or any(p is None for p in parameters):
        return Reject("needs one constant scale")
    scale, *zero = (np.asarray(p.array).item() for p in parameters if p is not None)
    return ImageProblem(
        images, channels, int(np.prod(pixels)), scale, int(zero[0]) if zero else 0,
        y.dtype is DType.I8,
    )  # fmt: skip
