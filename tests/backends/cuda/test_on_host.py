"""Nodes that a section for a GPU leaves to the host."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cuda.simulation import simulated

import lamina
from lamina.errors import ConfigError
from lamina.ir.graph import Graph
from lamina.ir.text import parse_graph
from lamina.ops import BY_NAME
from lamina.passes.on_host import is_hosted, place_on_host
from lamina.plan.plan import StepKind

TEXT = """
graph(%x: f32[2,16]) {
  %w = const() type=f32[16,16] seed=1
  %a = matmul(%x, %w)  # "product (MatMul)"
  %b = activation(%a) kind=relu  # "relu (Relu)"
  %y = binary(%b, %x) kind=add  # "sum (Add)"
  return %y
}
"""


def graph() -> Graph:
    return parse_graph(TEXT, BY_NAME)


def test_a_named_node_runs_between_the_kernels() -> None:
    x = np.random.default_rng(0).standard_normal((2, 16), np.float32)
    expected = lamina.build(graph(), target="reference")(x)
    fused = simulated(graph())
    assert StepKind.HOST not in {s.kind for s in fused.plan.sections[0].program.steps}
    for name in ("relu", "relu (Relu)", "product"):
        engine = simulated(graph(), on_host=(name,))
        steps = engine.plan.sections[0].program.steps
        (hosted,) = [s for s in steps if s.kind is StepKind.HOST]
        assert name in hosted.loc and len(steps) > 1
        assert dict(hosted.declined) == {"on_host": "the options of the build say so"}
        np.testing.assert_allclose(engine(x), expected, rtol=1e-3, atol=1e-3)
        assert any("the options of the build say so" in f for f in engine.plan.fallbacks)


def test_an_engine_for_the_cpu_does_not_change() -> None:
    engine = lamina.build(graph(), optimization_level=0, on_host=("relu",))
    assert StepKind.HOST not in {s.kind for s in engine.plan.sections[0].program.steps}


def test_names_that_no_node_has() -> None:
    for option in ("on_host", "full_precision"):  # whatever the target
        fact = f"{option} names 'rellu', and the model has no node of that name"
        with pytest.raises(ConfigError, match=fact) as caught:
            lamina.build(graph(), optimization_level=0, **{option: ("rellu", "sum")})
        assert caught.value.hint is not None
        assert "of its 3 nodes the nearest are 'relu (Relu)'" in caught.value.hint
    g = graph()
    assert place_on_host(g, ["relu"]) == 1 and place_on_host(g, []) == 0
    assert [n.op.name for n in g.nodes() if is_hosted(n)] == ["region"]
