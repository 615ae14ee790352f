"""Random graphs of all kinds of operators, fused into one kernel, give what the interpreter gives.

A graph may be refused; the share of refusals is bounded, so that the test keeps testing.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.codegen.running import ISAS, Compiled, Guarded
from tests.codegen.test_regions import random_layout

from lamina import ops
from lamina.codegen.kernels import Reject, lower
from lamina.codegen.layout import Layout
from lamina.errors import TypeMismatch
from lamina.ir.graph import Graph, emit
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.text import parse_graph
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import ActivationKind, BinaryKind, PadMode, PoolKind, ReduceKind

SIZES = ([1, 2, 3, 4, 8, 16, 17, 20], [1, 2, 5, 33, 64, 130])
REDUCTIONS = (ReduceKind.MEAN, ReduceKind.MAX, ReduceKind.SUM_SQUARE, ReduceKind.LOG_SUM_EXP)
MOST_ELEMENTS = 100_000


class Maker:
    """Adds random operators to a graph."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.graph, self.arrays, self.values = Graph(), [], []
        sizes = SIZES[seed % 2]
        shape = tuple(
            int(self.rng.choice(sizes)) for _ in range(int(self.rng.integers(1, 5 - seed % 2)))
        )
        self.operand("x", shape)
        self.operand("y", tuple(int(self.rng.choice([d, 1])) for d in shape))
        steps = (
            self.pointwise, self.pointwise, self.binary, self.binary, self.transpose, self.reshape,
            self.slice, self.reduce, self.softmax, self.norm, self.pad, self.gather, self.tile,
            self.pool,
        )  # fmt: skip
        for _ in range(int(self.rng.integers(1, 6))):
            source = self.pick(self.values)
            step = self.pick(steps)
            if source.tensor.rank and (op := step(source)) is not None:
                self.add(*op)

    def pick(self, items):
        return items[int(self.rng.integers(0, len(items)))]

    def operand(self, name, shape, array=None):
        if array is None:
            array = self.rng.standard_normal(shape).astype(np.float32)
        self.values.append(self.graph.input(name, TensorType(DType.of(array.dtype), shape)))
        self.arrays.append(array)
        return self.values[-1]

    def add(self, op, *operands):
        try:
            value = emit(op, list(operands), loc=Loc("random"))
        except TypeMismatch:
            return
        if int(np.prod(value.tensor.shape)) <= MOST_ELEMENTS:
            self.values.append(value)

    def pointwise(self, x):
        kinds = (ActivationKind.RELU, ActivationKind.SIGMOID, ActivationKind.SOFTSIGN)
        return ops.Activation(kind=self.pick(kinds)), x

    def binary(self, x):
        kinds = (BinaryKind.ADD, BinaryKind.SUB, BinaryKind.MAX)
        return ops.Binary(kind=self.pick(kinds)), x, self.pick(self.values)

    def transpose(self, x):
        return ops.Transpose(perm=tuple(self.rng.permutation(x.tensor.rank).tolist())), x

    def reshape(self, x):
        size = int(np.prod(x.tensor.shape))
        first = self.pick([d for d in range(1, size + 1) if size % d == 0])
        rest = size // first
        second = self.pick([d for d in range(1, rest + 1) if rest % d == 0])
        return ops.Reshape(shape=(first, second, rest // second)), x

    def slice(self, x):
        starts, sizes, steps = [], [], []
        for d in x.tensor.shape:
            step = self.pick([1, 1, 2, -1])
            size = int(self.rng.integers(1, (d - 1) // abs(step) + 2))
            low = 0 if step > 0 else (size - 1) * -step
            high = d - 1 - (size - 1) * step if step > 0 else d - 1
            starts.append(int(self.rng.integers(low, high + 1)))
            sizes.append(size)
            steps.append(step)
        return ops.Slice(starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps)), x

    def reduce(self, x):
        count = int(self.rng.integers(1, x.tensor.rank + 1))
        axes = tuple(sorted(self.rng.choice(x.tensor.rank, count, replace=False).tolist()))
        kept = bool(self.rng.integers(0, 2))
        return ops.Reduce(kind=self.pick(REDUCTIONS), axes=axes, keepdims=kept), x

    def softmax(self, x):
        return ops.Softmax(axis=int(self.rng.integers(0, x.tensor.rank))), x

    def norm(self, x):
        return ops.LayerNorm(axis=int(self.rng.integers(0, x.tensor.rank)), epsilon=1e-2), x

    def pad(self, x):
        pads = [tuple(int(p) for p in self.rng.integers(0, 2, x.tensor.rank)) for _ in range(2)]
        mode = self.pick(list(PadMode))
        return ops.Pad(mode=mode, pads_begin=pads[0], pads_end=pads[1]), x

    def gather(self, x):
        axis, count = int(self.rng.integers(0, x.tensor.rank)), int(self.rng.integers(1, 6))
        size = x.tensor.shape[axis]
        array = self.rng.integers(-size, size, count)
        indices = self.operand(f"i{len(self.arrays)}", (count,), array)
        self.values.pop()
        return ops.Gather(axis=axis), x, indices

    def tile(self, x):
        return ops.Tile(repeats=tuple(int(r) for r in self.rng.integers(1, 3, x.tensor.rank))), x

    def pool(self, x):
        if x.tensor.rank != 4 or min(x.tensor.shape[2:]) < 3:
            return None
        window = dict(kernel=(2, 3), strides=(1, 2), dilations=(1, 1))
        kind = self.pick([PoolKind.MAX, PoolKind.AVERAGE])
        return ops.Pool(kind=kind, pads_begin=(1, 0), pads_end=(0, 1), **window), x


def compare(seed) -> bool:
    """Return whether the graph had a kernel; an assertion fails when its results are wrong."""
    made = Maker(seed)
    graph, rng = made.graph, made.rng
    graph.output(made.values[-1])
    sources = [random_layout(rng, v.tensor.shape) for v in graph.inputs]
    targets = [random_layout(rng, v.tensor.shape) for v in graph.outputs]
    kernel = lower(graph, sources, targets)
    if isinstance(kernel, Reject):
        return False
    expected = interpret(graph, made.arrays)
    held = [Guarded(x.shape, x.dtype, at, x) for x, at in zip(made.arrays, sources, strict=True)]
    results = [Guarded(y.shape, y.dtype, at) for y, at in zip(expected, targets, strict=True)]
    tensors = [m.tensor for m in (*held, *results)]
    Compiled(kernel, ISAS[seed // 2 % 2])(tensors, nthreads=1 + seed % 4)
    for found, wanted in zip(results, expected, strict=True):
        found.check(wanted, 1e-4)
    return True


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_random_graphs(first):
    done = [compare(seed) for seed in range(first, first + 20)]
    assert sum(done) >= 10


ONCE_WRONG = {
    "a fold must not take a loop that a computed index varies with": (
        """graph(%x: f32[16,3,4]) {
          %0: f32[16,3,4] = softmax(%x) axis=2
          %1: f32[17,4,5] = pad(%0) mode=wrap pads_begin=(1,0,0) pads_end=(0,1,1)
          return %1
        }""",
        [Layout.dense((16, 3, 4))],
    ),
    "a result of all rows is known outside each group of rows": (
        """graph(%x: f32[4,2,8,17], %y: f32[1,2,1,1]) {
          %0: f32[1,1,1,1] = reduce(%y) kind=mean axes=(0,1,2,3)
          %1: f32[4,2,8,17] = binary(%x, %0) kind=max
          return %1
        }""",
        [Layout.dense((4, 2, 8, 17)), Layout.blocked((1, 2, 1, 1))],
    ),
    "the length of a guarded loop is no multiple of its block": (
        """graph(%y: f32[1,3,1,1]) {
          %0: f32[1,3,1,1] = transpose(%y) perm=(0,1,3,2)
          return %0
        }""",
        [Layout.blocked((1, 3, 1, 1), 8)],
    ),
    "a reduction inside a condition on its own axis": (
        """graph(%x: f32[3,5]) {
          %0: f32[3,5] = softmax(%x) axis=1
          %1: f32[5,5] = pad(%0) pads_begin=(1,0) pads_end=(1,0)
          %2: f32[5,5] = softmax(%1) axis=1
          return %1
        }""",
        [Layout.dense((3, 5))],
    ),
}


@pytest.mark.parametrize("name", ONCE_WRONG)
def test_graphs_that_were_once_wrong(name):
    text, sources = ONCE_WRONG[name]
    graph = parse_graph(text, ops.BY_NAME)
    kernel = lower(graph, sources, None)
    assert not isinstance(kernel, Reject), kernel.reason
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal(v.tensor.shape).astype(np.float32) for v in graph.inputs]
    (wanted,) = interpret(graph, xs)
    found = Guarded(wanted.shape, wanted.dtype, Layout.dense(wanted.shape))
    held = [Guarded(x.shape, x.dtype, at, x) for x, at in zip(xs, sources, strict=True)]
    for isa in ISAS:
        Compiled(kernel, isa)([m.tensor for m in (*held, found)], nthreads=2)
        found.check(wanted, 1e-5)
