"""Running passes on text graphs and comparing graphs by what they compute."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamina import ops
from lamina.ir.dims import Expr, symbols
from lamina.ir.graph import Graph
from lamina.ir.interpret import interpret
from lamina.ir.text import parse_graph, print_graph
from lamina.ir.types import TensorType

# Folding weights and reassociating products changes the last bits of a sum.
TOLERANCE = {"float32": (2e-4, 2e-5), "float64": (1e-9, 1e-10), "float16": (2e-2, 2e-3)}

SIZES = {"b": 2, "n": 3, "s": 4}


def parse(text: str) -> Graph:
    return parse_graph(text, ops.BY_NAME)


def normalized(text: str) -> str:
    return print_graph(parse(text), contents=False)


def random_inputs(graph: Graph, seed: int = 1) -> list[np.ndarray[Any, Any]]:
    """Random arrays for the inputs; symbols get small sizes, integers stay in 0..1."""
    rng = np.random.default_rng(seed)
    made = []
    for v in graph.inputs:
        assert isinstance(v.type, TensorType)
        env = {s: SIZES.get(s, 2) for d in v.type.shape for s in symbols(d)}
        shape = v.type.substitute(env).static_shape
        dtype = v.type.dtype.numpy
        if dtype.kind == "b":
            made.append(rng.random(shape) < 0.5)
        elif dtype.kind in "iu":
            made.append(rng.integers(0, 2, shape).astype(dtype))
        else:
            made.append(rng.standard_normal(shape).astype(dtype))
    return made


def assert_same(before: Graph, after: Graph, seed: int = 1) -> None:
    inputs = random_inputs(before, seed)
    assert_results_equal(interpret(before, inputs), interpret(after, inputs))


def assert_results_equal(expected: list[Any], actual: list[Any]) -> None:
    assert len(expected) == len(actual)
    for e, a in zip(expected, actual, strict=True):
        assert e.dtype == a.dtype
        assert e.shape == a.shape
        if e.dtype.kind in "biu":
            np.testing.assert_array_equal(a, e)
            continue
        assert np.isfinite(e.astype(np.float64)).all()
        relative, absolute = TOLERANCE.get(e.dtype.name, (5e-2, 5e-2))
        np.testing.assert_allclose(
            a.astype(np.float64), e.astype(np.float64), rtol=relative, atol=absolute
        )


def is_symbolic(graph: Graph) -> bool:
    return any(isinstance(d, Expr) for v in graph.inputs for d in v.tensor.shape)
