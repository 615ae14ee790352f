"""What convolutions, deconvolutions and matrix products have in common for the passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lamina import ops
from lamina.ir.graph import Array, Value
from lamina.ir.rewrite import Match, Reject
from lamina.ops.kinds import Epilogue
from lamina.passes.constants import array_of, channel_vector, emit_constant, widened

CONTRACTIONS = (ops.Convolution, ops.Deconvolution, ops.Matmul)
Contraction = ops.Convolution | ops.Deconvolution | ops.Matmul


def contraction_of(v: Value) -> Contraction:
    """Return the operator of a value that a contraction makes."""
    op = v.op
    assert isinstance(op, CONTRACTIONS)
    return op


def is_open(v: Value) -> bool:
    """Whether nothing was added after the bias: no residual and no activation yet."""
    return (
        isinstance(v.op, CONTRACTIONS)
        and v.op.activation is None
        and v.node is not None
        and len(v.node.inputs) <= 3
    )


def has_constant_weight(v: Value) -> bool:
    """Whether the second operand and the bias, if there is one, are constants."""
    assert v.node is not None
    rest = v.node.inputs[1:3]
    if isinstance(v.op, ops.Matmul) and rest[0].tensor.rank != 2:
        return False
    return all(array_of(r) is not None for r in rest)


def output_axis(v: Value) -> int:
    """Return the axis of a contraction's result along which a bias vector lies."""
    return v.tensor.rank - 1 if isinstance(v.op, ops.Matmul) else 1


def output_vector(a: Array, v: Value) -> Array | None:
    """Return ``a``, added to or multiplied with ``v``, as a vector of output channels."""
    return channel_vector(a, v.tensor.shape, output_axis(v))


def scale_output(op: Contraction, w: Array, s: Array) -> Array:
    """Return the weight whose product is scaled by ``s`` per output channel."""
    w, s = widened(w), widened(s)
    if isinstance(op, ops.Matmul):
        return w * (s[:, None] if op.transpose_b else s)
    if isinstance(op, ops.Convolution):
        return w * s.reshape(-1, *[1] * (w.ndim - 1))
    g = op.groups  # w[C, M / g, ...]: output channels repeat for every group of input channels
    grouped = w.reshape(g, w.shape[0] // g, *w.shape[1:])
    factors = s.reshape(g, 1, w.shape[1], *[1] * (w.ndim - 2))
    return (grouped * factors).reshape(w.shape)


def scale_input(op: Contraction, w: Array, s: Array) -> Array:
    """Return the weight that takes an operand before it is scaled by ``s`` per input channel."""
    w, s = widened(w), widened(s)
    if isinstance(op, ops.Matmul):
        return w * (s if op.transpose_b else s[:, None])
    if isinstance(op, ops.Deconvolution):
        return w * s.reshape(-1, *[1] * (w.ndim - 1))
    g = op.groups
    grouped = w.reshape(g, w.shape[0] // g, *w.shape[1:])
    factors = s.reshape(g, 1, w.shape[1], *[1] * (w.ndim - 2))
    return (grouped * factors).reshape(w.shape)


def shift_input(op: Contraction, w: Array, t: Array) -> Array:
    """Return what adding ``t`` per input channel adds to each output channel.

    Only for convolutions without padding and for matrix products.
    """
    w, t = widened(w), widened(t)
    if isinstance(op, ops.Matmul):
        product: Array = w @ t if op.transpose_b else t @ w
        return product
    taps = w.sum(axis=tuple(range(2, w.ndim)))
    grouped = taps.reshape(op.groups, -1, w.shape[1])
    shifts = t.reshape(op.groups, w.shape[1], 1)
    moved: Array = (grouped @ shifts).reshape(-1)
    return moved


def channels(v: Value) -> int:
    """Return the number of output channels of a contraction with constant weights."""
    size = v.tensor.shape[output_axis(v)]
    assert isinstance(size, int)
    return size


def rebuild(
    m: Match, v: Value, *, x: Value | None = None, w: Array | None = None, bias: Array | None = None
) -> Value:
    """Emit the contraction ``v`` again with another operand, weight or bias."""
    assert v.node is not None
    dtype = v.tensor.dtype
    operands = list(v.node.inputs)
    if x is not None:
        operands[0] = x
    if w is not None:
        operands[1] = emit_constant(m, w, dtype)
    if bias is not None:
        operands[2:3] = [emit_constant(m, bias, dtype)]
    return m.emit(contraction_of(v), *operands)


def bias_vector(v: Value) -> Array | None:
    """Return the constant bias as f32 or wider, None when there is none."""
    assert v.node is not None
    if len(v.node.inputs) < 3:
        return None
    a = array_of(v.node.inputs[2])
    if a is None:
        return None
    return np.broadcast_to(widened(a).reshape(-1), (channels(v),))


def with_activation(op: Contraction, epilogue: Epilogue) -> Contraction:
    """Return the contraction that applies ``epilogue`` last."""
    return replace(op, activation=epilogue)


def takes_bias(v: Value, c: Value) -> bool | Reject:
    """Whether ``v`` is an open contraction and ``c`` a constant per output channel."""
    if not is_open(v):
        return Reject("the contraction already has an epilogue")
    a = array_of(c)
    if a is None or output_vector(a, v) is None:
        return Reject("the constant varies along other axes than the output channels")
    bias = v.node.inputs[2:3] if v.node is not None else ()
    if any(b.tensor.rank > 1 or array_of(b) is None for b in bias):
        return Reject("the bias is not a constant vector")
    return True


def takes_scale(v: Value, c: Value) -> bool | Reject:
    """Whether ``v`` is an open contraction of constants that a per-channel ``c`` may scale."""
    if not has_constant_weight(v):
        return Reject("the weight is not constant")
    return takes_bias(v, c)
