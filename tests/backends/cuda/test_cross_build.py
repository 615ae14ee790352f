"""Plans for a GPU that is not here: built, saved, inspected; run where they can be."""

from __future__ import annotations

import numpy as np
import pytest

import lamina
from lamina import ops
from lamina.errors import ConfigError, DeviceError
from lamina.ir.text import parse_graph

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
