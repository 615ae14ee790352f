"""References on arrays of dimensions, as importers use them to evaluate shape arithmetic."""

import numpy as np
import pytest

from lamina.errors import GraphError
from lamina.ir.dims import ceildiv, dim_max, floordiv, sym
from lamina.ir.types import DType
from lamina.ops import (
    Activation,
    ActivationKind,
    Binary,
    BinaryKind,
    Cast,
    Reduce,
    ReduceKind,
    Select,
    Unary,
    UnaryKind,
)

H, W = sym("h"), sym("w")


def dims(*values):
    x = np.empty(len(values), object)
    x[:] = values
    return x


def binary(kind, a, b):
    return Binary(kind=kind).reference(a, b)


def unary(kind, x):
    return Unary(kind=kind).reference(x)


def to(dtype, x):
    return Cast(dtype=dtype).reference(x)


@pytest.mark.parametrize(
    ("kind", "a", "b", "wanted"),
    [
        (BinaryKind.ADD, dims(H, W), np.int64([1, 2]), [H + 1, W + 2]),
        (BinaryKind.SUB, dims(H), dims(W), [H - W]),
        (BinaryKind.MUL, dims(H, 3), np.int64(2), [2 * H, 6]),
        (BinaryKind.DIV, dims(H, 4 * W), np.int64([2, 4]), [floordiv(H, 2), W]),
        (BinaryKind.DIV, dims(-H, -7), np.int64(2), [ceildiv(-H, 2), -3]),
        (BinaryKind.MOD, dims(H), np.int64([2]), [H - floordiv(H, 2) * 2]),
        (BinaryKind.MAX, dims(H), dims(W), [dim_max(H, W)]),
        (BinaryKind.POW, dims(H), np.int64([2]), [H * H]),
        (BinaryKind.EQUAL, dims(H, H + 1), dims(-1, H + 1), [False, True]),
        (BinaryKind.LESS, dims(H, -1), dims(H + 1, H), [True, True]),
        (BinaryKind.GREATER_EQUAL, dims(H), np.int64([0]), [True]),
    ],
)
def test_binary(kind, a, b, wanted):
    assert binary(kind, a, b).tolist() == wanted


def test_undecidable_comparison():
    with pytest.raises(GraphError, match="depends on the symbols"):
        binary(BinaryKind.EQUAL, dims(H), dims(W))


def test_minus_one_idiom_of_expand():
    """Where(shape == -1, ones, shape) keeps a symbolic shape."""
    shape = dims(H, 3)
    minus = binary(BinaryKind.EQUAL, shape, np.int64([-1]))
    assert Select().reference(minus, np.ones(2, np.int64), shape).tolist() == [H, 3]


def test_scaling_through_floats():
    """floor(float(h) * 1.5) stays exact, as old exporters of upsampling write it."""
    scaled = binary(BinaryKind.MUL, to(DType.F32, dims(H, W)), np.float32([1.5, 2]))
    assert to(DType.I64, scaled).tolist() == [floordiv(3 * H, 2), 2 * W]
    assert to(DType.I64, unary(UnaryKind.CEIL, scaled)).tolist() == [ceildiv(3 * H, 2), 2 * W]
    assert to(DType.I64, unary(UnaryKind.FLOOR, scaled)).tolist() == [floordiv(3 * H, 2), 2 * W]


def test_float_quotient():
    half = binary(BinaryKind.DIV, to(DType.F32, dims(H)), np.float32([2]))
    more = binary(BinaryKind.ADD, half, np.float32([0.5]))
    assert to(DType.I64, more).tolist() == [floordiv(H + 1, 2)]
    third = binary(BinaryKind.MUL, to(DType.F32, dims(H)), np.float32([1 / 3]))
    assert to(DType.I64, third).tolist() == [floordiv(H, 3)]


def test_numbers_in_object_arrays_become_numbers():
    assert to(DType.F32, dims(2, 3)).dtype == np.float32
    assert to(DType.I64, dims(2, H)).tolist() == [2, H]
    with pytest.raises(GraphError, match="cannot become bool"):
        to(DType.BOOL, dims(H))


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (ReduceKind.PROD, 6 * H * H),
        (ReduceKind.SUM, 2 * H + 5),
        (ReduceKind.MAX, dim_max(H, 3)),
    ],
)
def test_reduce(kind, wanted):
    x = dims(H, 2, 3, H)
    assert Reduce(kind=kind, axes=(0,), keepdims=False).reference(x).item() == wanted
    assert Reduce(kind=kind, axes=(0,)).reference(x).tolist() == [wanted]


def test_unary_on_dimensions():
    assert unary(UnaryKind.NEG, dims(H)).tolist() == [-H]
    assert unary(UnaryKind.ABS, dims(-H)).tolist() == [H]
    assert Activation(kind=ActivationKind.RELU).reference(dims(H, -2)).tolist() == [H, 0]
    with pytest.raises(GraphError, match="sign"):
        unary(UnaryKind.ABS, dims(H - W))
    with pytest.raises(GraphError, match="not an integer expression"):
        unary(UnaryKind.EXP, dims(H))
