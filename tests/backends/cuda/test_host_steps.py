"""Steps of the host between kernels: operators in NumPy, branches, loops, sizes from data."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cuda.sections import Net, Recorder, context, device, on_device

from lamina.backends.cuda.arrays import DeviceArray
from lamina.ir.dims import sym
from lamina.plan.plan import StepKind

X = np.arange(8, dtype=np.float32)
NEGATE = "graph(%x: f32[8]) {\n  %y = unary(%x) kind=neg\n  return %y\n}"
NONZERO = "graph(%x: f32[8]) {\n  %y = non_zero(%x) count=k\n  return %y\n}"


def between_kernels():
    """y = 2 * -(2x + 1) + 3."""
    net = Net()
    x, y = net.input("x", "f32[8]"), net.output("y", "f32[8]")
    a, b = net.arena("a", "f32[8]"), net.arena("b", "f32[8]")
    net.kernel("double_plus", [x], [a], [8, 1])
    net.step(StepKind.HOST, [a], [b], spec=NEGATE)
    net.kernel("double_plus", [b], [y], [8, 3])
    return net.section()


def test_a_host_step_between_kernels():
    on = Recorder()
    runs = context(between_kernels(), on)
    for i in range(4):
        x = X + i
        np.testing.assert_array_equal(runs.run({"x": x})["y"], 2 * -(2 * x + 1) + 3)
        y = runs.run({"x": on_device(on, x)})["y"]
        assert type(y) is DeviceArray
        np.testing.assert_array_equal(y.numpy(), 2 * -(2 * x + 1) + 3)
    assert on.calls["instantiate"] > 0
    times = runs.profile({"x": X})
    assert len(times) == 3 and all(t > 0 for t in times)


def test_values_that_no_kernel_touches_stay_on_the_host():
    net = Net()
    x, y, z = net.input("x", "f32[8]"), net.output("y", "f32[8]"), net.output("z", "f32[8]")
    net.step(StepKind.HOST, [x], [y], spec=NEGATE)
    both = net.arena("both", "f32[16]")
    low, high = net.view("low", both, 0, "f32[8]"), net.view("high", both, 32, "f32[8]")
    net.step(StepKind.HOST, [y], [low], spec=NEGATE)
    net.step(StepKind.HOST, [low], [high], spec=NEGATE)
    net.step(StepKind.HOST, [high], [z], spec=NEGATE)
    net.result("both", both)
    on = Recorder()
    runs = context(net.section(), on)
    results = runs.run({"x": X})
    assert on.calls["copy"] == 0
    np.testing.assert_array_equal(results["y"], -X)
    np.testing.assert_array_equal(results["z"], X)
    np.testing.assert_array_equal(results["both"], np.concatenate((X, -X)))
    results = runs.run({"x": on_device(on, X)})
    np.testing.assert_array_equal(results["z"].numpy(), X)
    given = np.zeros(8, np.float32)
    assert runs.run({"x": X}, out={"z": given})["z"] is given
    np.testing.assert_array_equal(given, X)


def nested(kind, scale):
    """A program: y = 2x + scale on the device, or z = -x on the host."""
    net = Net()
    x = net.input("x", "f32[8]")
    if kind == "device":
        net.kernel("double_plus", [x], [net.output("y", "f32[8]")], [8, scale])
    else:
        net.step(StepKind.HOST, [x], [net.output("y", "f32[8]")], spec=NEGATE)
    return net


@pytest.mark.parametrize("kinds", [("device", "device"), ("device", "host"), ("host", "host")])
def test_branches(kinds):
    branches = [nested(kind, scale) for kind, scale in zip(kinds, (5, 7), strict=True)]
    net = Net()
    which, x = net.input("which", "bool[]"), net.input("x", "f32[8]")
    a, b, y = net.arena("a", "f32[8]"), net.arena("b", "f32[8]"), net.output("y", "f32[8]")
    net.kernel("double_plus", [x], [a], [8, 1])
    net.step(StepKind.IF, [which, a], [b], programs=tuple(n.program() for n in branches))
    net.kernel("double_plus", [b], [y], [8, 3])
    on = device()
    runs = context(net.section(more=branches), on)
    meanings = {"device": lambda x, s: 2 * x + s, "host": lambda x, s: -x}
    for i in range(6):
        x = X + i
        taken = i % 2
        inner = meanings[kinds[taken]](2 * x + 1, (5, 7)[taken])
        feed = {"which": np.array(taken == 0), "x": x if i < 3 else on_device(on, x)}
        np.testing.assert_array_equal(np.asarray(runs.run(feed)["y"]), 2 * inner + 3)


def loop(on_host=False):
    """Carries x = 2x + 1 while its first element is below a limit; keeps every x."""
    body = Net()
    body.input("i", "i64[]")
    body.input("go", "bool[]")
    x = body.input("x", "f32[8]")
    go = body.output("go", "bool[]")
    y, scan = body.output("y", "f32[8]"), body.output("scan", "f32[8]")
    if on_host:
        spec = "graph(%x: f32[8], %z: f32[8]) {\n  %y = binary(%x, %z) kind=add\n  return %y\n}"
        body.step(StepKind.HOST, [x, x], [y], spec=spec)
        body.step(StepKind.HOST, [x], [scan], spec=NEGATE)
    else:
        body.kernel("double_plus", [x], [y], [8, 1])
        body.kernel("double_plus", [x], [scan], [8, 0])
    body.kernel("less", [y], [go], [100])
    net = Net()
    trips, go, x = net.input("trips", "i64[]"), net.input("go", "bool[]"), net.input("x", "f32[8]")
    y, z = net.arena("y", "f32[8]"), net.output("z", "f32[8]")
    scans = net.arena("scans", "f32[n,8]")
    net.step(StepKind.LOOP, [trips, go, x], [y, scans], spec="1", programs=(body.program(),))
    net.kernel("double_plus", [y], [z], [8, 0])
    net.result("scans", scans)
    return net.section(more=(body,))


@pytest.mark.parametrize("on_host", [False, True])
def test_loops(on_host):
    on = device()
    runs = context(loop(on_host), on)
    for trips, limit_after in ((3, 3), (0, 0), (50, None), (4, 4)):
        x, seen = X + 1, []
        while len(seen) < trips and (not seen or x[0] < 100):
            seen.append(-x if on_host else 2 * x)
            x = x + x if on_host else 2 * x + 1
        feed = {"trips": np.array(trips), "go": np.array(True), "x": X + 1}
        for given in (feed, {**feed, "x": on_device(on, X + 1)}):
            results = runs.run(given)
            np.testing.assert_array_equal(np.asarray(results["z"]), 2 * x)
            wanted = np.stack(seen) if seen else np.zeros((0, 8), np.float32)
            np.testing.assert_array_equal(np.asarray(results["scans"]), wanted)
        assert limit_after is None or len(seen) == limit_after


def data_sizes():
    """The elements of x that are not zero: their number is known while the program runs."""
    net = Net()
    x, y = net.input("x", "f32[8]"), net.output("y", "f32[8]")
    a, where = net.arena("a", "f32[8]"), net.arena("where", "i64[1,k]")
    picked, twice = net.arena("picked", "f32[k]"), net.arena("twice", "f32[k]")
    net.kernel("double_plus", [x], [a], [8, 0])
    net.step(StepKind.HOST, [a], [where], spec=NONZERO, defines=("k",))
    spec = "graph(%w: i64[1,k]) {\n  %c = cast(%w) dtype=f32\n  return %c\n}"
    floats = net.arena("floats", "f32[1,k]")
    net.step(StepKind.HOST, [where], [floats], spec=spec)
    k = sym("k")
    net.kernel("double_plus", [floats], [picked], [k, 1])
    net.kernel("add_through_workspace", [picked, picked], [twice], [k], workspace=4 * k)
    net.kernel("double_plus", [a], [y], [8, 1])
    net.result("twice", twice)
    return net.section()


def test_sizes_that_data_decides():
    on = Recorder()
    runs = context(data_sizes(), on)
    rng = np.random.default_rng(0)
    for count in (3, 8, 1, 3, 8, 8, 5, 3):
        x = np.zeros(8, np.float32)
        x[rng.permutation(8)[:count]] = 1
        results = runs.run({"x": x})
        wanted = (np.flatnonzero(x) * 2.0 + 1) * 2
        np.testing.assert_array_equal(results["twice"], wanted)
        np.testing.assert_array_equal(results["y"], 4 * x + 1)
