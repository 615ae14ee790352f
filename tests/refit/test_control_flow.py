"""Weights inside branches and loop bodies, and plans that fit no machine here."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lamina

FLOAT = TensorProto.FLOAT
SHAPES = {"A": (6, 5), "B": (6, 5), "C": (5, 5)}


def arrays(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}


def value(name: str, *shape: int, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(given: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Either product, then three times tanh of a product."""
    held = {n: numpy_helper.from_array(a, n) for n, a in given.items()}
    branches = {
        key: helper.make_graph(
            [helper.make_node("MatMul", ["x", n], [key])], key, [], [value(key, 4, 5)], [held[n]]
        )
        for key, n in (("then_branch", "A"), ("else_branch", "B"))
    }
    flag, number = TensorProto.BOOL, TensorProto.INT64
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "C"], ["m"]),
            helper.make_node("Tanh", ["m"], ["t"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [value("i", dtype=number), value("go", dtype=flag), value("h", 4, 5)],
        [value("on", dtype=flag), value("t", 4, 5)],
    )
    constants = [numpy_helper.from_array(np.array(3, np.int64), "n"), held["C"]]
    nodes = [
        helper.make_node("If", ["c"], ["h0"], **branches),
        helper.make_node("Loop", ["n", "", "h0"], ["y"], body=body),
    ]
    inputs = [value("c", dtype=flag), value("x", 4, 6)]
    graph = helper.make_graph(nodes, "g", inputs, [value("y", 4, 5)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


X = np.random.default_rng(9).standard_normal((4, 6)).astype(np.float32)


def expected(given: dict[str, np.ndarray], *, first: bool) -> np.ndarray:
    h = X @ (given["A"] if first else given["B"])
    for _ in range(3):
        h = np.tanh(h @ given["C"])
    return h


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_weights_inside_bodies(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("lamina.refit.rebuild.rebuild", refuse)
    engine = lamina.build(model(arrays(1)), target=target, optimization_level=0)
    new = arrays(2)
    engine.refit({"A": new["A"], "C": new["C"]})
    new["B"] = arrays(1)["B"]
    for first in (True, False):
        y = engine.run({"c": np.array(first), "x": X})["y"]
        np.testing.assert_allclose(y, expected(new, first=first), atol=1e-5)
    stripped = lamina.load(engine.serialize(weights=False))
    assert stripped.missing_weights() == ["A", "B", "C"]
    stripped.refit(arrays(3))
    y = stripped.run({"c": np.array(True), "x": X})["y"]
    np.testing.assert_allclose(y, expected(arrays(3), first=True), atol=1e-5)


def test_a_stripped_plan_cannot_be_compiled_again() -> None:
    engine = lamina.build(model(arrays(1)), optimization_level=0)
    data = engine.serialize(weights=False)
    with pytest.raises(lamina.PlanError, match="saved without 3 of its weights"):
        lamina.load(data, native_code=False)


def test_a_plan_whose_weights_have_no_names_cannot_be_stripped() -> None:
    engine = lamina.build(model(arrays(1)), optimization_level=0, keep_graph=False)
    with pytest.raises(lamina.PlanError, match="no portable graph"):
        engine.serialize(weights=False)
