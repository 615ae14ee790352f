"""Samples of the operators that contain graphs."""

from __future__ import annotations

import numpy as np

from lamina import ops
from lamina.ir.dims import sym
from lamina.ir.graph import Graph, emit
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ops import BinaryKind
from tests.samples.sample import normal, sample

_HERE = Loc("nested")
_MATRIX = TensorType(DType.F32, (2, 3))
_FLAG = TensorType(DType.BOOL, ())
_COUNT = TensorType(DType.I64, ())


def binary_graph(kind: BinaryKind, type: TensorType = _MATRIX) -> Graph:
    """Return a graph that combines its two inputs."""
    graph = Graph()
    a, b = graph.input("a", type), graph.input("b", type)
    graph.output(emit(ops.Binary(kind=kind), [a, b], loc=_HERE), "y")
    return graph


def growing_loop() -> Graph:
    """Return a loop body that appends a captured vector to a carried one and gives their sum."""
    graph = Graph()
    iteration, condition = graph.input("iteration", _COUNT), graph.input("condition", _FLAG)
    grown = graph.input("grown", TensorType(DType.F32, (sym("k"),)))
    step = graph.input("step", TensorType(DType.F32, (2,)))
    longer = emit(ops.Concat(axis=0), [grown, step], loc=_HERE)
    number = emit(ops.Cast(dtype=DType.F32), [iteration], loc=_HERE)
    graph.output(condition, "condition")
    graph.output(longer, "longer")
    graph.output(emit(ops.Binary(kind=BinaryKind.ADD), [number, step], loc=_HERE), "sum")
    return graph


def halving_loop() -> Graph:
    """Return a loop body that halves while the value is above one."""
    graph = Graph()
    graph.input("iteration", _COUNT)
    graph.input("condition", _FLAG)
    x = graph.input("x", TensorType(DType.F32, ()))
    one, half = (graph.input(n, TensorType(DType.F32, ())) for n in ("one", "half"))
    y = emit(ops.Binary(kind=BinaryKind.MUL), [x, half], loc=_HERE)
    graph.output(emit(ops.Binary(kind=BinaryKind.GREATER), [y, one], loc=_HERE), "again")
    graph.output(y, "y")
    return graph


_BRANCHES = {
    "then_branch": binary_graph(BinaryKind.ADD),
    "else_branch": binary_graph(BinaryKind.MUL),
}
_A, _B = normal(2, 3), normal(2, 3, seed=1)
_FOREVER = np.int64(np.iinfo(np.int64).max)
_GROWN = (TensorType(DType.F32, (sym("final"),)), TensorType(DType.F32, (sym("count"), 2)))
_GROW = ops.Loop(body=growing_loop(), carried=1, counts=(sym("count"),), output_types=_GROWN)

SAMPLES = {
    ops.Region: [sample(ops.Region(body=binary_graph(BinaryKind.SUB)), _A, _B, expected=_A - _B)],
    ops.If: [
        sample(ops.If(**_BRANCHES), np.bool_(True), _A, _B, expected=_A + _B),
        sample(ops.If(**_BRANCHES), np.bool_(False), _A, _B, expected=_A * _B),
    ],
    ops.Loop: [
        sample(
            _GROW,
            np.int64(3),
            np.bool_(True),
            np.float32([7]),
            np.float32([1, 2]),
            symbolic=False,
            expected=(np.float32([7, 1, 2, 1, 2, 1, 2]), np.float32([[1, 2], [2, 3], [3, 4]])),
        ),
        sample(
            _GROW,
            np.int64(0),
            np.bool_(True),
            np.float32([7]),
            np.float32([1, 2]),
            symbolic=False,
            expected=(np.float32([7]), np.zeros((0, 2), np.float32)),
        ),
        sample(
            ops.Loop(body=halving_loop(), carried=1),
            _FOREVER,
            np.bool_(True),
            np.float32(20),
            np.float32(1),
            np.float32(0.5),
            expected=np.float32(0.625),
        ),
    ],
}
