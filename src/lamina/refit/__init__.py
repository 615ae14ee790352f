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
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from lamina.config import default_threads
from lamina.errors import InputError, LaminaError, PlanError
from lamina.ir.recipe import Array
from lamina.ir.weight import Weight
from lamina.plan.halves import Astype, astype, halve
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
    natives = [_native(section) for section in plan.sections]
    converted = [native.converted for native in natives if native is not None]
    given = _Given(known, weights, next(iter(converted), astype))
    if missing := [name for name in missing_weights(plan) if name not in weights]:
        raise InputError(
            f"the plan was saved without its weights, of which {len(missing)} are not given: "
            f"{', '.join(missing[:8])}"
        )
    sections = []
    workers = threads or default_threads()
    for section, native in zip(plan.sections, natives, strict=True):
        made = _Refit(section, given, workers, native)
        broken = made.broken_guard()
        if broken is not None:
            return _rebuilt(plan, given, broken, threads)
        sections.append(made.section())
    renewed = {**plan.renewed, **given.copies()}
    return dataclasses.replace(plan, sections=tuple(sections), renewed=renewed)


class _Given:
    """New contents of some weights, checked against the weights that they replace."""

    def __init__(self, known: NamedWeights, weights: Mapping[str, Any], astype: Astype) -> None:
        self._known, self._astype = known, astype
        self.arrays = {name: _checked(name, given, known) for name, given in weights.items()}
        self._copies: dict[str, Array] = {}
        described = known.described
        self._places = places(
            {n: a.size * described[n].dtype.itemsize for n, a in self.arrays.items()}
        )

    def copies(self) -> dict[str, Weight]:
        """Return the weights; the caller's arrays may change from then on."""
        return {name: Weight(self.contents(name), name) for name in self.arrays}

    def changes(self, name: str) -> bool:
        """Whether a weight gets other contents than it has."""
        return not _same(self.contents(name), self._known[name].contents)

    def contents(self, name: str) -> Array:
        """Return the contents of a weight, given or kept; may be called from any thread."""
        if name not in self.arrays:
            return self._known[name].contents
        if name not in self._copies:
            array, dtype = self.arrays[name], self._known.described[name].dtype
            if array.dtype != dtype:
                _check_limit(name, array)
            if dtype.hasobject:  # strings
                self._copies[name] = np.array(array, order="C")
                return self._copies[name]
            copy = self._places[name].view(dtype).reshape(array.shape)
            np.copyto(copy, array if array.dtype == dtype else self._astype(array, dtype))
            self._copies[name] = copy
        return self._copies[name]


class _Refit:
    """One section with the constants that depend on given weights made again."""

    def __init__(
        self, section: Section, given: _Given, threads: int, native: Native | None
    ) -> None:
        self._section, self._given, self._threads = section, given, threads
        self._evaluation = Evaluation(section, given.contents, given.arrays, native)
        self._astype = native.converted if native else astype

    def broken_guard(self) -> set[str] | None:
        """Return the weights whose new values ask for another program."""
        sources = recipes_of(self._section).sources
        for name in self._given.arrays.keys() - sources.keys():
            if self._given.changes(name):
                return {name}
        return self._evaluation.broken_guard(self._threads)

    def section(self) -> Section:
        """Return the section with other blobs; those kept as halves stay so where they can."""
        blobs, halves = list(self._section.blobs), set(self._section.halves)
        made = places(
            {b: blobs[b].contents.nbytes * (1 + (b in halves)) for b in self._evaluation.blobs}
        )
        self._evaluation.run(self._threads, made)
        halved = [b for b in made if b in halves]

        def halved_one(blob: int) -> tuple[tuple[Weight, ...], tuple[int, ...]]:
            return halve([Weight(made[blob].view(np.float32))], self._astype)

        with ThreadPoolExecutor(self._threads) as pool:
            stored = pool.map(halved_one, halved)
        for number, raw in made.items():
            old = blobs[number]
            if number not in halves:
                shaped = raw.view(old.contents.dtype).reshape(old.contents.shape)
                blobs[number] = Weight(shaped, old.name)
        for number, ((weight,), is_half) in zip(halved, stored, strict=True):
            blobs[number] = weight.renamed(blobs[number].name)
            halves -= set() if is_half else {number}
        kept = tuple(sorted(halves))
        return dataclasses.replace(self._section, blobs=tuple(blobs), halves=kept, absent=())


def _native(section: Section) -> Native | None:
    """Return the kernels that a section of a CPU holds for refits."""
    if dict(section.target).get("device") != "cpu":
        return None
    found: Native | None = importlib.import_module(_NATIVE).native_functions(section)
    return found


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
    # With precision="fp16" a plan keeps its weights as halves.
    fits = wanted.dtype == np.float16 and array.dtype == np.float32
    if (array.dtype != wanted.dtype and not fits) or array.shape != wanted.shape:
        raise InputError(
            f"weight {name!r} is {wanted.dtype}{list(wanted.shape)}, the array given for it is "
            f"{array.dtype}{list(array.shape)}"
        )
    return array


def _check_limit(name: str, array: Array) -> None:
    """Raise InputError for f32 numbers that are too large for f16, in which a plan keeps them."""
    limit = np.finfo(np.float16).max
    largest = max(array.max(initial=0), -array.min(initial=0))
    if largest > limit:
        raise InputError(
            f"weight {name!r} is kept as f16, whose largest number is {limit:g}; {largest:g} was "
            f"given",
            hint="build the plan with precision='fp32' or 'bf16'",
        )
