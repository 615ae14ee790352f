"""Loops and conditionals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina
import lamina.tensorrt as trt
from tests.tensorrt.running import Net, close, random

E, T, OUT = trt.ElementWiseOperation, trt.TripLimit, trt.LoopOutput


def add(net: Net, a: Any, b: Any, op: Any = E.SUM) -> Any:
    return net.network.add_elementwise(a, b, op).get_output(0)


def test_a_counted_loop_hands_a_value_on() -> None:
    net, x = Net(), random(4)
    tensor, step = net.input("x", x), net.input("step", x)
    loop = net.network.add_loop()
    loop.add_trip_limit(net.constant(np.array(5, np.int32)), T.COUNT)
    recurrence = loop.add_recurrence(tensor)
    inside = recurrence.get_output(0)
    assert inside.shape == (4,)
    recurrence.set_input(1, add(net, inside, step))
    last = loop.add_loop_output(inside, OUT.LAST_VALUE)
    net.output(last.get_output(0))
    close(net.run(x=x, step=x), 6 * x)


@pytest.mark.parametrize("kind", ["CONCATENATE", "REVERSE"])
@pytest.mark.parametrize("axis", [0, 1])
def test_values_of_each_iteration_are_joined(kind: str, axis: int) -> None:
    net, x = Net(), random(3)
    loop = net.network.add_loop()
    count = net.constant(np.array(4, np.int32))
    loop.add_trip_limit(count, T.COUNT)
    recurrence = loop.add_recurrence(net.input("x", x))
    after = add(net, recurrence.get_output(0), recurrence.get_output(0))
    recurrence.set_input(1, after)
    before = loop.add_loop_output(recurrence.get_output(0), OUT.named(kind), axis)
    output = loop.add_loop_output(after, OUT.named(kind), axis)
    for layer in (before, output):
        layer.set_input(1, count)
    assert output.get_output(0).shape == ((4, 3) if axis == 0 else (3, 4))
    net.output(before.get_output(0), output.get_output(0))
    first, second = net.run(x=x)
    rows = [x * 2**i for i in range(5)]
    for got, values in ((first, rows[:4]), (second, rows[1:])):
        wanted = np.stack(values[::-1] if kind == "REVERSE" else values, axis)
        close(got, wanted)


@pytest.mark.parametrize("reverse", [False, True])
def test_an_iterator_slices_along_an_axis(reverse: bool) -> None:
    net, x = Net(), random(3, 5)
    tensor = net.input("x", x)
    loop = net.network.add_loop()
    loop.add_trip_limit(net.constant(np.array(5, np.int32)), T.COUNT)
    column = loop.add_iterator(tensor, 1, reverse)
    assert column.get_output(0).shape == (3,)
    recurrence = loop.add_recurrence(net.constant(np.zeros(3, np.float32)))
    total = add(net, recurrence.get_output(0), column.get_output(0))
    recurrence.set_input(1, total)
    joined = loop.add_loop_output(total, OUT.CONCATENATE, 0)
    joined.set_input(1, net.constant(np.array(5, np.int32)))
    net.output(joined.get_output(0))
    ordered = x[:, ::-1] if reverse else x
    close(net.run(x=x), np.cumsum(ordered, axis=1).T)


def test_a_condition_is_looked_at_before_each_iteration() -> None:
    net = Net()
    start, limit = net.input("start", np.float32(0)), net.input("limit", np.float32(0))
    loop = net.network.add_loop()
    recurrence = loop.add_recurrence(start)
    value = recurrence.get_output(0)
    loop.add_trip_limit(add(net, value, limit, E.LESS), T.WHILE)
    doubled = add(net, value, value)
    recurrence.set_input(1, doubled)
    last = loop.add_loop_output(value, OUT.LAST_VALUE)
    trace = loop.add_loop_output(doubled, OUT.CONCATENATE, 0)
    trace.set_input(1, net.constant(np.array(10, np.int32)))
    net.output(last.get_output(0), trace.get_output(0))
    engine = net.build()
    for first, most, wanted in ((1, 20, 32), (1, 1, 1), (3, 7, 12), (64, 20, 64)):
        got = engine.run({"start": np.float32(first), "limit": np.float32(most)})
        assert got["y0"] == wanted
        steps = [float(first) * 2**i for i in range(1, 10) if float(first) * 2 ** (i - 1) < most]
        np.testing.assert_array_equal(got["y1"], steps + [0.0] * (10 - len(steps)))


def test_both_limits_at_once() -> None:
    net = Net()
    start = net.input("start", np.float32(0))
    loop = net.network.add_loop()
    recurrence = loop.add_recurrence(start)
    value = recurrence.get_output(0)
    loop.add_trip_limit(net.constant(np.array(3, np.int32)), T.COUNT)
    hundred = net.constant(np.array(100, np.float32))
    loop.add_trip_limit(add(net, value, hundred, E.LESS), T.WHILE)
    recurrence.set_input(1, add(net, value, value))
    net.output(loop.add_loop_output(value, OUT.LAST_VALUE).get_output(0))
    engine = net.build()
    assert engine.run({"start": np.float32(1)})["y0"] == 8
    assert engine.run({"start": np.float32(60)})["y0"] == 120


def test_loops_inside_loops() -> None:
    net, x = Net(), random(3, 4)
    tensor = net.input("x", x)
    outer = net.network.add_loop()
    outer.add_trip_limit(net.constant(np.array(3, np.int32)), T.COUNT)
    row = outer.add_iterator(tensor).get_output(0)
    total = outer.add_recurrence(net.constant(np.array(0, np.float32)))
    inner = net.network.add_loop()
    inner.add_trip_limit(net.constant(np.array(4, np.int32)), T.COUNT)
    cell = inner.add_iterator(row).get_output(0)
    part = inner.add_recurrence(total.get_output(0))
    part.set_input(1, add(net, part.get_output(0), cell))
    summed = inner.add_loop_output(part.get_output(0), OUT.LAST_VALUE).get_output(0)
    total.set_input(1, summed)
    trace = outer.add_loop_output(summed, OUT.CONCATENATE)
    trace.set_input(1, net.constant(np.array(3, np.int32)))
    net.output(trace.get_output(0))
    close(net.run(x=x), np.cumsum(x.sum(axis=1)), 1e-5)


def test_an_assertion_inside_a_loop_is_looked_at_in_every_iteration() -> None:
    net = Net()
    tensor = net.input("x", np.zeros(2, np.float32))
    loop = net.network.add_loop()
    loop.add_trip_limit(net.constant(np.array(3, np.int32)), T.COUNT)
    total = loop.add_recurrence(tensor)
    after = add(net, total.get_output(0), net.constant(np.ones(2, np.float32)))
    total.set_input(1, after)
    below = add(net, after, net.constant(np.full(2, 8, np.float32)), E.LESS)
    net.network.add_assertion(below, "sums stay below eight")
    net.output(loop.add_loop_output(total.get_output(0), OUT.LAST_VALUE).get_output(0))
    engine = net.build()
    close(engine(np.float32([1, 2])), np.float32([4, 5]))
    with pytest.raises(lamina.ExecutionError, match="sums stay below eight"):
        engine(np.float32([1, 6]))


def test_a_loop_over_a_dynamic_length() -> None:
    net = Net()
    tensor = net.network.add_input("x", trt.float32, (-1, 2))
    net.profile(x=((1, 2), (4, 2), (9, 2)))
    sizes = net.network.add_shape(tensor).get_output(0)
    first = net.network.add_slice(sizes, (0,), (1,), (1,)).get_output(0)
    scalar = net.network.add_shuffle(first)
    scalar.reshape_dims = ()
    count = scalar.get_output(0)
    loop = net.network.add_loop()
    loop.add_trip_limit(count, T.COUNT)
    row = loop.add_iterator(tensor).get_output(0)
    total = loop.add_recurrence(net.constant(np.zeros(2, np.float32)))
    after = add(net, total.get_output(0), row)
    total.set_input(1, after)
    joined = loop.add_loop_output(after, OUT.CONCATENATE)
    joined.set_input(1, count)
    net.output(joined.get_output(0))
    x = random(7, 2)
    close(net.run(x=x), np.cumsum(x, axis=0), 1e-5)


def branches(net: Net, condition: Any, x: Any) -> Any:
    """Add ``3 x`` where the condition holds, else ``x * x``."""
    conditional = net.network.add_if_conditional()
    conditional.set_condition(condition)
    inside = conditional.add_input(x).get_output(0)
    assert inside.shape == x.shape
    triple = add(net, add(net, inside, inside), inside)
    return conditional.add_output(triple, add(net, inside, inside, E.PROD)).get_output(0)


def test_one_branch_of_a_conditional_runs() -> None:
    net, x = Net(), random(4)
    net.output(branches(net, net.input("c", np.array(True)), net.input("x", x)))
    engine = net.build()
    close(engine.run({"x": x, "c": np.array(True)})["y0"], 3 * x)
    close(engine.run({"x": x, "c": np.array(False)})["y0"], x * x)


def test_a_condition_that_is_known_takes_its_branch() -> None:
    net, x = Net(), random(4)
    net.output(branches(net, net.constant(np.array(False)), net.input("x", x)))
    close(net.run(x=x), x * x)


def test_a_conditional_inside_a_loop() -> None:
    net, x = Net(), random(5)
    tensor = net.input("x", x)
    loop = net.network.add_loop()
    loop.add_trip_limit(net.constant(np.array(5, np.int32)), T.COUNT)
    cell = loop.add_iterator(tensor).get_output(0)
    zero = net.constant(np.array(0, np.float32))
    made = branches(net, add(net, cell, zero, E.GREATER), cell)
    joined = loop.add_loop_output(made, OUT.CONCATENATE)
    joined.set_input(1, net.constant(np.array(5, np.int32)))
    net.output(joined.get_output(0))
    close(net.run(x=x), np.where(x > 0, 3 * x, x * x))


def test_what_is_missing_in_a_loop_is_said() -> None:
    net = Net()
    loop = net.network.add_loop()
    loop.name = "counting"
    recurrence = loop.add_recurrence(net.input("x", random(2)))
    net.output(loop.add_loop_output(recurrence.get_output(0), OUT.LAST_VALUE).get_output(0))
    message = net.fails()
    assert "it has no trip limit" in message and "in loop 'counting'" in message
    loop.add_trip_limit(net.constant(np.array(2, np.int32)), T.COUNT)
    assert "has no next value" in net.fails()
    assert loop.add_trip_limit(net.constant(np.array(2, np.int32)), T.COUNT) is None


def test_values_leave_a_loop_by_its_outputs_only() -> None:
    net = Net()
    loop = net.network.add_loop()
    loop.name = "counting"
    loop.add_trip_limit(net.constant(np.array(2, np.int32)), T.COUNT)
    recurrence = loop.add_recurrence(net.input("x", random(2)))
    recurrence.set_input(1, recurrence.get_output(0))
    net.output(add(net, recurrence.get_output(0), recurrence.get_output(0)))
    message = net.fails()
    assert "is inside counting and is used outside" in message


def test_a_conditional_needs_a_condition() -> None:
    net, x = Net(), random(2)
    conditional = net.network.add_if_conditional()
    inside = conditional.add_input(net.input("x", x)).get_output(0)
    net.output(conditional.add_output(inside, inside).get_output(0))
    assert "it has no condition" in net.fails()
