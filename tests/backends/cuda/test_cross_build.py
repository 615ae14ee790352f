"""Plans for a GPU that is not here: built, saved, inspected; run where they can be."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cuda.simulation import Requests

import lamina
import lamina.backends.cuda.compiler as compiler_of_cuda
from lamina import ops
from lamina.backends.cuda.kernel_versions import KernelVersions
from lamina.backends.cuda.problems import problem_key
from lamina.backends.cuda.tactics import TACTICS
from lamina.backends.cuda.target import TARGETS
from lamina.builder import import_graph, optimize
from lamina.config import BuildConfig, shape_ranges
from lamina.errors import ConfigError, DeviceError, PlanError
from lamina.ir.text import parse_graph
from lamina.tactics.cache import TimingCache

TEXT = """graph(%x: f32[n,64]) {
  %w = const() type=f32[64,32] seed=1
  %b = const() type=f32[32] seed=2
  %m = matmul(%x, %w, %b)
  %y = activation(%m) kind=relu
  return %y
}"""


def build(target, **options):
    graph = parse_graph(TEXT, ops.BY_NAME)
    return lamina.build(graph, target=target, optimization_level=0, timing_cache="", **options)


@pytest.fixture(scope="module")
def engine():
    return build("cpu,cuda:sm_90,cuda:sm_80")


def test_a_plan_holds_a_section_for_each_target(engine):
    devices = [dict(s.target).get("arch", "cpu") for s in engine.plan.sections]
    assert devices == ["cpu", "sm_90", "sm_80"]
    # Triton's assembler is of CUDA 12, whose machine code every driver of CUDA 12 loads.
    assert [dict(s.target).get("driver") for s in engine.plan.sections] == [None, "12000", "12000"]
    x = np.random.default_rng(0).standard_normal((5, 64), np.float32)
    again = lamina.load(engine.serialize())
    np.testing.assert_array_equal(engine(x), again(x))


def test_a_plan_for_another_machine_is_saved_and_inspected(tmp_path):
    engine = build("cuda:sm_90", precision="fp16")
    report = engine.inspect()
    assert any("triton" in layer.tactic for layer in report.layers)
    with pytest.raises(DeviceError, match="the plan is for cuda:sm_90"):
        engine(np.zeros((5, 64), np.float32))
    engine.save(tmp_path / "x.plan")
    x = np.random.default_rng(0).standard_normal((5, 64), np.float32)
    here = lamina.load(tmp_path / "x.plan")  # compiled again from the graph
    expected = build("cpu")(x)
    np.testing.assert_allclose(here(x), expected, rtol=2e-2, atol=2e-2)


def test_equal_builds_give_equal_bytes():
    assert build("cuda:sm_90").serialize() == build("cuda:sm_90").serialize()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cuda:sm_50", "older than sm_75"),
        ("cuda:7", "'cuda:7' is not available"),
        ("cpu,cpu", "named twice"),
    ],
)
def test_targets_that_mean_nothing(target, message):
    with pytest.raises(ConfigError, match=message):
        build(target)


PATCHES = """graph(%x: f32[1,3,32,32]) {
  %v = const() type=f32[64,3,8,8] seed=1
  %p = convolution(%x, %v) strides=(8,8) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
  %a = const() type=f32[16,64,1,1] seed=2
  %b = const() type=f32[16,64,1,1] seed=3
  %y = convolution(%p, %a) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
  %z = convolution(%p, %b) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
  return %y, %z
}"""


@pytest.mark.parametrize(
    ("without", "convolutions"),
    [((), 1), (("PatchesToMatmul",), 2), (("PatchesToMatmul", "MergeParallelConvolutions"), 3)],
)
def test_passes_of_the_gpu_can_be_left_out(without, convolutions):
    graph = parse_graph(PATCHES, ops.BY_NAME)
    engine = lamina.build(
        graph, target="cuda:sm_90", without=without, optimization_level=0, timing_cache=""
    )
    names = [s.name for s in engine.section.program.steps]
    assert names.count("convolution") == convolutions


@pytest.fixture
def kernels_as_text(monkeypatch):
    """Let builds make machine code for the simulated device, which is an sm_90."""
    monkeypatch.setattr(compiler_of_cuda, "Compiler", Requests)


@pytest.mark.parametrize("target", ["cuda:sm_80", "cpu,cuda:sm_80", "cuda:sm_100"])
def test_on_another_gpu_the_graph_is_compiled_again(kernels_as_text, target):
    x = np.random.default_rng(0).standard_normal((5, 64), np.float32)
    elsewhere = build(target, shapes={"x": ((1, 64), (5, 64), (9, 64))}).serialize()
    here = lamina.load(elsewhere, device="cuda:simulated")
    assert dict(here.section.target)["arch"] == "sm_90"
    assert here.plan.ranges == (("n", 1, 5, 9),)
    np.testing.assert_allclose(here(x), build("cpu")(x), rtol=1e-5, atol=1e-5)
    again = lamina.load(here.serialize(), device="cuda:simulated")  # what it became is kept
    assert again.section == here.section


def test_options_of_the_build_hold_on_another_gpu(kernels_as_text):
    elsewhere = build("cuda:sm_80", precision="fp16").serialize()
    here = lamina.load(elsewhere, device="cuda:simulated")
    config = dict(here.plan.config)
    assert (config["precision"], config["target"]) == ('"fp16"', '"cuda:sm_90"')
    assert any("f16" in str(t.type) for t in here.section.program.tensors)


def test_without_its_graph_a_plan_says_for_what_it_is(kernels_as_text):
    elsewhere = build("cuda:sm_80", keep_graph=False).serialize()
    with pytest.raises(PlanError, match=r"it is for sm_80[\s\S]*keep_graph=False"):
        lamina.load(elsewhere, device="cuda:simulated")


def test_a_section_of_the_same_generation_runs_as_it_is(kernels_as_text):
    built = build("cuda:sm_80,cuda:sm_90", keep_graph=False)
    here = lamina.load(built.serialize(), device="cuda:simulated")
    assert here.section.target == built.plan.sections[1].target


def test_the_same_cache_gives_the_same_plan(kernels_as_text, tmp_path):
    """Choices by a cache of another machine's times: byte for byte, whichever build reads it."""
    path = tmp_path / "timing.json"
    graph = parse_graph(TEXT, ops.BY_NAME)
    options = {"target": "cuda:sm_90", "shapes": {"x": (8, 64)}, "timing_cache": str(path)}
    guessed = lamina.build(graph, **options)
    (product,) = [s for s in guessed.section.program.steps if s.name == "matmul"]
    node = next(n for n in _lowered(graph).nodes() if n.op.name == "matmul")
    slowest = max(product.tried, key=lambda m: m.microseconds).tactic
    cache = TimingCache(path, "cuda sm_90 a device")
    versions = KernelVersions()
    for tactic in TACTICS:
        found = tactic.candidates(node, TARGETS[90])
        versions.learn(node, found if isinstance(found, list) else [])
    cache.version = versions.of
    for m in product.tried:
        us = 1.0 if m.tactic == slowest else 9.0
        cache.put(problem_key(node, TARGETS[90]), m.tactic, us)
    cache.save()
    first, second = (lamina.build(graph, **options) for _ in range(2))
    assert first.serialize() == second.serialize()
    (chosen,) = [s for s in first.section.program.steps if s.name == "matmul"]
    assert slowest.startswith(chosen.tactic)


def _lowered(graph):
    config = BuildConfig(target="cuda:sm_90", shapes=shape_ranges({"x": (8, 64)}))
    own, _ = import_graph(graph, config)
    optimize(own, config, "cuda")
    return own
