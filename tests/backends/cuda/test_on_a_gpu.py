"""The runtime with kernels that Triton compiled: on the simulated device, and with -m gpu on a GPU.

Each test is run on both; what only a real driver shows is at the end.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.backends.cuda.sections import Net, on_device, plan_of
from tests.backends.cuda.simulation import Requests

from lamina.backends.cuda import bindings, code
from lamina.backends.cuda.compile import Compiler
from lamina.backends.cuda.device import current
from lamina.backends.cuda.driver import CudaDriver
from lamina.backends.cuda.graph import KEPT_GRAPHS
from lamina.backends.cuda.request import KernelRequest
from lamina.backends.cuda.resources import RunOptions
from lamina.backends.cuda.simulated import SimulatedDevice
from lamina.errors import DeviceError, InputError
from lamina.ir.dims import sym
from lamina.runtime.context import ExecutionContext

SOURCE = """import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def double_plus(x, y, n, plus, DEPENDENT: tl.constexpr, BLOCK: tl.constexpr):
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) * 2 + plus, mask=i < n)


@triton.jit
def add(x, y, z, n, DEPENDENT: tl.constexpr, BLOCK: tl.constexpr):
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(z + i, tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n), mask=i < n)


@triton.jit
def sum_all(x, y, counter, n, DEPENDENT: tl.constexpr, BLOCK: tl.constexpr):
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(y, tl.sum(tl.load(x + i, mask=i < n, other=0.0)))
    done = tl.atomic_add(counter, 1)
    if done == tl.num_programs(0) - 1:
        tl.store(counter, 0)


@triton.jit
def double_boxes(x, y, DEPENDENT: tl.constexpr, BLOCK: tl.constexpr):
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    i = tl.program_id(0) * BLOCK
    y.store([i], x.load([i]) * 2)


@triton.jit
def wild(x, y, n, plus, DEPENDENT: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i + (1 << 40), tl.load(x + i, mask=i < n), mask=i < n)
"""
OPERANDS = {"double_plus": "xy", "add": "xyz", "sum_all": "xy", "wild": "xy"}
BLOCK, N = 128, sym("n")
GRID = [{"$": f"ceildiv(n,{BLOCK})"}, 1, 1]
SIZES = [{"$": "n"}]
RANGES = [("n", 1, 1000, 1 << 33)]


def request(function, dependent):
    pointers = tuple((name, "*fp32") for name in OPERANDS[function])
    scalars = (
        (("n", "i32"), ("plus", "i32")) if function in ("double_plus", "wild") else (("n", "i32"),)
    )
    counters = (("counter", "*i32"),) if function == "sum_all" else ()
    return KernelRequest(
        function=function,
        source=SOURCE,
        parameters=(*pointers, *counters, *scalars),
        constants=(("DEPENDENT", dependent), ("BLOCK", BLOCK)),
        divisible=tuple(name for name, _ in pointers),
        dependent=dependent,
    )


class Machine:
    """A device, and sections for it."""

    def __init__(self, device, simulated):
        self.device, self.simulated = device, simulated
        self.dependent = device.arch >= 90

    def kernel(self, net, function, reads, writes, scalars, **options):
        kernel = request(function, self.dependent)
        net.kernels[kernel.digest()] = kernel
        grid = options.pop("grid", GRID)
        more = {"grid": grid, "dependent": self.dependent, **options}
        net.kernel(kernel.digest(), reads, writes, scalars, **more)
        net.steps[-1] = replace(net.steps[-1], name=function)

    def context(self, net, **options):
        kernels = {d: k for d, k in net.kernels.items() if isinstance(k, KernelRequest)}
        compiled = {d: self._compiled(k) for d, k in kernels.items()}
        net.kernels = {}
        arch = (("arch", f"sm_{self.device.arch}"), ("device", "cuda"), ("driver", "12000"))
        section = net.section(target=arch)
        section = replace(
            section,
            program=code.complete(section.program, compiled),
            image=code.image(compiled),
        )
        driver = CudaDriver(self.device, options=RunOptions(**options))
        ports = section.program.inputs, section.program.outputs
        loaded = driver.load(section)
        return ExecutionContext(plan_of(section, RANGES), *ports, loaded.runner())

    def _compiled(self, kernel):
        if self.simulated:
            return Requests(self.device.arch, 1).outcome(kernel)
        with Compiler(self.device.arch, 2) as compiler:
            return compiler.code(kernel)

    def network(self, **options):
        """y = (4x + 3) + (2x + 5), with two branches, and its sum."""
        net = Net()
        x, y = net.input("x", "f32[n]"), net.output("y", "f32[n]")
        a, b, c = (net.arena(name, "f32[n]") for name in "abc")
        self.kernel(net, "double_plus", [x], [a], [N, 1])
        self.kernel(net, "double_plus", [a], [b], [N, 1])
        self.kernel(net, "double_plus", [x], [c], [N, 5])
        self.kernel(net, "add", [b, c], [y], [N])
        return self.context(net, **options)


@pytest.fixture(params=["simulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def machine(request):
    if request.param == "simulated":
        return Machine(SimulatedDevice(), simulated=True)
    try:
        return Machine(bindings.open_device(0), simulated=False)
    except DeviceError as e:
        pytest.skip(str(e))


def numbers(n, seed=0):
    return np.random.default_rng(seed).integers(0, 100, n).astype(np.float32)


def meaning(x):
    return 6 * x + 8


@pytest.mark.parametrize(
    "options", [{}, {"branches": False}, {"graphs": False}, {"check": True}], ids=str
)
def test_host_arrays(machine, options):
    runs = machine.network(**options)
    for n in (1000, 1, 129, 1000, 1000):
        x = numbers(n)
        np.testing.assert_array_equal(runs.run({"x": x})["y"], meaning(x))


def test_device_arrays_at_many_addresses(machine):
    runs = machine.network()
    inputs = [on_device(machine.device, numbers(300, i)) for i in range(KEPT_GRAPHS + 3)]
    for _ in range(2):
        for i, x in enumerate(inputs):
            y = on_device(machine.device, np.zeros(300, np.float32))
            assert runs.run({"x": x}, out={"y": y})["y"] is y
            np.testing.assert_array_equal(y.numpy(), meaning(numbers(300, i)))
            result = runs.run({"x": x})["y"]
            np.testing.assert_array_equal(result.numpy(), meaning(numbers(300, i)))
    misaligned = on_device(machine.device, numbers(300), offset=4)
    np.testing.assert_array_equal(runs.run({"x": misaligned})["y"].numpy(), meaning(numbers(300)))


def test_tensor_maps_follow_addresses_and_shapes(machine):
    """Of inputs, results and what lies between; in a graph, in others, and in one that changes."""
    if machine.device.arch < 90:
        pytest.skip("this GPU has no copy engine")
    net = Net()
    x, y, z = net.input("x", "f32[n]"), net.arena("y", "f32[n]"), net.output("z", "f32[n]")
    kernel = KernelRequest(
        function="double_boxes",
        source=SOURCE,
        parameters=tuple((name, f"tensordesc<fp32[{BLOCK}]>") for name in "xy"),
        constants=(("DEPENDENT", True), ("BLOCK", BLOCK)),
        dependent=True,
    )
    net.kernels[kernel.digest()] = kernel
    maps = [{"tensor": f"t{i}", "element": "f32", "sizes": SIZES, "strides": [1]} for i in range(2)]
    for source, result in ((x, y), (y, z)):
        more = {"grid": GRID, "dependent": True, "arguments": maps}
        net.kernel(kernel.digest(), [source], [result], [], **more)
    runs = machine.context(net)
    for n in (1000, 1, 129, 1000):
        np.testing.assert_array_equal(runs.run({"x": numbers(n)})["z"], 4 * numbers(n))
    inputs = [on_device(machine.device, numbers(300, i)) for i in range(KEPT_GRAPHS + 3)]
    for _ in range(2):
        for i, given in enumerate(inputs):
            result = on_device(machine.device, np.zeros(300, np.float32))
            runs.run({"x": given}, out={"z": result})
            np.testing.assert_array_equal(result.numpy(), 4 * numbers(300, i))
    misaligned = on_device(machine.device, numbers(300), offset=4)
    np.testing.assert_array_equal(runs.run({"x": misaligned})["z"].numpy(), 4 * numbers(300))


def test_runs_on_the_callers_stream(machine):
    runs, device = machine.network(), machine.device
    x, y = on_device(device, numbers(500)), on_device(device, np.zeros(500, np.float32))
    with current(device):
        streams = [device.stream(), device.stream(), 0]
    for stream in streams * 3:
        runs.run({"x": x}, out={"y": y}, stream=stream)
        runs.run({"x": y}, out={"y": x}, stream=stream)
        runs.run({"x": x}, out={"y": y}, stream=stream)
        assert y.stream == stream
        np.testing.assert_array_equal(y.numpy(), meaning(meaning(meaning(numbers(500)))))
        x = on_device(device, numbers(500))
    runs.run({"x": x}, out={"y": y})
    np.testing.assert_array_equal(y.numpy(), meaning(numbers(500)))


def test_counters_are_zero_at_every_run(machine):
    net = Net()
    x, y = net.input("x", "f32[n]"), net.output("y", "f32[n]")
    total, zero = net.arena("total", "f32[n]"), net.constant("zero", np.zeros(1000, np.float32))
    machine.kernel(net, "add", [zero, zero], [total], [N])
    machine.kernel(net, "sum_all", [x], [total], [N], counters=1)
    machine.kernel(net, "add", [total, zero], [y], [N])
    runs = machine.context(net)
    for i in range(5):
        x = numbers(1000, i)
        np.testing.assert_allclose(runs.run({"x": x})["y"][0], x.sum(), rtol=1e-5)


def test_threads_with_contexts_of_their_own(machine):
    first = machine.network()
    failures = []

    def work(seed):
        runs = type(first)(
            plan_of(first._runner.resources.section, RANGES),
            first._inputs,
            first._outputs,
            type(first._runner)(first._runner.resources, first._runner.program),
        )
        for i in range(5):
            x = numbers(200 + 100 * (i % 2), seed)
            if not np.array_equal(runs.run({"x": x})["y"], meaning(x)):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []


def test_profile_and_memory(machine):
    runs = machine.network()
    times = runs.profile({"x": numbers(2000)})
    measured = runs._runner.measure([numbers(2000)])
    assert len(times) == 4 and all(t > 0 for t in times)
    assert sum(measured.shares()) == pytest.approx(measured.whole)
    assert runs.memory()["arena"] >= 3 * 8000
    free, total = _memory(machine.device)
    assert 0 < free <= total


def _memory(device):
    with current(device):
        return device.memory_info()


def test_too_little_memory_leaves_the_context_usable(machine):
    runs = machine.network()
    x = numbers(100)
    np.testing.assert_array_equal(runs.run({"x": x})["y"], meaning(x))
    huge = np.broadcast_to(np.float32(1), (_memory(machine.device)[1] // 4,))
    with pytest.raises(DeviceError, match=r"has no \d+ bytes for the arena of activations"):
        runs._runner.run([huge], [None])
    for _ in range(3):
        np.testing.assert_array_equal(runs.run({"x": x})["y"], meaning(x))


def test_a_launch_that_the_device_refuses_names_its_step(machine):
    net = Net()
    x, y = net.input("x", "f32[n]"), net.output("y", "f32[n]")
    machine.kernel(net, "double_plus", [x], [y], [N, 1])
    runs = machine.context(net)
    runner = runs._runner
    runs.run({"x": numbers(10)})
    instance, _ = runner._bound
    work = instance.work(0)
    prepared = work.segment.launches[0]
    work.segment.launches[0] = replace(
        prepared, launch=replace(prepared.launch, shared_bytes=1 << 30)
    )
    work.runs = 0
    with pytest.raises(DeviceError, match=r"in step double_plus \(.*\) from node 0"):
        runs.run({"x": numbers(10)})
    np.testing.assert_array_equal(runs.run({"x": numbers(10)})["y"], 2 * numbers(10) + 1)


@pytest.mark.gpu
def test_an_illegal_address_is_named_and_loses_the_device_for_the_process():
    """In a process of its own: nothing works on the device afterwards."""
    script = (
        "from tests.backends.cuda.test_on_a_gpu import *\n"
        "machine = Machine(bindings.open_device(0), simulated=False)\n"
        "net = Net()\n"
        "x, y = net.input('x', 'f32[n]'), net.output('y', 'f32[n]')\n"
        "machine.kernel(net, 'wild', [x], [y], [N, 1])\n"
        "runs = machine.context(net, check=True)\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        runs.run({'x': numbers(100)})\n"
        "    except DeviceError as e:\n"
        "        print(e)\n"
    )
    _needs_gpu()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert "in step wild" in done.stdout and done.stdout.count("is lost to this process") == 2


@pytest.mark.gpu
def test_arrays_of_torch_and_of_another_gpu():
    torch = pytest.importorskip("torch")
    machine = Machine(_needs_gpu(), simulated=False)
    runs = machine.network()
    x = torch.arange(1000, dtype=torch.float32, device="cuda:0")
    for _ in range(4):
        y = torch.from_dlpack(runs.run({"x": x})["y"])
        assert torch.equal(y, 6 * x + 8)
        out = torch.empty_like(x)
        assert runs.run({"x": x}, out={"y": out})["y"] is out
        assert torch.equal(out, 6 * x + 8)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(20):
            runs.run({"x": x + 1}, out={"y": out}, stream=stream.cuda_stream)
            x = out / 6
    stream.synchronize()
    with pytest.raises(InputError, match="not C-contiguous"):
        runs.run({"x": torch.zeros(2000, device="cuda:0")[::2]})
    if torch.cuda.device_count() > 1:
        with pytest.raises(InputError, match="is on cuda:1"):
            runs.run({"x": torch.zeros(1000, device="cuda:1")})


def _needs_gpu():
    try:
        return bindings.open_device(0)
    except DeviceError as e:
        pytest.skip(str(e))
