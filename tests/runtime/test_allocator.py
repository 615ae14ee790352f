"""Contexts on the CPU whose memory the user gives."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import lamina
from lamina import ops
from lamina.ir.graph import Graph, emit
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.plan.format import write_plan


class Pool:
    """Allocates with NumPy; ``used`` are the bytes that are out by address."""

    def __init__(self, most: int = 1 << 30, shift: int = 0) -> None:
        self.most, self.shift = most, shift
        self.used: dict[int, tuple[int, np.ndarray]] = {}

    def allocate(self, size_bytes: int, stream: int) -> int:
        assert stream == 0
        if size_bytes > self.most:
            raise MemoryError(f"at most {self.most}")
        raw = np.zeros(size_bytes + 512, np.uint8)
        pointer = -(-raw.ctypes.data // 256) * 256 + self.shift
        self.used[pointer] = (size_bytes, raw)
        return pointer

    def free(self, pointer: int, size_bytes: int, stream: int) -> None:
        assert self.used.pop(pointer)[0] == size_bytes


@pytest.fixture(scope="module")
def plan() -> bytes:
    g, here = Graph(), Loc("layer")
    x = g.input("x", TensorType(DType.F32, (64, 64)))
    w = emit(ops.Const.of(np.eye(64, dtype=np.float32) * 2), (), loc=here)
    y = emit(ops.Matmul(), (emit(ops.Matmul(), (x, w), loc=here), w), loc=here)
    g.output(emit(ops.Softmax(axis=0), (y,), loc=here), "y")
    return write_plan(lamina.build(g, optimization_level=0).plan)


X = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)


def test_memory_comes_from_the_allocator_and_goes_back(plan: bytes) -> None:
    pool = Pool()
    engine = lamina.load(plan, allocator=pool)
    np.testing.assert_array_equal(engine(X), lamina.load(plan)(X))
    once = sum(size for size, _ in pool.used.values())
    assert once >= X.nbytes
    context = engine.create_context()
    np.testing.assert_array_equal(context(X), engine(X))
    assert sum(size for size, _ in pool.used.values()) == 2 * once
    del context
    gc.collect()
    assert sum(size for size, _ in pool.used.values()) == once
    del engine
    gc.collect()
    assert not pool.used


def test_an_allocator_without_memory_is_named(plan: bytes) -> None:
    engine = lamina.load(plan, allocator=Pool(most=100))
    with pytest.raises(lamina.DeviceError, match="bytes of memory are not available: at most 100"):
        engine(X)


def test_a_misaligned_address_is_refused(plan: bytes) -> None:
    engine = lamina.load(plan, allocator=Pool(shift=8))
    with pytest.raises(lamina.DeviceError, match="not a multiple of 64"):
        engine(X)
