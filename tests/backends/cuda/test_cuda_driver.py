"""The CUDA driver: what it refuses and why, devices, engines and profiles."""

from __future__ import annotations

import dataclasses
import importlib

import numpy as np
import pytest
from tests.backends.cuda.sections import (
    TARGET,
    Net,
    chain,
    chained,
    compile_kernel,
    context,
    device,
    on_device,
    plan_of,
)

import lamina
from lamina.backends.cuda import bindings, driver, simulated
from lamina.backends.cuda.driver import CudaDriver
from lamina.backends.cuda.resources import RunOptions
from lamina.errors import ConfigError, DeviceError, PlanError
from lamina.ir.dims import sym
from lamina.plan.format import write_plan
from lamina.runtime.engine import Engine

X = np.arange(8, dtype=np.float32)


def _section(**target):
    return (
        chain()
        if not target
        else dataclasses.replace(chain(), target=tuple(sorted({**dict(TARGET), **target}.items())))
    )


@pytest.mark.parametrize(
    ("arch", "wanted", "reason"),
    [
        (90, {}, None),
        (86, {"arch": "sm_80"}, None),
        (80, {"arch": "sm_86"}, r"it is for sm_86, cuda:simulated \(simulated\) is sm_80"),
        (90, {"arch": "sm_80"}, "it is for sm_80"),
        (80, {"arch": "sm_90"}, "it is for sm_90"),
        (103, {"arch": "sm_100"}, None),
        (103, {"arch": "sm_100a"}, "it is for sm_100a"),
        (103, {"arch": "sm_100f"}, None),
        (90, {"arch": "sm_90a"}, None),
        (90, {"arch": "hopper"}, "names no GPU architecture, but 'hopper'"),
        (90, {"driver": "13010"}, r"needs a driver for CUDA 13\.1, here is one for 13\.0"),
        (90, {"driver": "12080"}, None),
        (90, {"driver": "new"}, "is no version"),
        (90, {"device": "cpu"}, "it is for cpu"),
    ],
)
def test_a_section_is_refused_with_the_reason(arch, wanted, reason):
    found = CudaDriver(device(arch=arch), options=RunOptions())
    section = _section(**wanted)
    refusal = found.refusal(section)
    if reason is None:
        assert refusal is None
        found.load(section)
        return
    assert refusal is not None
    with pytest.raises(PlanError, match=reason):
        found.load(section)


def test_a_machine_without_a_gpu_says_what_is_missing(monkeypatch):
    def absent(ordinal):
        raise DeviceError("there is no NVIDIA driver", hint="install it")

    monkeypatch.setattr(bindings, "open_device", absent)
    found = driver.driver(device="cuda:3")
    assert found.refusal(chain()) == "there is no NVIDIA driver"
    assert dict(found.target())["arch"] == "none"
    with pytest.raises(DeviceError, match="there is no NVIDIA driver"):
        found.load(chain())
    with pytest.raises(
        DeviceError, match="device 'cuda' cannot be used: there is no NVIDIA driver"
    ):
        lamina.load(write_plan(plan_of(chain())), device="cuda")


@pytest.mark.parametrize("name", ["cuda:x", "cuda:-1", "cpu:1", "tpu", "cuda1"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(PlanError, match=f"device '{name}' is not known"):
        Engine(plan_of(chain()), device=name)


@pytest.fixture
def engine(monkeypatch):
    """An engine on ``cuda:simulated`` whose kernels are the NumPy ones of these tests."""
    monkeypatch.setattr(simulated, "_interpreted", compile_kernel)
    return lamina.load(write_plan(plan_of(chain())), device="cuda:simulated")


def test_an_engine_on_a_gpu(engine):
    np.testing.assert_array_equal(engine(X), chained(X))
    assert engine.run({"x": X})["y"].shape == (8,)
    report = engine.inspect()
    assert report.target["arch"] == "sm_90" and report.memory["arena"] > 0
    times = engine.profile({"x": X}, runs=2)
    assert [t.name for t in times] == ["double_plus0", "double_plus1", "double_plus2"]
    assert all(t.microseconds > 0 for t in times)


def test_the_times_of_steps_add_up_to_the_whole():
    runs = context(chain())
    measured = runs._runner.measure([X])
    assert len(measured.alone) == 3 and measured.whole > 0
    assert sum(measured.shares()) == pytest.approx(measured.whole)
    on = runs._runner.resources.device
    x = on_device(on, X)
    assert len(runs.profile({"x": x})) == 3
    np.testing.assert_array_equal(x.numpy(), X)
    np.testing.assert_array_equal(runs.run({"x": x})["y"].numpy(), chained(X))


def test_the_environment_chooses_how_programs_run(monkeypatch):
    monkeypatch.setenv("LAMINA_CUDA_CHECK", "1")
    monkeypatch.setenv("LAMINA_CUDA_BRANCHES", "0")
    found = CudaDriver(device()).load(chain())
    assert found.resources.options == RunOptions(check=True, branches=False)
    monkeypatch.setenv("LAMINA_CUDA_CHECK", "yes")
    with pytest.raises(ConfigError, match="LAMINA_CUDA_CHECK is 'yes'"):
        CudaDriver(device())


def test_kernels_of_triton_run_in_plans():
    """A plan whose kernels are requests to compile runs on the simulated device as it is."""
    request = importlib.import_module("lamina.backends.cuda.request")
    kernel = request.KernelRequest(
        function="scaled",
        source=SOURCE,
        parameters=(("x", "*fp32"), ("y", "*fp32"), ("n", "i32")),
        constants=(("factor", 3.0), ("BLOCK", 16)),
        divisible=("x", "y"),
    )
    assert request.read_key(kernel.key()) == kernel
    net = Net()
    x, y = net.input("x", "f32[m]"), net.output("y", "f32[m]")
    a = net.arena("a", "f32[m]")
    m = sym("m")
    grid = [{"$": "ceildiv(m,16)"}, 1, 1]
    net.kernels[kernel.digest()] = kernel.key().encode()
    for source, target in ((x, a), (a, y)):
        net.kernel(kernel.digest(), [source], [target], [m], grid=grid, function="scaled")
    plan = plan_of(net.section(), [("m", 1, 8, 64)])
    engine = lamina.load(write_plan(plan), device="cuda:simulated")
    for n in (5, 40, 5):
        values = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal(engine(values), 9 * values)


SOURCE = """import triton
import triton.language as tl


@triton.jit
def scaled(x, y, n, factor: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) * factor, mask=i < n)
"""
