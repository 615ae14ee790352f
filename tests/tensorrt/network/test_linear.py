"""Convolutions, matrix products and pooling against direct sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from tests.tensorrt.running import Net, close, random

P = trt.PaddingMode


def convolved(x: Any, w: Any, stride: int, pads: tuple[int, int], dilation: int = 1) -> Any:
    """Cross-correlate [N, C, L] with [M, C, K]."""
    x = np.pad(x, ((0, 0), (0, 0), pads))
    span = (w.shape[2] - 1) * dilation + 1
    starts = range(0, x.shape[2] - span + 1, stride)
    columns = [np.einsum("nck,mck->nm", x[:, :, s : s + span : dilation], w) for s in starts]
    return np.stack(columns, axis=2)


def test_a_convolution_with_every_setting() -> None:
    net = Net()
    x, w, b = random(2, 4, 9), random(6, 4, 3, seed=1), random(6, seed=2)
    tensor = net.input("x", x[..., None])
    layer = net.network.add_convolution_nd(tensor, 6, (3, 1), w.reshape(-1), b)
    layer.stride_nd = (2, 1)
    layer.pre_padding, layer.post_padding = (1, 0), (3, 0)
    layer.dilation_nd = (2, 1)
    assert layer.get_output(0).shape == (2, 6, 5, 1)
    net.output(layer.get_output(0))
    wanted = convolved(x, w, 2, (1, 3), 2) + b[:, None]
    close(net.run(x=x[..., None]), wanted[..., None], 1e-4)


def test_groups() -> None:
    net = Net()
    x, w = random(1, 4, 6, 6), random(8, 2, 3, 3, seed=1)
    layer = net.network.add_convolution_nd(net.input("x", x), 8, trt.DimsHW(3, 3), w)
    layer.num_groups = 2
    net.output(layer.get_output(0))
    other = Net()
    halves = [
        other.network.add_convolution_nd(
            other.input(f"x{i}", x[:, :2]), 4, (3, 3), w[4 * i : 4 * i + 4].copy()
        ).get_output(0)
        for i in range(2)
    ]
    other.output(*halves)
    parts = other.run(x0=x[:, :2].copy(), x1=x[:, 2:].copy())
    close(net.run(x=x), np.concatenate(parts, axis=1), 1e-4)


@pytest.mark.parametrize(
    ("mode", "size", "wanted"),
    [
        (P.EXPLICIT_ROUND_DOWN, 8, 4),
        (P.EXPLICIT_ROUND_UP, 8, 5),
        (P.SAME_UPPER, 8, 4),
        (P.SAME_LOWER, 7, 4),
    ],
)
def test_padding_modes(mode: Any, size: int, wanted: int) -> None:
    net = Net()
    x, w = random(1, 1, size, 1), random(1, 1, 3, 1, seed=1)
    layer = net.network.add_convolution_nd(net.input("x", x), 1, (3, 1), w)
    layer.stride_nd, layer.padding_nd, layer.padding_mode = (2, 1), (1, 0), mode
    net.output(layer.get_output(0))
    pads = {P.EXPLICIT_ROUND_DOWN: (1, 1), P.EXPLICIT_ROUND_UP: (1, 2), P.SAME_UPPER: (0, 1)}
    expected = convolved(x[..., 0], w[..., 0], 2, pads.get(mode, (1, 1)))
    assert expected.shape == (1, 1, wanted)
    close(net.run(x=x), expected[..., None], 1e-5)


def test_same_padding_of_a_dynamic_size() -> None:
    net = Net()
    w = random(2, 1, 3, 3, seed=1)
    tensor = net.network.add_input("x", trt.float32, (1, 1, -1, -1))
    layer = net.network.add_convolution_nd(tensor, 2, (3, 3), w)
    layer.stride_nd, layer.padding_mode = (2, 2), P.SAME_UPPER
    assert layer.get_output(0).shape == (1, 2, -1, -1)
    net.output(layer.get_output(0))
    net.profile(x=((1, 1, 4, 4), (1, 1, 8, 8), (1, 1, 16, 16)))
    assert net.run(x=random(1, 1, 7, 10)).shape == (1, 2, 4, 5)


def test_kernel_and_bias_as_tensors() -> None:
    net = Net()
    x, w, b = random(1, 2, 5, 5), random(3, 2, 3, 3, seed=1), random(3, seed=2)
    layer = net.network.add_convolution_nd(net.input("x", x), 3, (3, 3), trt.Weights())
    layer.set_input(1, net.input("w", w))
    layer.set_input(2, net.input("b", b))
    net.output(layer.get_output(0))
    same = Net()
    fixed = same.network.add_convolution_nd(same.input("x", x), 3, (3, 3), w, b)
    same.output(fixed.get_output(0))
    close(net.run(x=x, w=w, b=b), same.run(x=x), 1e-5)


def test_a_deconvolution_is_the_transpose_of_a_convolution() -> None:
    net = Net()
    x, w = random(1, 3, 4, 5), random(3, 2, 3, 2, seed=1)
    layer = net.network.add_deconvolution_nd(net.input("x", x), 2, (3, 2), w)
    layer.stride_nd, layer.pre_padding, layer.post_padding = (2, 1), (1, 0), (0, 1)
    net.output(layer.get_output(0))
    full = np.zeros((1, 2, 9, 6), np.float32)
    for i, j in np.ndindex(4, 5):
        full[:, :, 2 * i : 2 * i + 3, j : j + 2] += np.einsum("nc,cmkl->nmkl", x[:, :, i, j], w)
    assert layer.get_output(0).shape == (1, 2, 8, 5)
    close(net.run(x=x), full[:, :, 1:, :-1], 1e-4)


M = trt.MatrixOperation


@pytest.mark.parametrize(
    ("a", "op0", "b", "op1", "subscripts"),
    [
        ((2, 3, 4), M.NONE, (2, 4, 5), M.NONE, "bik,bkj->bij"),
        ((2, 4, 3), M.TRANSPOSE, (1, 5, 4), M.TRANSPOSE, "bki,cjk->bij"),
        ((2, 4), M.VECTOR, (2, 4, 5), M.NONE, "bk,bkj->bj"),
        ((2, 3, 4), M.NONE, (2, 4), M.VECTOR, "bik,bk->bi"),
        ((2, 4), M.VECTOR, (2, 4), M.VECTOR, "bk,bk->b"),
    ],
)
def test_matrix_products(
    a: tuple[int, ...], op0: Any, b: tuple[int, ...], op1: Any, subscripts: str
) -> None:
    net = Net()
    x, y = random(*a), random(*b, seed=1)
    layer = net.network.add_matrix_multiply(net.input("a", x), op0, net.input("b", y), op1)
    net.output(layer.get_output(0))
    close(net.run(a=x, b=y), np.einsum(subscripts, x, y), 1e-5)


def windows(x: Any, kernel: int, stride: int, pads: tuple[int, int], fill: float) -> Any:
    x = np.pad(x, ((0, 0), (0, 0), pads, (0, 0)), constant_values=fill)
    starts = range(0, x.shape[2] - kernel + 1, stride)
    return np.stack([x[:, :, s : s + kernel] for s in starts], axis=2)


@pytest.mark.parametrize("kind", trt.PoolingType.__members__)
def test_pooling(kind: str) -> None:
    net, x = Net(), random(2, 3, 9, 1)
    layer = net.network.add_pooling_nd(net.input("x", x), trt.PoolingType.named(kind), (3, 1))
    layer.stride_nd, layer.padding_nd = (2, 1), (1, 0)
    layer.blend_factor = 0.25
    net.output(layer.get_output(0))
    largest = windows(x, 3, 2, (1, 1), -np.inf).max(3)
    mean = np.nanmean(windows(x, 3, 2, (1, 1), np.nan), axis=3)
    wanted = {"MAX": largest, "AVERAGE": mean, "MAX_AVERAGE_BLEND": 0.75 * largest + 0.25 * mean}
    close(net.run(x=x), wanted[kind], 1e-5)


def test_average_pooling_that_counts_padding_and_rounds_up() -> None:
    net, x = Net(), random(1, 2, 8, 1)
    layer = net.network.add_pooling_nd(net.input("x", x), trt.PoolingType.AVERAGE, (3, 1))
    layer.stride_nd, layer.padding_nd = (2, 1), (1, 0)
    layer.average_count_excludes_padding = False
    rounded = net.network.add_pooling_nd(net.network.get_input(0), trt.PoolingType.MAX, (3, 1))
    rounded.stride_nd, rounded.padding_nd = (2, 1), (1, 0)
    rounded.padding_mode = P.EXPLICIT_ROUND_UP
    net.output(layer.get_output(0), rounded.get_output(0))
    mean, largest = net.run(x=x)
    close(mean, windows(x, 3, 2, (1, 1), 0).mean(3), 1e-5)
    close(largest, windows(x, 3, 2, (1, 2), -np.inf).max(3), 1e-5)


def test_a_mismatched_number_of_weights_is_refused_by_name() -> None:
    net, x = Net(), random(1, 3, 8, 8)
    layer = net.network.add_convolution_nd(net.input("x", x), 4, (3, 3), random(4, 2, 3, 3))
    layer.name = "conv1"
    net.output(layer.get_output(0))
    message = net.fails()
    assert "kernel has 72 weights, expected 108" in message
    assert "in layer 'conv1' (CONVOLUTION)" in message
    layer.kernel = random(4, 3, 3, 3)
    assert net.run(x=x).shape == (1, 4, 6, 6)


def test_a_kernel_that_is_not_given_is_refused() -> None:
    net = Net()
    layer = net.network.add_convolution_nd(
        net.input("x", random(1, 3, 8, 8)), 4, (3, 3), trt.Weights()
    )
    net.output(layer.get_output(0))
    assert "the kernel is missing" in net.fails()
