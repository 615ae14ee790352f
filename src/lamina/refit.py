"""Gives a plan other weights.

A plan keeps its portable graph, in which every weight has its name.  New contents take their place
there, and the graph goes through the same pipeline again: constants are folded and packed by the
same passes and tactics, whose times and compiled kernels are in the caches.  Fusions stay, and the
plan is the one that a build of the model with these weights would give.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lamina.builder import build_plan
from lamina.errors import InputError, LaminaError, PlanError
from lamina.ir.graph import Graph
from lamina.ir.weight import Weight
from lamina.ops import Const
from lamina.plan.plan import Plan
from lamina.respecialize import plan_config, portable_graph


def named_weights(plan: Plan) -> dict[str, Weight]:
    """Return the weights of a plan by the names of its model; raises PlanError without a graph."""
    if not plan.graph:
        raise PlanError(
            "the plan has no portable graph, so its weights have no names",
            hint="build it again with keep_graph=True",
        )
    found: dict[str, Weight] = {}
    for graph in _graphs(portable_graph(plan)):
        for node in graph.nodes():
            if isinstance(node.op, Const) and node.op.weight.name:
                found.setdefault(node.op.weight.name, node.op.weight)
    return found


def refit(plan: Plan, weights: Mapping[str, Any], threads: int = 0) -> Plan:
    """Return ``plan`` with other weights, by name; the arrays are copied.

    Raises InputError for a name that the plan does not have and for an array of another type or
    shape; PlanError for a plan without its portable graph.  ``plan`` itself does not change.
    """
    known = named_weights(plan)
    named = {name: _checked(name, given, known) for name, given in weights.items()}
    try:
        graph = portable_graph(plan, named)
        return replace(build_plan(graph, plan_config(plan, threads)), notes=plan.notes)
    except PlanError:
        raise
    except LaminaError as e:
        raise PlanError(f"the plan cannot be built with these weights: {e}") from e


def _graphs(graph: Graph) -> list[Graph]:
    """Return a graph and those inside its nodes."""
    found = [graph]
    for node in graph.nodes():
        for value in vars(node.op).values():
            if isinstance(value, Graph):
                found += _graphs(value)
    return found


def _checked(name: str, given: Any, known: Mapping[str, Weight]) -> Weight:
    """Return a copy of new contents; raises InputError when they do not fit."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.0)
        hint = f"the nearest are {', '.join(near)}" if near else "none of its weights has a name"
        raise InputError(f"the plan has no weight {name!r}", hint=hint)
    array, wanted = np.array(given, order="C"), known[name].array
    if array.dtype != wanted.dtype or array.shape != wanted.shape:
        raise InputError(
            f"weight {name!r} is {wanted.dtype}{list(wanted.shape)}, the array given for it is "
            f"{array.dtype}{list(array.shape)}"
        )
    return Weight(array, name)
