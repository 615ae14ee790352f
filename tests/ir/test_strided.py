"""Views against NumPy's own strides."""

from __future__ import annotations

import numpy as np
import pytest

from lamina.ir.dims import sym
from lamina.ir.strided import StridedView


def _read(view: StridedView, flat: np.ndarray) -> np.ndarray:
    strides = [s * flat.itemsize for s in view.strides]
    return np.lib.stride_tricks.as_strided(flat[view.offset :], view.shape, strides)


def test_chain_reads_the_same_elements():
    flat = np.arange(2 * 5 * 24)
    array = flat.reshape(2, 5, 24)
    view = StridedView.dense((2, 5, 24)).sliced((0, 1, 8), (2, 4, 8), (1, 1, 1))
    heads = view.reshaped((2, 4, 2, 4))
    assert heads is not None
    want = array[:, 1:, 8:16].reshape(2, 4, 2, 4).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(_read(heads.transposed((0, 2, 1, 3)), flat), want)


def test_negative_steps():
    flat = np.arange(12)
    view = StridedView.dense((3, 4)).sliced((2, 0), (3, 2), (-1, 2))
    np.testing.assert_array_equal(_read(view, flat), flat.reshape(3, 4)[::-1, ::2])


@pytest.mark.parametrize(
    ("shape", "new"), [((4, 6), (24,)), ((24,), (2, 3, 4)), ((4, 1, 6), (2, 2, 6, 1)), ((), (1, 1))]
)
def test_dense_views_reshape_freely(shape, new):
    moved = StridedView.dense(shape).reshaped(new)
    flat = np.arange(int(np.prod(shape)))
    assert moved is not None
    np.testing.assert_array_equal(_read(moved, flat), flat.reshape(new))


def test_elements_that_would_move():
    assert StridedView.dense((4, 6)).transposed((1, 0)).reshaped((24,)) is None
    assert StridedView.dense((2, 3, 4)).transposed((1, 0, 2)).reshaped((6, 4)) is None


def test_symbolic_sizes():
    b, s = sym("b"), sym("s")
    view = StridedView.dense((b, s, 24)).reshaped((b, s, 3, 8))
    assert view is not None
    assert view.strides == (24 * s, 24, 8, 1)
    rows = view.reshaped((b * s, 24))
    assert rows is not None
    assert rows.strides == (24, 1)
