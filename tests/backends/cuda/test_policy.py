"""What narrows the choice of kernels on a GPU, and views that change the form alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.backends.cuda.simulation import plan_of, simulated

import lamina
from lamina.backends.cuda.compiler import _allowed, cuda_compiler
from lamina.config import BuildConfig
from lamina.errors import DeviceError
from lamina.ir.graph import Graph, Node
from lamina.ir.text import parse_graph
from lamina.ops import BY_NAME
from lamina.tactics.policy import Offer, Sizes

CHANNELS_LAST = """
graph(%x: f32[1,8,8,32]) {
  %a = transpose(%x) perm=(0,3,1,2)
  %w = const() type=f32[32,32,3,3] seed=1
  %b = convolution(%a, %w) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
  %y = transpose(%b) perm=(0,2,3,1)
  return %y
}
"""


def graph(text: str) -> Graph:
    return parse_graph(text, BY_NAME)


class Last:
    """Chooses the last offer of each node and keeps what it is told."""

    def __init__(self) -> None:
        self.offers: dict[str, Sequence[Offer]] = {}
        self.chosen: dict[str, Offer] = {}

    def select(self, node: Node, offers: Sequence[Offer], sizes: Sizes) -> Sequence[int]:
        self.offers[node.op.name] = offers
        return [len(offers) - 1]

    def report(self, chosen: Sequence[tuple[Node, Offer]], sizes: Sizes) -> None:
        self.chosen = {node.op.name: offer for node, offer in chosen}


def test_transposes_between_forms_are_views() -> None:
    engine = simulated(graph(CHANNELS_LAST))
    steps = engine.plan.sections[0].program.steps
    assert [s.name for s in steps] == ["convolution"]
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 32), np.float32)
    expected = lamina.build(graph(CHANNELS_LAST), target="reference")(x)
    np.testing.assert_allclose(engine(x), expected, rtol=1e-3, atol=1e-3)


def test_a_selector_decides_on_a_gpu() -> None:
    selector = Last()
    plan, _ = plan_of(graph(CHANNELS_LAST), selector=selector)
    offers, chosen = selector.offers["convolution"], selector.chosen["convolution"]
    assert len(offers) > 1
    assert chosen.candidate.tactic == offers[-1].candidate.tactic
    (step,) = [s for s in plan.sections[0].program.steps if s.name == "convolution"]
    assert step.tactic == chosen.candidate.tactic and len(step.tried) == 1


def test_kernels_that_need_a_workspace_are_left_out() -> None:
    deep = graph("""
graph(%x: f32[4,4096]) {
  %w = const() type=f32[4096,64] seed=1
  %y = matmul(%x, %w)
  return %y
}
""")
    free = Last()
    plan_of(deep, selector=free)
    assert max(o.workspace_bytes for o in free.offers["matmul"]) > 0
    for selector in (None, Last()):
        plan, _ = plan_of(deep, selector=selector, workspace_bytes=0)
        (step,) = plan.sections[0].program.steps
        assert step.workspace_bytes == 0 and step.tactic != "host"


def test_blocks_may_be_limited_in_their_memory() -> None:
    def largest(**options: Any) -> int:
        config = BuildConfig(target="cuda:sm_90", timing_cache="", **options)
        return cuda_compiler(config, 90, {}, lambda *_: None).target.shared_bytes

    assert largest() == 227 << 10 and largest(shared_bytes=48 << 10) == 48 << 10
    wide = graph("""
graph(%x: f32[2048,2048]) {
  %w = const() type=f32[2048,2048] seed=1
  %y = matmul(%x, %w)
  return %y
}
""")
    free, limited = (plan_of(wide, **o)[1] for o in ({}, {"shared_bytes": 20 << 10}))
    stages = [max(r.stages for r in kernels) for kernels in (free, limited)]
    assert {r.key() for r in free} != {r.key() for r in limited} and stages[1] <= stages[0]


def test_libraries_that_are_left_out_say_so() -> None:
    def library(name: str) -> Any:
        return name

    assert _allowed(library, None)("cudnn") == "cudnn"  # type: ignore[comparison-overlap]
    assert _allowed(library, ("cudnn",))("cudnn") == "cudnn"  # type: ignore[comparison-overlap]
    with pytest.raises(DeviceError, match="leave the library cublaslt out"):
        _allowed(library, ("cudnn",))("cublaslt")
