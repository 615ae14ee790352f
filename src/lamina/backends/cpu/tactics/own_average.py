"""Averages over windows of bytes through Lamina's own kernel."""

from __future__ import annotations

from dataclasses import dataclass

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
from lamina.ops import Activation, Binary, Cast, Pool, Region, Unary
from lamina.ops.kinds import ActivationKind, BinaryKind, PoolKind, UnaryKind
from lamina.plan.plan import StepKind
from lamina.precision.scalings import LIMITS
from lamina.tactics.candidate import Blob, Candidate, Draft, Placement, Read, Write, constant
from lamina.tactics.form import Form, layout

_OUTPUTS_PER_MICROSECOND = 1e4


@dataclass
class _Average:
    """``clip(round(factor * average + offset), *limits)``; ``padding`` stands for the number 0."""

    limits: tuple[float, float]
    pool: Pool | None = None
    factor: float = 1.0
    offset: float = 0.0
    padding: int = 0
    is_rounded: bool = False
    is_clipped: bool = False


class OwnAverage:
    """The kernel of :mod:`lamina.backends.cpu.kernels.depthwise_int8` with filters of ones."""

    name = "lamina"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer one candidate for a region that averages bytes."""
        if not isinstance(node.op, Region) or node.op.kind != "average":
            return None
        x, y = node.inputs[0].tensor, node.output.tensor
        if x.rank != 4 or not x.is_static or 0 in (*x.shape, *y.shape) or x.dtype is not DType.U8:
            return Reject(f"needs a u8 image of known size, got {x}")
        average = _average(node.op, y.dtype)
        if isinstance(average, Reject):
            return average
        last = Form.CHANNELS_LAST
        problem = _problem(node, average, layout(x, last), layout(y, last))
        if why := depthwise_int8.why_not(problem, target.isa):
            return Reject(why)

        def draft(p: Placement) -> Draft:
            return _draft(node, average, target, p)

        cost = 1.0 + float(np.prod(y.static_shape)) / _OUTPUTS_PER_MICROSECOND
        return [Candidate("depthwise", (last,), (last,), cost, draft)]


def _average(region: Region, dtype: DType) -> _Average | Reject:
    """Return what the steps of a region amount to."""
    steps: list[Node] = []
    node = region.body.outputs[0].node
    while node is not None:
        steps.insert(0, node)
        node = node.inputs[0].node
    low, high = LIMITS[dtype]
    found = _Average((float(low), float(high)))
    for step in steps[1:-1]:
        if not _add(found, step):
            return Reject(f"has no {step.op.name} between the integers")
    pool = found.pool
    if not isinstance(steps[0].op, Cast) or pool is None or not found.is_rounded:
        return Reject("needs an average between a cast and a rounding")
    if pool.ceil_mode or set(pool.dilations) != {1}:
        return Reject("has no dilation and no ceil_mode")
    if any(pad >= size for pad, size in zip(pool.pads_begin, pool.kernel, strict=True)):
        return Reject("a window may lie in the padding alone")
    return found


def _add(found: _Average, step: Node) -> bool:
    """Take in one step; False when it is none of those that are possible there."""
    op = step.op
    if isinstance(op, Pool):
        if op.kind is not PoolKind.AVERAGE or found.is_rounded or found.pool is not None:
            return False
        found.pool, zero = op, -found.offset / found.factor
        found.padding = round(zero) if op.count_include_pad else 0
        return not op.count_include_pad or (zero == found.padding and 0 <= zero <= 255)
    if isinstance(op, Unary):
        found.is_rounded = op.kind is UnaryKind.ROUND and not found.is_rounded
        return found.is_rounded
    if isinstance(op, Activation):
        found.limits = max(op.alpha, found.limits[0]), min(op.beta, found.limits[1])
        found.is_clipped = True
        return op.kind is ActivationKind.CLIP and found.is_rounded
    return isinstance(op, Binary) and _add_arithmetic(found, op.kind, step)


def _add_arithmetic(found: _Average, kind: BinaryKind, step: Node) -> bool:
    number = constant(step.inputs[1])
    if number is None or number.array.size != 1 or found.is_clipped:
        return False
    c = float(np.asarray(number.array).item())
    if kind in (BinaryKind.ADD, BinaryKind.SUB):
        found.offset += c if kind is BinaryKind.ADD else -c
        return not found.is_rounded or c == round(c)
    if kind not in (BinaryKind.MUL, BinaryKind.DIV) or found.is_rounded or c == 0:
        return False
    c = c if kind is BinaryKind.MUL else 1 / c
    found.factor, found.offset = found.factor * c, found.offset * c
    return True


def _problem(node: Node, average: _Average, src: Layout, dst: Layout) -> DepthwiseInt8Problem:
    n, c, *size = node.inputs[0].tensor.static_shape
    out, pool = node.output.tensor.static_shape[2:], average.pool
    assert pool is not None
    return DepthwiseInt8Problem(
        batch=n,
        channels=c,
        size=(size[0], size[1]),
        out_size=(out[0], out[1]),
        kernel=(pool.kernel[0], pool.kernel[1]),
        strides=(pool.strides[0], pool.strides[1]),
        pads=(pool.pads_begin[0], pool.pads_begin[1]),
        src=depthwise_int8.pixel_strides(src),
        dst=depthwise_int8.pixel_strides(dst),
        signed=node.output.tensor.dtype is DType.I8,
        limits=(int(average.limits[0]), int(average.limits[1])),
        is_average=True,
    )


def _draft(node: Node, average: _Average, target: CpuTarget, p: Placement) -> Draft:
    problem = _problem(node, average, p.operands[0], p.results[0])
    module = Module(target.isa)
    symbols = depthwise_int8.build(module, p.name, problem)
    assert average.pool is not None
    ones = np.ones((problem.channels, *problem.kernel), np.int8)
    factors, offsets = (
        depthwise_int8.pack_vector(np.full(problem.channels, number, np.float32))
        for number in (average.factor, average.offset)
    )
    constants = (
        depthwise_int8.pack_weights(ones, problem),
        factors,
        offsets,
        np.full(depthwise_int8.WIDEST, average.padding, np.uint8),
        depthwise_int8.pack_shares(problem, counts_padding=average.pool.count_include_pad),
    )
    return Draft(
        kind=StepKind.KERNEL,
        arguments=(Read(0), *(Blob(Weight(a)) for a in constants), Write(0)),
        symbols=symbols,
        threads=target.threads,
        module=str(module),
    )
