import ml_dtypes
import numpy as np
import pytest

from lamina.ir import blocks
from lamina.ir.blocks import blocked, cache_aligned
from lamina.ir.recipe import FUNCTIONS

TYPES = [np.float16, np.float32, ml_dtypes.bfloat16, np.int8, np.complex128]
SHAPES = [(1, 1), (3, 5), (64, 2048), (65, 2049), (700, 900), (1, 3000), (3000, 1), (0, 4)]


def numbers(shape, dtype):
    return np.random.default_rng(1).integers(-100, 100, shape).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_transposed_array_becomes_dense(shape, dtype):
    a = numbers(shape, dtype)
    result = blocked(a.T, ((), ()), (0, 1))
    assert result.flags.c_contiguous
    assert not a.size or result.ctypes.data % 64 == 0
    assert result.tobytes() == a.T.tobytes()


@pytest.mark.parametrize("threads", ["1", "3", "16"])
def test_threads_share_a_large_array(monkeypatch, threads):
    monkeypatch.setenv("LAMINA_THREADS", threads)
    a = numbers((1031, 2053), np.float16)
    assert blocked(a.T, ((), ()), (0, 1)).tobytes() == a.T.tobytes()
    padded = blocked(a.T, ((), ()), (0, 1), (2056, 1040), np.float32)
    assert np.array_equal(padded[:2053, :1031], a.T.astype(np.float32))
    assert not padded[2053:].any() and not padded[:, 1031:].any()


def test_an_error_in_a_thread_is_raised(monkeypatch):
    monkeypatch.setenv("LAMINA_THREADS", "2")
    monkeypatch.setattr(blocks, "_copy_transposed", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        blocked(numbers((1024, 1024), np.float16).T, ((), ()), (0, 1))


def test_memory_that_is_given_is_written():
    a = numbers((300, 200), np.float32)
    out = cache_aligned((a.nbytes,), np.uint8)
    arguments = (((), ()), (0, 1), (200, 300), a.dtype)
    result = FUNCTIONS["blocked"](a.T, *arguments, out=out)
    assert np.shares_memory(result, out)
    assert np.array_equal(result, a.T)


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize("count", [2, 4, 8])
def test_neighbors_that_stay_neighbors(dtype, count):
    a = numbers((6, 32), dtype)
    result = blocked(a, ((3,), (count,)), (0, 2, 1, 3))
    expected = a.reshape(2, 3, 32 // count, count).transpose(0, 2, 1, 3)
    assert result.dtype == a.dtype
    assert result.shape == expected.shape
    assert result.tobytes() == expected.tobytes()
    apart = blocked(a[:, ::-1], ((3,), (count,)), (0, 2, 1, 3))
    mirrored = a[:, ::-1].reshape(2, 3, 32 // count, count).transpose(0, 2, 1, 3)
    assert apart.tobytes() == mirrored.tobytes()


def test_columns_in_blocks():
    a = numbers((6, 7), np.float32)
    result = blocked(a, ((), (4,)), (1, 0, 2))
    assert result.shape == (2, 6, 4)
    assert np.array_equal(result[1, :, :3], a[:, 4:])
    assert not result[1, :, 3].any()
