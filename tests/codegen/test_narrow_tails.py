"""Rows that end in a part of a vector: nothing is written behind results, however narrow."""

from __future__ import annotations

import numpy as np
import pytest

import lamina
from lamina import ops
from lamina.ir.text import parse_graph

TEXT = """graph(%x: f32[2,{n}], %i: i64[2,{n}]) {{
  %zero: f32[] = const() type=f32[] value=0.0
  %none: i64[] = const() type=i64[] value=0
  %part: i64[] = const() type=i64[] value=20
  %above: bool[2,{n}] = binary(%x, %zero) kind=greater
  %ones: i32[2,{n}] = cast(%above) dtype=i32
  %count: i32[2,1] = reduce(%ones) kind=sum axes=(1,)
  %kept: i64[2,{n}] = select(%above, %i, %none)
  %floats: f32[2,{n}] = select(%above, %x, %zero)
  %wide: i64[2,{n}] = binary(%kept, %part) kind=div
  %narrow: i32[2,{n}] = cast(%wide) dtype=i32
  return {results}
}}"""
NAMES = ("above", "count", "kept", "floats", "narrow")
RESULTS = ", ".join(f'%{name} as "{name}"' for name in NAMES)
GUARD, PATTERN = 256, 0xA5


@pytest.mark.parametrize("n", [9, 17, 18, 23, 33])
def test_nothing_is_written_behind_the_results(n):
    engine = lamina.build(
        parse_graph(TEXT.format(n=n, results=RESULTS), ops.BY_NAME),
        optimization_level=0,
        timing_cache="",
    )
    rng = np.random.default_rng(0)
    x, i = rng.standard_normal((2, n)).astype(np.float32), rng.integers(0, 90, (2, n))
    memory, results = {}, {}
    for port in engine.outputs:
        dtype, shape = port.type.dtype.numpy, port.type.static_shape
        size = int(np.prod(shape)) * dtype.itemsize
        memory[port.name] = raw = np.full(size + 2 * GUARD, PATTERN, np.uint8)
        results[port.name] = raw[GUARD : GUARD + size].view(dtype).reshape(shape)
    engine.run({"x": x, "i": i}, out=results)
    kept = np.where(x > 0, i, 0)
    assert (results["kept"] == kept).all() and (results["narrow"] == kept // 20).all()
    assert (results["count"] == (x > 0).sum(1, keepdims=True)).all()
    for name, raw in memory.items():
        assert (raw[:GUARD] == PATTERN).all() and (raw[-GUARD:] == PATTERN).all(), name
