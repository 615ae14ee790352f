"""Plans without their weights: what a refit gives back is left out of the file."""

from __future__ import annotations

import dataclasses

import numpy as np

from lamina.errors import PlanError
from lamina.ir.weight import Weight
from lamina.plan.named import NamedWeights, settled
from lamina.plan.plan import Plan, Section
from lamina.plan.recipes import recipes_of


def strip(plan: Plan) -> Plan:
    """Return ``plan`` without named weights and without the constants computed from them.

    It runs again after a refit with the weights that :func:`missing_weights` names.  Small weights,
    which the text of the graph shows, and sizes and indices stay.  Raises PlanError for a plan
    whose weights have no names.
    """
    plan = settled(plan)
    names = {name for section in plan.sections for name in recipes_of(section).sources}
    described = NamedWeights(plan).described
    digests = {n: d.text.removeprefix("digest=") for n, d in described.items()}
    kept = {digests[n] for n in digests.keys() - names}
    gone = {digests[n] for n in names & digests.keys()} - kept
    if not gone & plan.weights.keys():
        raise PlanError("the plan has no weights that it could leave out")
    return dataclasses.replace(
        plan,
        weights={d: plan.weights[d] for d in plan.weights if d not in gone},
        sections=tuple(_stripped(s) for s in plan.sections),
    )


def missing_weights(plan: Plan) -> list[str]:
    """Return the names of the weights that a plan was stripped of and has not got back."""
    if not any(section.absent for section in plan.sections):
        return []
    return [
        name
        for name, named in NamedWeights(plan).described.items()
        if name not in plan.renewed
        and named.text.startswith("digest=")
        and named.text.removeprefix("digest=") not in plan.weights
    ]


def absent(dtype: np.dtype[np.generic], shape: tuple[int, ...], name: str) -> Weight:
    """Return what stands for contents that are not there; it takes no memory."""
    return Weight(np.broadcast_to(np.zeros((), dtype), shape), name)


def _stripped(section: Section) -> Section:
    made = recipes_of(section).blobs
    blobs = [
        absent(w.contents.dtype, w.contents.shape, w.name) if i in made else w
        for i, w in enumerate(section.blobs)
    ]
    return dataclasses.replace(section, blobs=tuple(blobs), absent=tuple(sorted(made)))
