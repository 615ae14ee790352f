"""Compiles the portable graph of a plan again, for a machine that none of its sections fits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from lamina import ops
from lamina.backends.cpu.features import cpu_features
from lamina.builder import build_plan
from lamina.config import BuildConfig, parse_targets
from lamina.errors import ConfigError, DeviceError, GraphError, LaminaError, PlanError
from lamina.ir.graph import Graph
from lamina.ir.text import parse_graph
from lamina.ir.weight import Weight
from lamina.plan.plan import Plan
from lamina.plan.strip import missing_weights
from lamina.precision.pipeline import missing_feature


def respecialize(plan: Plan, threads: int = 0, target: str = "cpu") -> Plan:
    """Return a plan for a device of this machine with the options that ``plan`` was built with.

    A precision that this CPU has no instructions for becomes f32.  Raises PlanError for a graph or
    options that are damaged.
    """
    if missing := missing_weights(plan):
        raise PlanError(
            f"the plan has to be compiled for this machine, but was saved without {len(missing)} "
            f"of its weights",
            hint="refit it where it was built for, and save it there with its weights",
        )
    graph, config = portable_graph(plan), plan_config(plan, threads)
    if target != "cpu" or parse_targets(config.target)[0].device == "cuda":
        config = replace(config, target=target)
    elif missing_feature(config.precision, cpu_features()) is not None:
        config = replace(config, precision="fp32")
    try:
        return replace(build_plan(graph, config), notes=plan.notes)
    except DeviceError:
        raise
    except LaminaError as e:
        raise PlanError(f"the graph of the plan cannot be compiled here: {e}") from e


def portable_graph(plan: Plan, named: Mapping[str, Weight] | None = None) -> Graph:
    """Return the graph that a plan was built from, with other weights by name if ``named``.

    Raises PlanError when it is damaged.
    """
    try:
        renewed = {**plan.renewed, **(named or {})}
        return parse_graph(plan.graph, ops.BY_NAME, plan.weights, renewed)
    except (GraphError, TypeError, ValueError, KeyError) as e:
        raise PlanError(f"the portable graph of the plan is damaged: {e}") from e


def plan_config(plan: Plan, threads: int = 0) -> BuildConfig:
    """Return the options that a plan was built with; ``threads`` replaces theirs unless 0."""
    try:
        options = {k: json.loads(v) for k, v in plan.config}
        options["shapes"] = {
            name: tuple(tuple(shape) for shape in shapes)
            for name, shapes in options.get("shapes", {}).items()
        }
        for name in ("without", "libraries", "full_precision", "on_host", "direct"):
            if options.get(name) is not None:
                options[name] = tuple(options[name])
        if threads:
            options["threads"] = threads
        return BuildConfig(**options)
    except (ConfigError, AttributeError, TypeError, ValueError) as e:
        raise PlanError(f"the options stored in the plan are damaged: {e}") from e
