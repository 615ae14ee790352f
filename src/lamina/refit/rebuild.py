"""Refitting by building again, for weights whose values decided how a plan was built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lamina.builder import build_plan
from lamina.errors import LaminaError, PlanError
from lamina.ir.weight import Weight
from lamina.plan.plan import Plan
from lamina.respecialize import plan_config, portable_graph


def rebuild(plan: Plan, named: Mapping[str, Weight], threads: int) -> Plan:
    """Return the plan that a build with these weights gives; raises PlanError for none."""
    try:
        graph = portable_graph(plan, named)
        return replace(build_plan(graph, plan_config(plan, threads)), notes=plan.notes)
    except PlanError:
        raise
    except LaminaError as e:
        raise PlanError(f"the plan cannot be built with these weights: {e}") from e
