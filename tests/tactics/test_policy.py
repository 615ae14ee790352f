"""What may be chosen among the candidates of a node."""

from __future__ import annotations

from typing import Any

import pytest

from lamina import ops
from lamina.errors import BuildError, DeviceError
from lamina.ir.dims import sym
from lamina.ir.graph import Graph, Node, emit
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.tactics.candidate import Candidate
from lamina.tactics.choices import Choices
from lamina.tactics.form import Form
from lamina.tactics.policy import Policy

SIZES = {"n": (1, 4, 64)}


def node() -> Node:
    x = Graph().input("x", TensorType(DType.F32, (sym("n"), 3)))
    found = emit(ops.Unary(kind=ops.UnaryKind.EXP), (x,), loc=Loc("exp")).node
    assert found is not None
    return found


def offered(n: Node, **microseconds: float) -> Choices:
    plain = (Form.PLAIN,)
    made = [Candidate(name, plain, plain, us, no_draft) for name, us in microseconds.items()]
    return Choices(n, made, list(microseconds.values()))


def no_draft(_: Any) -> Any:
    raise AssertionError("nothing is drafted here")


class Selector:
    def __init__(self, *numbers: int) -> None:
        self.numbers, self.told = numbers, []

    def select(self, node: Any, offers: Any, sizes: Any) -> Any:
        self.offers = offers
        return self.numbers

    def report(self, chosen: Any, sizes: Any) -> None:
        self.told = [(n, o.candidate.tactic, o.workspace_bytes) for n, o in chosen]


def names(choices: Choices) -> list[str]:
    return [c.tactic for c in choices.candidates]


def test_a_workspace_counts_for_the_largest_shapes() -> None:
    policy = Policy(sizes=SIZES, workspace_bytes=256)
    assert policy.largest(sym("n") * 4) == 256 and policy.fits(sym("n") * 4)
    assert not policy.fits(sym("n") * 5) and policy.fits(sym("unknown") * 999)


def test_the_most_promising_stay() -> None:
    choices = offered(node(), slow=9.0, fast=1.0, middle=3.0)
    Policy(most=2).narrow(choices, lambda _: 0, lambda _: None)
    assert names(choices) == ["fast", "middle"] and choices.microseconds == [1.0, 3.0]


def test_a_selector_sees_what_fits_and_what_is_known() -> None:
    selector, n = Selector(1), node()
    policy = Policy(sizes=SIZES, workspace_bytes=128, selector=selector)
    sizes = {"a": 0, "big": 129, "c": sym("n")}

    def workspace(c: Candidate) -> Any:
        if c.tactic == "broken":
            raise DeviceError("cannot be made")
        return sizes[c.tactic]

    choices = offered(n, a=1.0, big=1.0, broken=1.0, c=2.0)
    policy.narrow(choices, workspace, lambda c: 7.0 if c.tactic == "c" else None)
    assert [(o.candidate.tactic, o.workspace_bytes, o.microseconds) for o in selector.offers] == [
        ("a", 0, None),
        ("c", 64, 7.0),
    ]
    assert names(choices) == ["c"]
    policy.choose(n, choices.candidates[0], sym("n"), 2.0)
    policy.finish()
    assert selector.told == [(n, "c", 64)] and not policy.again


def test_a_selector_may_leave_the_choice_open_but_not_invent_one() -> None:
    choices = offered(node(), a=1.0, b=2.0)
    Policy(selector=Selector()).narrow(choices, lambda _: 0, lambda _: None)
    assert names(choices) == ["a", "b"]
    with pytest.raises(BuildError, match="chose tactic 2 of 2"):
        Policy(selector=Selector(2)).narrow(choices, lambda _: 0, lambda _: None)


def test_what_was_refused_is_not_offered_again() -> None:
    n = node()
    policy = Policy(workspace_bytes=10)
    choices = offered(n, greedy=1.0, modest=2.0)
    assert policy.allows_all
    policy.choose(n, choices.candidates[0], 11, 1.0)
    assert policy.again and not policy.allows_all
    policy.begin()
    again = offered(n, greedy=1.0, modest=2.0)
    policy.narrow(again, lambda _: 0, lambda _: None)
    assert names(again) == ["modest"] and not policy.again
    assert again.declined[0][1] == "needs 11 bytes of workspace, the limit is 10"
