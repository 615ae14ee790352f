"""Resize, GridSample, RoiAlign and Nms: types, refusals, and answers known by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tests.samples.sample import normal

from lamina import ops
from lamina.errors import TypeMismatch
from lamina.ir.dims import sym
from lamina.ir.text import parse_type
from lamina.ops import CoordinateMode, InterpolationMode, NearestMode

LINEAR = InterpolationMode.LINEAR
H, W = sym("h"), sym("w")


@pytest.mark.parametrize(
    ("op", "types", "result"),
    [
        (ops.Resize(sizes=(1, 3, 2 * H, W)), ["u8[1,3,h,w]"], "u8[1,3,2*h,w]"),
        (ops.GridSample(), ["f32[n,c,h,w]", "f32[n,p,q,2]"], "f32[n,c,p,q]"),
        (ops.GridSample(), ["f16[n,c,d,h,w]", "f32[n,p,q,r,3]"], "f16[n,c,p,q,r]"),
        (
            ops.RoiAlign(output_height=7, output_width=5),
            ["f32[n,c,h,w]", "f32[r,4]", "i64[r]"],
            "f32[r,c,7,5]",
        ),
        (
            ops.Nms(count=sym("k")),
            ["f32[n,b,4]", "f32[n,c,b]", "i64[1]", "f32[]", "f32[1]"],
            "i64[k,3]",
        ),
    ],
)
def test_symbolic_types(op, types, result):
    assert str(op.infer(*(parse_type(t) for t in types))) == result


@pytest.mark.parametrize(
    ("op", "types", "fact"),
    [
        (ops.Resize(sizes=(2,)), ["f32[2,3]"], "1 entries for 2"),
        (ops.Resize(sizes=(2,), scales=(-1.0,)), ["f32[2]"], "must be positive"),
        (ops.Resize(sizes=(2,), mode=LINEAR), ["bool[2]"], "bool[2]"),
        (
            ops.Resize(sizes=(2,), coordinate_mode=CoordinateMode.TF_CROP_AND_RESIZE),
            ["f32[2]"],
            "region of interest",
        ),
        (ops.Resize(sizes=(2, 2)), ["f32[2,3]", "f32[6]"], "roi is 6 but 2 per axis is 4"),
        (ops.GridSample(), ["f32[1,2]", "f32[1,2]"], "3 to 5 dimensions"),
        (ops.GridSample(), ["f32[1,2,3,3]", "f32[1,3,3,3]"], "last axis of grid is 3"),
        (ops.GridSample(), ["f32[1,2,3,3]", "f32[2,3,3,2]"], "batch of x is 1"),
        (ops.RoiAlign(), ["f32[1,2,3,3]", "f32[3,5]", "i64[3]"], "rois is 5"),
        (ops.RoiAlign(), ["f32[1,2,3,3]", "f32[3,4]", "i64[2]"], "batch_indices"),
        (
            ops.Nms(count=sym("k")),
            ["f32[1,5,4]", "f32[1,2,6]", "i64[1]", "f32[1]", "f32[1]"],
            "number of boxes is 5 but that of scores is 6",
        ),
    ],
)
def test_refusals_state_the_fact(op, types, fact):
    with pytest.raises(TypeMismatch) as e:
        op.infer(*(parse_type(t) for t in types))
    assert fact in str(e.value)


def test_doubling_a_ramp():
    x = np.float32([0, 4, 8])
    linear = ops.Resize(sizes=(6,), mode=LINEAR)
    assert linear.reference(x).tolist() == [0, 1, 3, 5, 7, 8]
    corners = ops.Resize(sizes=(5,), mode=LINEAR, coordinate_mode=CoordinateMode.ALIGN_CORNERS)
    assert corners.reference(x).tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        (NearestMode.ROUND_PREFER_FLOOR, [0, 0, 1, 1, 2]),
        (NearestMode.ROUND_PREFER_CEIL, [0, 1, 1, 2, 2]),
        (NearestMode.FLOOR, [0, 0, 1, 1, 2]),
        (NearestMode.CEIL, [0, 1, 1, 2, 2]),
    ],
)
def test_rounding_of_positions(mode, wanted):
    op = ops.Resize(sizes=(5,), nearest_mode=mode, coordinate_mode=CoordinateMode.ALIGN_CORNERS)
    assert op.reference(np.arange(3)).tolist() == wanted


def test_scales_differ_from_the_quotient_of_sizes():
    """7 elements times 0.6 are 4.2: the last position depends on which of the two is used."""
    x = np.arange(7, dtype=np.float64)
    by_scale = ops.Resize(sizes=(4,), scales=(0.6,), mode=LINEAR).reference(x)
    by_size = ops.Resize(sizes=(4,), mode=LINEAR).reference(x)
    np.testing.assert_allclose(by_scale, (np.arange(4) + 0.5) / 0.6 - 0.5)
    np.testing.assert_allclose(by_size, (np.arange(4) + 0.5) * 7 / 4 - 0.5)


def test_antialiasing_keeps_the_mean_of_a_constant_and_smooths_a_pixel():
    x = np.zeros((1, 9), np.float32)
    x[0, 4] = 1
    op = ops.Resize(sizes=(1, 3), mode=LINEAR, antialias=True)
    assert op.reference(np.ones_like(x)).tolist() == [[1, 1, 1]]
    np.testing.assert_allclose(op.reference(x), [[0, 1 / 3, 0]], atol=1e-7)


def test_large_integers_survive_nearest():
    x = np.array([2**62 + 1, 2**62 + 3])
    assert ops.Resize(sizes=(4,)).reference(x).tolist() == [x[0], x[0], x[1], x[1]]


def test_grid_at_the_centers_is_the_identity():
    x = normal(2, 3, 4, 5)
    centers = [(2 * np.arange(n) + 1) / n - 1 for n in (4, 5)]
    grid = np.stack(np.meshgrid(*centers, indexing="ij")[::-1], axis=-1).astype(np.float32)
    for mode in InterpolationMode:
        y = ops.GridSample(mode=mode).reference(x, np.stack([grid, grid]))
        np.testing.assert_allclose(y, x, atol=1e-5)


def test_regions_without_extent_are_zero():
    x = normal(1, 2, 4, 4)
    y = ops.RoiAlign(output_height=2, output_width=2).reference(
        x, np.float32([[2, 2, 2, 2]]), np.array([0])
    )
    assert y.shape == (1, 2, 2, 2) and y.dtype == np.float32 and not y.any()
