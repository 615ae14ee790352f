"""Steps of libraries in plans: built, measured, stored, loaded and run, on the simulated device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.backends.cuda.libraries import fake_cublaslt
from tests.backends.cuda.sections import on_device
from tests.backends.cuda.simulation import SIMULATED_ARCH, Requests
from tests.samples.sample import normal

from lamina import ops
from lamina.backends.cuda import compiler as compiler_of_cuda
from lamina.backends.cuda.bench import Bench
from lamina.backends.cuda.compiler import CudaCompiler
from lamina.backends.cuda.driver import CudaDriver
from lamina.backends.cuda.resources import RunOptions
from lamina.backends.cuda.simulated import SimulatedDevice
from lamina.backends.cuda.tactics.cublaslt import CublasLtMatmul
from lamina.backends.cuda.tactics.generated import Generated
from lamina.backends.cuda.tactics.matmul import TritonMatmul
from lamina.backends.cuda.target import TARGETS
from lamina.builder import make_plan
from lamina.config import BuildConfig
from lamina.errors import PlanError
from lamina.ir.interpret import interpret
from lamina.ir.text import parse_graph
from lamina.plan.format import read_plan, write_plan
from lamina.plan.plan import StepKind
from lamina.runtime.context import ExecutionContext
from lamina.tactics.cache import TimingCache

TWO_LAYERS = """graph(%x: f32[b,32]) {
  %w = const() type=f32[32,48] seed=1
  %v = const() type=f32[48,16] seed=2
  %h = matmul(%x, %w) activation={relu,0.0,0.0}
  %g = activation(%h) kind=tanh
  %y = matmul(%h, %v)
  %z = matmul(%g, %v)
  %s = binary(%y, %z) kind=add
  return %s
}"""


ONE_LAYER = """graph(%x: f32[4,16]) {
  %w = const() type=f32[16,16] seed=1
  %y = matmul(%x, %w)
  return %y
}"""
LIBRARY = (CublasLtMatmul(), Generated())


@pytest.fixture
def device():
    return SimulatedDevice(libraries={"cublaslt": fake_cublaslt()})


def build(text, device, monkeypatch, *, level=0, cache=None, tactics=None):
    monkeypatch.setattr(
        compiler_of_cuda, "TACTICS", tactics or (CublasLtMatmul(), TritonMatmul(), Generated())
    )
    config = BuildConfig(target=f"cuda:sm_{SIMULATED_ARCH}", optimization_level=level)
    env = {"b": 4}
    library = None if device is None else device.library
    target = replace(TARGETS[SIMULATED_ARCH], env=env, library=library)
    compiler = CudaCompiler(config, target, lambda *_: None, device)
    compiler.kernels = Requests
    graph = parse_graph(text, ops.BY_NAME)
    cache = cache or TimingCache(None, compiler.machine)
    compiled = compiler.compile(graph, cache)
    ranges = [("b", 1, 4, 16)]
    return read_plan(write_plan(make_plan([compiled], ranges, config, None)))


def context(plan, device, **options):
    loaded = CudaDriver(device, options=RunOptions(**options)).load(plan.sections[0])
    program = plan.sections[0].program
    return ExecutionContext(plan, program.inputs, program.outputs, loaded.runner())


def expected(text, x):
    (y,) = interpret(parse_graph(text, ops.BY_NAME), [x])
    return y


@pytest.mark.parametrize("options", [{}, {"graphs": False}, {"branches": False}, {"check": True}])
def test_a_plan_with_library_steps_runs(device, monkeypatch, options):
    plan = build(TWO_LAYERS, device, monkeypatch, tactics=LIBRARY)
    steps = plan.sections[0].program.steps
    assert [s.kind for s in steps].count(StepKind.PRIMITIVE) == 3
    runs = context(plan, device, **options)
    for rows in (4, 4, 7, 1, 4):
        x = normal(rows, 32, seed=rows)
        for _ in range(3):
            np.testing.assert_allclose(
                runs.run({"x": x})["s"], expected(TWO_LAYERS, x), rtol=1e-4, atol=1e-4
            )


def test_graphs_follow_the_callers_arrays(device, monkeypatch):
    plan = build(TWO_LAYERS, device, monkeypatch, tactics=LIBRARY)
    runs = context(plan, device)
    kept = []
    for seed in range(7):
        x = normal(4, 32, seed=seed)
        kept.append(on_device(device, x))
        got = runs.run({"x": kept[-1]})["s"]
        np.testing.assert_allclose(got.numpy(), expected(TWO_LAYERS, x), rtol=1e-4, atol=1e-4)
        kept.append(got)
    assert len(runs._runner.measure([kept[0]]).alone) == len(plan.sections[0].program.steps)


def test_the_fastest_wins_and_the_cache_repeats_it(device, monkeypatch):
    monkeypatch.setattr(Bench, "early_start", lambda _: 0.0)  # an interpreter's would be noise
    cache = TimingCache(None, "")
    first, again = (
        build(ONE_LAYER, device, monkeypatch, level=1, cache=cache).sections[0] for _ in range(2)
    )
    (step,) = first.program.steps
    # The stand-in is compiled code, kernels run in an interpreter.
    assert step.tactic.startswith("cublaslt 6")
    assert {m.tactic.split(" ")[0] for m in step.tried} == {"cublaslt", "triton-matmul"}
    assert again == first


def test_a_plan_says_which_library_it_lacks(device, monkeypatch):
    plan = build(TWO_LAYERS, device, monkeypatch, tactics=LIBRARY)
    other = CudaDriver(SimulatedDevice(), options=RunOptions())
    assert "needs the library cublaslt" in (other.refusal(plan.sections[0]) or "")
    with pytest.raises(PlanError, match=r"no library cublaslt; build without it"):
        other.load(plan.sections[0])


def test_without_the_library_kernels_do_it_and_the_plan_says_why(monkeypatch):
    plan = build(TWO_LAYERS, SimulatedDevice(), monkeypatch)
    steps = plan.sections[0].program.steps
    assert all(s.kind is StepKind.KERNEL for s in steps)
    declined = [dict(s.declined) for s in steps if s.name == "matmul"]
    assert all("no library cublaslt" in d["cublaslt"] for d in declined)


@pytest.mark.parametrize(
    "spec", ["", "[]", '{"library": "cublaslt", "problem": {}, "plan": 99}', '{"problem": {}}']
)
def test_damaged_steps_are_refused(device, monkeypatch, spec):
    section = build(TWO_LAYERS, device, monkeypatch, tactics=LIBRARY).sections[0]
    steps = [
        replace(s, spec=spec) if s.kind is StepKind.PRIMITIVE else s for s in section.program.steps
    ]
    broken = replace(section, program=replace(section.program, steps=tuple(steps)))
    with pytest.raises(PlanError, match=r"library step is damaged[\s\S]*in step matmul"):
        CudaDriver(device, options=RunOptions()).load(broken)


def test_contexts_and_refits_share_what_a_library_made(device, monkeypatch):
    plan = build(TWO_LAYERS, device, monkeypatch, tactics=LIBRARY)
    section, library = plan.sections[0], device.library("cublaslt")
    made, make = [], library.operation
    monkeypatch.setattr(library, "operation", lambda *a: made.append(1) or make(*a))
    loaded = CudaDriver(device).load(section)
    x = normal(4, 32, seed=1)
    for other in (loaded, loaded, loaded.refitted(section)):
        runs = ExecutionContext(
            plan, section.program.inputs, section.program.outputs, other.runner()
        )
        found = runs.run({"x": x})["s"]
        np.testing.assert_allclose(found, expected(TWO_LAYERS, x), rtol=1e-4, atol=1e-4)
    assert len(made) == 3
    runs.run({"x": normal(7, 32, seed=2)})
    assert len(made) == 6
