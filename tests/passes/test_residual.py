"""Which of two contractions adds the other's result."""

from __future__ import annotations

import pytest

from lamina import ops
from lamina.passes.epilogue import FuseResidual
from tests.passes.checking import assert_same, parse

POINTWISE = "strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)"
BLOCK = f"""graph(%x: f32[1,4,5,5]) {{
  %w = const() type=f32[4,4,1,1] seed=1
  %b = const() type=f32[4] seed=2
  %first = convolution(%x, %w, %b) {POINTWISE} activation={{relu,0.0,0.0}}
  %main = convolution(%first, %w, %b) {POINTWISE}
  %shortcut = convolution(%x, %w) {POINTWISE}
  %y = binary(%left, %right) kind=add
  return %y
}}"""


@pytest.mark.parametrize(("left", "right"), [("main", "shortcut"), ("shortcut", "main")])
def test_the_longer_branch_adds_the_shortcut(left: str, right: str) -> None:
    text = BLOCK.replace("%left", f"%{left}").replace("%right", f"%{right}")
    before, graph = parse(text), parse(text)
    assert FuseResidual()(graph) == 1
    assert_same(before, graph)
    node = graph.outputs[0].node
    assert node is not None and len(node.inputs) == 4
    first, shortcut = node.inputs[0].node, node.inputs[3].node
    assert first is not None and isinstance(first.op, ops.Convolution) and first.op.activation
    assert shortcut is not None and shortcut.inputs[0] is graph.inputs[0]


def test_a_branch_that_others_read_is_added() -> None:
    text = BLOCK.replace("%left", "%main").replace("%right", "%shortcut")
    graph = parse(text.replace("return %y", "return %y, %main"))
    assert FuseResidual()(graph) == 1
    node = graph.outputs[0].node
    assert node is not None and node.inputs[3] is graph.outputs[1]
