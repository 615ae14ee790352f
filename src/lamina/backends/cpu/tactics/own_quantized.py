"""8-bit convolutions through Lamina's own kernels."""

from __future__ import annotations

import numpy as np

from lamina.backends.cpu.kernels import depthwise_int8
from lamina.backends.cpu.kernels.depthwise_int8 import DepthwiseInt8Problem
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.layout import Layout
from lamina.codegen.llvm.builder import Module
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.ops import QuantizedConvolution
from lamina.ops.kinds import ActivationKind
from lamina.plan.plan import StepKind
from lamina.precision.scalings import LIMITS
from lamina.tactics.candidate import Blob, Candidate, Draft, Placement, Read, Write, constant
from lamina.tactics.form import Form, layout

_OUTPUTS_PER_MICROSECOND = 1e4
_LARGEST = 2.0**30


class OwnQuantized:
    """The kernel of :mod:`lamina.backends.cpu.kernels.depthwise_int8`."""

    name = "lamina"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer one candidate for a depthwise convolution of bytes."""
        op = node.op
        if not isinstance(op, QuantizedConvolution):
            return None
        if reason := _refusal(node, op):
            return Reject(reason)
        last = Form.CHANNELS_LAST
        x, y = node.inputs[0].tensor, node.output.tensor
        problem = _problem(node, op, layout(x, last), layout(y, last))
        if why := depthwise_int8.why_not(problem, target.isa):
            return Reject(why)
        factors, bias = _scaling(node, op)
        if np.abs(factors).max() * (127 * 255 * 49) + np.abs(bias).max() > _LARGEST:
            return Reject("the result may not fit 32 bits")

        def draft(p: Placement) -> Draft:
            return _draft(node, op, target, p)

        cost = 1.0 + float(np.prod(y.static_shape)) / _OUTPUTS_PER_MICROSECOND
        reads: list[Form | None] = [last, None, None, None]
        return [Candidate("depthwise", tuple(reads[: len(node.inputs)]), (last,), cost, draft)]


def _refusal(node: Node, op: QuantizedConvolution) -> str | None:
    x, w, y = node.inputs[0].tensor, node.inputs[1].tensor, node.output.tensor
    if x.rank != 4 or not x.is_static or 0 in (*x.shape, *y.shape):
        return f"needs an image of known size, got {x}"
    if x.dtype is not DType.U8 or y.dtype is DType.F32:
        return f"needs u8 to 8 bits, got {x.dtype} to {y.dtype}"
    if not op.groups == w.shape[0] == x.shape[1]:
        return f"needs one channel per group, got {op.groups} groups of {x.shape[1]} channels"
    if op.rounding is not None or len(node.inputs) > 4 or set(op.dilations) != {1}:
        return "has no residual, no rounding inside and no dilation"
    if any(constant(v) is None for v in node.inputs[1:]):
        return "weights, scales or bias are not constant"
    if op.activation and op.activation.kind not in (ActivationKind.RELU, ActivationKind.CLIP):
        return f"has no activation {op.activation.kind}"
    return None


def _limits(op: QuantizedConvolution) -> tuple[int, int]:
    """Return the smallest and largest result: the type's, or an activation's where tighter."""
    y, (smallest, largest) = op.y_scaling, LIMITS[op.dtype]
    assert y is not None
    low, high = -np.inf, np.inf
    if op.activation is not None:
        low, high = 0.0, np.inf
        if op.activation.kind is ActivationKind.CLIP:
            low, high = op.activation.alpha, op.activation.beta
    bounds = np.rint(np.array([low, high]) / y.scale) + y.zero_point
    least, most = np.clip(bounds, smallest, largest)
    return int(least), int(most)


def _problem(
    node: Node, op: QuantizedConvolution, src: Layout, dst: Layout
) -> DepthwiseInt8Problem:
    n, c, *size = node.inputs[0].tensor.static_shape
    out, kernel = node.output.tensor.static_shape[2:], node.inputs[1].tensor.static_shape[2:]
    return DepthwiseInt8Problem(
        batch=n,
        channels=c,
        size=(size[0], size[1]),
        out_size=(out[0], out[1]),
        kernel=(kernel[0], kernel[1]),
        strides=(op.strides[0], op.strides[1]),
        pads=(op.pads_begin[0], op.pads_begin[1]),
        src=depthwise_int8.pixel_strides(src),
        dst=depthwise_int8.pixel_strides(dst),
        signed=op.dtype is DType.I8,
        limits=_limits(op),
    )


def _scaling(node: Node, op: QuantizedConvolution) -> tuple[np.ndarray, np.ndarray]:
    """Return what a sum of products of bytes is multiplied with, and what is added to it."""
    assert op.y_scaling is not None
    w, w_scale, *bias = (constant(v).array for v in node.inputs[1:])  # type: ignore[union-attr]
    factors = w_scale.astype(np.float64) * op.x_scaling.scale / op.y_scaling.scale
    sums = w.astype(np.int64).sum(axis=(1, 2, 3))
    offset = op.y_scaling.zero_point - factors * sums * op.x_scaling.zero_point
    if bias:
        offset = offset + bias[0] / op.y_scaling.scale
    return factors, offset


def _draft(node: Node, op: QuantizedConvolution, target: CpuTarget, p: Placement) -> Draft:
    problem = _problem(node, op, p.operands[0], p.results[0])
    module = Module(target.isa)
    symbols = depthwise_int8.build(module, p.name, problem)
    weights = constant(node.inputs[1])
    assert weights is not None
    vectors = [depthwise_int8.pack_vector(v.astype(np.float32)) for v in _scaling(node, op)]
    zeros = np.full(depthwise_int8.WIDEST, op.x_scaling.zero_point, np.uint8)
    packed = depthwise_int8.pack_weights(weights.array[:, 0], problem)
    constants = [Blob(Weight(packed)), *(Blob(Weight(v)) for v in vectors), Blob(Weight(zeros))]
    return Draft(
        kind=StepKind.KERNEL,
        arguments=(Read(0), *constants, Write(0)),
        symbols=symbols,
        threads=target.threads,
        module=str(module),
    )
