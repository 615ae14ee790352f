"""Broadcasting of symbolic shapes."""

import numpy as np
import pytest

from lamina.errors import TypeMismatch
from lamina.ir.dims import dim_max, evaluate, sym
from lamina.ops.broadcast import broadcast_shapes

A, B = sym("a"), sym("b")


@pytest.mark.parametrize(
    ("shapes", "wanted"),
    [
        ([(2, 3), (3,)], (2, 3)),
        ([(2, 1, 4), (3, 1)], (2, 3, 4)),
        ([(), (5,)], (5,)),
        ([(A, 3), (A, 1)], (A, 3)),
        ([(A, 3), (1, 3)], (A, 3)),
        ([(A,), (4,)], (4,)),
        ([(A,), (B,)], (dim_max(A, B),)),
        ([(2 * A,), (A + A,)], (2 * A,)),
        ([(1,), (A,), (1, 7, 1)], (1, 7, A)),
    ],
)
def test_broadcast_shapes(shapes, wanted):
    assert broadcast_shapes(*shapes) == wanted


@pytest.mark.parametrize("shapes", [[(2,), (3,)], [(A + 2,), (A + 3,)], [(4, 1), (5, 1)]])
def test_sizes_that_never_match(shapes):
    if any(not isinstance(d, int) for s in shapes for d in s):
        assert broadcast_shapes(*shapes) == (dim_max(A + 2, A + 3),)
        return
    with pytest.raises(TypeMismatch, match="do not broadcast: sizes . and . meet on axis"):
        broadcast_shapes(*shapes)


def test_symbol_that_cannot_be_the_number():
    with pytest.raises(TypeMismatch):
        broadcast_shapes((A + 8,), (5,))


@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, 6), (6, 1), (6, 6)])
def test_maximum_of_two_symbols_is_what_numpy_gives(a, b):
    (d,) = broadcast_shapes((A,), (B,))
    assert (evaluate(d, {"a": a, "b": b}),) == np.broadcast_shapes((a,), (b,))
