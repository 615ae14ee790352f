"""The recipes of a section's constants, as they are stored in a plan.

They are JSON text: ``sources`` are the named weights that constants were computed from, as (name,
element type, shape); ``steps`` are calls, each [function, arguments, named arguments], in which
``["$", n]`` is the result of step ``n``, which comes before; ``blobs`` are pairs (blob, step that
computes it); ``guards`` are pairs (step, what its value was: see :func:`lamina.ir.recipe.finding`).
Arrays among the arguments are ``["#", n]``, the section's literal ``n``.

The text is checked when a refit first needs it: an index that refers to nothing, or a function that
is none of ours, raises a PlanError.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Final, NoReturn

import numpy as np

from lamina.errors import PlanError
from lamina.ir.recipe import SOURCE, Recipe, Recording, in_order
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.plan.plan import Section

_TYPES: Final = frozenset(d.numpy.name for d in DType if d is not DType.STR)


@dataclass(frozen=True)
class Source:
    """A named weight."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """The number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Step:
    """One call; ``operands`` are the steps among its arguments."""

    function: str
    arguments: list[Any]
    keywords: dict[str, Any]
    operands: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Recipes:
    """What :func:`read_recipes` found; steps refer to sources by name."""

    sources: Mapping[str, Source]
    steps: tuple[Step, ...]
    blobs: Mapping[int, int]
    guards: tuple[tuple[int, str], ...]


def with_recipes(section: Section, recording: Recording, sources: Mapping[str, Weight]) -> Section:
    """Return a section whose constants are plain, with the recipes that they had."""
    made = {i: w.recipe for i, w in enumerate(section.blobs) if w.recipe is not None}
    digests = {recipe: recipe.digest for recipe in in_order(recording.guards)}
    guards = sorted(recording.guards.items(), key=lambda guard: digests[guard[0]])
    kept = in_order([*made.values(), *(recipe for recipe, _ in guards)])
    number = {r: i for i, r in enumerate(kept)}
    literals: dict[int, int] = {}
    steps = [[r.function, *_renumbered(r, number, literals)] for r in kept]
    text = {
        "sources": [
            [name, sources[name].contents.dtype.name, list(sources[name].contents.shape)]
            for name in sorted(sources)
        ],
        "steps": steps,
        "blobs": [[blob, number[r]] for blob, r in made.items()],
        "guards": [[number[r], found] for r, found in guards],
    }
    return dataclasses.replace(
        section,
        blobs=tuple(_plain(w) for w in section.blobs),
        recipes=json.dumps(text, separators=(",", ":")),
        literals=tuple(Weight(recording.literals[n]) for n in literals),
    )


def _plain(weight: Weight) -> Weight:
    return weight if weight.recipe is None else Weight(weight.contents, weight.name)


def _renumbered(recipe: Recipe, number: dict[Recipe, int], literals: dict[int, int]) -> list[Any]:
    if recipe.function == SOURCE:
        return recipe.form
    numbers = {operand.number: number[operand] for operand in recipe.operands}

    def walk(form: Any) -> Any:
        if isinstance(form, dict):
            return {k: walk(v) for k, v in form.items()}
        if not isinstance(form, list):
            return form
        if form[0] == "$":
            return ["$", numbers[form[1]]]
        if form[0] == "#":
            return ["#", literals.setdefault(form[1], len(literals))]
        return [walk(item) for item in form] if form[0] == "(" else form

    arguments, keywords = recipe.form
    return [[walk(a) for a in arguments[1:]], walk(keywords)]


def recipes_of(section: Section) -> Recipes:
    """Return the recipes of a section; raises PlanError for damaged ones."""
    return read_recipes(section.recipes, len(section.blobs), len(section.literals))


@lru_cache(maxsize=4)
def read_recipes(text: str, blobs: int, literals: int) -> Recipes:
    """Read and check the recipes of a section with so many blobs and literals; PlanError.

    Without recipes there are no sources.
    """
    if not text:
        return Recipes({}, (), {}, ())
    try:
        data = json.loads(text)
        sources = {str(n): Source(n, d, tuple(s)) for n, d, s in data["sources"]}
        steps = tuple(_step(i, s, sources, literals) for i, s in enumerate(data["steps"]))
        made = {int(blob): int(step) for blob, step in data["blobs"]}
        guards = tuple((int(step), str(found)) for step, found in data["guards"])
        recipes = Recipes(sources, steps, made, guards)
        _check(recipes, blobs)
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as e:
        raise PlanError(f"the recipes of the plan are damaged: {e}") from e
    return recipes


def _check(recipes: Recipes, blobs: int) -> None:
    """Raise PlanError unless sources are weights and every number refers to something."""
    for source in recipes.sources.values():
        if source.dtype not in _TYPES or any(type(n) is not int or n < 0 for n in source.shape):
            _fail(f"source {source.name} is {source.dtype}{list(source.shape)}")
    if bad := [b for b in recipes.blobs if not 0 <= b < blobs]:
        _fail(f"blob {bad[0]} of {blobs} is made")
    steps = (*recipes.blobs.values(), *(step for step, _ in recipes.guards))
    if bad := [s for s in steps if not 0 <= s < len(recipes.steps)]:
        _fail(f"step {bad[0]} of {len(recipes.steps)} is named")


def _step(index: int, data: Any, sources: Mapping[str, Source], literals: int) -> Step:
    if data[0] == SOURCE:
        _, name = data
        if name not in sources:
            _fail(f"step {index} reads {name!r}, which is no source")
        return Step(SOURCE, [name], {}, ())
    function, arguments, keywords = data
    if type(function) is not str or type(arguments) is not list or type(keywords) is not dict:
        _fail(f"step {index} is no call")
    operands: dict[int, None] = {}
    for form in (*arguments, *keywords.values()):
        _check_argument(form, index, literals, operands)
    decoded = [_decoded(form) for form in arguments]
    return Step(function, decoded, {k: _decoded(v) for k, v in keywords.items()}, tuple(operands))


def _decoded(form: Any) -> Any:
    """Return an argument as it is, ``$`` and ``#`` as lists: they need values."""
    if not isinstance(form, list) or form[0] in ("$", "#"):
        return form
    kind, *rest = form
    if kind == "(":
        items = [_decoded(item) for item in rest]
        return ["(", *items] if any(isinstance(i, list) for i in items) else tuple(items)
    return _plain_argument(kind, rest)


def _check_argument(form: Any, index: int, literals: int, operands: dict[int, None]) -> None:
    """Raise PlanError for an argument that refers to nothing; add the steps that it reads."""
    if not isinstance(form, list):
        return
    kind, rest = form[0], form[1:]
    if kind == "(":
        for item in rest:
            _check_argument(item, index, literals, operands)
    elif kind in ("$", "#"):
        limit = index if kind == "$" else literals
        if type(rest[0]) is not int or not 0 <= rest[0] < limit:
            _fail(f"step {index} reads {rest[0]!r}, only {limit} come before it")
        if kind == "$":
            operands[rest[0]] = None
    elif kind not in (":", "...", "@", "f", "d"):
        _fail(f"step {index} has an argument of kind {kind!r}")


def argument(form: Any, values: Mapping[int, Any], literals: tuple[Weight, ...]) -> Any:
    """Return what an argument of a step stands for."""
    if not isinstance(form, list):
        return form
    kind, *rest = form
    if kind == "$":
        return values[rest[0]]
    if kind == "#":
        return literals[rest[0]].contents
    return tuple(argument(item, values, literals) for item in rest)


def _plain_argument(kind: str, rest: list[Any]) -> Any:
    try:
        if kind == ":":
            return slice(*(_decoded(v) for v in rest))
        if kind == "...":
            return Ellipsis
        if kind == "f":
            return float.fromhex(rest[0])
        if rest[0] not in _TYPES:
            raise ValueError(f"{rest[0]!r} is no element type")
        if kind == "d":
            return np.dtype(rest[0])
        return np.frombuffer(bytes.fromhex(rest[1]), np.dtype(rest[0]))[0]
    except (TypeError, ValueError, IndexError) as e:
        raise PlanError(f"the recipes of the plan are damaged: {e}") from e


def _fail(fact: str) -> NoReturn:
    raise PlanError(f"the recipes of the plan are damaged: {fact}")
