"""8-bit convolutions and matrix products through oneDNN.

The library computes ``factor * sums + bias``, then the rounding inside, the residual and the
activation, then ``/ y_scale + y_zero_point``.  All scales but the last are one factor per output
channel; where the activation allows it, the whole chain is computed in units of the residual's or
the result's scale, so that these need no multiplication of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from lamina.backends.cpu.library_layout import library_layout
from lamina.backends.cpu.onednn import primitives
from lamina.backends.cpu.onednn.attributes import (
    Attributes,
    BinaryPostOp,
    EltwisePostOp,
    PostOp,
    Scale,
    ZeroPoint,
)
from lamina.backends.cpu.onednn.convolution import Convolution
from lamina.backends.cpu.onednn.matmul import MatMul
from lamina.backends.cpu.onednn.memory import Layout as LibraryLayout
from lamina.backends.cpu.onednn.memory import as_request
from lamina.backends.cpu.tactics.library_step import concrete_spec, eltwise, library_draft
from lamina.backends.cpu.target import CpuTarget
from lamina.errors import DeviceError
from lamina.ir.dims import Dim, product
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType, TensorType
from lamina.ir.weight import Weight
from lamina.ops import QuantizedConvolution, QuantizedMatmul
from lamina.ops.kinds import ActivationKind
from lamina.ops.quantized import Quantized
from lamina.precision.scalings import LIMITS
from lamina.tactics.candidate import Blob, Candidate, Draft, Placement, Read, Role, Write, constant
from lamina.tactics.form import Form, layout

_FLOPS_PER_MICROSECOND = 4e5
_HOMOGENEOUS = (None, ActivationKind.RELU, ActivationKind.LEAKY_RELU)
_RESIDUAL = 4
_EXACT = ("vnni", "amx")
_SLOW = ("gemm", "ref")
_OFFERED = 2
_MOST_IMPLEMENTATIONS = 8


class LibraryQuantized:
    """oneDNN's integer convolution and matmul with scales, residual and activation fused."""

    name = "onednn"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer channels last for convolutions, row-major for products."""
        op = node.op
        if not isinstance(op, QuantizedConvolution | QuantizedMatmul):
            return None
        if reason := _refusal(node, op, target):
            return Reject(reason)
        form = Form.CHANNELS_LAST if isinstance(op, QuantizedConvolution) else Form.PLAIN
        reads: list[Form | None] = [form, None, None, None, form]
        reads = reads[: len(node.inputs)]
        layouts = tuple(
            layout(v.tensor, f or Form.PLAIN) for v, f in zip(node.inputs, reads, strict=True)
        )
        dense = Placement(layouts, (layout(node.output.tensor, form),), "")
        alternatives = _exact_alternatives(partial(_specify, node, op, p=dense), target)
        if not alternatives:
            return Reject("oneDNN has no kernel that sums exactly")
        y = node.output.tensor.substitute(dict(target.env)).size
        w = node.inputs[1].tensor.static_shape
        taps = int(np.prod(w[1:] if isinstance(op, QuantizedConvolution) else w[:1]))
        cost = 2.0 * (y if isinstance(y, int) else 1) * taps / _FLOPS_PER_MICROSECOND
        return [
            Candidate(
                "onednn" if n == 0 else f"onednn(alternative={n})",
                tuple(reads),
                (form,),
                cost + n,
                partial(_draft, node, op, target, n),
            )
            for n in alternatives
        ]


def _exact_alternatives(specify: Callable[[int], _Specified], target: CpuTarget) -> tuple[int, ...]:
    """Return which of the library's implementations to offer: the best two that sum in 32 bits.

    Code for older instruction sets adds pairs of products in 16 bits, which saturates.  Weights
    with compensation for zero points have a layout that cannot be asked for by name; with symbolic
    sizes only implementations qualify whose layout depends on the weights alone.  Slow but exact
    code is the last resort.
    """
    found: list[int] = []
    for n in range(_MOST_IMPLEMENTATIONS):
        specified = specify(n)
        spec = concrete_spec(specified.spec, dict(target.env))
        try:
            assert target.library is not None
            primitive = primitives.create(target.library, spec, threads=target.threads)
        except DeviceError:
            break
        name = primitive.implementation
        named = as_request(target.library, primitive.layout("weights")) is not None
        fixed = specified.is_static or (named and n == 0) or name.startswith("jit_int8")
        if name.startswith(_SLOW):
            return tuple(found) or (n,)
        if fixed and any(isa in name for isa in _EXACT):
            found.append(n)
        if len(found) == _OFFERED:
            break
    return tuple(found)


def _refusal(node: Node, op: Quantized, target: CpuTarget) -> str | None:
    x = node.inputs[0].tensor
    if target.library is None:
        return "oneDNN is not available"
    if any(constant(v) is None for v in node.inputs[1:_RESIDUAL]):
        return "weights, scales or bias are not constant"
    if op.activation is not None and eltwise(op.activation) is None:
        return f"oneDNN has no activation {op.activation.kind}"
    if isinstance(op, QuantizedConvolution):
        return None if 3 <= x.rank <= 5 else f"needs one to three spatial axes, got {x}"
    if any(v.tensor.shape != node.output.tensor.shape for v in node.inputs[_RESIDUAL:]):
        return "the residual is broadcast"
    return "an operand is empty" if 0 in (*x.shape, *node.output.tensor.shape) else None


@dataclass(frozen=True)
class _Chain:
    """What happens to the integer sums: factor and bias per channel, post-ops, the last scale."""

    factors: np.ndarray
    bias: np.ndarray
    post_ops: tuple[PostOp, ...]
    y_scale: float


def _needs_zero_point(op: Quantized) -> bool:
    """Whether the operand's zero point must be subtracted at run time.

    Without padding it adds the same number to every element of a channel: part of the bias.
    """
    padded = isinstance(op, QuantizedConvolution) and any((*op.pads_begin, *op.pads_end))
    return padded and op.x_scaling.zero_point != 0


def _chain(node: Node, op: Quantized, residual: LibraryLayout | None) -> _Chain:
    factors = _array(node, 2).astype(np.float64) * op.x_scaling.scale
    bias = np.zeros(factors.size)
    if len(node.inputs) > 3:
        bias = _array(node, 3).astype(np.float64)
    if not _needs_zero_point(op):
        w = _array(node, 1).astype(np.int64)
        axes = tuple(range(1, w.ndim)) if isinstance(op, QuantizedConvolution) else (0,)
        bias = bias - factors * w.sum(axis=axes) * op.x_scaling.zero_point
    post_ops: list[PostOp] = []
    unit, offset, stays_scaled = 1.0, 0.0, True
    homogeneous = (op.activation.kind if op.activation else None) in _HOMOGENEOUS
    y_scale = op.y_scaling.scale if op.y_scaling else 1.0
    if residual is not None and op.residual_scaling is not None:
        unit, offset = op.residual_scaling.scale, -float(op.residual_scaling.zero_point)
        stays_scaled = homogeneous and op.y_scaling is not None
    elif residual is None and homogeneous:
        unit = y_scale
    inner = unit
    if op.rounding is not None:
        inner = op.rounding.scale
        post_ops += _rounded(op, unit, offset)
        offset = 0.0
    factors, bias = factors / inner, bias / inner + offset
    if residual is not None:
        post_ops.append(BinaryPostOp("add", residual))
    if not stays_scaled:
        post_ops.append(EltwisePostOp("linear", unit, 0.0))
        unit = 1.0
    if op.activation is not None:
        fused = eltwise(op.activation)
        assert fused is not None
        post_ops.append(fused)
    return _Chain(
        factors.astype(np.float32), bias.astype(np.float32), tuple(post_ops), y_scale / unit
    )


def _rounded(op: Quantized, unit: float, offset: float) -> Iterator[PostOp]:
    """Yield what rounds a number in units of ``rounding`` and brings it to another unit."""
    assert op.rounding is not None
    (low, high), zero = LIMITS[op.rounding_dtype], op.rounding.zero_point
    yield EltwisePostOp("round")
    yield EltwisePostOp("clip", float(low - zero), float(high - zero))
    if (op.rounding.scale, 0.0) != (unit, offset):
        yield EltwisePostOp("linear", op.rounding.scale / unit, offset)


def _array(node: Node, index: int) -> np.ndarray:
    weight = constant(node.inputs[index])
    assert weight is not None
    return weight.array


def _quantization(
    op: Quantized, chain: _Chain, mask: int, arguments: dict[str, Role]
) -> tuple[tuple[Scale, ...], tuple[ZeroPoint, ...]]:
    """Return scales and zero points; add their contents and the residual to ``arguments``."""
    for i, post_op in enumerate(chain.post_ops):
        if isinstance(post_op, BinaryPostOp):
            arguments[f"post_op[{i}]"] = Read(_RESIDUAL)
    scales = [Scale("weights", mask, chain.factors.size)]
    arguments["scale_weights"] = Blob(Weight(chain.factors))
    if chain.y_scale != 1.0:
        scales.append(Scale("dst"))
        arguments["scale_dst"] = Blob(Weight(np.array([chain.y_scale], np.float32)))
    zero_points = []
    zeros = [("dst", op.y_scaling)]
    if _needs_zero_point(op):
        zeros.append(("src", op.x_scaling))
    for name, scaling in zeros:
        if scaling is not None and scaling.zero_point:
            zero_points.append(ZeroPoint(name))
            arguments[f"zero_point_{name}"] = Blob(Weight(np.array([scaling.zero_point], np.int32)))
    return tuple(scales), tuple(zero_points)


@dataclass(frozen=True)
class _Specified:
    """A primitive, what its arguments are and the weights to pack for it."""

    spec: Convolution | MatMul
    arguments: dict[str, Role]
    weights: np.ndarray
    is_static: bool


def _draft(node: Node, op: Quantized, target: CpuTarget, alternative: int, p: Placement) -> Draft:
    made = _specify(node, op, alternative, p)
    return library_draft(target, made.spec, made.arguments, {"weights": made.weights})


def _specify(node: Node, op: Quantized, alternative: int, p: Placement) -> _Specified:
    arguments: dict[str, Role] = {"src": Read(0), "weights": Read(1), "dst": Write(0)}
    spec: Convolution | MatMul
    if isinstance(op, QuantizedConvolution):
        spec, w = _convolution(node, op, alternative, p, arguments)
    else:
        spec, w = _matmul(node, op, alternative, arguments)
    is_static = node.inputs[0].tensor.is_static
    return _Specified(spec, arguments, w, is_static)


def _convolution(
    node: Node,
    op: QuantizedConvolution,
    alternative: int,
    p: Placement,
    arguments: dict[str, Role],
) -> tuple[Convolution, np.ndarray]:
    w = _array(node, 1)
    if op.groups > 1:
        w = w.reshape(op.groups, w.shape[0] // op.groups, *w.shape[1:])
    residual = None
    if len(node.inputs) > _RESIDUAL:
        residual = library_layout(node.inputs[_RESIDUAL].tensor, p.operands[_RESIDUAL])
    chain = _chain(node, op, residual)
    scales, zero_points = _quantization(op, chain, 3 if op.groups > 1 else 1, arguments)
    arguments["bias"] = Blob(Weight(chain.bias))
    spec = Convolution(
        library_layout(node.inputs[0].tensor, p.operands[0]),
        LibraryLayout.any(w.shape, "i8"),
        library_layout(node.output.tensor, p.results[0]),
        LibraryLayout.dense(chain.bias.shape),
        op.strides,
        op.dilations,
        op.pads_begin,
        op.pads_end,
        attributes=Attributes(chain.post_ops, scales, zero_points, alternative=alternative),
    )
    return spec, w


def _matmul(
    node: Node, op: QuantizedMatmul, alternative: int, arguments: dict[str, Role]
) -> tuple[MatMul, np.ndarray]:
    w = _array(node, 1)
    x, y = node.inputs[0].tensor, node.output.tensor
    rows: Dim = product(x.shape[:-1])
    residual = None
    if len(node.inputs) > _RESIDUAL:
        residual = _rows(node.inputs[_RESIDUAL].tensor, rows)
    chain = _chain(node, op, residual)
    scales, zero_points = _quantization(op, chain, 2, arguments)
    arguments["bias"] = Blob(Weight(chain.bias.reshape(1, -1)))
    # Signed operands need compensation, whose layout may depend on the number of rows.
    packed = x.is_static or x.dtype is DType.U8
    spec = MatMul(
        _rows(x, rows),
        LibraryLayout.any(w.shape, "i8") if packed else LibraryLayout.dense(w.shape, "i8"),
        _rows(y, rows),
        LibraryLayout.dense((1, w.shape[1])),
        Attributes(chain.post_ops, scales, zero_points, alternative=alternative),
    )
    return spec, w


def _rows(type: TensorType, rows: Dim) -> LibraryLayout:
    """Return a row-major tensor as a matrix of rows."""
    columns = type.shape[-1]
    return LibraryLayout((rows, columns), type.dtype.value, strides=(columns, 1))  # type: ignore[arg-type]
