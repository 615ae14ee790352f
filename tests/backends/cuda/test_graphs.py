"""CUDA graphs: built once, updated for other addresses, edges that memory asks for."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.cuda.sections import Net, Recorder, chain, chained, context, device, on_device

from lamina.backends.cuda.graph import KEPT_GRAPHS
from lamina.backends.cuda.hazards import Range, ancestors, dependencies, lengthened
from lamina.backends.cuda.resources import RunOptions
from lamina.errors import DeviceError

X = np.arange(8, dtype=np.float32)


def test_addresses_get_graphs_of_their_own_until_there_are_enough():
    on = Recorder()
    runs, x = context(chain(), on), on_device(on, X)
    outputs = [on_device(on, np.zeros_like(X)) for _ in range(KEPT_GRAPHS + 2)]
    runs.run({"x": x}, out={"y": outputs[0]})
    for y in outputs:
        runs.run({"x": x}, out={"y": y})
        np.testing.assert_array_equal(y.numpy(), chained(X))
    assert on.calls["instantiate"] == KEPT_GRAPHS
    assert on.updated == [2, 2]  # only the last of three launches writes the result
    updates = on.calls["update_kernel"]
    for y in outputs[-KEPT_GRAPHS:]:  # the last used ones are still there
        runs.run({"x": x}, out={"y": y})
    assert on.calls["update_kernel"] == updates
    runs.run({"x": x}, out={"y": outputs[0]})
    assert on.calls["update_kernel"] == updates + 1
    np.testing.assert_array_equal(outputs[0].numpy(), chained(X))


def test_a_graph_that_cannot_be_updated_is_made_anew():
    on = Recorder()
    runs, keep = context(chain(), on), []
    for i in range(KEPT_GRAPHS + 4):
        if i == KEPT_GRAPHS + 2:
            on.fail["update_kernel"] = DeviceError("invalid value")
        keep += [on_device(on, X + i), on_device(on, np.zeros_like(X))]
        runs.run({"x": keep[-2]}, out={"y": keep[-1]})
        np.testing.assert_array_equal(keep[-1].numpy(), chained(X + i))
    assert on.calls["instantiate"] == KEPT_GRAPHS + 1
    assert on.calls["destroy_graph"] == 1


def test_edges_that_the_driver_refuses_are_replaced_by_plain_ones():
    net = Net()
    x, a, y = net.input("x", "f32[8]"), net.arena("a", "f32[8]"), net.output("y", "f32[8]")
    net.kernel("double_plus", [x], [a], [8, 1], dependent=True)
    net.kernel("double_plus", [a], [y], [8, 1], dependent=True)
    on = Recorder()
    runs = context(net.section(), on)
    runs.run({"x": X})
    on.fail["instantiate"] = DeviceError("not supported")
    np.testing.assert_array_equal(runs.run({"x": X})["y"], chained(X, 2))
    assert on.edges == [((), False), ((0,), True), ((), False), ((0,), False)]
    assert on.calls["destroy_graph"] == 1


def branches(dependent=False):
    """y = (2x+1) + (2x+2) with both terms side by side, and z = 2y+3."""
    net = Net()
    x, y, z = net.input("x", "f32[8]"), net.output("y", "f32[8]"), net.output("z", "f32[8]")
    a, b = net.arena("a", "f32[8]"), net.arena("b", "f32[8]")
    net.kernel("double_plus", [x], [a], [8, 1], dependent=dependent)
    net.kernel("double_plus", [x], [b], [8, 2], dependent=dependent)
    net.kernel("add", [a, b], [y], [8], dependent=dependent)
    net.kernel("double_plus", [y], [z], [8, 3], dependent=dependent)
    return net.section()


def edges_of(section, **options):
    on = Recorder()
    runs = context(section, on, options=RunOptions(**options))
    for _ in range(6):
        results = runs.run({"x": X})
        np.testing.assert_array_equal(results["y"], 4 * X + 3)
        np.testing.assert_array_equal(results["z"], 8 * X + 9)
    return on.edges


def test_branches_run_side_by_side_and_join():
    assert edges_of(branches()) == [((), False), ((), False), ((0, 1), False), ((2,), False)]
    in_turn = [((), False), ((0,), False), ((1,), False), ((2,), False)]
    assert edges_of(branches(), branches=False) == in_turn


def test_only_a_single_predecessor_starts_its_successor_early():
    wanted = [((), False), ((), False), ((0, 1), False), ((2,), True)]
    assert edges_of(branches(dependent=True)) == wanted


def test_memory_that_is_used_twice_holds_steps_up():
    """Writing a buffer waits for its earlier readers; reading waits for its writer."""
    steps = [
        [Range(-1, 0, 8, True)],
        [Range(-1, 0, 8, False), Range(0, 0, 8, True)],
        [Range(-1, 8, 16, True)],
        [Range(-1, 4, 12, True)],
        [Range(-1, 0, 4, False)],
        [Range(-1, 0, 0, True)],
    ]
    assert dependencies(steps) == [
        frozenset(),
        frozenset({0}),
        frozenset(),
        frozenset({1, 2}),
        frozenset({0}),
        frozenset(),
    ]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(0, 5), st.booleans())),
        max_size=8,
    )
)
def test_dependencies_order_every_conflict_and_nothing_else(shape):
    steps = [[Range(s, b, b + n, w) for s, b, n, w in ranges] for ranges in shape]

    def conflict(a, b):
        overlap = a.space == b.space and a.begin < b.end and b.begin < a.end
        return overlap and (a.writes or b.writes) and a.begin < a.end and b.begin < b.end

    needed = dependencies(steps)
    masks = ancestors(needed)
    wanted = []
    for j, later in enumerate(steps):
        mask = 0
        for i in range(j):
            if any(conflict(a, b) for a in steps[i] for b in later):
                mask |= wanted[i] | 1 << i
        wanted.append(mask)
    assert masks == wanted
    for j, before in enumerate(needed):  # nothing that follows from the rest
        assert not any(masks[p] >> q & 1 for p in before for q in before if p != q), j


def test_a_buffer_stays_while_a_step_could_run_beside_its_users():
    #   0 -> 1 -> 2 -> 5    0 -> 3 -> 4 -> 5
    needed = [set(), {0}, {1}, {0}, {3}, {2, 4}]
    assert lengthened(needed, {10: [0, 1, 3], 11: [1, 2], 12: [3, 4], 13: [4, 5]}) == {
        10: 4,
        11: 4,
        12: 4,
        13: 5,
    }


def inception(dependent=True):
    """Branches of several steps whose buffers could share memory."""
    net = Net()
    x = net.input("x", "f32[64]")
    ends = []
    for branch in range(4):
        at = x
        for i in range(branch + 1):
            to = net.arena(f"b{branch}.{i}", "f32[64]")
            net.kernel("double_plus", [at], [to], [64, branch], dependent=dependent)
            at = to
        ends.append(at)
    while len(ends) > 1:
        last = len(ends) == 2
        to = net.output("y", "f32[64]") if last else net.arena(f"s{len(ends)}", "f32[64]")
        net.kernel("add", [ends[0], ends[1]], [to], [64])
        ends = [to, *ends[2:]]
    return net.section()


def test_random_orders_of_a_graph_give_the_same_result():
    on = device()
    x = np.arange(64, dtype=np.float32)
    wanted = sum((x * 2 ** (b + 1) + b * (2 ** (b + 1) - 1)) for b in range(4))
    for options in (RunOptions(), RunOptions(branches=False), RunOptions(check=True)):
        runs = context(inception(), on, options=options)
        for _ in range(30):
            np.testing.assert_array_equal(runs.run({"x": x})["y"], wanted)


def test_branches_do_not_share_memory_while_there_is_plenty():
    on = Recorder()
    context(inception(), on).run({"x": np.zeros(64, np.float32)})
    runs = context(inception(), on)
    for _ in range(2):
        runs.run({"x": np.zeros(64, np.float32)})
    roots = [after for after, _ in on.edges if not after]
    assert len(roots) == 4
    arenas = [context(inception(), on, options=RunOptions(branches=b)) for b in (True, False)]
    sizes = []
    for runs in arenas:
        runs.run({"x": np.zeros(64, np.float32)})
        sizes.append(runs.memory()["arena"])
    assert sizes[0] > sizes[1]


def test_a_missing_edge_would_show():
    """The simulated device runs what no edge orders in any order."""
    runs = context(branches())
    runs.run({"x": X})
    instance, _ = runs._runner._bound
    segment = instance.work(0).segment
    segment.after = [() for _ in segment.after]
    inputs = [X + i for i in range(40)]
    assert any(not np.array_equal(runs.run({"x": x})["z"], 8 * x + 9) for x in inputs)
