"""Random numbers: the generator against published words, distributions, keys and types."""

from __future__ import annotations

import numpy as np
import pytest

from lamina import ops
from lamina.errors import TypeMismatch
from lamina.ir.dims import sym
from lamina.ir.text import parse_type
from lamina.ir.types import DType
from lamina.ops import RandomKind
from lamina.ops.random import largest_below, philox


def draw(kind, low, high, *, count=200_000, dtype=DType.F32, seed=0):
    op = ops.Random(
        kind=kind, shape=(count,), low_or_mean=low, high_or_scale=high, dtype=dtype, seed=seed
    )
    return op.reference()


def test_published_words():
    """Of the known answers that the generator's authors publish, the one of zeros."""
    words = philox(np.zeros((), np.uint64), 0)
    assert [int(w) for w in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64, DType.F16, DType.BF16])
def test_distributions(dtype):
    normal = draw(RandomKind.NORMAL, 3.0, 2.0, dtype=dtype).astype(np.float64)
    assert normal.mean() == pytest.approx(3, abs=0.02) and normal.std() == pytest.approx(
        2, abs=0.02
    )
    inside = np.mean(np.abs(normal - 3) < 2 * 1.959964)
    assert inside == pytest.approx(0.95, abs=3e-3)
    uniform = draw(RandomKind.UNIFORM, -1.0, 3.0, dtype=dtype)
    assert uniform.min() >= -1 and uniform.max() < 3
    counts = np.histogram(uniform.astype(np.float64), 16, (-1, 3))[0]
    assert np.abs(counts - 12500).max() < 5 * np.sqrt(12500)
    pairs = uniform.astype(np.float64)
    assert abs(np.corrcoef(pairs[:-1], pairs[1:])[0, 1]) < 0.01


def test_the_upper_bound_is_never_reached():
    assert largest_below(2.0, DType.F16) == 2 - 2.0**-10
    assert largest_below(0.1, DType.F32) == np.nextafter(np.float32(0.1), np.float32(0))
    assert draw(RandomKind.UNIFORM, 1.0, 2.0, dtype=DType.BF16).max() == 2 - 2.0**-7
    np.testing.assert_array_equal(draw(RandomKind.UNIFORM, 5.0, 5.0, count=3), [5, 5, 5])


def test_a_key_is_a_seed_and_every_run_has_another():
    seeded = ops.Random(kind=RandomKind.NORMAL, shape=(64,), seed=3)
    keyed = ops.Random(kind=RandomKind.NORMAL, shape=(64,))
    np.testing.assert_array_equal(seeded.reference(), keyed.reference(np.uint64(3)))
    key = ops.RandomKey(salt=5)
    assert key.reference() != key.reference() and not key.pure and not seeded.pure
    other = ops.Random(kind=RandomKind.NORMAL, shape=(64,), seed=3 + (1 << 32))
    assert not np.array_equal(seeded.reference(), other.reference())


def test_types():
    n, key = sym("n"), parse_type("u64[]")
    assert str(ops.Random(kind=RandomKind.NORMAL, shape=(n, 2)).infer(key)) == "f32[n,2]"
    assert ops.RandomKey().infer() == key
    with pytest.raises(TypeMismatch, match="must be floats, got i32"):
        ops.Random(kind=RandomKind.UNIFORM, shape=(2,), dtype=DType.I32, seed=1).infer()
    with pytest.raises(TypeMismatch, match="take a seed or one key, got 0 operands"):
        ops.Random(kind=RandomKind.UNIFORM, shape=(2,)).infer()
    with pytest.raises(TypeMismatch, match="got 1 operands and a seed"):
        ops.Random(kind=RandomKind.UNIFORM, shape=(2,), seed=1).infer(key)
    with pytest.raises(TypeMismatch, match=r"a key is u64\[\], got i64\[\]"):
        ops.Random(kind=RandomKind.UNIFORM, shape=(2,)).infer(parse_type("i64[]"))
