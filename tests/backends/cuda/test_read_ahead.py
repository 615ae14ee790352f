"""Rows of constants are asked for before a kernel waits for the one ahead of it."""

from __future__ import annotations

from lamina import ops
from lamina.backends.cuda.tactics.generated import Generated
from lamina.backends.cuda.target import TARGETS
from lamina.ir.text import parse_graph
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

NORM = """graph(%x: f16[6,768]) {
  %g = const() type=f16[768] seed=1
  %b = const() type=f16[768] seed=2
  %y = layer_norm(%x, %g, %b) axis=1 epsilon=1e-5
  return %y
}"""


def drafts(text):
    node = parse_graph(text, ops.BY_NAME).outputs[0].node
    operands = tuple(layout(v.tensor, Form.PLAIN) for v in node.inputs)
    place = Placement(operands, (layout(node.output.tensor, Form.PLAIN),), "")
    found = Generated().candidates(node, TARGETS[90])
    return [(c, c.draft(place)) for c in found if c.reads[0] is Form.PLAIN]


def test_scale_and_shift_are_under_way_before_the_wait():
    found = drafts(NORM)
    assert len({c.tactic for c, _ in found}) == len(found) >= 3
    for candidate, draft in found:
        before, after = draft.launches[0].kernel.source.split("gdc_wait()\n", 1)[0:2]
        assert before.count("tl.load(") == 2, candidate.tactic
        first_fold = after.index("tl.reduce(")
        assert after.index("tl.load(p0") < first_fold
        assert "tl.load(" not in after[first_fold:]


def test_operands_that_kernels_write_are_read_after_the_wait():
    text = NORM.replace("(%x: f16[6,768])", "(%x: f16[6,768], %g: f16[768])")
    for _, draft in drafts(text.replace("  %g = const() type=f16[768] seed=1\n", "")):
        before = draft.launches[0].kernel.source.split("gdc_wait()\n", 1)[0]
        assert before.count("tl.load(") == 1


def test_many_numbers_are_read_where_they_are_needed():
    for candidate, draft in drafts(NORM.replace("768", "16384").replace("f16", "f32")):
        before = draft.launches[0].kernel.source.split("gdc_wait()\n", 1)[0]
        assert before.count("tl.load(") == 0, candidate.tactic
