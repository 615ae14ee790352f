"""Layers that move elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from tests.tensorrt.running import Net, close, random


def test_a_shuffle_transposes_reshapes_and_transposes() -> None:
    net, x = Net(), random(2, 3, 4)
    layer = net.network.add_shuffle(net.input("x", x))
    layer.first_transpose = (1, 0, 2)
    layer.reshape_dims = (0, 2, -1)
    layer.second_transpose = trt.Permutation([2, 0, 1])
    assert layer.get_output(0).shape == (4, 3, 2)
    net.output(layer.get_output(0))
    wanted = x.transpose(1, 0, 2).reshape(3, 2, 4).transpose(2, 0, 1)
    np.testing.assert_array_equal(net.run(x=x), wanted)


def test_a_shuffle_by_a_tensor_computed_from_a_shape() -> None:
    net = Net()
    tensor = net.network.add_input("x", trt.float32, (-1, 3, 4))
    sizes = net.network.add_shape(tensor).get_output(0)
    assert sizes.dtype == trt.int64 and sizes.is_shape_tensor
    first = net.network.add_slice(sizes, (0,), (1,), (1,)).get_output(0)
    rest = net.constant(np.array([12], np.int64))
    wanted = net.network.add_concatenation([first, rest])
    wanted.axis = 0
    layer = net.network.add_shuffle(tensor)
    layer.set_input(1, wanted.get_output(0))
    assert layer.get_output(0).shape == (-1, 12)
    net.output(layer.get_output(0))
    net.profile(x=((1, 3, 4), (2, 3, 4), (8, 3, 4)))
    x = random(5, 3, 4)
    np.testing.assert_array_equal(net.run(x=x), x.reshape(5, 12))


def test_a_shuffle_by_data() -> None:
    net, x = Net(), random(2, 6)
    shape = net.input("shape", np.zeros(2, np.int32))
    layer = net.network.add_shuffle(net.input("x", x))
    layer.set_input(1, shape)
    assert layer.get_output(0).shape == (-1, -1)
    assert shape.is_shape_tensor and shape.location == trt.TensorLocation.HOST
    net.output(layer.get_output(0))
    engine = net.build()
    for sizes in ([3, 4], [4, -1], [0, 6]):
        got = engine.run({"x": x, "shape": np.array(sizes, np.int32)})["y0"]
        np.testing.assert_array_equal(got, x.reshape([2 if n == 0 else n for n in sizes]))


def test_concatenation_padding_squeeze_and_unsqueeze() -> None:
    net = Net()
    a, b = random(1, 2, 3, 4), random(1, 5, 3, 4, seed=1)
    x, y = net.input("a", a), net.input("b", b)
    joined = net.network.add_concatenation([x, y])
    last = net.network.add_concatenation([x, x])
    last.axis = 3
    padded = net.network.add_padding_nd(x, (1, -1), (0, 2))
    one = net.constant(np.array([0], np.int64))
    squeezed = net.network.add_squeeze(x, one)
    again = net.network.add_unsqueeze(squeezed.get_output(0), net.constant(np.array([1, -1])))
    layers = (joined, last, padded, squeezed, again)
    net.output(*(layer.get_output(0) for layer in layers))
    got = net.run(a=a, b=b)
    np.testing.assert_array_equal(got[0], np.concatenate([a, b], axis=1))
    np.testing.assert_array_equal(got[1], np.concatenate([a, a], axis=3))
    zeros = np.pad(a[..., 1:], ((0, 0), (0, 0), (1, 0), (0, 2)))
    np.testing.assert_array_equal(got[2], zeros)
    np.testing.assert_array_equal(got[3], a[0])
    np.testing.assert_array_equal(got[4], a[0][:, None, ..., None])


def test_a_strict_slice() -> None:
    net, x = Net(), random(6, 7)
    tensor = net.input("x", x)
    plain = net.network.add_slice(tensor, (1, 0), (2, 3), (2, 3))
    backwards = net.network.add_slice(tensor, (5, 6), (3, 7), (-2, -1))
    some = net.network.add_slice(tensor, (2,), (3,), (2,))
    some.axes = (1,)
    net.output(*(layer.get_output(0) for layer in (plain, backwards, some)))
    got = net.run(x=x)
    np.testing.assert_array_equal(got[0], x[1:5:2, 0:9:3])
    np.testing.assert_array_equal(got[1], x[5::-2, ::-1])
    np.testing.assert_array_equal(got[2], x[:, 2:8:2])


def indices(mode: str, n: int, start: int, size: int, step: int) -> Any:
    at = start + step * np.arange(size)
    if mode == "WRAP":
        return at % n
    if mode == "REFLECT":
        period = 2 * (n - 1)
        return np.abs((at + n - 1) % period - (n - 1))
    return at.clip(0, n - 1)


@pytest.mark.parametrize("mode", ["WRAP", "CLAMP", "FILL", "REFLECT"])
@pytest.mark.parametrize("part", [(-3, 11, 1), (2, 5, 2), (-2, 4, 1), (7, 6, -2)])
def test_slices_beyond_the_ends(mode: str, part: tuple[int, int, int]) -> None:
    net, x = Net(), random(2, 6)
    start, size, step = part
    layer = net.network.add_slice(net.input("x", x), (0, start), (2, size), (1, step))
    layer.mode = trt.SampleMode.named(mode)
    if mode == "FILL":
        layer.set_input(4, net.constant(np.array(7, np.float32)))
    net.output(layer.get_output(0))
    at = start + step * np.arange(size)
    wanted = x[:, indices(mode, 6, start, size, step)]
    if mode == "FILL":
        wanted = np.where((at >= 0) & (at < 6), wanted, 7)
    np.testing.assert_array_equal(net.run(x=x), wanted)


def test_a_slice_whose_place_comes_from_data() -> None:
    net, x = Net(), random(3, 10)
    start = net.input("start", np.zeros(2, np.int32))
    layer = net.network.add_slice(net.input("x", x), (0, 0), (3, 4), (1, 1))
    layer.set_input(1, start)
    clamped = net.network.add_slice(net.network.get_input(1), (0, 0), (3, 4), (1, 2))
    clamped.set_input(1, start)
    clamped.mode = trt.SampleMode.CLAMP
    net.output(layer.get_output(0), clamped.get_output(0))
    got = net.run(x=x, start=np.array([0, 5], np.int32))
    np.testing.assert_array_equal(got[0], x[:, 5:9])
    np.testing.assert_array_equal(got[1], x[:, [5, 7, 9, 9]])


def test_gathers() -> None:
    net, x = Net(), random(2, 5, 3)
    tensor = net.input("x", x)
    i = np.array([[0, 4], [1, 1]], np.int32)
    rows = net.input("i", i)
    plain = net.network.add_gather(tensor, rows, 1)
    batched = net.network.add_gather(tensor, rows, 1)
    batched.num_elementwise_dims = 1
    far = net.network.add_gather(tensor, rows, 2)
    far.num_elementwise_dims = 1
    e = np.random.default_rng(0).integers(0, 5, (2, 4, 3)).astype(np.int32)
    elements = net.network.add_gather_v2(tensor, net.input("e", e), trt.GatherMode.ELEMENT)
    elements.axis = 1
    nd = net.network.add_gather_v2(tensor, rows, trt.GatherMode.ND)
    net.output(*(layer.get_output(0) for layer in (plain, batched, far, elements, nd)))
    got = net.run(x=x, i=i, e=e)
    np.testing.assert_array_equal(got[0], x[:, i])
    np.testing.assert_array_equal(got[1], np.stack([x[b, i[b]] for b in range(2)]))
    in_range = np.stack([x[b][:, i[b].clip(0, 2)] for b in range(2)])
    assert got[2].shape == in_range.shape
    np.testing.assert_array_equal(got[2][1], in_range[1])
    np.testing.assert_array_equal(got[3], np.take_along_axis(x, e.astype(np.int64), axis=1))
    np.testing.assert_array_equal(got[4], x[i[:, 0], i[:, 1]])


def test_scatters() -> None:
    net, x = Net(), random(3, 4)
    tensor = net.input("x", x)
    places = net.constant(np.array([[2], [0]], np.int32))
    new = random(2, 4, seed=1)
    nd = net.network.add_scatter(tensor, places, net.constant(new), trt.ScatterMode.ND)
    columns = np.array([[1, 3], [0, 2], [3, 1]], np.int32)
    values = random(3, 2, seed=2)
    elements = net.network.add_scatter(
        tensor, net.constant(columns), net.constant(values), trt.ScatterMode.ELEMENT
    )
    elements.axis = 1
    net.output(nd.get_output(0), elements.get_output(0))
    got = net.run(x=x)
    wanted = x.copy()
    wanted[[2, 0]] = new
    np.testing.assert_array_equal(got[0], wanted)
    wanted = x.copy()
    np.put_along_axis(wanted, columns.astype(np.int64), values, axis=1)
    np.testing.assert_array_equal(got[1], wanted)


def test_one_hot_non_zero_and_reversed_sequences() -> None:
    net = Net()
    i = np.array([2, 0, 1], np.int32)
    values, depth = net.constant(np.array([5, 9], np.float32)), net.constant(np.array(4, np.int32))
    hot = net.network.add_one_hot(net.input("i", i), values, depth, -1)
    x = (random(3, 4) > 0).astype(np.float32)
    found = net.network.add_non_zero(net.input("x", x))
    s, lengths = random(5, 3, seed=1), np.array([2, 5, 1], np.int32)
    turned = net.network.add_reverse_sequence(net.input("s", s), net.input("n", lengths))
    assert found.get_output(0).shape == (2, -1)
    net.output(hot.get_output(0), found.get_output(0), turned.get_output(0))
    got = net.run(i=i, x=x, s=s, n=lengths)
    np.testing.assert_array_equal(got[0], np.where(np.arange(4) == i[:, None], 9, 5))
    np.testing.assert_array_equal(got[1], np.array(np.nonzero(x)))
    assert got[1].dtype == np.int32
    wanted = s.copy()
    for b, n in enumerate(lengths):
        wanted[:n, b] = s[:n, b][::-1]
    np.testing.assert_array_equal(got[2], wanted)


def test_slices_need_their_sizes() -> None:
    net = Net()
    layer = net.network.add_slice(net.input("x", random(3, 4)), (0,), (1,), (1,))
    net.output(layer.get_output(0))
    assert "1 axes are sliced" in net.fails()


def test_an_impossible_reshape_is_refused() -> None:
    net = Net()
    layer = net.network.add_shuffle(net.input("x", random(3, 4)))
    layer.reshape_dims = (5, -1)
    layer.name = "reshape"
    net.output(layer.get_output(0))
    message = net.fails()
    assert "12 elements, not a multiple of 5" in message
    assert "in layer 'reshape' (SHUFFLE)" in message
    close(np.zeros(1), np.zeros(1))
