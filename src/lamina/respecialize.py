"""Compiles the portable graph of a plan again, for a machine that none of its sections fits."""

from __future__ import annotations

import json

from lamina import ops
from lamina.builder import build_plan
from lamina.config import BuildConfig
from lamina.errors import GraphError, PlanError
from lamina.ir.text import parse_graph
from lamina.plan.plan import Plan


def respecialize(plan: Plan, threads: int = 0) -> Plan:
    """Return a plan for this machine with the options that ``plan`` was built with."""
    try:
        graph = parse_graph(plan.graph, ops.BY_NAME, plan.weights)
        options = {k: json.loads(v) for k, v in plan.config}
        options["shapes"] = {
            name: tuple(tuple(shape) for shape in shapes)
            for name, shapes in options.get("shapes", {}).items()
        }
        options["without"] = tuple(options.get("without", ()))
        if threads:
            options["threads"] = threads
        config = BuildConfig(**options)
    except (GraphError, TypeError, ValueError, KeyError) as e:
        raise PlanError(f"the portable graph of the plan is damaged: {e}") from e
    return build_plan(graph, config)
