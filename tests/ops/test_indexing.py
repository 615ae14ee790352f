"""Gather, scatter and their relatives: symbolic types and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from tests.samples.sample import normal

from lamina import ops
from lamina.errors import ExecutionError, TypeMismatch
from lamina.ir.dims import sym
from lamina.ir.graph import Graph, emit
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.text import parse_type

HERE = Loc("test")


def infer(op, *types):
    return str(op.infer(*(parse_type(t) for t in types)))


@pytest.mark.parametrize(
    ("op", "types", "result"),
    [
        (ops.Gather(axis=1), ["f16[n,5,m]", "i32[k,2]"], "f16[n,k,2,m]"),
        (ops.GatherElements(axis=1), ["str[n,5]", "i64[n,k]"], "str[n,k]"),
        (ops.GatherNd(batch_dims=1), ["f32[n,4,m,7]", "i64[n,k,2]"], "f32[n,k,7]"),
        (ops.ScatterElements(axis=0), ["f32[n,4]", "i64[k,4]", "f32[k,4]"], "f32[n,4]"),
        (ops.ScatterNd(), ["f32[n,4,m]", "i64[k,1]", "f32[k,4,m]"], "f32[n,4,m]"),
        (ops.OneHot(axis=1, depth=sym("d")), ["i64[n,m]", "i8[2]"], "i8[n,d,m]"),
        (ops.NonZero(count=sym("c")), ["bool[n,m,3]"], "i64[3,c]"),
        (ops.ReverseSequence(), ["f32[t,b]", "i64[b]"], "f32[t,b]"),
    ],
)
def test_symbolic_types(op, types, result):
    assert infer(op, *types) == result


@pytest.mark.parametrize(
    ("op", "types", "fact"),
    [
        (ops.Gather(axis=2), ["f32[2,3]", "i64[1]"], "axis 2"),
        (ops.Gather(axis=0), ["f32[2,3]", "f32[1]"], "i32 or i64, got f32[1]"),
        (ops.GatherElements(), ["f32[2,3]", "i64[1]"], "2 dimensions, got 1"),
        (
            ops.GatherElements(axis=0),
            ["f32[2,3]", "i64[1,4]"],
            "axis 1 of indices is 4, larger than the 3",
        ),
        (ops.GatherNd(), ["f32[2,3]", "i64[5,3]"], "an index of 3 entries"),
        (ops.GatherNd(), ["f32[2,3]", "i64[5,k]"], "known size"),
        (
            ops.GatherNd(batch_dims=1),
            ["f32[2,3]", "i64[4,1]"],
            "axis 0 of x is 2 but of indices is 4",
        ),
        (ops.ScatterElements(), ["f32[4]", "i64[2]", "f16[2]"], "f16"),
        (ops.ScatterElements(), ["f32[4]", "i64[2]", "f32[3]"], "axis 0 of updates is 3"),
        (ops.ScatterNd(), ["f32[4,5]", "i64[2,1]", "f32[2,4]"], "axis 1 of updates is 4"),
        (ops.ScatterNd(), ["f32[4]", "i64[2,2]", "f32[2]"], "2 entries but x has rank 1"),
        (ops.OneHot(axis=2, depth=3), ["i64[4]", "f32[2]"], "axis 2"),
        (ops.OneHot(axis=0, depth=3), ["i64[4]", "f32[3]"], "the number of values is 3"),
        (ops.ReverseSequence(batch_axis=0), ["f32[2,2]", "i64[2]"], "both axis 0"),
        (ops.ReverseSequence(), ["f32[2,3]", "i64[2]"], "batch is 3"),
    ],
)
def test_refusals_state_the_fact(op, types, fact):
    with pytest.raises(TypeMismatch) as e:
        infer(op, *types)
    assert fact in str(e.value)


@pytest.mark.parametrize("index", [4, -5])
def test_indices_outside_are_errors(index):
    x, wrong = normal(3, 4), np.array([[0, index]])
    for op, operands in (
        (ops.Gather(axis=1), (x, wrong)),
        (ops.GatherElements(axis=1), (x, wrong)),
        (ops.GatherNd(), (x, wrong)),
        (ops.ScatterElements(axis=1), (x, wrong, np.float32([[1, 2]]))),
        (ops.ScatterNd(), (x, wrong, np.float32([1]))),
    ):
        with pytest.raises(ExecutionError, match=f"index {index} is outside axis 1 of size 4"):
            op.reference(*operands)


def test_data_decides_the_count_of_non_zero():
    """The symbol of the count gets its number when the node has run; later nodes use it."""
    graph = Graph()
    x = graph.input("x", parse_type("f32[n]"))
    count = sym("c")
    places = emit(ops.NonZero(count=count), [x], loc=HERE)
    graph.definers["c"] = places
    flat = emit(ops.Reshape(shape=(count,)), [places], loc=HERE)
    graph.output(emit(ops.Gather(axis=0), [x, flat], loc=HERE))
    (y,) = interpret(graph, [np.float32([0, 3, 0, -1])])
    assert y.tolist() == [3, -1]


def test_the_contents_of_a_vector_become_dimensions():
    graph = Graph()
    wanted = graph.input("shape", parse_type("i64[2]"))
    x = graph.input("x", parse_type("f32[1]"))
    bound = emit(ops.BindDims(names=("h", "w")), [wanted], loc=HERE)
    graph.definers.update(h=bound, w=bound)
    graph.output(emit(ops.Expand(shape=(sym("h"), sym("w"))), [x], loc=HERE))
    (y,) = interpret(graph, [np.array([2, 3]), np.float32([5])])
    np.testing.assert_array_equal(y, np.full((2, 3), 5))


def test_dimensions_are_an_integer_vector():
    with pytest.raises(TypeMismatch, match="integer vector or scalar"):
        infer(ops.BindDims(names=("a",)), "f32[1]")
    with pytest.raises(TypeMismatch, match="is 2 but the size of x is 3"):
        infer(ops.BindDims(names=("a", "b")), "i64[3]")
    with pytest.raises(TypeMismatch, match="2 symbols for the scalar"):
        infer(ops.BindDims(names=("a", "b")), "i64[]")
