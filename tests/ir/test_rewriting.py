"""Patterns, rewrite rules and pipelines."""

from __future__ import annotations

import logging
from typing import ClassVar

import pytest

from lamina import ops
from lamina.errors import LaminaError
from lamina.ir.graph import Graph, Value
from lamina.ir.loc import Loc
from lamina.ir.pattern import Match
from lamina.ir.rewrite import (
    Fixpoint,
    GraphPass,
    Pat,
    Pipeline,
    Reject,
    Rewrite,
    Together,
    anything,
    either,
    example_of,
    match,
)
from lamina.ir.verify import verify
from lamina.ops.kinds import BinaryKind, UnaryKind
from tests.plan.plans import graph as parse

CHAIN = """graph(%x: f32[4], %z: f32[4]) {
  %a = unary(%x) kind=neg
  %b = unary(%a) kind=neg
  %c = binary(%z, %b) kind=add
  return %c as "c"
}"""


def _result(text: str) -> tuple[Graph, Value]:
    graph = parse(text)
    return graph, graph.outputs[0]


def _binds(pattern: Pat, graph: Graph, value: Value) -> Match | None:
    m = Match("test", graph)
    return m if m.bind(pattern, value) else None


def _names(graph: Graph) -> list[str]:
    return [getattr(n.op, "kind", n.op.name) for n in graph.nodes()]


def test_a_pattern_binds_its_parts() -> None:
    graph, c = _result(CHAIN)
    z, inner = anything(), match(ops.Unary, kind=UnaryKind.NEG)
    m = _binds(match(ops.Binary, z, inner, kind=BinaryKind.ADD), graph, c)
    assert m is not None
    assert m[z] is graph.inputs[1]
    assert m.op(inner, ops.Unary).kind is UnaryKind.NEG
    assert inner in m
    assert anything() not in m


def test_operands_of_commutative_operators_match_in_both_orders() -> None:
    graph, c = _result(CHAIN)
    z, inner = anything(), match(ops.Unary)
    m = _binds(match(ops.Binary, inner, z, kind=BinaryKind.ADD), graph, c)
    assert m is not None
    assert m[z] is graph.inputs[1]
    graph, c = _result(CHAIN.replace("kind=add", "kind=sub"))
    assert _binds(match(ops.Binary, inner, z), graph, c) is None
    assert _binds(match(ops.Binary, z, inner), graph, c) is not None


def test_a_pattern_used_twice_must_match_the_same_value() -> None:
    same = anything()
    pattern = match(ops.Binary, same, same)
    graph, c = _result(CHAIN)
    assert _binds(pattern, graph, c) is None
    graph, c = _result(CHAIN.replace("%z, %b", "%b, %b"))
    assert _binds(pattern, graph, c) is not None


def test_a_failed_match_leaves_nothing_behind() -> None:
    graph, c = _result(CHAIN)
    inner = match(ops.Unary)
    m = Match("test", graph)
    assert not m.bind(match(ops.Binary, inner, match(ops.Softmax)), c)
    assert m.values == {}


def test_attributes_may_be_one_of_several() -> None:
    graph, c = _result(CHAIN)
    kinds = (BinaryKind.MUL, BinaryKind.ADD)
    assert _binds(match(ops.Binary, kind=kinds), graph, c)
    assert _binds(match(ops.Binary, kind=(BinaryKind.MUL, BinaryKind.SUB)), graph, c) is None
    assert _binds(match((ops.Softmax, ops.Binary)), graph, c)
    assert _binds(match((ops.Softmax, ops.Unary)), graph, c) is None


def test_one_use_counts_every_reader() -> None:
    pattern = match(ops.Binary, anything(), match(ops.Unary, one_use=True))
    graph, c = _result(CHAIN)
    assert _binds(pattern, graph, c)
    graph, c = _result(CHAIN.replace('%c as "c"', '%c as "c", %b as "b"'))
    assert _binds(pattern, graph, c) is None


def test_either_takes_the_first_that_fits() -> None:
    graph, c = _result(CHAIN)
    one, other, third = match(ops.Softmax), match(ops.Binary), anything()
    m = _binds(either(one, other, third), graph, c)
    assert m is not None
    assert [p in m for p in (one, other, third)] == [False, True, False]
    assert _binds(either(one), graph, c) is None


def test_a_test_decides_too() -> None:
    graph, c = _result(CHAIN)
    assert _binds(anything(lambda v: v.name == "c"), graph, c)
    assert _binds(anything(lambda v: v.name == "b"), graph, c) is None


class DropDoubleNegation(Rewrite):
    """Two signs cancel."""

    x = anything()
    inner = match(ops.Unary, x, kind=UnaryKind.NEG)
    pattern: ClassVar[Pat] = match(ops.Unary, inner, kind=UnaryKind.NEG)

    def replace(self, m: Match) -> Value:
        return m[self.x]


class Refuse(Rewrite):
    """Never does anything."""

    pattern: ClassVar[Pat] = match(ops.Unary)

    def check(self, m: Match) -> bool | Reject:
        return Reject("not today")

    def replace(self, m: Match) -> Value:
        raise AssertionError


class ChangeType(Rewrite):
    """A wrong rule: its result has another type."""

    x = anything()
    pattern: ClassVar[Pat] = match(ops.Unary, x)

    def replace(self, m: Match) -> Value:
        return m.emit(ops.Reshape(shape=(2, 2)), m[self.x])


class NegateToAbs(Rewrite):
    """Sign becomes size."""

    x = anything()
    pattern: ClassVar[Pat] = match(ops.Unary, x, kind=UnaryKind.NEG)

    def replace(self, m: Match) -> Value:
        return m.emit(ops.Unary(kind=UnaryKind.ABS), m[self.x])


class FlipForever(Rewrite):
    """A rule that always finds something."""

    x = anything()
    pattern: ClassVar[Pat] = match(ops.Unary, x, kind=(UnaryKind.ABS, UnaryKind.NEG))

    def replace(self, m: Match) -> Value:
        old = m.op(self.pattern, ops.Unary).kind
        new = UnaryKind.NEG if old is UnaryKind.ABS else UnaryKind.ABS
        return m.emit(ops.Unary(kind=new), m[self.x])


class Complain(Rewrite):
    """A rule whose replacement breaks a rule of the IR."""

    x = anything()
    pattern: ClassVar[Pat] = match(ops.Unary, x)

    def replace(self, m: Match) -> Value:
        return m.emit(ops.Transpose(perm=(7,)), m[self.x])


def test_a_rule_rewrites_until_nothing_matches() -> None:
    text = CHAIN.replace("%b, %b", "%b")
    graph, _ = _result(text)
    rule = DropDoubleNegation()
    assert rule(graph) == 1
    assert rule.statistics.hits == 1
    assert _names(graph) == [BinaryKind.ADD]
    verify(graph)
    assert rule(graph) == 0


def test_locations_of_what_matched_are_kept() -> None:
    graph, _ = _result(CHAIN)
    NegateToAbs()(graph)
    locs = [str(n.loc) for n in graph.nodes()]
    assert locs == ["NegateToAbs(line 2)", "NegateToAbs(line 3)", "line 4"]


def test_reasons_for_declining_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    graph, _ = _result(CHAIN)
    rule = Refuse()
    with caplog.at_level(logging.DEBUG, logger="lamina.ir.rewrite"):
        assert rule(graph) == 0
    assert rule.statistics.declined == {"not today": 2}
    assert "Refuse declined" in caplog.text


def test_a_result_of_another_type_is_declined_and_erased() -> None:
    graph, _ = _result(CHAIN)
    rule = ChangeType()
    assert rule(graph) == 0
    assert rule.statistics.declined == {"the types differ": 2}
    assert len(graph.inputs[0].users) == 1
    verify(graph)


def test_an_error_names_the_pass_and_the_node() -> None:
    graph, _ = _result(CHAIN)
    with pytest.raises(LaminaError) as error:
        Complain()(graph)
    assert "in pass Complain" in str(error.value)
    assert "at %a: f32[4] = unary(%x) kind=neg" in str(error.value)


def test_passes_reach_nested_graphs() -> None:
    body = CHAIN.replace("graph(", "graph @1(").replace("%z: f32[4]", "%z: f32[4]")
    other = body.replace("@1", "@2").replace("kind=add", "kind=mul")
    text = f"""{body}
{other}
graph(%p: bool[], %x: f32[4], %z: f32[4]) {{
  %y = if(%p, %x, %z) then_branch=@1 else_branch=@2
  return %y
}}"""
    graph = parse(text)
    assert DropDoubleNegation()(graph) == 2
    (node,) = graph.nodes()
    assert isinstance(node.op, ops.If)
    assert _names(node.op.then_branch) == [BinaryKind.ADD]
    assert _names(node.op.else_branch) == [BinaryKind.MUL]


def test_a_fixpoint_stops_when_nothing_changes_and_in_any_case() -> None:
    graph, _ = _result(CHAIN)
    assert Fixpoint(DropDoubleNegation(), NegateToAbs())(graph) == 1
    assert _names(graph) == [BinaryKind.ADD]
    graph, _ = _result(CHAIN)
    assert Together(FlipForever())(graph) <= Together.LIMIT * Together.REPEATS * 4
    verify(graph)


def test_side_by_side_the_first_rule_wins() -> None:
    graph, _ = _result(CHAIN)
    first, second = NegateToAbs(), DropDoubleNegation()
    Together(first, second)(graph)
    assert (first.statistics.hits, second.statistics.hits) == (2, 0)
    assert _names(graph) == [UnaryKind.ABS, UnaryKind.ABS, BinaryKind.ADD]

    class Anywhere(Rewrite):
        """Has no operator at its root."""

        pattern: ClassVar[Pat] = anything()

    with pytest.raises(ValueError, match="Anywhere begins with no operator"):
        Together(Anywhere())


class Later(GraphPass):
    """Must come after the other."""

    after = (DropDoubleNegation,)

    def run(self, graph: Graph) -> int:
        return 0


def test_a_pipeline_checks_its_order() -> None:
    assert Pipeline(DropDoubleNegation(), Later())
    assert Pipeline(Fixpoint(DropDoubleNegation()), Later())
    with pytest.raises(ValueError, match="Later must come after .*DropDoubleNegation"):
        Pipeline(Later(), DropDoubleNegation())


def test_passes_may_be_left_out() -> None:
    pipeline = Pipeline(Fixpoint(DropDoubleNegation(), NegateToAbs()), Together(Refuse()))
    fewer = pipeline.without("DropDoubleNegation", "Refuse")
    assert [p.name for p in fewer.rules()] == ["NegateToAbs"]
    assert [p.name for p in pipeline.rules()] == ["DropDoubleNegation", "NegateToAbs", "Refuse"]
    graph, _ = _result(CHAIN)
    fewer(graph)
    assert _names(graph) == [UnaryKind.ABS, UnaryKind.ABS, BinaryKind.ADD]
    with pytest.raises(ValueError, match="there is no pass Nothing; there are"):
        pipeline.without("Nothing")


def test_examples_are_read_from_the_docstring() -> None:
    class Documented(GraphPass):
        """Shows something.

        Before::

            one
              two

        After::

            three
        """

    assert example_of(Documented()) == ("one\n  two", "three")


def test_locations_of_many_fusions_keep_the_names_of_the_source() -> None:
    loc = Loc("first")
    for i in range(5000):
        loc = Loc.fused("Rule", loc, Loc(f"n{i % 20}"))
    assert loc.depth <= 8
    assert set(loc.sources()) == {"first", *(f"n{i}" for i in range(20))}
    assert len(str(loc)) < 2000
    assert Loc.fused("a", Loc("b")) == Loc("a", (Loc("b"),))
