"""Transposes and reshapes between layouts write their elements and padding, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from tests.codegen.running import ISAS, Compiled, Guarded

from lamina import ops
from lamina.codegen.kernels import Reject, lower
from lamina.codegen.layout import Layout
from lamina.ir.graph import Graph, emit
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType

SIZES = (1, 2, 3, 4, 6, 8, 12, 15, 16, 17, 20, 24, 32, 33, 40, 48)
MOST_ELEMENTS = 20_000


def layouts(shape):
    """Return the layouts that a dense tensor may have on the CPU."""
    if len(shape) < 2:
        return [Layout.dense(shape)]
    return [Layout.dense(shape), Layout.channels_last(shape), Layout.blocked(shape)]


def factors(rng, size):
    """Return a random shape of so many elements."""
    shape = []
    for _ in range(int(rng.integers(1, 4))):
        shape.append(int(rng.choice([d for d in range(1, size + 1) if size % d == 0])))
        size //= shape[-1]
    return tuple(int(d) for d in rng.permutation([*shape, size]))


def random_views(rng):
    """Return a graph of one or two transposes and reshapes."""
    shape = (MOST_ELEMENTS,) * 2
    while np.prod(shape) > MOST_ELEMENTS:
        shape = tuple(int(rng.choice(SIZES)) for _ in range(int(rng.integers(2, 5))))
    graph = Graph()
    value = graph.input("x", TensorType(DType.F32, shape))
    for _ in range(int(rng.integers(1, 3))):
        op = ops.Transpose(perm=tuple(rng.permutation(value.tensor.rank).tolist()))
        if rng.integers(0, 2):
            op = ops.Reshape(shape=factors(rng, int(np.prod(value.tensor.shape))))
        value = emit(op, [value], loc=Loc("test"))
    graph.output(value)
    return graph


def check(graph, source, target, isa, nthreads):
    """Return whether there was a kernel; an assertion fails when it is wrong."""
    kernel = lower(graph, [source], [target])
    if isinstance(kernel, Reject):
        return False
    shape = graph.inputs[0].tensor.shape
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (wanted,) = interpret(graph, [x])
    operand = Guarded(shape, np.float32, source, x)
    result = Guarded(wanted.shape, np.float32, target)
    Compiled(kernel, isa)([operand.tensor, result.tensor], nthreads=nthreads)
    result.check(wanted)
    operand.check(x)
    return True


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_random_views(first):
    done = 0
    for seed in range(first, first + 20):
        rng = np.random.default_rng(seed)
        graph = random_views(rng)
        sources, targets = (layouts(v.tensor.shape) for v in (graph.inputs[0], graph.outputs[0]))
        source, target = (x[int(rng.integers(0, len(x)))] for x in (sources, targets))
        done += check(graph, source, target, ISAS[seed % 2], 1 + seed % 3)
    assert done >= 10


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("shape", [(17, 24, 32), (2, 20, 3, 35), (1, 5, 16, 7)])
def test_transposes_between_blocks_of_two_axes(shape, isa):
    """The axis that is blocked and the one that becomes blocked both end in a partial block."""
    perm = (0, len(shape) - 1, *range(1, len(shape) - 1))
    graph = Graph()
    x = graph.input("x", TensorType(DType.F32, shape))
    graph.output(emit(ops.Transpose(perm=perm), [x], loc=Loc("test")))
    turned = graph.outputs[0].tensor.shape
    assert check(graph, Layout.blocked(shape), Layout.blocked(turned), isa, 2)
