"""Resizing, sampling and suppression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from tests.tensorrt.running import Net, close, random

C, MODE = trt.ResizeCoordinateTransformation, trt.InterpolationMode


def positions(n: int, size: int, transform: Any) -> Any:
    at = np.arange(size)
    if transform == C.ALIGN_CORNERS:
        return at * (n - 1) / (size - 1)
    if transform == C.ASYMMETRIC:
        return at * n / size
    return (at + 0.5) * n / size - 0.5


@pytest.mark.parametrize("transform", list(C.__members__.values()))
def test_linear_resizing(transform: Any) -> None:
    net, x = Net(), random(1, 2, 4, 1)
    layer = net.network.add_resize(net.input("x", x))
    layer.shape, layer.resize_mode, layer.coordinate_transformation = (
        (1, 2, 7, 1),
        MODE.LINEAR,
        transform,
    )
    net.output(layer.get_output(0))
    at = positions(4, 7, transform).clip(0, 3)
    low = np.floor(at).astype(int).clip(0, 3)
    high, share = (low + 1).clip(0, 3), (at - low)[:, None]
    close(net.run(x=x), x[:, :, low] * (1 - share) + x[:, :, high] * share, 1e-5)


@pytest.mark.parametrize(
    ("rounding", "function"),
    [
        ("FLOOR", np.floor),
        ("CEIL", np.ceil),
        ("HALF_UP", lambda a: np.floor(a + 0.5)),
        ("HALF_DOWN", lambda a: np.ceil(a - 0.5)),
    ],
)
def test_nearest_resizing_by_scales(rounding: str, function: Any) -> None:
    net, x = Net(), random(1, 1, 4, 3)
    layer = net.network.add_resize(net.input("x", x))
    layer.scales = [1, 1, 2, 1]
    layer.nearest_rounding = trt.ResizeRoundMode.named(rounding)
    assert layer.get_output(0).shape == (1, 1, 8, 3)
    net.output(layer.get_output(0))
    at = function(positions(4, 8, C.ASYMMETRIC)).astype(int).clip(0, 3)
    close(net.run(x=x), x[:, :, at])


def test_resizing_to_a_shape_tensor() -> None:
    net = Net()
    tensor = net.network.add_input("x", trt.float32, (1, 1, -1, 4))
    layer = net.network.add_resize(tensor)
    layer.set_input(1, net.input("size", np.zeros(4, np.int32)))
    net.output(layer.get_output(0))
    net.profile(x=((1, 1, 2, 4), (1, 1, 4, 4), (1, 1, 8, 4)))
    got = net.run(x=random(1, 1, 3, 4), size=np.array([1, 1, 6, 2], np.int32))
    assert got.shape == (1, 1, 6, 2)


def test_a_resize_without_sizes_is_refused() -> None:
    net = Net()
    net.output(net.network.add_resize(net.input("x", random(1, 1, 2, 2))).get_output(0))
    assert "neither shape nor scales are given" in net.fails()


def test_samples_at_grid_points_are_pixels() -> None:
    net, x = Net(), random(1, 2, 5, 5)
    axis = np.linspace(-1, 1, 5, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)[None]
    layer = net.network.add_grid_sample(net.input("x", x), net.input("g", grid))
    layer.align_corners = True
    outside = net.network.add_grid_sample(*(net.network.get_input(i) for i in (0, 1)))
    outside.align_corners, outside.sample_mode = True, trt.SampleMode.CLAMP
    outside.interpolation_mode = MODE.NEAREST
    net.output(layer.get_output(0), outside.get_output(0))
    same, clamped = net.run(x=x, g=grid)
    close(same, x, 1e-5)
    assert clamped.shape == x.shape
    far = net.run(x=x, g=grid * 3)
    assert far[0][0, 0, 0, 0] == 0
    assert far[1][0, 0, 0, 0] == x[0, 0, 0, 0]


def test_overlapping_boxes_are_dropped() -> None:
    net = Net()
    boxes = np.array([[[0, 0, 1, 1], [0, 0, 1, 0.9], [0, 5, 1, 6]]], np.float32)
    scores = np.array([[[0.9, 0.1], [0.8, 0.7], [0.3, 0.2]]], np.float32)
    layer = net.network.add_nms(
        net.input("boxes", boxes),
        net.input("scores", scores),
        net.constant(np.array(5, np.int32)),
    )
    layer.set_input(3, net.constant(np.array(0.5, np.float32)))
    layer.set_input(4, net.constant(np.array(0.15, np.float32)))
    net.output(layer.get_output(0), layer.get_output(1))
    rows, count = net.run(boxes=boxes, scores=scores)
    np.testing.assert_array_equal(rows, [[0, 0, 0], [0, 0, 2], [0, 1, 1], [0, 1, 2]])
    assert count == 4 and rows.dtype == np.int32


def test_boxes_of_each_class_and_a_limit() -> None:
    net = Net()
    shared = np.array([[[0, 0, 1, 1], [0, 0, 1, 0.9], [0, 5, 1, 6]]], np.float32)
    boxes = np.stack([shared, shared + 10], axis=2)
    scores = np.array([[[0.9, 0.1], [0.8, 0.7], [0.3, 0.2]]], np.float32)
    layer = net.network.add_nms(
        net.input("boxes", boxes),
        net.input("scores", scores),
        net.constant(np.array(5, np.int32)),
        trt.int64,
    )
    layer.set_input(3, net.constant(np.array(0.5, np.float32)))
    layer.topk_box_limit = 2
    net.output(layer.get_output(0))
    rows = net.run(boxes=boxes, scores=scores)
    np.testing.assert_array_equal(rows, [[0, 0, 0], [0, 1, 1], [0, 1, 2]])
