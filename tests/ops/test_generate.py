"""Random numbers, ranges and triangles."""

from __future__ import annotations

import numpy as np
import pytest

from lamina import ops
from lamina.errors import TypeMismatch
from lamina.ir.dims import sym
from lamina.ir.text import parse_type
from lamina.ir.types import DType
from lamina.ops import RandomKind


def test_seeded_numbers_repeat_and_others_do_not():
    seeded = ops.Random(kind=RandomKind.NORMAL, shape=(64,), seed=3)
    free = ops.Random(kind=RandomKind.NORMAL, shape=(64,))
    np.testing.assert_array_equal(seeded.reference(), seeded.reference())
    assert not np.array_equal(free.reference(), free.reference())
    assert not seeded.pure and not free.pure


def test_distributions():
    normal = ops.Random(
        kind=RandomKind.NORMAL, shape=(40000,), low_or_mean=3.0, high_or_scale=2.0, seed=0
    ).reference()
    uniform = ops.Random(
        kind=RandomKind.UNIFORM, shape=(40000,), low_or_mean=-1.0, high_or_scale=3.0, seed=0
    ).reference()
    assert normal.mean() == pytest.approx(3, abs=0.05) and normal.std() == pytest.approx(
        2, abs=0.05
    )
    assert uniform.mean() == pytest.approx(1, abs=0.05)
    assert uniform.min() >= -1 and uniform.max() < 3


def test_types():
    n = sym("n")
    assert str(ops.Random(kind=RandomKind.NORMAL, shape=(n, 2)).infer()) == "f32[n,2]"
    with pytest.raises(TypeMismatch, match="must be floats, got i32"):
        ops.Random(kind=RandomKind.UNIFORM, shape=(2,), dtype=DType.I32).infer()
    scalar = parse_type("i64[]")
    assert str(ops.Range(length=n).infer(scalar, scalar)) == "i64[n]"
    with pytest.raises(TypeMismatch, match="start is i64 but delta is f32"):
        ops.Range(length=n).infer(scalar, parse_type("f32[]"))
    with pytest.raises(TypeMismatch, match="at least 2"):
        ops.Trilu().infer(parse_type("f32[3]"))
