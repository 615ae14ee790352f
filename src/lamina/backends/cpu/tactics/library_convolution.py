"""Convolutions through oneDNN: direct, grouped, depthwise, dilated, transposed, 1-D to 3-D."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamina.backends.cpu.library_layout import library_layout
from lamina.backends.cpu.onednn import convolution as specs
from lamina.backends.cpu.onednn.memory import Layout as LibraryLayout
from lamina.backends.cpu.tactics.library_contraction import (
    estimate_microseconds,
    post_operations,
    refusal,
)
from lamina.backends.cpu.tactics.library_step import library_draft
from lamina.backends.cpu.target import CpuTarget
from lamina.ir.dims import Dim, product
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.strided import StridedView
from lamina.ir.types import TensorType
from lamina.ops import Convolution, Deconvolution
from lamina.tactics.candidate import Candidate, Draft, Placement, Read, Role, Write, constant
from lamina.tactics.form import Form


class LibraryConvolution:
    """oneDNN's convolution and deconvolution with bias, residual and activation fused."""

    name = "onednn"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer channel blocks, channels last and, for few input channels, row-major input."""
        op = node.op
        if not isinstance(op, Convolution | Deconvolution):
            return None
        if reason := refusal(node, op.activation, target) or _refusal(node, target):
            return Reject(reason)
        channels = _image(node).shape[1]
        pairs = [(Form.BLOCKED, Form.BLOCKED), (Form.CHANNELS_LAST, Form.CHANNELS_LAST)]
        if isinstance(channels, int) and channels < 16:
            pairs = [(Form.PLAIN, Form.BLOCKED), *pairs[1:]]
            if op.groups > 1 or node.inputs[0].tensor.rank != 4:
                pairs = [(Form.CHANNELS_LAST, Form.CHANNELS_LAST)]
        if constant(node.inputs[1]) is None:
            # The library reads plain weights only together with plain activations.
            pairs = [(Form.PLAIN, Form.PLAIN), (Form.CHANNELS_LAST, Form.CHANNELS_LAST)]
        return [self._candidate(node, op, target, src, dst) for src, dst in pairs]

    def _candidate(
        self,
        node: Node,
        op: Convolution | Deconvolution,
        target: CpuTarget,
        src: Form,
        dst: Form,
    ) -> Candidate:
        made = [None if constant(v) is not None else Form.PLAIN for v in node.inputs[1:3]]
        reads: list[Form | None] = [src, *made, dst][: len(node.inputs)]

        def draft(p: Placement) -> Draft:
            return _draft(node, op, target, p)

        y = node.output.tensor.substitute(dict(target.env))
        work = product((*y.shape, *node.inputs[1].tensor.shape[1:]))
        return Candidate("onednn", tuple(reads), (dst,), estimate_microseconds(work), draft)


def _refusal(node: Node, target: CpuTarget) -> str | None:
    if not node.inputs[1].tensor.is_static:
        return "the sizes of the weights are not known"
    likely = node.output.tensor.substitute(dict(target.env)).static_shape
    if min(likely) < 1:
        return f"the likeliest sizes give a result of {likely}"
    return None


def _image(node: Node) -> TensorType:
    """Return the type of the operand; its channels are a number, since the weights tell them."""
    x, w, op = node.inputs[0].tensor, node.inputs[1].tensor, node.op
    assert isinstance(op, Convolution | Deconvolution)
    channels = w.shape[1] * op.groups if isinstance(op, Convolution) else w.shape[0]
    return x.with_shape((x.shape[0], channels, *x.shape[2:]))


def _draft(node: Node, op: Convolution | Deconvolution, target: CpuTarget, p: Placement) -> Draft:
    x, w = _image(node), node.inputs[1]
    y = node.output.tensor
    arguments: dict[str, Role] = {"src": Read(0), "weights": Read(1)}
    packed: dict[str, np.ndarray] = {}
    if (given := constant(w)) is not None:
        packed["weights"] = _weights(op, given.array)
        weights = LibraryLayout.any(packed["weights"].shape, x.dtype.value)
    else:
        view = _weights_view(op, w.tensor.static_shape)
        weights = LibraryLayout(view.shape, x.dtype.value, strides=view.strides)  # type: ignore[arg-type]
    bias = None
    if len(node.inputs) > 2:
        type = node.inputs[2].tensor
        bias = LibraryLayout(type.static_shape, type.dtype.value, strides=(1,))
        arguments["bias"] = Read(2)
        if (given := constant(node.inputs[2])) is not None:
            bias = LibraryLayout(type.static_shape, "f32", strides=(1,))
            packed["bias"] = given.array.astype(np.float32)
    arguments["dst"] = Write(0)
    residuals = [(i, library_layout(y, p.operands[i])) for i in range(3, len(node.inputs))]
    spec = _spec(
        op,
        src=library_layout(x, p.operands[0]),
        weights=weights,
        dst=library_layout(y, p.results[0]),
        bias=bias,
        attributes=post_operations(arguments, residuals, op.activation),
    )
    return library_draft(target, spec, arguments, packed)


def _spec(op: Convolution | Deconvolution, **operands: Any) -> Any:
    if isinstance(op, Convolution):
        ends: tuple[Dim, ...] = op.pads_end
        kind: type = specs.Convolution
    else:
        kind = specs.Deconvolution
        ends = tuple(e - o for e, o in zip(op.pads_end, op.output_padding, strict=True))
    return kind(
        strides=op.strides,
        dilations=op.dilations,
        padding_begin=op.pads_begin,
        padding_end=ends,
        **operands,
    )


def _weights(op: Convolution | Deconvolution, w: np.ndarray) -> np.ndarray:
    """Return weights as the library wants them: [G, O/G, C/G, ...] with groups."""
    g, kernel = op.groups, w.shape[2:]
    if isinstance(op, Convolution):
        return w.reshape(g, w.shape[0] // g, w.shape[1], *kernel) if g > 1 else w
    grouped = w.reshape(g, w.shape[0] // g, w.shape[1], *kernel).swapaxes(1, 2)
    return grouped if g > 1 else grouped[0]


def _weights_view(op: Convolution | Deconvolution, shape: tuple[int, ...]) -> StridedView:
    """Return where the operator's weights lie, in the library's order of axes."""
    g, (first, second, *kernel) = op.groups, shape
    view = StridedView.dense((g, first // g, second, *kernel))
    if isinstance(op, Deconvolution):
        view = view.transposed((0, 2, 1, *range(3, 3 + len(kernel))))
    return view if g > 1 else StridedView(view.shape[1:], view.strides[1:])
