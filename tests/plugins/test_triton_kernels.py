"""Plugins with Triton kernels: in the interpreter, compiled for several GPUs, and refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import triton
import triton.language as tl

import lamina
from lamina.backends.cuda.compile import MachineCode
from lamina.backends.cuda.triton_compile import compile_request
from lamina.plan.format import read_plan, write_plan
from lamina.plan.plan import StepKind
from lamina.plugins import Launch, cdiv
from lamina.runtime.engine import Engine
from tests.backends.cuda.simulation import plan_of, simulated
from tests.plugins import kernels

ONNX_TYPES = {"float32": "float", "float16": "float16", "int32": "int32"}
TOLERANCE = {"float32": 1e-6, "float16": 2e-3, "int32": 0}


def model(body, dtype="float32", shape="n"):
    kind = ONNX_TYPES[dtype]
    return onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21, "kernels" : 1]> '
        f"g ({kind}[{shape}] a, {kind}[{shape}] b) => ({kind}[{shape}] y) {{ {body} }}"
    )


def values(dtype, *shape):
    return (3 * np.random.default_rng(0).standard_normal((2, *shape))).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_shapes_and_types_through_onnx(dtype):
    factor = 3
    proto = model(f"z = kernels.scaled_add <factor = {factor}.0> (a, b) y = Abs (z)", dtype)
    if dtype == "int32":  # a whole factor keeps whole numbers
        proto = model(f"z = kernels.scaled_add <factor = {factor}> (a, b) y = Abs (z)", dtype)
    engine = simulated(proto)
    steps = engine.section.program.steps
    assert engine.plan.fallbacks == ()
    assert [s.kind for s in steps] == [StepKind.KERNEL] * 2
    assert steps[0].tactic.startswith("plugin add_kernel BLOCK=64 FACTOR=3")
    for size in (100, 7, 64):
        a, b = values(dtype, size)
        wanted = np.abs(kernels.scaled_add(a, b, factor=factor))
        tolerance = TOLERANCE[dtype]
        got = engine.run({"a": a, "b": b})["y"]
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def test_several_launches_share_a_workspace():
    engine = simulated(model("y = kernels.unit (a)", shape="rows, 40"))
    (step,) = engine.section.program.steps
    assert len(step.symbols) == 2 and str(step.workspace_bytes) == "4*rows"
    for rows in (3, 5):
        a, b = values("float32", rows, 40)
        got = engine.run({"a": a, "b": b})["y"]
        np.testing.assert_allclose(got, kernels.unit(a), rtol=1e-5, atol=1e-6)


def test_the_plan_needs_neither_the_plugin_nor_triton():
    plan, _ = plan_of(model("y = kernels.scaled_add (a, b)"))
    text = write_plan(plan)
    known = lamina.plugins.registered._PLUGINS
    found = known.pop("kernels::scaled_add")
    try:
        a, b = values("float32", 10)
        engine = Engine(read_plan(text), device="cuda:simulated")
        np.testing.assert_allclose(engine.run({"a": a, "b": b})["y"], 2 * (a + b), rtol=1e-6)
    finally:
        known["kernels::scaled_add"] = found


@pytest.mark.parametrize("arch", [75, 80, 90, 100])
def test_kernels_compile_for_every_gpu(arch):
    proto = model("z = kernels.scaled_add (a, b) y = kernels.unit (z)", shape="rows, 40")
    _, requests = plan_of(proto, arch=arch)
    named = [r for r in requests if r.function in ("add_kernel", "square_kernel", "unit_kernel")]
    assert len(named) == 3
    for request in named:
        code = compile_request(request, arch)
        assert isinstance(code, MachineCode) and code.cubin[:4] == b"\x7fELF"
        assert not request.dependent


def test_every_way_is_a_candidate():
    plan, _ = plan_of(model("y = kernels.scaled_add (a, b)"))
    (step,) = plan.sections[0].program.steps
    tried = [m.tactic for m in step.tried]
    assert [t.split(" ")[2] for t in tried] == ["BLOCK=64"]  # level 0 keeps one
    found = lamina.plugins.find("kernels::scaled_add")
    assert found is not None and found.triton is kernels.add_launches


def test_a_plugin_without_kernels_runs_on_the_host_of_a_gpu():
    @lamina.plugin("kernels::host_only", types=lambda x: x)
    def host_only(x):
        return x + 1

    engine = simulated(model("z = Abs (a) h = kernels.host_only (z) y = Neg (h)"))
    assert any("plugin_call" in line and "no kernels" in line for line in engine.plan.fallbacks)
    a, b = values("float32", 9)
    np.testing.assert_allclose(engine.run({"a": a, "b": b})["y"], -(np.abs(a) + 1))


@triton.jit
def copy_kernel(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) * _TABLE[0], mask=i < n)


_TABLE = [1.0]


@triton.jit
def plain_kernel(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n), mask=i < n)


def raising(x, y):
    raise RuntimeError("no such kernel")


WRONG = {
    "refers to _TABLE, a list": lambda x, y: Launch(copy_kernel, (1,), x, y, x.size, BLOCK=16),
    "missing a required argument": lambda x, y: Launch(plain_kernel, (1,), x, y, BLOCK=16),
    "is a constant, but": lambda x, y: Launch(plain_kernel, (1,), x, y, 4, BLOCK=x.size),
    "is no Triton kernel": lambda x, y: Launch(len, (1,), x, y),
    "grid of plain_kernel has 4 axes": lambda x, y: Launch(
        plain_kernel, (1, 1, 1, 1), x, y, 4, BLOCK=16
    ),
    "got a ndarray": lambda x, y: Launch(plain_kernel, (1,), np.zeros(3), y, 4, BLOCK=16),
    "expected a Launch": lambda x, y: [3],
    "RuntimeError: no such kernel": raising,
}


@pytest.mark.parametrize("reason", WRONG)
def test_what_does_not_fit_is_named(reason):
    lamina.plugin("kernels::wrong", types=lambda x: x, triton=WRONG[reason])(lambda x: x)
    with pytest.raises(lamina.LaminaError, match=reason):
        plan_of(model("y = kernels.wrong (a)"))


@triton.jit
def broken_kernel(x, y, n, BLOCK: tl.constexpr):
    tl.store(y + tl.arange(0, BLOCK), tl.no_such_function(x))


@pytest.mark.parametrize("others", [True, False])
def test_a_kernel_that_does_not_compile_leaves_the_others(others):
    def ways(x, y):
        yield Launch(broken_kernel, (1,), x, y, x.size, BLOCK=16)
        if others:
            yield Launch(plain_kernel, (cdiv(x.size, 16),), x, y, x.size, BLOCK=16)

    lamina.plugin("kernels::partly", types=lambda x: x, triton=ways)(lambda x: x)
    plan = lamina.build(model("y = kernels.partly (a)"), target="cuda:sm_90", timing_cache="").plan
    (step,) = plan.sections[0].program.steps
    reasons = dict(step.declined)
    assert any("cannot compile broken_kernel" in reason for reason in reasons.values())
    if others:
        assert step.kind is StepKind.KERNEL and "plain_kernel" in step.tactic
    else:
        assert step.kind is StepKind.HOST and "cannot compile" in plan.fallbacks[0]


@triton.jit
def scale_kernel(x, y, n, factor, offset, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n) * factor
    if offset is not None:
        value += offset
    tl.store(y + i, value, mask=i < n)


@pytest.mark.parametrize("offset", [None, 2])
def test_numbers_for_parameters_without_annotation(offset):
    def scaled(x, y, *, factor):
        return Launch(scale_kernel, (cdiv(x.size, 32),), x, y, x.size, factor, offset, BLOCK=32)

    lamina.plugin("kernels::scale", types=lambda x, factor: x, triton=scaled)(
        lambda x, *, factor: x
    )
    proto = model("y = kernels.scale <factor = 2.5> (a)")
    plan, requests = plan_of(proto)
    engine = Engine(plan, device="cuda:simulated")
    a, b = values("float32", 50)
    wanted = a * np.float32(2.5) + (offset or 0)
    np.testing.assert_allclose(engine.run({"a": a, "b": b})["y"], wanted, rtol=1e-6)
    assert compile_request(requests[0], 90).cubin
    assert ("offset" in dict(requests[0].constants)) == (offset is None)
