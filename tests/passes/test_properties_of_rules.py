"""What holds for every pass, whatever it does."""

from __future__ import annotations

import pytest

from lamina import ops
from lamina.ir.graph import Graph
from lamina.ir.loc import Loc
from lamina.ir.rewrite import GraphPass, Match, Reject, Rewrite, anything, match
from lamina.passes.cleanup import EliminateDeadNodes
from lamina.passes.pipeline import default_pipeline
from tests.passes.checking import parse
from tests.passes.random_graphs import RandomGraph

RULES = {type(p): p for p in default_pipeline().rules()}.values()


def dead_users(graph: Graph) -> int:
    live = set(graph.nodes())
    values = [*graph.inputs, *(v for n in live for v in n.outputs)]
    return sum(user not in live for v in values for user in v.users)


@pytest.mark.parametrize("rule", RULES, ids=lambda p: p.name)
def test_no_pass_leaves_dead_readers(rule: GraphPass) -> None:
    for seed in range(12):
        graph = RandomGraph(seed).grow(15)
        EliminateDeadNodes()(graph)
        rule(graph)
        assert dead_users(graph) == 0


def test_rules_that_change_a_type_are_declined() -> None:
    class Transposed(Rewrite):
        x = anything()
        pattern = match(ops.Unary, x)

        def check(self, m: Match) -> bool | Reject:
            return True

        def replace(self, m: Match):
            return m.emit(ops.Transpose(perm=(1, 0)), m[self.x])

    graph = parse("graph(%x: f32[2,3]) {\n%y = unary(%x) kind=exp\nreturn %y\n}")
    rule = Transposed()
    assert rule(graph) == 0
    assert rule.statistics.declined == {"the types differ": 1}
    assert dead_users(graph) == 0


def test_locations_remember_every_source() -> None:
    graph = parse("""graph(%x: f32[2,8]) {
      %w = const() type=f32[8,4] seed=1
      %b = const() type=f32[4] seed=2
      %m = matmul(%x, %w)  # "dense"
      %a = binary(%m, %b) kind=add  # "bias"
      %y = activation(%a) kind=relu  # "relu"
      return %y
    }""")
    default_pipeline()(graph)
    node = graph.outputs[0].node
    assert node is not None
    assert isinstance(node.loc, Loc)
    assert {"dense", "bias", "relu"} <= set(node.loc.sources())
