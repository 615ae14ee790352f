"""Gives a plan other weights.

A plan keeps recipes of its constants (:mod:`lamina.plan.recipes`): how each was computed from
weights that have names in the model, and what the build found in their values when it decided
something by them.  A refit computes again the constants that depend on the new weights; fusions,
tactics and kernels stay.  Where the findings would be others, the plan would be another one too: it
is then built again from its portable graph, which takes as long as a build with known times.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from lamina.config import default_threads
from lamina.errors import InputError, LaminaError, PlanError
from lamina.ir.recipe import Array
from lamina.ir.weight import Weight
from lamina.plan.halves import halve
from lamina.plan.named import NamedWeights
from lamina.plan.plan import Plan, Section
from lamina.plan.recipes import recipes_of
from lamina.plan.strip import missing_weights
from lamina.refit.evaluate import Evaluation, Native
from lamina.refit.memory import places

__all__ = ["named_weights", "refit"]

_NATIVE: Final = "lamina.backends.cpu.weights.native"


def named_weights(plan: Plan) -> Mapping[str, Weight]:
    """Return the weights of a plan by the names of its model; raises PlanError without a graph."""
    return NamedWeights(plan)


def refit(plan: Plan, weights: Mapping[str, Any], threads: int = 0) -> Plan:
    """Return ``plan`` with other weights, by name; ``plan`` itself does not change.

    The arrays are copied.  Raises InputError for a name that the plan does not have and for an
    array of another type or shape; PlanError for a plan without its portable graph, or when the
    weights need another plan and this machine cannot build it.
    """
    known = NamedWeights(plan)
    given = _Given(known, weights)
    if missing := [name for name in missing_weights(plan) if name not in weights]:
        raise InputError(
            f"the plan was saved without its weights, of which {len(missing)} are not given: "
            f"{', '.join(missing[:8])}"
        )
    sections = []
    for section in plan.sections:
        broken = given.broken_guard(section)
        if broken is not None:
            return _rebuilt(plan, given, broken, threads)
        sections.append(given.refitted(section, threads or default_threads()))
    renewed = {**plan.renewed, **given.copies()}
    return dataclasses.replace(plan, sections=tuple(sections), renewed=renewed)


class _Given:
    """New contents of some weights, checked against the weights that they replace."""

    def __init__(self, known: NamedWeights, weights: Mapping[str, Any]) -> None:
        self._known = known
        self._arrays = {name: _checked(name, given, known) for name, given in weights.items()}
        self._copies: dict[str, Array] = {}
        self._places = places({name: array.nbytes for name, array in self._arrays.items()})

    def copies(self) -> dict[str, Weight]:
        """Return the weights; the caller's arrays may change from then on."""
        return {name: Weight(self._contents(name), name) for name in self._arrays}

    def broken_guard(self, section: Section) -> set[str] | None:
        """Return the weights whose new values ask for another program than that of ``section``."""
        recipes = recipes_of(section)
        for name in self._arrays.keys() - recipes.sources.keys():
            if not _same(self._contents(name), self._known[name].contents):
                return {name}
        return self._evaluation(section).broken_guard()

    def refitted(self, section: Section, threads: int) -> Section:
        """Return a section with the constants that depend on the weights made again."""
        # Loaded only for sections of a CPU.
        cpu = dict(section.target).get("device") == "cpu"
        native = importlib.import_module(_NATIVE).native_functions(section) if cpu else None
        evaluation, halves = self._evaluation(section, native), set(section.halves)
        outs = places(
            {b: section.blobs[b].contents.nbytes * (1 + (b in halves)) for b in evaluation.blobs}
        )
        evaluation.run(threads, outs)
        return _with_blobs(section, outs)

    def _evaluation(self, section: Section, native: Native | None = None) -> Evaluation:
        return Evaluation(section, self._contents, self._arrays, native)

    def _contents(self, name: str) -> Array:
        if name not in self._arrays:
            return self._known[name].contents
        if name not in self._copies:
            array = self._arrays[name]
            copy = self._places[name].view(array.dtype).reshape(array.shape)
            np.copyto(copy, array)
            self._copies[name] = copy
        return self._copies[name]


def _with_blobs(section: Section, made: Mapping[int, Array]) -> Section:
    """Return a section with other blobs; those kept in half the space stay so where they can."""
    halves, blobs = set(section.halves), list(section.blobs)
    for number, raw in made.items():
        old = blobs[number]
        if number in halves:
            (blobs[number],), is_half = halve([Weight(raw.view(np.float32), old.name)])
            halves -= set() if is_half else {number}
        else:
            shaped = raw.view(old.contents.dtype).reshape(old.contents.shape)
            blobs[number] = Weight(shaped, old.name)
    kept = tuple(sorted(halves))
    return dataclasses.replace(section, blobs=tuple(blobs), halves=kept, absent=())


def _rebuilt(plan: Plan, given: _Given, broken: set[str], threads: int) -> Plan:
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


def _same(a: Array, b: Array) -> bool:
    if a.dtype == object:
        return bool(a.tolist() == b.tolist())
    return a.tobytes() == b.tobytes()


def _checked(name: str, given: Any, known: NamedWeights) -> Array:
    """Return new contents as an array; raises InputError when they do not fit."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.0)
        hint = f"the nearest are {', '.join(near)}" if near else "none of its weights has a name"
        raise InputError(f"the plan has no weight {name!r}", hint=hint)
    array, wanted = np.asarray(given), known.described[name]
    if wanted.dtype == np.float16 and array.dtype == np.float32:
        array = _narrowed(name, array)  # precision="fp16" stores weights so
    if array.dtype != wanted.dtype or array.shape != wanted.shape:
        raise InputError(
            f"weight {name!r} is {wanted.dtype}{list(wanted.shape)}, the array given for it is "
            f"{array.dtype}{list(array.shape)}"
        )
    return array


def _narrowed(name: str, array: Array) -> Array:
    """Return f32 numbers as f16, in which a plan keeps them; raises InputError for large ones."""
    limit = np.finfo(np.float16).max
    largest = np.abs(array).max(initial=0)
    if largest > limit:
        raise InputError(
            f"weight {name!r} is kept as f16, whose largest number is {limit:g}; {largest:g} was "
            f"given",
            hint="build the plan with precision='fp32' or 'bf16'",
        )
    return array.astype(np.float16)
