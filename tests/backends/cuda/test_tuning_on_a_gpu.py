"""Builds that time candidates, and profiles, on a GPU: what is remembered, and what adds up."""

from __future__ import annotations

import json

import numpy as np
import pytest

import lamina
from lamina import ceilings, ops
from lamina.backends.cuda import bindings
from lamina.errors import DeviceError
from lamina.ir.text import parse_graph

pytestmark = pytest.mark.gpu

JOINED = """graph(%x: f16[2,64,32,32]) {
  %w = const() type=f16[64,64,3,3] seed=1
  %v = const() type=f16[64,64,3,3] seed=2
  %u = const() type=f16[64,128,1,1] seed=3
  %a = convolution(%x, %w) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
  %b = convolution(%a, %v) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
  %c = concat(%a, %b) axis=1
  %y = convolution(%c, %u) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
  return %y
}"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    try:
        bindings.open_device(0)
    except DeviceError as e:
        pytest.skip(str(e))
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))
    return tmp_path


def build(**options):
    return lamina.build(parse_graph(JOINED, ops.BY_NAME), target="cuda", **options)


def test_a_warm_build_is_the_cold_one(folder):
    cold = build()
    known = (folder / "timing.json").read_text()
    assert build().serialize() == cold.serialize()
    assert (folder / "timing.json").read_text() == known  # nothing was timed again
    (machine,) = json.loads(known)["machines"].values()
    placed = [p for p in machine if " in place(" in p]
    if not any(s.name == "concat" for s in cold.section.program.steps):
        assert placed
    assert all(us > 0 for p in placed for us in machine[p].values())


def test_a_second_of_tuning_is_enough_for_a_plan():
    engine = build(time_budget=0.01)
    assert "were up" in dict(engine.plan.notes)["untuned"]
    x = np.random.default_rng(0).standard_normal((2, 64, 32, 32)).astype(np.float16)
    wanted = build()(x).astype(np.float32)
    np.testing.assert_allclose(engine(x).astype(np.float32), wanted, rtol=2e-2, atol=2.0)


def test_layers_stand_beside_the_device_s_limits(monkeypatch):
    monkeypatch.setattr(ceilings, "_COPIED", {"cuda": 1 << 22})
    monkeypatch.setattr(ceilings, "_SIDE", {"cuda": 1024})
    engine = build()
    most = engine.ceilings()
    assert most.bytes_per_microsecond > 0 and most.operations_per_microsecond["f16"] > 0
    assert engine.ceilings() == most
    layers = engine.profile(runs=2, ceilings=most)
    convolutions = [x for x in layers if x.name == "convolution"]
    assert [x.operations for x in convolutions] == [2 * 2 * 1024 * 64 * n for n in (576, 576, 128)]
    assert all(x.microseconds > 0 and x.floor_microseconds > 0 for x in convolutions)
