"""Functions registered with lamina.plugin are operators of a custom domain."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import lamina
from lamina.importers.onnx import Support, check
from lamina.plugins import find


@lamina.plugin("test::scaled_add", types=lambda a, b, factor: a)
def scaled_add(a, b, *, factor: float = 1.0):
    return a + np.float32(factor) * b


@lamina.plugin("test::halves", types=lambda x: (x.with_shape((x.shape[0] // 2,)),) * 2)
def halves(x):
    if not x.any():
        raise RuntimeError("nothing but zeros")
    middle = len(x) // 2
    return x[:middle], x[middle : 2 * middle]


@lamina.plugin("test::liar", types=lambda x: x)
def liar(x):
    return x[:1]


def model(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21, "test" : 1]> '
        f"g (float[n] a, float[n] b) => (float[m] y) {{ {body} }}"
    )


A, B = np.float32([1, -2, 3, -4]), np.float32([1, 1, 2, 2])


def test_operands_attributes_and_types() -> None:
    proto = model("z = test.scaled_add <factor = 3.0> (a, b) y = Relu (z)")
    assert [n.support for n in check(proto).nodes] == [Support.PLUGIN, Support.NATIVE]
    engine = lamina.build(proto, optimization_level=0)
    assert engine.run({"a": A, "b": B})["y"].tolist() == [4, 1, 9, 2]
    again = lamina.load(engine.serialize())
    assert again.run({"a": A, "b": B})["y"].tolist() == [4, 1, 9, 2]


def test_several_results_and_symbolic_sizes() -> None:
    engine = lamina.build(model("p, q = test.halves (a) y = Add (p, q)"), optimization_level=0)
    for size in (4, 6):
        a = np.arange(1, size + 1, dtype=np.float32)
        got = engine.run({"a": a, "b": a})["y"]
        assert got.tolist() == (a[: size // 2] + a[size // 2 :]).tolist()


def test_what_a_plugin_raises_arrives_and_the_engine_survives() -> None:
    engine = lamina.build(model("p, y = test.halves (a)"), optimization_level=0)
    with pytest.raises(lamina.ExecutionError, match="nothing but zeros") as caught:
        engine.run({"a": 0 * A, "b": B})
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert engine.run({"a": A, "b": B})["y"].tolist() == [3, -4]


def test_results_must_be_what_the_rule_says() -> None:
    engine = lamina.build(model("y = test.liar (a)"), optimization_level=0)
    with pytest.raises(lamina.ExecutionError, match="its rule says"):
        engine.run({"a": A, "b": B})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = test.scaled_add (a)", "takes 2 operands, got 1"),
        ("y = test.scaled_add <scale = 1.0> (a, b)", "no attribute 'scale'"),
    ],
)
def test_wrong_nodes(body: str, reason: str) -> None:
    with pytest.raises(lamina.LaminaError, match=reason):
        lamina.build(model(body))


def test_wrong_registrations() -> None:
    with pytest.raises(lamina.ConfigError, match="domain"):
        lamina.plugin("alone", types=lambda x: x)
    with pytest.raises(lamina.ConfigError, match="any attributes"):
        lamina.plugin("test::open", types=lambda x: x)(lambda x, **rest: x)
    assert find("test::open") is None
