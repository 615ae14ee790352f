"""Programs on a simulated device: host arrays, sizes, memory, several contexts."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tests.backends.cuda.sections import (
    Net,
    Recorder,
    chain,
    chained,
    context,
    device,
    on_device,
    plan_of,
)

from lamina.backends.cuda.driver import CudaDriver
from lamina.backends.cuda.resources import RunOptions
from lamina.errors import DeviceError, ExecutionError, InputError, PlanError
from lamina.ir.dims import sym
from lamina.plan.format import read_plan, write_plan
from lamina.plan.plan import StepKind
from lamina.runtime.context import ExecutionContext

X = np.arange(8, dtype=np.float32)


@pytest.mark.parametrize("graphs", [True, False])
def test_host_arrays_come_and_go(graphs):
    runs = context(chain(), options=RunOptions(graphs=graphs))
    for scale in (1, 2, 3, 4):
        y = runs.run({"x": X * scale})["y"]
        assert type(y) is np.ndarray
        np.testing.assert_array_equal(y, chained(X * scale))


def test_the_first_run_launches_kernels_and_later_ones_a_graph():
    on = Recorder()
    runs = context(chain(), on)
    counts = []
    for _ in range(3):
        runs.run({"x": X})
        counts.append((on.calls["instantiate"], on.calls["launch_graph"]))
    assert counts == [(0, 0), (1, 1), (1, 2)]


def test_a_host_array_is_written_in_place():
    runs, y = context(chain()), np.zeros(8, np.float32)
    for _ in range(3):
        y[:] = 0
        assert runs.run({"x": X}, out={"y": y})["y"] is y
        np.testing.assert_array_equal(y, chained(X))
    with pytest.raises(InputError, match=r"output 'y' has shape \(9,\), expected \(8,\)"):
        runs.run({"x": X}, out={"y": np.zeros(9, np.float32)})


def test_sizes_that_change_keep_their_instances():
    on = Recorder()
    runs = context(chain("n"), on, ranges=[("n", 1, 8, 64)])
    for _ in range(3):
        for n in (3, 8, 64):
            x = np.arange(n, dtype=np.float32)
            np.testing.assert_array_equal(runs.run({"x": x})["y"], chained(x))
    assert on.calls["instantiate"] == 3
    with pytest.raises(InputError, match="outside the profile"):
        runs.run({"x": np.zeros(65, np.float32)})


def test_constants_halves_views_workspace_and_counters():
    net = Net()
    x, y = net.input("x", "f32[8]"), net.output("y", "f32[8]")
    w = net.constant("w", np.linspace(0, 1, 8, dtype=np.float32))
    half = net.constant("h", np.full(8, 0.5, np.float32))
    net.blobs[1] = type(net.blobs[1])(np.full(8, 0.5, np.float16), "h")
    both = net.arena("both", "f32[16]")
    low, high = net.view("low", both, 0, "f32[8]"), net.view("high", both, 32, "f32[8]")
    net.kernel("add_through_workspace", [x, w], [low], [8], workspace=32)
    net.kernel("count", [half], [high], [8], counters=3)
    net.kernel("add", [low, high], [y], [8])
    plan = read_plan(write_plan(plan_of(net.section(halves=(1,)))))
    runs = context(plan.sections[0])
    for _ in range(3):
        wanted = X + np.linspace(0, 1, 8, dtype=np.float32) + 0.5
        np.testing.assert_allclose(runs.run({"x": X})["y"], wanted, rtol=1e-6)
    used = runs.memory()
    assert used["arena"] >= 64 and used["constants"] == 512 and used["workspace"] == 256


def test_results_that_are_inputs_constants_or_returned_twice():
    net = Net()
    x, y = net.input("x", "f32[8]"), net.output("y", "f32[8]")
    w = net.constant("w", X + 100)
    net.kernel("add", [x, w], [y], [8])
    for name, tensor in (("again", y), ("same", x), ("weight", w)):
        net.result(name, tensor)
    runs = context(net.section())
    for _ in range(2):
        results = runs.run({"x": X})
        np.testing.assert_array_equal(results["again"], 2 * X + 100)
        np.testing.assert_array_equal(results["same"], X)
        np.testing.assert_array_equal(results["weight"], X + 100)
    assert results["again"] is not results["y"] and results["same"] is not X
    arrays = runs.run({"x": on_device(runs._runner.resources.device, X)})
    for name, wanted in results.items():
        np.testing.assert_array_equal(arrays[name].numpy(), wanted)


def test_tensors_without_elements():
    net = Net()
    x, y = net.input("x", "f32[n]"), net.output("y", "f32[n]")
    net.kernel("double_plus", [x], [y], [sym("n"), 1], grid=[{"$": "n"}, 1, 1])
    runs = context(net.section(), ranges=[("n", 0, 8, 64)])
    for _ in range(3):
        assert runs.run({"x": np.zeros(0, np.float32)})["y"].shape == (0,)
    np.testing.assert_array_equal(runs.run({"x": X})["y"], X * 2 + 1)


def test_contexts_run_in_parallel_threads():
    loaded = CudaDriver(device(), options=RunOptions()).load(chain("n"))
    program, plan = loaded.resources.section.program, plan_of(chain("n"), [("n", 1, 8, 4096)])
    failures = []

    def work(seed):
        runs = ExecutionContext(plan, program.inputs, program.outputs, loaded.runner())
        rng = np.random.default_rng(seed)
        for _ in range(30):
            x = rng.integers(0, 100, rng.integers(1, 200)).astype(np.float32)
            if not np.array_equal(runs.run({"x": x})["y"], chained(x)):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []


def test_all_memory_is_given_back():
    on = device()
    runs = context(chain("n"), on, ranges=[("n", 1, 8, 4096)])
    for n in range(1, 30):
        runs.run({"x": np.zeros(n, np.float32)})
        runs.run({"x": on_device(on, np.zeros(n, np.float32))})
    y = runs.run({"x": on_device(on, X)})["y"]
    del runs
    assert on.used_bytes == 32
    del y
    assert on.used_bytes == 0 and not on._blocks


def test_too_little_memory_says_what_for_and_leaves_the_context_usable():
    on = device(total_bytes=100_000)
    runs = context(chain("n"), on, ranges=[("n", 1, 8, 1 << 20)])
    np.testing.assert_array_equal(runs.run({"x": X})["y"], chained(X))
    with pytest.raises(
        DeviceError, match=r"has no \d+ bytes for the arena of activations \(\d+ of"
    ):
        runs.run({"x": np.zeros(20_000, np.float32)})
    for _ in range(3):
        np.testing.assert_array_equal(runs.run({"x": X})["y"], chained(X))
    with pytest.raises(DeviceError, match="bytes for the constants"):
        net = Net()
        x, y = net.input("x", "f32[8]"), net.output("y", "f32[8]")
        w = net.constant("w", np.zeros(50_000, np.float32))
        net.kernel("add", [x, net.view("v", w, 0, "f32[8]")], [y], [8])
        context(net.section(), on)


def test_memory_of_other_sizes_makes_room():
    on = device(total_bytes=100_000)
    runs = context(chain("n"), on, ranges=[("n", 1, 8, 1 << 20)])
    for n in (4000, 5000, 4000, 5000):
        x = np.arange(n, dtype=np.float32) % 7
        np.testing.assert_array_equal(runs.run({"x": x})["y"], chained(x))


class Pool:
    """An allocator that counts, over the memory of a device."""

    def __init__(self, device):
        self.device, self.live, self.most = device, {}, 1 << 30

    def allocate(self, size_bytes, stream):
        if size_bytes > self.most:
            raise MemoryError
        pointer = self.device.allocate(size_bytes, stream)
        self.live[pointer] = size_bytes
        return pointer

    def free(self, pointer, size_bytes, stream):
        assert self.live.pop(pointer) == size_bytes
        self.device.free(pointer, size_bytes, stream)


def test_a_custom_allocator_gives_all_device_memory():
    on = device()
    pool = Pool(on)
    runs = context(chain("n"), on, ranges=[("n", 1, 8, 1 << 20)], allocator=pool)
    np.testing.assert_array_equal(runs.run({"x": X})["y"], chained(X))
    assert pool.live and sum(pool.live.values()) == on.used_bytes
    pool.most = 1000
    with pytest.raises(DeviceError, match="bytes for the arena"):
        runs.run({"x": np.zeros(5000, np.float32)})
    np.testing.assert_array_equal(runs.run({"x": X})["y"], chained(X))
    del runs
    assert pool.live == {}


def test_a_failing_launch_names_step_tactic_and_source():
    net = Net()
    x, y = net.input("x", "f32[8]"), net.output("y", "f32[8]")
    net.kernel("double_plus", [x], [y], [8, 1])
    on = device()
    runs = context(net.section(), on)
    launch, on.launch = on.launch, lambda *_: (_ for _ in ()).throw(DeviceError("invalid value"))
    with pytest.raises(DeviceError) as failure:
        runs.run({"x": X})
    assert "in step double_plus0 (test-double_plus) from node 0" in str(failure.value)
    on.launch = launch
    np.testing.assert_array_equal(runs.run({"x": X})["y"], X * 2 + 1)


def test_a_lost_device_says_so_at_every_later_run():
    on = device()
    runs = context(chain(), on)
    runs.run({"x": X})
    on.lost = "cuGraphLaunch failed: CUDA_ERROR_ILLEGAL_ADDRESS"
    for _ in range(2):
        with pytest.raises(DeviceError, match="lost to this process.*ILLEGAL_ADDRESS"):
            runs.run({"x": X})


def test_damaged_descriptions_of_steps_are_refused():
    def broken(**change):
        net = Net()
        x, y = net.input("x", "f32[8]"), net.output("y", "f32[8]")
        net.kernel("double_plus", [x], [y], [8, 1], **change)
        return net.section()

    for change, fact in (
        ({"arguments": ["t0", "t7"]}, "t7 of 2 tensors"),
        ({"arguments": ["s2"]}, "s2 of 2 parameters"),
        ({"arguments": ["q"]}, "'q' is no argument"),
        ({"grid": [1, 1]}, "ValueError"),
        ({"grid": [{"$": "import os"}, 1, 1]}, "GraphError"),
        ({"warps": 64}, "64 warps"),
        ({"kernel": "other"}, "its launches are not its kernels"),
    ):
        with pytest.raises(PlanError, match=fact) as failure:
            context(broken(**change))
        assert "double_plus0" in str(failure.value)


def test_a_size_beyond_its_type_is_refused():
    net = Net()
    x, y = net.input("x", "f32[8]"), net.output("y", "f32[8]")
    net.kernel("double_plus", [x], [y], [1 << 31, 1])
    with pytest.raises(PlanError, match="2147483648 does not fit i32"):
        context(net.section()).run({"x": X})


def test_streams_are_for_gpus():
    section = chain()
    ports = section.program.inputs, section.program.outputs
    runs = ExecutionContext(plan_of(section), *ports, object())
    with pytest.raises(InputError, match="a CPU has no streams"):
        runs.run({"x": X}, stream=7)


def test_a_failing_host_step_keeps_the_context_usable():
    net = Net()
    x, y = net.input("x", "i64[2]"), net.output("y", "i64[2]")
    net.step(
        StepKind.HOST,
        [x, net.constant("z", np.zeros(2, np.int64))],
        [y],
        spec="graph(%a: i64[2], %b: i64[2]) {\n  %y = add(%a, %b, %a)\n  return %y\n}",
    )
    runs = context(net.section())
    with pytest.raises((ExecutionError, PlanError), match="host0"):
        runs.run({"x": np.zeros(2, np.int64)})


def test_instances_of_other_sizes_take_turns_with_the_same_memory():
    on = device()
    runs = context(chain("n"), on, ranges=[("n", 1, 8, 1 << 20)])
    for n in (1024, 4096, 2048, 64, 4096, 1024):
        x = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal(runs.run({"x": x})["y"], chained(x))
    assert on.used_bytes == 2 * 4096 * 4 + 2 * 4096 * 4  # two activations; input and output
