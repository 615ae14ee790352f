"""Every entry of the scalar table, on random and on special values of every element type."""

from __future__ import annotations

import numpy as np
import pytest
from tests.codegen.running import ISAS, run_node

from lamina import ops
from lamina.codegen import scalar
from lamina.codegen.kernels import Reject
from lamina.ir.types import DType
from lamina.ops.kinds import ActivationKind, BinaryKind, UnaryKind

FLOATS = ("f32", "f64", "f16", "bf16")
INTEGERS = ("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64")
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1.5, 2.5, 88.0, -88.0, 1e-8, np.inf, -np.inf, np.nan]
PARAMETERS = {
    ActivationKind.SILU: (1.0, 0.0),
    ActivationKind.ELU: (0.7, 0.0),
    ActivationKind.SELU: (1.67, 1.05),
    ActivationKind.CELU: (0.8, 0.0),
    ActivationKind.LEAKY_RELU: (0.1, 0.0),
    ActivationKind.HARD_SIGMOID: (0.2, 0.5),
    ActivationKind.THRESHOLDED_RELU: (0.4, 0.0),
    ActivationKind.CLIP: (-1.0, 2.0),
    ActivationKind.SCALED_TANH: (1.7, 0.6),
    ActivationKind.SHRINK: (0.5, 0.1),
}
ULPS = {"f32": 16, "f64": 16, "f16": 2, "bf16": 2}
"""Allowed error in units in the last place of the result, plus TINY relative to the operand."""
TINY = {"f32": 2e-7, "f64": 1e-15, "f16": 1e-3, "bf16": 8e-3}


def floats(dtype, seed=0, count=70, scale=3.0):
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.standard_normal(count) * scale, SPECIAL])
    return rng.permutation(x).astype(DType(dtype).numpy)


def integers(dtype, seed=0, count=75):
    rng = np.random.default_rng(seed)
    low, high = scalar.integer_range(DType(dtype))
    x = rng.integers(low, high, count, dtype=DType(dtype).numpy, endpoint=True)
    small = rng.integers(max(low, -5), 6, count).astype(x.dtype)
    return np.where(rng.integers(0, 2, count) > 0, x, small)


def check(op, inputs, dtype, isa):
    kernel, (found,), (wanted,) = run_node(op, inputs, isa)
    assert not isinstance(kernel, Reject)
    if dtype not in ULPS or wanted.dtype == bool:
        np.testing.assert_array_equal(found, wanted)
        return
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    assert (np.isnan(a) == np.isnan(b)).all(), (inputs, a, b)
    finite = np.isfinite(b)
    np.testing.assert_array_equal(a[~finite & ~np.isnan(b)], b[~finite & ~np.isnan(b)])
    operand = np.abs(np.nan_to_num(inputs[0].astype(np.float64), posinf=0, neginf=0))
    if dtype in ("f32", "f64"):
        spacing = np.spacing(np.abs(wanted[finite])).astype(np.float64)
    else:
        spacing = np.abs(b[finite]) * float(TINY[dtype])
    allowed = ULPS[dtype] * spacing + TINY[dtype] * np.minimum(operand[finite], 4) + 1e-38
    error = np.abs(a[finite] - b[finite])
    worst = np.argmax(error - allowed)
    assert (error <= allowed).all(), (operand[finite][worst], a[finite][worst], b[finite][worst])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", [k for k in UnaryKind if k not in ("logical_not", "bitwise_not")])
def test_unary(kind, dtype):
    check(ops.Unary(kind=kind), [floats(dtype)], dtype, ISAS[len(kind + dtype) % 2])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ActivationKind)
def test_activation(kind, dtype):
    alpha, beta = PARAMETERS.get(kind, (0.0, 0.0))
    op = ops.Activation(kind=kind, alpha=alpha, beta=beta)
    # Infinities times zero differ between equal formulas; they are checked per function above.
    x = floats(dtype)
    x = x[np.isfinite(x.astype(np.float64))]
    check(op, [x], dtype, ISAS[len(kind + dtype) % 2])


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(
    "kind", [UnaryKind.ABS, UnaryKind.NEG, UnaryKind.SIGN, UnaryKind.BITWISE_NOT]
)
def test_integer_unary(kind, dtype):
    check(ops.Unary(kind=kind), [integers(dtype)], dtype, ISAS[len(dtype) % 2])


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("kind", [ActivationKind.RELU, ActivationKind.CLIP])
def test_integer_activation(kind, dtype):
    op = ops.Activation(kind=kind, alpha=-3.5, beta=100.2)
    check(op, [integers(dtype)], dtype, ISAS[len(dtype) % 2])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", [k for k in BinaryKind if not (k.is_logical or k.is_bitwise)])
def test_float_binary(kind, dtype):
    a, b = floats(dtype), floats(dtype, seed=1)
    if kind is BinaryKind.POW:
        a = np.abs(a)
    check(ops.Binary(kind=kind), [a, b], dtype, ISAS[len(kind + dtype) % 2])


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("kind", [k for k in BinaryKind if not k.is_logical])
def test_integer_binary(kind, dtype):
    a, b = integers(dtype), integers(dtype, seed=1)
    if kind is BinaryKind.POW:
        b = (b.astype(np.int64) % 9).astype(b.dtype)
    if kind in (BinaryKind.SHIFT_LEFT, BinaryKind.SHIFT_RIGHT):
        b = (b.astype(np.int64) % (DType(dtype).bits + 3)).astype(b.dtype)
    check(ops.Binary(kind=kind), [a, b], dtype, ISAS[len(kind) % 2])


@pytest.mark.parametrize("kind", [k for k in BinaryKind if k.is_logical] + [BinaryKind.EQUAL])
def test_logical(kind):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 2, 77).astype(bool) for _ in range(2))
    check(ops.Binary(kind=kind), [a, b], "bool", ISAS[0])


@pytest.mark.parametrize("source", (*FLOATS, *INTEGERS, "bool"))
@pytest.mark.parametrize("target", (*FLOATS, *INTEGERS, "bool"))
def test_cast(source, target):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 100, 75) if target.startswith("u") else rng.uniform(-100, 100, 75)
    if source == "bool":
        x = x > 50
    x = np.abs(x).astype(DType(source).numpy) if source[0] == "u" else x.astype(DType(source).numpy)
    kernel, (found,), (wanted,) = run_node(
        ops.Cast(dtype=DType(target)), [x], ISAS[len(source) % 2]
    )
    assert not isinstance(kernel, Reject)
    np.testing.assert_array_equal(found.view(np.uint8), wanted.view(np.uint8))


def test_integers_that_do_not_fit_keep_their_low_bits():
    x = np.array([300, -1, 70000, -70000, 2**40 + 5], np.int64)
    for target in (DType.I8, DType.U8, DType.I16, DType.U32):
        _, (found,), (wanted,) = run_node(ops.Cast(dtype=target), [x])
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("exponent", [2.0, 3.0, -1.0, 0.5, 1.0, 0.0, 2.7])
def test_constant_exponents(exponent):
    x = np.abs(floats("f32"))
    check(ops.Binary(kind=BinaryKind.POW), [x, np.float32(exponent)], "f32", ISAS[0])


def test_the_table_is_complete():
    assert set(scalar.UNARY) == set(UnaryKind)
    assert set(scalar.ACTIVATION) == set(ActivationKind)
    assert set(scalar.BINARY) == set(BinaryKind)
