"""Movement of elements: symbolic attributes, dimensions as elements, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from tests.samples.sample import normal

from lamina import ops
from lamina.errors import TypeMismatch
from lamina.ir.dims import ceildiv, sym
from lamina.ir.graph import Graph, emit
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.text import parse_type
from lamina.ops import PadMode

N, M = sym("n"), sym("m")
HERE = Loc("test")


def typed(op, *types):
    return str(op.infer(*(parse_type(t) for t in types)))


@pytest.mark.parametrize(
    ("op", "types", "result"),
    [
        (ops.Reshape(shape=(N * 4, 3)), ["f32[n,2,6]"], "f32[4*n,3]"),
        (ops.Transpose(perm=(1, 2, 0)), ["u8[n,2,m]"], "u8[2,m,n]"),
        (ops.Expand(shape=(N, M, 3)), ["i4[m,1]"], "i4[n,m,3]"),
        (ops.Slice(starts=(N - 2,), sizes=(2,), steps=(1,)), ["f32[n]"], "f32[2]"),
        (
            ops.Slice(starts=(0,), sizes=(ceildiv(N, 2),), steps=(2,)),
            ["f32[n]"],
            "f32[ceildiv(n,2)]",
        ),
        (ops.Concat(axis=0), ["f32[n,3]", "f32[2,m]", "f32[n,m]"], "f32[2*n+2,3]"),
        (ops.Pad(pads_begin=(1, N), pads_end=(0, -1)), ["f32[m,4]"], "f32[m+1,n+3]"),
        (ops.Tile(repeats=(N, 2)), ["str[3,m]"], "str[3*n,2*m]"),
    ],
)
def test_symbolic_types(op, types, result):
    assert typed(op, *types) == result


@pytest.mark.parametrize(
    ("op", "types", "fact"),
    [
        (ops.Reshape(shape=(4, 2)), ["f32[9]"], "9 elements but the new shape [4,2] has 8"),
        (ops.Transpose(perm=(0, 0)), ["f32[2,3]"], "no permutation of the 2 axes"),
        (ops.Expand(shape=(3,)), ["f32[1,3]"], "rank 2, more than the 1"),
        (ops.Expand(shape=(2, 4)), ["f32[3]"], "axis 0 of f32[3] is 3, which cannot become 4"),
        (
            ops.Slice(starts=(1,), sizes=(3,), steps=(2,)),
            ["f32[5]"],
            "size 5 but is read from 1 to 5",
        ),
        (ops.Slice(starts=(1,), sizes=(3,), steps=(-1,)), ["f32[5]"], "read from 1 to -1"),
        (ops.Slice(starts=(1,), sizes=(3,), steps=(0,)), ["f32[5]"], "zero"),
        (ops.Slice(starts=(1,), sizes=(3, 3), steps=(1,)), ["f32[5]"], "2 entries for 1"),
        (
            ops.Concat(axis=1),
            ["f32[2,3]", "f32[4,3]"],
            "axis 0 of operand 0 is 2 but of operand 1 is 4",
        ),
        (ops.Concat(axis=1), ["f32[2,3]", "f16[2,3]"], "f32"),
        (ops.Concat(axis=2), ["f32[2,3]"], "axis 2"),
        (ops.Concat(axis=0), [], "at least one"),
        (ops.Pad(pads_begin=(-3,), pads_end=(-3,)), ["f32[5]"], "leaves the size -1"),
        (ops.Pad(pads_begin=(0,), pads_end=(0,)), ["f32[5]", "f32[2]"], "one element"),
        (ops.Tile(repeats=(2,)), ["f32[5,5]"], "1 entries for 2"),
    ],
)
def test_refusals_state_the_fact(op, types, fact):
    with pytest.raises(TypeMismatch) as e:
        op.infer(*(parse_type(t) for t in types))
    assert fact in str(e.value)


def test_symbolic_attributes_get_their_numbers_from_the_run():
    graph = Graph()
    x = graph.input("x", parse_type("f32[n,6]"))
    rows = emit(ops.Slice(starts=(N - 1, 5), sizes=(N - 1, 3), steps=(-1, -2)), [x], loc=HERE)
    padded = emit(ops.Pad(pads_begin=(N, 0), pads_end=(0, 0)), [rows], loc=HERE)
    flat = emit(ops.Reshape(shape=((2 * N - 1) * 3,)), [padded], loc=HERE)
    graph.output(emit(ops.Expand(shape=(N, (2 * N - 1) * 3)), [flat], loc=HERE))
    for n in (1, 3):
        a = normal(n, 6)
        (y,) = interpret(graph, [a])
        wanted = np.vstack([np.zeros((n, 3)), a[:0:-1, 5::-2]]).reshape(-1)
        np.testing.assert_array_equal(y, np.tile(wanted, (n, 1)))


def test_dimensions_may_be_elements():
    """The importer evaluates shape arithmetic on object arrays of dimensions."""
    shape = np.array([N, 3, N * M], object)
    taken = ops.Gather(axis=0).reference(shape, np.array([2, 0]))
    sliced = ops.Slice(starts=(1,), sizes=(2,), steps=(1,)).reference(shape)
    joined = ops.Concat(axis=0).reference(taken, np.array([7]), sliced)
    assert joined.tolist() == [N * M, N, 7, 3, N * M]
    table = ops.Transpose(perm=(1, 0)).reference(ops.Reshape(shape=(5, 1)).reference(joined))
    assert ops.Expand(shape=(2, 5)).reference(table)[1].tolist() == joined.tolist()
    assert ops.Tile(repeats=(2,)).reference(shape).tolist() == [*shape, *shape]
    assert ops.Pad(pads_begin=(1,), pads_end=(0,)).reference(shape).tolist() == [0, *shape]


@pytest.mark.parametrize("mode", [PadMode.EDGE, PadMode.REFLECT, PadMode.WRAP])
@pytest.mark.parametrize("pads", [(0, 0), (2, 1), (9, 8)])
def test_padding_agrees_with_numpy(mode, pads):
    x = normal(3, 4)
    y = ops.Pad(mode=mode, pads_begin=(pads[0], 1), pads_end=(pads[1], 0)).reference(x)
    np.testing.assert_array_equal(y, np.pad(x, ((pads[0], pads[1]), (1, 0)), mode=mode.value))


def test_padding_a_single_element_repeats_it():
    y = ops.Pad(mode=PadMode.REFLECT, pads_begin=(2,), pads_end=(1,)).reference(np.float32([3]))
    assert y.tolist() == [3, 3, 3, 3]


def test_results_own_their_memory():
    x = normal(4, 4)
    for op in (
        ops.Transpose(perm=(1, 0)),
        ops.Slice(starts=(0, 0), sizes=(4, 4), steps=(1, 1)),
        ops.Expand(shape=(4, 4)),
    ):
        y = op.reference(x)
        assert y.flags.c_contiguous and y.flags.writeable
