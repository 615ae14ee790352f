"""Every precision pass does what its docstring shows, and the graph still means the same."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest

import lamina.precision
from lamina.ir.interpret import interpret
from lamina.ir.rewrite import Fixpoint, GraphPass, Rewrite, Together, example_of
from lamina.ir.text import print_graph
from lamina.ir.verify import verify
from tests.passes.checking import assert_same, normalized, parse, random_inputs

MODULES = [
    importlib.import_module(f"lamina.precision.{m.name}")
    for m in pkgutil.iter_modules(lamina.precision.__path__)
]
PASSES = sorted(
    {
        c
        for module in MODULES
        for c in vars(module).values()
        if isinstance(c, type)
        and issubclass(c, GraphPass)
        and c not in (GraphPass, Rewrite, Fixpoint, Together)
        and c.__module__ == module.__name__
        and not c.__name__.startswith("_")
    },
    key=lambda c: c.__name__,
)
ROUNDING = {
    "NarrowContraction": 2e-2,
    "RoundRecurrentFactors": 2e-2,
    "SkipRoundingBeforeOutput": 4e-2,
    "StoreWeightsAsHalves": 2e-3,
}


@pytest.mark.parametrize("kind", PASSES, ids=lambda c: c.__name__)
def test_docstring_example(kind: type[GraphPass]) -> None:
    rule = kind()
    before_text, after_text = example_of(rule)
    assert before_text, "the docstring has no Before:: graph"
    assert after_text, "the docstring has no After:: graph"
    before, graph = parse(before_text), parse(before_text)
    assert rule(graph) > 0
    verify(graph)
    assert print_graph(graph, contents=False) == normalized(after_text)
    if tolerance := ROUNDING.get(kind.__name__):
        inputs = random_inputs(before)
        for e, a in zip(interpret(before, inputs), interpret(graph, inputs), strict=True):
            assert e.dtype == a.dtype
            np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)
            assert not np.array_equal(a, e), "nothing was rounded"
    else:
        assert_same(before, graph)
    assert rule.statistics.hits > 0
    assert rule(graph) == 0, "the result is rewritten again"
