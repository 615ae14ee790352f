"""Reductions, normalizations, scales, constants and Einstein sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina
import lamina.tensorrt as trt
from tests.tensorrt.running import Net, close, random

R, F = trt.ReduceOperation, trt.FillOperation


def softmax(x: Any, axis: int) -> Any:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def test_reductions() -> None:
    net, x = Net(), random(2, 3, 4) + 1
    tensor = net.input("x", x)
    rows = [(R.SUM, np.sum), (R.PROD, np.prod), (R.MAX, np.max), (R.MIN, np.min), (R.AVG, np.mean)]
    layers = [
        net.network.add_reduce(tensor, op, 0b101, i % 2 == 0) for i, (op, _) in enumerate(rows)
    ]
    layers.append(net.network.add_reduce(tensor, R.NONE, 0b1, True))
    net.output(*(layer.get_output(0) for layer in layers))
    got = net.run(x=x)
    for i, (_, function) in enumerate(rows):
        close(got[i], function(x, axis=(0, 2), keepdims=i % 2 == 0), 1e-4)
    close(got[-1], x)


def test_softmax_along_the_third_axis_from_the_end_or_a_chosen_one() -> None:
    net, x = Net(), random(2, 3, 4, 5)
    tensor = net.input("x", x)
    default, chosen = net.network.add_softmax(tensor), net.network.add_softmax(tensor)
    chosen.axes = 1 << 3
    net.output(default.get_output(0), chosen.get_output(0))
    got = net.run(x=x)
    close(got[0], softmax(x, 1))
    close(got[1], softmax(x, 3))


def test_a_ragged_softmax() -> None:
    net, x = Net(), random(3, 5)
    lengths = np.array([[2], [5], [1]], np.int32)
    layer = net.network.add_ragged_softmax(net.input("x", x), net.input("n", lengths))
    net.output(layer.get_output(0))
    wanted = np.zeros_like(x)
    for i, (n,) in enumerate(lengths):
        wanted[i, :n] = softmax(x[i, :n], 0)
    close(net.run(x=x, n=lengths), wanted)


def test_the_largest_and_smallest_elements() -> None:
    net, x = Net(), random(3, 8)
    tensor = net.input("x", x)
    large = net.network.add_topk(tensor, trt.TopKOperation.MAX, 3, 1 << 1)
    small = net.network.add_topk(tensor, trt.TopKOperation.MIN, 2, 1 << 0, trt.int64)
    net.output(*(layer.get_output(i) for layer in (large, small) for i in (0, 1)))
    values, where, least, rows = net.run(x=x)
    close(values, -np.sort(-x, axis=1)[:, :3])
    np.testing.assert_array_equal(where, np.argsort(-x, axis=1, kind="stable")[:, :3])
    assert (where.dtype, rows.dtype) == (np.int32, np.int64)
    close(least, np.sort(x, axis=0)[:2])


def test_how_many_elements_may_be_a_tensor() -> None:
    net, x = Net(), random(3, 8)
    layer = net.network.add_topk(net.input("x", x), trt.TopKOperation.MAX, 1, 1 << 1)
    layer.set_input(1, net.input("k", np.array(0, np.int32)))
    net.output(layer.get_output(0))
    assert net.run(x=x, k=np.array(5, np.int32)).shape == (3, 5)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_running_sums(exclusive: bool, reverse: bool) -> None:
    net, x = Net(), random(3, 4)
    axis = net.constant(np.array(1, np.int32))
    layer = net.network.add_cumulative(
        net.input("x", x), axis, trt.CumulativeOperation.SUM, exclusive, reverse
    )
    net.output(layer.get_output(0))
    ordered = x[:, ::-1] if reverse else x
    wanted = np.cumsum(ordered, axis=1) - (ordered if exclusive else 0)
    close(net.run(x=x), wanted[:, ::-1] if reverse else wanted)


@pytest.mark.parametrize("mode", trt.ScaleMode.__members__)
def test_scales(mode: str) -> None:
    net, x = Net(), abs(random(2, 3, 4, 5)) + 1
    shape = {"UNIFORM": (1, 1, 1), "CHANNEL": (3, 1, 1), "ELEMENTWISE": (3, 4, 5)}[mode]
    scale, shift, power = (abs(random(*shape, seed=s)) + 0.5 for s in (1, 2, 3))
    layer = net.network.add_scale(net.input("x", x), trt.ScaleMode.named(mode), shift, scale, power)
    assert layer.scale.shape == shape
    net.output(layer.get_output(0))
    close(net.run(x=x), (x * scale + shift) ** power, 1e-4)


def test_scales_along_another_axis() -> None:
    net, x = Net(), random(2, 3, 4)
    layer = net.network.add_scale_nd(
        net.input("x", x), trt.ScaleMode.CHANNEL, scale=np.arange(4, dtype=np.float32),
        channel_axis=2,
    )  # fmt: skip
    net.output(layer.get_output(0))
    close(net.run(x=x), x * np.arange(4, dtype=np.float32))


def normalized(x: Any, axes: tuple[int, ...], epsilon: float) -> Any:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


@pytest.mark.parametrize(
    ("axes", "scale"),
    [((3,), (1, 1, 1, 5)), ((2, 3), (1, 6, 1, 1)), ((1, 2, 3), (1, 6, 4, 5)), ((1,), (1, 6, 1, 1))],
)
def test_normalizations(axes: tuple[int, ...], scale: tuple[int, ...]) -> None:
    net, x = Net(), random(2, 6, 4, 5)
    s, b = random(*scale, seed=1), random(*scale, seed=2)
    mask = sum(1 << a for a in axes)
    layer = net.network.add_normalization(net.input("x", x), net.constant(s), net.constant(b), mask)
    layer.epsilon = 1e-3
    net.output(layer.get_output(0))
    close(net.run(x=x), normalized(x, axes, 1e-3) * s + b, 1e-4)


@pytest.mark.parametrize("method", ["add_normalization", "add_normalization_v2"])
def test_group_normalization(method: str) -> None:
    net, x = Net(), random(2, 6, 4, 5)
    count = 3 if method == "add_normalization" else 6
    s, b = random(1, count, 1, 1, seed=1), random(1, count, 1, 1, seed=2)
    layer = getattr(net.network, method)(
        net.input("x", x), net.constant(s), net.constant(b), 0b1100
    )
    layer.num_groups = 3
    net.output(layer.get_output(0))
    y = normalized(x.reshape(2, 3, 2, 4, 5), (2, 3, 4), 1e-5).reshape(x.shape)
    s, b = (np.repeat(v, 6 // count, axis=1) for v in (s, b))
    close(net.run(x=x), y * s + b, 1e-4)


def test_local_response_normalization() -> None:
    net, x = Net(), random(1, 6, 3, 3)
    layer = net.network.add_lrn(net.input("x", x), 3, 0.5, 0.75, 2.0)
    net.output(layer.get_output(0))
    square = np.pad(x * x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    total = square[:, :-2] + square[:, 1:-1] + square[:, 2:]
    close(net.run(x=x), x / (2 + 0.5 / 3 * total) ** 0.75, 1e-5)


def test_evenly_spaced_numbers() -> None:
    net = Net()
    row = net.network.add_fill((5,), F.LINSPACE)
    row.alpha, row.beta = 2.0, 0.5
    grid = net.network.add_fill((2, 3), F.LINSPACE, trt.int32)
    grid.set_input(1, net.constant(np.array(1, np.int32)))
    grid.set_input(2, net.constant(np.array([10, 2], np.int32)))
    x = net.input("x", random(1))
    shifted = net.network.add_elementwise(row.get_output(0), x, trt.ElementWiseOperation.SUM)
    net.output(shifted.get_output(0), grid.get_output(0))
    got = net.run(x=np.zeros(1, np.float32))
    close(got[0], 2 + 0.5 * np.arange(5))
    np.testing.assert_array_equal(got[1], 1 + 10 * np.arange(2)[:, None] + 2 * np.arange(3))


def test_random_numbers() -> None:
    net = Net()
    uniform = net.network.add_fill((1000,), F.RANDOM_UNIFORM)
    uniform.alpha, uniform.beta = 3.0, 5.0
    normal = net.network.add_fill((1, 1), F.RANDOM_NORMAL)
    normal.set_input(0, net.input("n", np.zeros(2, np.int64)))
    normal.set_input(1, net.constant(np.array(10, np.float32)))
    normal.set_input(2, net.constant(np.array(2, np.float32)))
    net.output(uniform.get_output(0), normal.get_output(0))
    flat, bell = net.run(n=np.array([40, 50]))
    assert 3 <= flat.min() < 3.1 and 4.9 < flat.max() <= 5
    assert bell.shape == (40, 50) and abs(bell.mean() - 10) < 0.3 and abs(bell.std() - 2) < 0.3


def test_einstein_sums() -> None:
    net, a, b = Net(), random(2, 3, 4), random(2, 4, 5, seed=1)
    layer = net.network.add_einsum([net.input("a", a), net.input("b", b)], "bij, bjk -> bki")
    net.output(layer.get_output(0))
    close(net.run(a=a, b=b), np.einsum("bij,bjk->bki", a, b))


def test_constants_know_their_size() -> None:
    net = Net()
    assert net.network.add_constant((2, 3), random(5)) is None
    assert "6 elements" in net.logger.errors[-1]


def test_an_assertion_that_is_known_to_fail_fails_the_build() -> None:
    net = Net()
    false = net.constant(np.array([False]))
    net.network.add_assertion(false, "never")
    net.output(net.network.add_identity(net.input("x", random(2))).get_output(0))
    assert "the assertion does not hold: never" in net.fails()


def asserting() -> tuple[Net, Any]:
    """Return a network that demands positive elements."""
    net = Net()
    x = net.network.add_input("x", trt.float32, (3,))
    zero = net.constant(np.zeros(3, np.float32))
    above = net.network.add_elementwise(x, zero, trt.ElementWiseOperation.GREATER)
    layer = net.network.add_assertion(above.get_output(0), "elements are positive")
    layer.name = "guard"
    relu = net.network.add_activation(x, trt.ActivationType.RELU)
    net.output(relu.get_output(0))
    return net, layer


def test_an_assertion_about_data_fails_the_run() -> None:
    net, _ = asserting()
    engine = net.build()
    good = np.float32([1, 2, 3])
    close(engine(good), good)
    with pytest.raises(lamina.ExecutionError, match="elements are positive"):
        engine(-good)
    close(engine(good), good)
    data = net.builder.build_serialized_network(net.network, net.config)
    context = trt.Runtime(net.logger).deserialize_cuda_engine(data).create_execution_context()
    y = np.zeros(3, np.float32)
    for array, works in ((good, True), (-good, False)):
        context.set_tensor_address("x", array.ctypes.data)
        context.set_tensor_address("y0", y.ctypes.data)
        assert context.execute_async_v3(0) is works
    assert "elements are positive" in net.logger.errors[-1] and "guard" in net.logger.errors[-1]


def test_an_assertion_about_shapes_fails_the_run() -> None:
    net = Net()
    x = net.network.add_input("x", trt.float32, (-1, 2))
    rows = net.network.add_slice(net.network.add_shape(x).get_output(0), (0,), (1,), (1,))
    four = net.constant(np.array([4], np.int64))
    less = net.network.add_elementwise(rows.get_output(0), four, trt.ElementWiseOperation.LESS)
    net.network.add_assertion(less.get_output(0), "fewer than four rows")
    net.output(net.network.add_activation(x, trt.ActivationType.RELU).get_output(0))
    net.profile(x=((1, 2), (2, 2), (8, 2)))
    engine = net.build()
    assert engine(np.ones((3, 2), np.float32)).shape == (3, 2)
    with pytest.raises(lamina.ExecutionError, match="fewer than four rows"):
        engine(np.ones((4, 2), np.float32))
