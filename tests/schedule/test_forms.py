"""The layout scheduler against trying everything."""

from __future__ import annotations

import itertools
import random

import pytest

from lamina.schedule.forms import Assignment, NodeOptions, Option, assign_forms

FORMS = ("plain", "last", "blocked")
Problem = tuple[list[NodeOptions], list[tuple[str, ...]], dict[int, str], dict[int, float]]


def _cost(problem: Problem, forms: tuple[str, ...], chosen: tuple[int, ...]) -> float:
    """The time of a complete assignment, written down independently of the scheduler."""
    nodes, _, _, price = problem
    total = 0.0
    for node, number in zip(nodes, chosen, strict=True):
        option = node.options[number]
        total += option.microseconds
        for v, need in zip(node.inputs, option.reads, strict=True):
            total += price[v] if need is not None and need != forms[v] else 0.0
        for v, made in zip(node.outputs, option.writes, strict=True):
            total += price[v] if made != forms[v] else 0.0
    return total


def _best(problem: Problem) -> float:
    nodes, possible, fixed, _ = problem
    allowed = [(fixed[v],) if v in fixed else forms for v, forms in enumerate(possible)]
    return min(
        sum(
            min(
                _cost(([node], possible, fixed, problem[3]), forms, (i,))
                for i in range(len(node.options))
            )
            for node in nodes
        )
        for forms in itertools.product(*allowed)
    )


def _random_problem(rng: random.Random, nodes: int) -> Problem:
    values, made = 1, []
    for _ in range(nodes):
        inputs = tuple(rng.sample(range(values), min(values, rng.choice((1, 1, 2)))))
        options = []
        for _ in range(rng.randint(1, 3)):
            form = rng.choice(FORMS)
            reads = tuple(rng.choice((form, form, None, rng.choice(FORMS))) for _ in inputs)
            options.append(Option(reads, (rng.choice((form, form, "plain")),), rng.uniform(1, 20)))
        made.append(NodeOptions(inputs, (values,), tuple(options)))
        values += 1
    possible = [FORMS] * values
    fixed = {0: "plain", values - 1: "plain"}
    return made, possible, fixed, {v: rng.uniform(0.5, 8) for v in range(values)}


def _solve(problem: Problem) -> Assignment:
    nodes, possible, fixed, price = problem
    return assign_forms(nodes, possible, fixed, lambda v, have, need: price[v])


@pytest.mark.parametrize("seed", range(40))
def test_the_result_is_valid_and_near_the_best(seed: int) -> None:
    problem = _random_problem(random.Random(seed), 5)
    result = _solve(problem)
    assert all(result.forms[v] == f for v, f in problem[2].items())
    assert result.microseconds == pytest.approx(_cost(problem, result.forms, result.chosen))
    best = _best(problem)
    assert best <= result.microseconds + 1e-9
    assert result.microseconds <= 1.25 * best


def test_most_small_problems_are_solved_exactly() -> None:
    exact = 0
    for seed in range(100, 160):
        problem = _random_problem(random.Random(seed), 4)
        exact += _solve(problem).microseconds == pytest.approx(_best(problem))
    assert exact >= 50


def _chain(length: int, gain: float, price: float) -> Problem:
    """Nodes that are faster in blocks, between plain ends."""
    nodes = [
        NodeOptions(
            (i,),
            (i + 1,),
            (Option(("plain",), ("plain",), 10), Option(("blocked",), ("blocked",), 10 - gain)),
        )
        for i in range(length)
    ]
    possible = [("plain", "blocked")] * (length + 1)
    return nodes, possible, {0: "plain", length: "plain"}, dict.fromkeys(range(length + 1), price)


def test_a_chain_changes_its_layout_once_where_that_pays() -> None:
    result = _solve(_chain(10, gain=2, price=5))
    assert result.chosen == (1,) * 10
    assert result.forms[1:-1] == ("blocked",) * 9
    assert result.microseconds == 10 * 8 + 2 * 5


def test_a_chain_keeps_its_layout_where_changing_does_not_pay() -> None:
    result = _solve(_chain(3, gain=2, price=5))
    assert result.chosen == (0, 0, 0)
    assert set(result.forms) == {"plain"}


def test_an_unconstrained_operand_never_pays() -> None:
    nodes = [NodeOptions((0,), (1,), (Option((None,), ("blocked",), 3.0),))]
    result = _solve((nodes, [("plain",), ("blocked",)], {0: "plain"}, {0: 9.0, 1: 9.0}))
    assert result.microseconds == 3


def test_no_nodes() -> None:
    result = _solve(([], [("plain",)], {}, {0: 1.0}))
    assert (result.chosen, result.forms, result.microseconds) == ((), ("plain",), 0)
    assert _solve(([], [], {}, {})).forms == ()
