"""Two GPUs in one process: simulated ones, and with -m gpu real ones where there are two."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.backends.cuda.sections import on_device, plan_of
from tests.backends.cuda.test_on_a_gpu import RANGES, Machine, meaning, numbers

import lamina
from lamina.backends.cuda import bindings
from lamina.backends.cuda.simulated import SimulatedDevice
from lamina.errors import DeviceError, InputError
from lamina.plan.format import write_plan


def two_gpus():
    """Return two real devices, or skip and say why."""
    try:
        return [bindings.open_device(i) for i in range(2)]
    except DeviceError as e:
        pytest.skip(f"two GPUs are needed: {str(e).splitlines()[0]}")


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def machines(request):
    if request.param == "real":
        return [Machine(device, simulated=False) for device in two_gpus()]
    return [Machine(SimulatedDevice(ordinal=i), simulated=True) for i in range(2)]


def test_engines_on_both_run_in_threads(machines):
    failures, results = [], {}

    def work(number, machine):
        runs = machine.network()
        for i in range(6):
            x = numbers(200 + 100 * (i % 3), number)
            y = runs.run({"x": on_device(machine.device, x) if i % 2 else x})["y"]
            if i % 2:
                if y.device is not machine.device:
                    failures.append(f"a result of {machine.device.name} is on {y.device.name}")
                results[number] = y
                y = y.numpy()
            if not np.array_equal(y, meaning(x)):
                failures.append(f"wrong on {machine.device.name}")

    threads = [
        threading.Thread(target=work, args=(2 * k + i, m))
        for k in range(2)
        for i, m in enumerate(machines)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == [] and len(results) == 4
    for machine in machines:
        if machine.simulated:
            assert machine.device.used_bytes and machine.device.faults == []


def test_contexts_on_both_take_turns_in_one_thread(machines):
    contexts = [m.network() for m in machines]
    for i in range(8):
        x = numbers(300, i)
        np.testing.assert_array_equal(contexts[i % 2].run({"x": x})["y"], meaning(x))


def test_an_array_on_the_other_gpu_is_refused(machines):
    first, second = machines
    runs, x = first.network(), numbers(100)
    elsewhere = on_device(second.device, x)
    with pytest.raises(InputError, match=r"input 'x' is on cuda:1, the engine runs on"):
        runs.run({"x": elsewhere})
    with pytest.raises(InputError, match=r"output 'y' is on cuda:1, the engine runs on"):
        runs.run({"x": on_device(first.device, x)}, out={"y": elsewhere})
    np.testing.assert_array_equal(runs.run({"x": x})["y"], meaning(x))


def test_a_lost_gpu_leaves_one_that_still_works_at_work():
    machines = [Machine(SimulatedDevice(ordinal=i), simulated=True) for i in range(2)]
    contexts, x = [m.network() for m in machines], numbers(100)
    machines[1].device.lost = "an illegal address"
    for _ in range(3):
        np.testing.assert_array_equal(contexts[0].run({"x": x})["y"], meaning(x))
        with pytest.raises(DeviceError, match="is lost to this process: an illegal address"):
            contexts[1].run({"x": x})


@pytest.mark.gpu
def test_a_fault_on_one_gpu_is_named_on_the_other():
    """In a process of its own: CUDA lets nothing in it work afterwards, on either device."""
    two_gpus()
    script = (
        "from tests.backends.cuda.test_on_a_gpu import *\n"
        "good, bad = (Machine(bindings.open_device(i), simulated=False) for i in range(2))\n"
        "runs = good.network()\n"
        "assert np.array_equal(runs.run({'x': numbers(9)})['y'], meaning(numbers(9)))\n"
        "net = Net()\n"
        "x, y = net.input('x', 'f32[n]'), net.output('y', 'f32[n]')\n"
        "bad.kernel(net, 'wild', [x], [y], [N, 1])\n"
        "for context in (bad.context(net, check=True), runs, runs):\n"
        "    try:\n"
        "        context.run({'x': numbers(100)})\n"
        "    except DeviceError as e:\n"
        "        print(str(e).replace('\\n', ' '))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, *others = done.stdout.splitlines()
    assert "cuda:1 is lost to this process" in first and "in step wild" in first
    for line in others:
        assert re.search(r"cuda:0 is lost to this process: .* failed on cuda:1: .*, and then", line)


@pytest.mark.gpu
def test_a_device_is_chosen_by_its_name():
    devices = two_gpus()
    loaded = Machine(devices[0], simulated=False).network()._runner.resources
    data = write_plan(plan_of(loaded.section, RANGES))
    x = numbers(400)
    for i, device in enumerate(devices):
        engine = lamina.load(data, device=f"cuda:{i}")
        assert engine.driver.device is device
        y = engine(on_device(device, x))
        assert y.device is device and y.__dlpack_device__() == (2, i)
        np.testing.assert_array_equal(y.numpy(), meaning(x))
    with pytest.raises(DeviceError, match="there is no GPU 99"):
        lamina.load(data, device="cuda:99")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cublaslt", "cudnn"])
def test_libraries_have_a_handle_for_each_device(name):
    devices = two_gpus()
    try:
        first, second = (d.library(name) for d in devices)
    except DeviceError as e:
        pytest.skip(str(e).splitlines()[0])
    assert first is not second and first is devices[0].library(name)
    assert [x.device for x in (first, second)] == devices
