"""Pointwise layers against their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from tests.tensorrt.running import Net, close, random

A, E, U = trt.ActivationType, trt.ElementWiseOperation, trt.UnaryOperation
_erf = np.vectorize(math.erf)
ACTIVATIONS: list[tuple[Any, Callable[[Any], Any]]] = [
    (A.RELU, lambda x: np.maximum(x, 0)),
    (A.SIGMOID, lambda x: 1 / (1 + np.exp(-x))),
    (A.TANH, np.tanh),
    (A.LEAKY_RELU, lambda x: np.where(x > 0, x, 0.3 * x)),
    (A.ELU, lambda x: np.where(x > 0, x, 0.3 * (np.exp(x) - 1))),
    (A.SELU, lambda x: 0.7 * np.where(x > 0, x, 0.3 * (np.exp(x) - 1))),
    (A.SOFTSIGN, lambda x: x / (1 + abs(x))),
    (A.SOFTPLUS, lambda x: 0.3 * np.log(np.exp(0.7 * x) + 1)),
    (A.CLIP, lambda x: np.clip(x, 0.3, 0.7)),
    (A.HARD_SIGMOID, lambda x: np.clip(0.3 * x + 0.7, 0, 1)),
    (A.SCALED_TANH, lambda x: 0.3 * np.tanh(0.7 * x)),
    (A.THRESHOLDED_RELU, lambda x: np.where(x > 0.3, x, 0)),
    (A.GELU_ERF, lambda x: 0.5 * x * (1 + _erf(x / np.sqrt(2)))),
    (A.GELU_TANH, lambda x: 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))),
]


def test_every_activation_is_tested() -> None:
    assert {a for a, _ in ACTIVATIONS} == set(A.__members__.values())


def test_activations() -> None:
    net, x = Net(), random(2, 3, 4)
    tensor = net.input("x", x)
    layers = [net.network.add_activation(tensor, kind) for kind, _ in ACTIVATIONS]
    for layer in layers:
        layer.alpha, layer.beta = 0.3, 0.7
    net.output(*(layer.get_output(0) for layer in layers))
    for got, (kind, formula) in zip(net.run(x=x), ACTIVATIONS, strict=True):
        np.testing.assert_allclose(got, formula(x), rtol=2e-5, atol=2e-6, err_msg=str(kind))


BINARY: list[tuple[Any, Callable[..., Any]]] = [
    (E.SUM, np.add), (E.PROD, np.multiply), (E.MAX, np.maximum), (E.MIN, np.minimum),
    (E.SUB, np.subtract), (E.DIV, np.divide), (E.POW, lambda a, b: np.power(a, b)),
    (E.FLOOR_DIV, np.floor_divide), (E.EQUAL, np.equal), (E.GREATER, np.greater),
    (E.LESS, np.less),
]  # fmt: skip


def test_functions_of_two_floats_broadcast() -> None:
    net = Net()
    a, b = abs(random(2, 3, 4)) + 0.5, abs(random(2, 1, 4, seed=1)) + 0.5
    x, y = net.input("a", a), net.input("b", b)
    net.output(*(net.network.add_elementwise(x, y, op).get_output(0) for op, _ in BINARY))
    for got, (op, function) in zip(net.run(a=a, b=b), BINARY, strict=True):
        np.testing.assert_allclose(got, function(a, b), rtol=1e-5, err_msg=str(op))


def test_integers_divide_towards_minus_infinity_and_zero() -> None:
    net = Net()
    a = np.array([7, -7, 7, -7, 6, -6], np.int32)
    b = np.array([2, 2, -2, -2, 3, 3], np.int32)
    x, y = net.input("a", a), net.input("b", b)
    floor = net.network.add_elementwise(x, y, E.FLOOR_DIV).get_output(0)
    toward_zero = net.network.add_elementwise(x, y, E.DIV).get_output(0)
    net.output(floor, toward_zero)
    first, second = net.run(a=a, b=b)
    np.testing.assert_array_equal(first, a // b)
    np.testing.assert_array_equal(second, (a / b).astype(np.int32))


def test_logic() -> None:
    net = Net()
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    x, y = net.input("a", a), net.input("b", b)
    layers = [net.network.add_elementwise(x, y, op) for op in (E.AND, E.OR, E.XOR)]
    net.output(*(layer.get_output(0) for layer in layers))
    got = net.run(a=a, b=b)
    for result, wanted in zip(got, (a & b, a | b, a ^ b), strict=True):
        np.testing.assert_array_equal(result, wanted)


UNARY: list[tuple[Any, Callable[[Any], Any], float]] = [
    (U.EXP, np.exp, 0), (U.LOG, np.log, 2), (U.SQRT, np.sqrt, 2), (U.RECIP, lambda x: 1 / x, 2),
    (U.ABS, np.abs, 0), (U.NEG, np.negative, 0), (U.SIN, np.sin, 0), (U.COS, np.cos, 0),
    (U.TAN, np.tan, 0), (U.SINH, np.sinh, 0), (U.COSH, np.cosh, 0), (U.ASIN, np.arcsin, 0),
    (U.ACOS, np.arccos, 0), (U.ATAN, np.arctan, 0), (U.ASINH, np.arcsinh, 0),
    (U.ACOSH, np.arccosh, 2), (U.ATANH, np.arctanh, 0), (U.CEIL, np.ceil, 0),
    (U.FLOOR, np.floor, 0), (U.ERF, _erf, 0), (U.SIGN, np.sign, 0), (U.ROUND, np.rint, 0),
    (U.ISINF, np.isinf, 0), (U.ISNAN, np.isnan, 0),
]  # fmt: skip


def test_functions_of_one_element() -> None:
    net, x = Net(), np.random.default_rng(0).uniform(-0.9, 0.9, 30).astype(np.float32)
    tensor = net.input("x", x)
    two = net.constant(np.full(1, 2, np.float32))
    shifted = net.network.add_elementwise(tensor, two, E.SUM).get_output(0)
    operands = [shifted if shift else tensor for _, _, shift in UNARY]
    layers = [net.network.add_unary(t, op) for t, (op, _, _) in zip(operands, UNARY, strict=True)]
    net.output(*(layer.get_output(0) for layer in layers))
    for got, (op, function, shift) in zip(net.run(x=x), UNARY, strict=True):
        wanted = function(x + np.float32(shift))
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6, err_msg=str(op))


def test_infinities_nan_and_not() -> None:
    net = Net()
    x = np.array([1, np.inf, -np.inf, np.nan], np.float32)
    tensor = net.input("x", x)
    infinite = net.network.add_unary(tensor, U.ISINF).get_output(0)
    nan = net.network.add_unary(tensor, U.ISNAN).get_output(0)
    net.output(infinite, nan, net.network.add_unary(nan, U.NOT).get_output(0))
    got = net.run(x=x)
    for result, wanted in zip(got, (np.isinf(x), np.isnan(x), ~np.isnan(x)), strict=True):
        np.testing.assert_array_equal(result, wanted)


def test_slopes_select_cast_and_identity() -> None:
    net = Net()
    x, slopes = random(2, 3, 4), random(1, 3, 1, seed=1)
    tensor = net.input("x", x)
    prelu = net.network.add_parametric_relu(tensor, net.constant(slopes)).get_output(0)
    zero = net.constant(np.zeros((1, 1, 1), np.float32))
    positive = net.network.add_elementwise(tensor, zero, E.GREATER).get_output(0)
    chosen = net.network.add_select(positive, tensor, prelu).get_output(0)
    cast = net.network.add_cast(tensor, trt.int32).get_output(0)
    same = net.network.add_identity(tensor).get_output(0)
    converted = net.network.add_identity(tensor)
    converted.set_output_type(0, trt.float16)
    net.output(prelu, chosen, cast, same, converted.get_output(0))
    got = net.run(x=x)
    close(got[0], np.where(x > 0, x, x * slopes))
    close(got[1], np.where(x > 0, x, x * slopes))
    np.testing.assert_array_equal(got[2], x.astype(np.int32))
    np.testing.assert_array_equal(got[3], x)
    np.testing.assert_array_equal(got[4], x.astype(np.float16))


def test_operands_of_different_rank_are_refused_by_name() -> None:
    net = Net()
    x, y = net.input("x", random(2, 3)), net.input("y", random(3))
    layer = net.network.add_elementwise(x, y, E.SUM)
    layer.name = "the sum"
    net.output(layer.get_output(0))
    message = net.fails()
    assert "in layer 'the sum' (ELEMENTWISE)" in message
    assert "different numbers of dimensions" in message


@pytest.mark.parametrize("wrong", [1, "x", None])
def test_what_is_no_tensor_is_a_type_error(wrong: Any) -> None:
    net = Net()
    with pytest.raises(TypeError, match="add_activation"):
        net.network.add_activation(wrong, A.RELU)
