import pytest

from lamina.errors import Unsupported
from lamina.importers.onnx import check, load
from tests.importers.models import model

TEXT = """agraph (float[2] x) => (float[2] y, float[2] z) {
  [first] a = acme.Blend(x)
  h = Relu(a)
  [second] y = acme.Warp(h)
  z = Unique<sorted = 1>(x)
}"""


def proto():
    return model(TEXT, domains=', "acme" : 1')


def test_everything_unsupported_is_listed_at_once():
    with pytest.raises(Unsupported) as e:
        load(proto())
    text = str(e.value)
    assert "2 of 4 nodes are not supported" in text
    assert "first (Blend): ONNX does not define this operator" in text
    assert "second (Warp)" in text
    assert "hint:" in text


def test_report_lists_every_node():
    report = check(proto())
    assert [(n.op_type, n.support.value) for n in report.nodes] == [
        ("Blend", "unsupported"),
        ("Relu", "host"),
        ("Warp", "unsupported"),
        ("Unique", "host"),
    ]
    assert [n.name for n in report.unsupported] == ["first (Blend)", "second (Warp)"]
    assert {s.value: c for s, c in report.counts.items()} == {
        "native": 0,
        "plugin": 0,
        "function": 0,
        "host": 2,
        "unsupported": 2,
    }
    assert "first (Blend)" in str(report)


def test_unsupported_inside_a_subgraph_is_named_with_its_path():
    text = """agraph (bool c, float[2] x) => (float[2] y) {
      [choose] y = If(c) <
        then_branch = t () => (float[2] a) { [deep] a = acme.Blend(x) },
        else_branch = e () => (float[2] b) { b = Neg(x) }>
    }"""
    with pytest.raises(Unsupported, match=r"choose \(If\)/then_branch/deep \(Blend\)"):
        load(model(text, domains=', "acme" : 1'))
