"""Reading scales and zero points that are constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lamina import ops
from lamina.ir.graph import Array, Node, Value
from lamina.ir.rewrite import Match
from lamina.ir.traced import asarray, dense
from lamina.ir.types import DType
from lamina.ops.kinds import Scaling
from lamina.passes.constants import array_of
from lamina.passes.folding import fold

EIGHT_BIT = (DType.I8, DType.U8)
LIMITS = {DType.I8: (-128, 127), DType.U8: (0, 255)}


def scaling_of(v: Value) -> Scaling | None:
    """Return the scale and zero point of a Quantize or Dequantize result.

    None unless there is one constant pair for the whole tensor, the integers have 8 bits and the
    other side is f32.
    """
    node = v.node
    if node is None or not isinstance(node.op, ops.Quantize | ops.Dequantize):
        return None
    integers, real = v, node.inputs[0]
    if isinstance(node.op, ops.Dequantize):
        integers, real = real, integers
    if integers.tensor.dtype not in EIGHT_BIT or real.tensor.dtype is not DType.F32:
        return None
    arrays = [array_of(p) for p in node.inputs[1:]]
    if any(a is None or a.size != 1 for a in arrays):
        return None
    scale, *zero = (np.asarray(a).reshape(-1)[0] for a in arrays if a is not None)
    if arrays[0] is None or arrays[0].dtype != np.float32 or not np.isfinite(scale) or scale <= 0:
        return None
    return Scaling(float(scale), int(zero[0]) if zero else 0)


def is_dequantized(v: Value) -> bool:
    """Whether the value is an 8-bit tensor dequantized with one scale."""
    return isinstance(v.op, ops.Dequantize) and scaling_of(v) is not None


def is_quantized(v: Value) -> bool:
    """Whether the value is quantized to 8 bits with one scale."""
    return isinstance(v.op, ops.Quantize) and scaling_of(v) is not None


def scaling(v: Value) -> Scaling:
    """Return the scaling of a value for which :func:`scaling_of` finds one."""
    found = scaling_of(v)
    assert found is not None
    return found


def integers_of(v: Value) -> Value:
    """Return what a Dequantize reads."""
    assert isinstance(v.op, ops.Dequantize)
    assert v.node is not None
    return v.node.inputs[0]


def again(m: Match, node: Node, x: Value) -> Value:
    """Emit a Quantize or Dequantize with the same parameters on another value."""
    return m.emit(node.op, x, *node.inputs[1:])


def known_array(v: Value) -> Array | None:
    """Return the numbers of a constant, or of a dequantized constant."""
    if isinstance(v.op, ops.Dequantize) and v.node is not None:
        operands = [array_of(x) for x in v.node.inputs]
        if all(a is not None for a in operands):
            return fold(v.op, *operands)[0]  # type: ignore[arg-type]
        return None
    return array_of(v)


@dataclass(frozen=True)
class ScaledWeights:
    """Signed 8-bit weights and the scale of each output channel."""

    integers: Array
    scales: Array


def scaled_weights(v: Value, axis: int) -> ScaledWeights | None:
    """Return dequantized constant weights as i8 numbers with one scale for each index of ``axis``.

    None when they are something else, or when a zero point cannot be subtracted within i8.
    """
    node = v.node
    if node is None or not isinstance(node.op, ops.Dequantize) or node.op.block_size:
        return None
    arrays = [array_of(x) for x in node.inputs]
    if any(a is None for a in arrays) or node.inputs[0].tensor.dtype not in EIGHT_BIT:
        return None
    q, scale, *zero = (asarray(a) for a in arrays)
    if scale.dtype != np.float32 or (node.op.axis != axis and scale.size != 1):
        return None
    along = [-1 if i == axis else 1 for i in range(q.ndim)]
    shifted = q.astype(np.int32)
    if zero:
        offsets = zero[0].astype(np.int32)
        shifted = shifted - (offsets.reshape(along) if offsets.size > 1 else offsets.reshape(()))
    if shifted.min(initial=0) < -128 or shifted.max(initial=0) > 127:
        return None
    scales = np.broadcast_to(scale.reshape(-1), (q.shape[axis],))
    return ScaledWeights(shifted.astype(np.int8), dense(scales))
