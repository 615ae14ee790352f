"""Computes what many small weights have in common at once.

The statistics of every normalization of a network go through the same steps, on a few hundred
numbers each, and calling NumPy takes longer than the numbers do.  Steps of the same form are
therefore evaluated together, on their operands one behind the other; the bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any, Final

import numpy as np

from lamina.ir.recipe import FUNCTIONS, SOURCE, Array
from lamina.plan.recipes import Recipes, Step

_EACH: Final = frozenset(
    (
        "absolute", "add", "astype", "divide", "equal", "exp", "greater", "greater_equal",
        "isfinite", "isnan", "less", "less_equal", "log", "maximum", "minimum", "multiply",
        "negative", "not_equal", "reciprocal", "sqrt", "square", "subtract",
    )
)  # fmt: skip
"""Functions of single numbers."""

_COMPARISONS: Final = frozenset(
    ("equal", "greater", "greater_equal", "less", "less_equal", "not_equal")
)
"""Functions that may compare many numbers with one."""

_SEEN_AS: Final = frozenset(("broadcast_to", "ravel", "reshape"))
"""Functions that give numbers another shape; where they repeat some, they are left alone."""

_MOST_ELEMENTS: Final = (1 << 13) - 1
"""Of one weight; kernels make what follows from larger ones."""

_LEAST_TOGETHER: Final = 4

_Shape = tuple[int, ...]
_Form = tuple[Hashable, ...]


@dataclass(frozen=True, eq=False)
class _Operand:
    """The results of some steps, one behind the other.

    They are those of a batch, all of them or the numbers ``picked``; or, with batch -1, each of
    ``steps`` is asked for.
    """

    steps: tuple[int, ...]
    batch: int = -1
    picked: Array | None = None


@dataclass(frozen=True, eq=False)
class _Batch:
    """Steps of one form.

    ``arguments`` are those of each step, an :class:`_Operand` where they are steps.  ``shapes`` are
    those of the results; ``repeats`` says how often each number of an operand that has one number
    for each step is meant.
    """

    function: str
    members: tuple[int, ...]
    shapes: tuple[_Shape, ...]
    arguments: tuple[Any, ...]
    begins: Array
    """Where the numbers of each member of the first operand begin."""
    repeats: Array


class Results:
    """The results of steps that were computed together."""

    def __init__(self, places: Mapping[int, tuple[int, int, int, _Shape]]) -> None:
        self._places = places
        self.together: list[Array] = []
        """Those of each batch, one behind the other."""

    def get(self, step: int) -> Array | None:
        """Return the result of a step; None where it is in no batch."""
        place = self._places.get(step)
        if place is None or place[0] >= len(self.together):
            return None
        batch, begin, end, shape = place
        return self.together[batch][begin:end].reshape(shape)


class Batches:
    """The small steps of recipes that can be computed together."""

    def __init__(self, recipes: Recipes) -> None:
        self._shapes: dict[int, _Shape] = {}
        self._places: dict[int, tuple[int, int, int, _Shape]] = {}
        forms: dict[int, int] = {}
        numbers: dict[_Form, int] = {}
        alike: dict[int, list[int]] = {}
        for number, step in enumerate(recipes.steps):
            form = self._form(number, step, recipes, forms)
            if form is not None:
                forms[number] = numbers.setdefault(form, len(numbers))
                alike.setdefault(forms[number], []).append(number)
        self._batches: list[_Batch] = []
        for members in alike.values():
            if len(members) >= _LEAST_TOGETHER:
                self._add(members, recipes)

    def results(self, value: Callable[[int], Array]) -> Results:
        """Return the results of all steps in batches; ``value`` returns those of other steps."""
        results = Results(self._places)
        for batch in self._batches:
            results.together.append(_computed(batch, results, value))
        return results

    def _add(self, members: list[int], recipes: Recipes) -> None:
        """Add a batch, behind those of its operands."""
        first = recipes.steps[members[0]]
        arguments: list[Any] = [_Operand(tuple(members))] if first.function == SOURCE else []
        for position, argument in enumerate(first.arguments if not arguments else ()):
            if _is_step(argument):
                steps = tuple(recipes.steps[n].arguments[position][1] for n in members)
                arguments.append(self._operand(steps))
            else:
                arguments.append(argument)
        shapes = tuple(self._shapes[n] for n in members)
        sizes = [prod(shape) for shape in shapes]
        ends = list(accumulate(sizes))
        for n, shape, size, end in zip(members, shapes, sizes, ends, strict=True):
            self._places[n] = (len(self._batches), end - size, end, shape)
        operand = arguments[0].steps if isinstance(arguments[0], _Operand) else ()
        begins = np.array([0, *accumulate(prod(self._shapes[n]) for n in operand)])[:-1]
        batch = _Batch(
            first.function, tuple(members), shapes, tuple(arguments), begins, np.array(sizes)
        )
        self._batches.append(batch)

    def _operand(self, steps: tuple[int, ...]) -> _Operand:
        places = [self._places.get(n) for n in steps]
        batches = {-1 if place is None else place[0] for place in places}
        batch = batches.pop()
        if batches or batch < 0:
            return _Operand(steps)
        if steps == self._batches[batch].members:
            return _Operand(steps, batch)
        picked = [np.arange(place[1], place[2]) for place in places if place is not None]
        return _Operand(steps, batch, np.concatenate(picked))

    def _form(
        self, number: int, step: Step, recipes: Recipes, forms: dict[int, int]
    ) -> _Form | None:
        """Return what steps that can be computed together have in common; None for no such step."""
        if step.function == SOURCE:
            source = recipes.sources[step.arguments[0]]
            if not 0 < source.elements <= _MOST_ELEMENTS:
                return None
            self._shapes[number] = source.shape
            return SOURCE, source.dtype
        operands = step.operands
        if step.keywords or not operands or any(n not in forms for n in operands):
            return None
        shape = self._shape(step, [self._shapes[n] for n in operands])
        if shape is None:
            return None
        self._shapes[number] = shape
        if step.function in (*_SEEN_AS, "all", "getitem"):
            return step.function, forms[operands[0]]
        described = (_described(a, forms, self._shapes) for a in step.arguments)
        return step.function, *described

    def _shape(self, step: Step, operands: Sequence[_Shape]) -> _Shape | None:
        """Return the shape of a result; None where members cannot be computed together."""
        name = step.function
        if name in _EACH:
            shapes = set(operands) - {()}
            plain = all(_is_step(a) or not isinstance(a, list) for a in step.arguments)
            if len(shapes) != 1 or not plain or (() in operands and name not in _COMPARISONS):
                return None
            return shapes.pop()
        if len(operands) != 1 or any(map(_is_step, step.arguments[1:])):
            return None
        if name == "all":
            return () if len(step.arguments) == 1 else None
        if name == "getitem":
            return () if step.arguments[1] == 0 and len(operands[0]) == 1 else None
        if name not in _SEEN_AS:
            return None
        return _seen_as(operands[0], step.arguments[1:])


def _computed(batch: _Batch, results: Results, value: Callable[[int], Array]) -> Array:
    """Return the results of a batch, one behind the other."""

    def numbers(operand: _Operand) -> Array:
        if operand.batch < 0:
            found = ((n, results.get(n)) for n in operand.steps)
            return np.concatenate([(value(n) if x is None else x).reshape(-1) for n, x in found])
        flat = results.together[operand.batch]
        return flat if operand.picked is None else flat[operand.picked]

    first = batch.arguments[0]
    if batch.function == SOURCE or batch.function in _SEEN_AS:
        return numbers(first)
    if batch.function == "getitem":
        return numbers(first)[batch.begins]
    if batch.function == "all":
        return np.logical_and.reduceat(numbers(first), batch.begins)
    total, arguments = int(batch.repeats.sum()), []
    for argument in batch.arguments:
        if isinstance(argument, _Operand):
            flat = numbers(argument)
            argument = flat if flat.size == total else np.repeat(flat, batch.repeats)
        arguments.append(argument)
    result: Array = FUNCTIONS[batch.function](*arguments)
    return result


def _is_step(argument: Any) -> bool:
    return isinstance(argument, list) and argument[0] == "$"


def _described(argument: Any, forms: dict[int, int], shapes: dict[int, _Shape]) -> Hashable:
    """Return what must be equal of an argument of steps that are computed together."""
    if _is_step(argument):
        number = argument[1]
        return forms[number], shapes[number] == ()
    return type(argument).__name__, str(argument)


def _seen_as(shape: _Shape, arguments: Sequence[Any]) -> _Shape | None:
    """Return another shape of as many elements; None for one of more."""
    if not arguments:
        return (prod(shape),)
    wanted = arguments[0] if isinstance(arguments[0], tuple) else (arguments[0],)
    if len(arguments) > 1 or not all(isinstance(n, int) for n in wanted):
        return None
    if wanted.count(-1) == 1:
        rest = -prod(wanted)
        wanted = tuple(prod(shape) // rest if n == -1 else n for n in wanted) if rest else wanted
    return wanted if prod(wanted) == prod(shape) and min(wanted, default=0) >= 0 else None
