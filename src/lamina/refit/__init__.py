"""Gives a plan other weights.

A plan keeps recipes of its constants (:mod:`lamina.plan.recipes`): how each was computed from
weights that have names in the model, and what the build found in their values when it decided
something by them.  A refit computes again the constants that depend on the new weights; fusions,
tactics and kernels stay.  Where the findings would be others, the plan would be another one too: it
is then built again from its portable graph, which takes as long as a build with known times.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from lamina.config import default_threads
from lamina.errors import InputError, LaminaError, PlanError
from lamina.ir.weight import Weight
from lamina.plan.halves import astype
from lamina.plan.named import NamedWeights
from lamina.plan.plan import Plan
from lamina.plan.strip import missing_weights
from lamina.refit.evaluate import BrokenGuard
from lamina.refit.given import Given
from lamina.refit.native import native_of
from lamina.refit.sections import Later, RefitSection
from lamina.runtime.driver import WeightMemory

__all__ = ["named_weights", "refit"]


def named_weights(plan: Plan) -> Mapping[str, Weight]:
    """Return the weights of a plan by the names of its model; raises PlanError without a graph."""
    return NamedWeights(plan)


def refit(
    plan: Plan,
    weights: Mapping[str, Any],
    threads: int = 0,
    memory: Callable[[int], WeightMemory | None] = lambda _: None,
) -> Plan:
    """Return ``plan`` with other weights, by name; ``plan`` itself does not change.

    The arrays are copied, into what ``memory`` returns for their bytes if it has any, which the
    device reads meanwhile.  Constants that a device makes of them are computed here only when
    somebody asks for them.

    Raises InputError for a name that the plan does not have and for an array of another type or
    shape; PlanError for a plan without its portable graph, or when the weights need another plan
    and this machine cannot build it.
    """
    known = NamedWeights(plan)
    natives = [native_of(section) for section in plan.sections]
    converted = [native.converted for native in natives if native is not None]
    given = Given(known, weights, next(iter(converted), astype), memory)
    if missing := [name for name in missing_weights(plan) if name not in weights]:
        raise InputError(
            f"the plan was saved without its weights, of which {len(missing)} are not given: "
            f"{', '.join(missing[:8])}"
        )
    sections, later = [], Later()
    workers = threads or default_threads()
    for section, native in zip(plan.sections, natives, strict=True):
        made = RefitSection(section, given, workers, native)
        try:
            sections.append(made.section(later))
        except BrokenGuard as e:
            return _rebuilt(plan, given, e.names, threads)
    renewed = {**plan.renewed, **given.copies()}
    later.weights = NamedWeights(dataclasses.replace(plan, sections=(), renewed=renewed))
    return dataclasses.replace(plan, sections=tuple(sections), renewed=renewed)


def _rebuilt(plan: Plan, given: Given, broken: set[str], threads: int) -> Plan:
    # The compiler is imported only here.
    rebuild = importlib.import_module("lamina.refit.rebuild").rebuild
    try:
        plan = rebuild(plan, given.copies(), threads)
    except LaminaError as e:
        names = ", ".join(repr(name) for name in sorted(broken)[:4])
        raise PlanError(
            f"the values of {names} decided how the plan was built, and it cannot be built again "
            f"here: {e}",
            hint="refit where the plan was built, or build it again from its model",
        ) from e
    return plan
