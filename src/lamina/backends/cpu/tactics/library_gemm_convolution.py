"""Pointwise convolutions as matrix products through oneDNN."""

from __future__ import annotations

import numpy as np

from lamina.backends.cpu.onednn.matmul import MatMul
from lamina.backends.cpu.onednn.memory import Layout as LibraryLayout
from lamina.backends.cpu.tactics.library_contraction import (
    estimate_microseconds,
    post_operations,
    refusal,
)
from lamina.backends.cpu.tactics.library_step import library_draft
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.layout import Layout
from lamina.ir.dims import Dim, product
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import TensorType
from lamina.ops import Convolution
from lamina.tactics.candidate import Candidate, Draft, Placement, Read, Role, Write, constant
from lamina.tactics.form import Form


class LibraryGemmConvolution:
    """A 1x1 convolution on channels-last images is one matrix product."""

    name = "onednn gemm"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer the channels-last form."""
        op = node.op
        if not isinstance(op, Convolution):
            return None
        if reason := refusal(node, op.activation, target) or _refusal(node, op):
            return Reject(reason)
        y = node.output.tensor.substitute(dict(target.env))
        work = product(y.shape) * node.inputs[1].tensor.shape[1]
        cost = estimate_microseconds(work)
        form = Form.CHANNELS_LAST
        reads: list[Form | None] = [form, None, None, form]

        def draft(p: Placement) -> Draft:
            return _draft(node, op, target, p)

        return [Candidate("onednn gemm", tuple(reads[: len(node.inputs)]), (form,), cost, draft)]


def _refusal(node: Node, op: Convolution) -> str | None:
    w = node.inputs[1].tensor
    if op.groups != 1:
        return "oneDNN has only reference code for interleaved groups"
    if any(d != 1 for d in (*w.shape[2:], *op.strides)) or any((*op.pads_begin, *op.pads_end)):
        return "only for 1x1 windows with stride 1 and without padding"
    if any(constant(v) is None for v in node.inputs[1:3]):
        return "the weights are not constant"
    return None


def _rows(type: TensorType, where: Layout) -> LibraryLayout:
    """Return channels-last pixels as the rows of a matrix."""
    pixels: Dim = product((type.shape[0], *type.shape[2:]))
    dims = (pixels, type.shape[1])
    return LibraryLayout(dims, type.dtype.value, strides=(where.strides[-1], 1))  # type: ignore[arg-type]


def _draft(node: Node, op: Convolution, target: CpuTarget, p: Placement) -> Draft:
    x, y = node.inputs[0].tensor, node.output.tensor
    w = constant(node.inputs[1]).array  # type: ignore[union-attr]
    weights = w.reshape(w.shape[:2]).T
    arguments: dict[str, Role] = {"src": Read(0), "weights": Read(1)}
    packed = {"weights": weights}
    bias = None
    if len(node.inputs) > 2:
        array = constant(node.inputs[2]).array  # type: ignore[union-attr]
        packed["bias"] = array.astype(np.float32).reshape(1, -1)
        bias = LibraryLayout.dense(packed["bias"].shape)
        arguments["bias"] = Read(2)
    arguments["dst"] = Write(0)
    residuals = [(i, _rows(y, p.operands[i])) for i in range(3, len(node.inputs))]
    spec = MatMul(
        _rows(x, p.operands[0]),
        LibraryLayout.any(weights.shape, x.dtype.value),
        _rows(y, p.results[0]),
        bias=bias,
        attributes=post_operations(arguments, residuals, op.activation),
    )
    return library_draft(target, spec, arguments, packed)
