"""A section of a plan with other weights."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any, Final

import numpy as np

from lamina.ir.movement import Movement, is_kernel_name
from lamina.ir.recipe import Array
from lamina.ir.weight import Weight
from lamina.plan.halves import astype, halve
from lamina.plan.plan import Section
from lamina.plan.recipes import Recipes, recipes_of
from lamina.refit.evaluate import BrokenGuard, Evaluation
from lamina.refit.given import Given
from lamina.refit.memory import places
from lamina.refit.native import Native

_PACKING: Final = "lamina.backends.cuda.packing"


class RefitSection:
    """One section with the constants that depend on given weights made again."""

    def __init__(self, section: Section, given: Given, threads: int, native: Native | None) -> None:
        self._section, self._given, self._threads = section, given, threads
        self._recipes = recipes_of(section)
        self._evaluation = Evaluation(
            self._recipes, section.literals, given.contents, given.arrays, section.absent, native
        )
        self._astype = native.converted if native else astype

    def section(self, later: Later) -> Section:
        """Return the section with other blobs; those kept as halves stay so where they can.

        Raises BrokenGuard for weights whose new values ask for another program.
        """
        for name in self._given.arrays.keys() - self._recipes.sources.keys():
            if self._given.changes(name):
                raise BrokenGuard({name})
        blobs, halves = list(self._section.blobs), set(self._section.halves)
        moved = self._moved_on_device()
        for number, movements in moved.items():
            old = blobs[number]
            compute = partial(later.contents, self._recipes, self._section.literals, number)
            call = partial(compute, old.dtype, old.shape)
            blobs[number] = Weight.later(old, call, movements=movements)
        made = places(
            {
                b: blobs[b].nbytes * (1 + (b in halves))
                for b in self._evaluation.blobs
                if b not in moved
            }
        )
        self._evaluation.run(self._threads, made)
        exact = [b for b in made if b in halves and self._evaluation.gives_halves(b)]
        for number in exact:
            numbers = made.pop(number).view(np.float32)
            call = partial(self._astype, numbers, np.dtype(np.float16))
            blobs[number] = Weight.later(blobs[number], call, restored=numbers)
        halved = [b for b in made if b in halves]

        def halved_one(blob: int) -> tuple[tuple[Weight, ...], tuple[int, ...]]:
            return halve([Weight(made[blob].view(np.float32))], self._astype)

        stored = map(halved_one, halved)
        for number, raw in made.items():
            old = blobs[number]
            if number not in halves:
                shaped = raw.view(old.dtype).reshape(old.shape)
                blobs[number] = Weight(shaped, old.name)
        for number, ((weight,), is_half) in zip(halved, stored, strict=True):
            blobs[number] = weight.renamed(blobs[number].name)
            halves -= set() if is_half else {number}
        kept = tuple(sorted(halves))
        return dataclasses.replace(self._section, blobs=tuple(blobs), halves=kept, absent=())

    def _moved_on_device(self) -> dict[int, tuple[Movement, ...]]:
        """Return the blobs that the device makes by itself."""
        if dict(self._section.target).get("device") != "cuda":
            return {}
        can_pack = importlib.import_module(_PACKING).can_pack
        if not any(map(is_kernel_name, self._section.image.symbols)):
            return {}
        self._given.copy(self._threads)
        movements = {b: self._evaluation.movements(b) for b in self._evaluation.blobs}
        symbols = self._section.image.symbols
        return {b: m for b, m in movements.items() if can_pack(m, symbols)}


class Later:
    """Computes constants of a plan that a device has made, when somebody asks for their bytes."""

    def __init__(self) -> None:
        self.weights: Mapping[str, Weight] = {}

    def contents(
        self,
        recipes: Recipes,
        literals: tuple[Weight, ...],
        blob: int,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
    ) -> Array:
        """Return what the recipe of a blob gives."""
        weights, raw = self.weights, np.empty(prod(shape) * dtype.itemsize, np.uint8)
        evaluation = Evaluation(recipes, literals, lambda name: weights[name].contents, weights)
        evaluation.contents(blob, raw)
        return raw.view(dtype).reshape(shape)
