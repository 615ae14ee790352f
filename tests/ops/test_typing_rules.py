"""Typing rules: symbolic results and refusals."""

import re

import numpy as np
import pytest

from lamina import ops
from lamina.errors import TypeMismatch
from lamina.ir.dims import evaluate, floordiv, sym
from lamina.ir.types import DType, TensorType
from lamina.ops import BinaryKind, PoolKind, ReduceKind, UnaryKind

B, H, W = sym("b"), sym("h"), sym("w")


def f32(*shape):
    return TensorType(DType.F32, shape)


def i64(*shape):
    return TensorType(DType.I64, shape)


def window(op, rank=2, stride=1, pad=0, **more):
    return op(
        strides=(stride,) * rank,
        dilations=(1,) * rank,
        pads_begin=(pad,) * rank,
        pads_end=(pad,) * rank,
        **more,
    )


CONV = window(ops.Convolution, stride=2, pad=1)
LSTM = ops.Recurrent(
    kind=ops.RecurrentKind.LSTM,
    hidden_size=4,
    direction=ops.Direction.FORWARD,
    activations=(ops.Epilogue(ops.ActivationKind.TANH),) * 3,
)


def test_symbolic_convolution_and_pool():
    y = CONV.infer(f32(B, 3, H, W), f32(8, 3, 3, 3), f32(8))
    assert y == f32(B, 8, floordiv(H - 1, 2) + 1, floordiv(W - 1, 2) + 1)
    pool = window(ops.Pool, stride=2, kind=PoolKind.MAX, kernel=(2, 2), ceil_mode=True)
    assert pool.infer(f32(B, 3, 7, 8)) == f32(B, 3, 4, 4)
    symbolic = pool.infer(f32(B, 3, H, 8)).shape[2]
    counts = {h: pool.infer(f32(1, 3, h, 8)).shape[2] for h in range(2, 9)}
    assert {h: evaluate(symbolic, {"h": h}) for h in counts} == counts


def test_symbolic_matmul_and_einsum():
    assert ops.Matmul().infer(f32(B, 1, H, 64), f32(64, W)) == f32(B, 1, H, W)
    e = ops.Einsum(equation="bhqd,bhkd->bhqk")
    assert e.infer(f32(B, 8, H, 64), f32(B, 8, W, 64)) == f32(B, 8, H, W)


REFUSED = [
    (ops.Unary(kind=UnaryKind.EXP), (i64(2),), "x must be a float tensor, got i64[2]"),
    (ops.Binary(kind=BinaryKind.ADD), (f32(2), i64(2)), "a is f32 but b is i64"),
    (ops.Binary(kind=BinaryKind.ADD), (f32(2), f32(3)), "sizes 2 and 3"),
    (
        ops.Binary(kind=BinaryKind.PRELU),
        (f32(3), f32(2, 3)),
        "the slope f32[2,3] does not broadcast to [3]",
    ),
    (ops.Select(), (f32(2), f32(2), f32(2)), "condition must be bool"),
    (
        ops.Unary(kind=UnaryKind.ABS),
        (TensorType(DType.F8E4M3, (2,)),),
        "x must hold numbers with arithmetic, got f8e4m3[2]",
    ),
    (ops.Reduce(kind=ReduceKind.SUM, axes=(2,)), (f32(2, 3),), "axis 2 is not one of the 2 axes"),
    (ops.Reduce(kind=ReduceKind.SUM, axes=(1, 0)), (f32(2, 3),), "must be sorted"),
    (ops.TopK(k=5, axis=0), (f32(4),), "k is 5 but axis 0 has 4 elements"),
    (CONV, (f32(1, 4, 8, 8), f32(8, 3, 3, 3)), "C is 4 but groups * the channels of w is 3"),
    (CONV, (f32(1, 3, 8, 8), f32(8, 3, 3, 3), f32(7)), "bias must have the shape [8], got f32[7]"),
    (CONV, (f32(1, 3, 8), f32(8, 3, 3)), "strides has 2 entries for 1 axes"),
    (CONV, (f32(1, 3, 8, 8), f32(8, 3, 11, 3)), "a window of 11 elements does not fit into 8"),
    (ops.Matmul(), (f32(2, 3), f32(4, 5)), "the number of columns of a is 3 but"),
    (ops.Matmul(), (f32(3), f32(3, 5)), "a must have at least 2 dimensions, got 1"),
    (ops.Matmul(), (f32(2, 3), f32(3, 5), f32(4)), "bias f32[4] does not broadcast to [2,5]"),
    (ops.Einsum(equation="ij,jk"), (f32(2, 3),), "has 2 terms for 1 operands"),
    (ops.Einsum(equation="ij->k"), (f32(2, 3),), "the label 'k', which no operand has"),
    (ops.GroupNorm(groups=3, epsilon=0), (f32(1, 4, 2), f32(4), f32(4)), "3 groups do not divide"),
    (ops.LayerNorm(axis=1, epsilon=0), (f32(2, 4), f32(3)), "scale f32[3] does not broadcast"),
    (ops.Softmax(axis=-1), (f32(2, 3),), "axis -1 is not one of the 2 axes"),
    (
        ops.Attention(scale=1.0),
        (f32(1, 3, 2, 4), f32(1, 2, 5, 4), f32(1, 2, 5, 4)),
        "q has 3 heads, not a multiple of the 2 heads of k",
    ),
    (
        LSTM,
        (f32(2, 1, 3), f32(1, 12, 3), f32(1, 16, 4), f32(1, 32), f32(1, 1, 4), f32(1, 1, 4)),
        "w must have the shape [1,16,3], got f32[1,12,3]",
    ),
    (ops.Quantize(dtype=DType.I8, axis=0), (f32(4), f32(3)), "scale must have the shape [4]"),
    (ops.Quantize(dtype=DType.F32), (f32(4), f32()), "must have a quantized type, got f32"),
    (
        ops.Dequantize(dtype=DType.F32),
        (TensorType(DType.I8, (4,)), f32(), TensorType(DType.U8, ())),
        "zero_point is u8, expected i8",
    ),
    (ops.Bitcast(dtype=DType.I64), (f32(2),), "f32 has 32 bits but i64 has 64"),
]


@pytest.mark.parametrize(("op", "types", "message"), REFUSED)
def test_refusals_state_both_facts(op, types, message):
    with pytest.raises(TypeMismatch, match=re.escape(message)):
        op.infer(*types)


def test_const_must_hold_what_it_declares():
    const = ops.Const.of(np.float32([1, 2]))
    assert const.infer() == f32(2)
    with pytest.raises(TypeMismatch, match="holds float32"):
        ops.Const(type=f32(3), weight=const.weight).infer()


def test_properties_that_passes_read():
    assert ops.Binary(kind=BinaryKind.ADD).commutative
    assert not ops.Binary(kind=BinaryKind.SUB).commutative
    pointwise = {op for op in ops.ALL if getattr(op, "is_pointwise", False)}
    assert pointwise == {ops.Unary, ops.Activation, ops.Binary, ops.Select, ops.Cast}
    clip = ops.Activation(kind=ops.ActivationKind.CLIP, alpha=0.0, beta=6.0)
    assert clip.epilogue == ops.Epilogue(ops.ActivationKind.CLIP, 0.0, 6.0)
