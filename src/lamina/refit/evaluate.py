"""Computes constants of a section from named weights by its recipes."""

from __future__ import annotations

import importlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import numpy as np

from lamina.errors import DeviceError, InputError, LaminaError, PlanError
from lamina.ir import blocks
from lamina.ir.movement import Measure, Movement
from lamina.ir.recipe import FUNCTIONS, SOURCE, Array, finding
from lamina.ir.weight import Weight
from lamina.plan.recipes import Recipes, Step, argument
from lamina.refit.batches import Results
from lamina.refit.facts import Facts, facts_of
from lamina.refit.in_threads import in_threads
from lamina.refit.movements import (
    LARGE_ELEMENTS,
    Movements,
    Sought,
    Template,
    before_rounding,
)
from lamina.refit.native import Native

_MODULES: Final = {
    "blocked": blocks.__name__,
    "fft": "lamina.backends.cpu.weights.fft",
    "onednn.pack": "lamina.backends.cpu.onednn.packing",
    "operator": "lamina.passes.folding",
    "winograd": "lamina.backends.cpu.weights.winograd",
}
"""Where functions of recipes are that are none of NumPy's; imported when they are called."""


_MISFITS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LaminaError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)

_MANY: Final = 8
"""New weights from which on small steps are computed together."""

_LONG_ELEMENTS: Final = 1 << 15
"""Elements of a weight, or bytes of constants, from which on a thread of its own pays."""

_LONG_BYTES: Final = 256 << 10
"""Values that are given up when all have read them."""

_SAME_BYTES: Final = ("ravel", "reshape", "view")
"""Functions whose result has the bytes of their operand, where that is dense."""

_INTO: Final = ("blocked", "fft", "winograd")
"""Functions that can write their result into given bytes."""


@dataclass
class _Work:
    """Guards and blobs that depend on the same weights."""

    guards: list[tuple[int, str]] = field(default_factory=list)
    outs: dict[int, Array] = field(default_factory=dict)

    def is_large(self, facts: Facts) -> bool:
        """Whether a thread of its own pays: for large weights that become large constants."""
        guarded = any(facts.largest[step] >= _LONG_ELEMENTS for step, _ in self.guards)
        return guarded or sum(out.nbytes for out in self.outs.values()) >= _LONG_ELEMENTS


class BrokenGuard(Exception):
    """New values of ``names`` ask for another program than the plan's."""

    def __init__(self, names: set[str]) -> None:
        super().__init__(sorted(names))
        self.names = names


class Evaluation:
    """The values of a section's recipes with other weights.

    ``sources`` gives the contents of every named weight, ``changed`` the names of those that are
    others than before; ``absent`` are blobs that are made whatever they depend on.
    """

    def __init__(
        self,
        recipes: Recipes,
        literals: tuple[Weight, ...],
        sources: Callable[[str], Array],
        changed: Iterable[str],
        absent: Iterable[int] = (),
        native: Native | None = None,
    ) -> None:
        self._recipes, self._literals = recipes, literals
        self._sources, self._native = sources, native
        with _following("a step"):
            self._facts = facts = facts_of(recipes)
        given = facts.mask(changed)
        behind = facts.behind
        made = recipes.blobs.items()
        self.blobs = [blob for blob, step in made if behind[step] & given or blob in absent]
        self._guards = [(step, found) for step, found in recipes.guards if behind[step] & given]
        # How often each will be read yet.
        self._shared = dict(facts.shared)
        self._kept: dict[int, Array] = {}
        self._locks = {n: threading.Lock() for n in self._shared}
        self._known_movements: dict[Template, Movement | None] = {}
        self._measures: dict[tuple[str, int | None, str], Measure | None] = {}
        self._measuring: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._results: Results | None = None
        if given.bit_count() >= _MANY:
            with _following("the small constants"), np.errstate(all="ignore"):
                self._results = facts.batches.results(self._value)

    def movements(self, blob: int) -> tuple[Movement, ...]:
        """Return how weights become a blob; nothing where more happens to them."""
        step = self._recipes.blobs[blob]
        if self._facts.largest[step] < LARGE_ELEMENTS:
            return ()
        with _following("a constant"), np.errstate(all="ignore"):
            return self._bytes_of(step)

    def gives_halves(self, blob: int) -> bool:
        """Whether all numbers of a blob were f16 before they became f32."""
        movements = self.movements(blob)
        return bool(movements) and all(
            movement.course.chain.endswith("float16>float32") for movement in movements
        )

    def _bytes_of(self, number: int) -> tuple[Movement, ...]:
        """Return how weights become the bytes of a step; nothing where more happens to them."""
        templates = self._facts.templates
        if number not in templates:
            templates[number] = self._movements().bytes_of(number)
        filled = [self._filled(template) for template in templates[number]]
        return tuple(m for m in filled if m is not None) if None not in filled else ()

    def _filled(self, template: Template) -> Movement | None:
        """Return the movement of a template with the weights as they are; None where none holds."""
        if template not in self._known_movements:
            base, movement = self._sources(template.source), None
            holds = not any(self._value(n).any() for n in template.zeros)
            if holds and base.flags.c_contiguous:
                movement = template.filled(base, self._value)
            self._known_movements[template] = movement
        return self._known_movements[template]

    def _movements(self) -> Movements:
        # Not kept: it refers to this, and a circle would keep the weights for longer than needed.
        return Movements(self._recipes, self._facts.largest, self._value, self._arguments)

    def contents(self, blob: int, out: Array) -> None:
        """Compute one blob into these bytes."""
        self._make({blob: out})

    def _arguments(self, step: Step) -> list[Any]:
        """Return the arguments of a step, anything in place of the results of others."""
        unknown = dict.fromkeys(step.operands)
        return [argument(a, unknown, self._literals) for a in step.arguments]

    def run(self, threads: int, outs: Mapping[int, Array]) -> None:
        """Check all guards, and compute the blobs of ``outs``, in parallel, into these bytes.

        Raises BrokenGuard for a finding that is no longer the same, PlanError for recipes that
        cannot be followed or give other sizes.
        """
        facts = self._facts
        # What depends on the same weights belongs together: values are shared, and in a cache.
        together: defaultdict[int, _Work] = defaultdict(_Work)
        for guard in self._guards:
            together[facts.behind[guard[0]]].guards.append(guard)
        for blob, out in outs.items():
            together[facts.behind[self._recipes.blobs[blob]]].outs[blob] = out
        # Small ones last and alone: many short calls would keep the interpreter from the threads
        # that wait for it after long ones.
        large, small = [], _Work()
        for work in together.values():
            if work.is_large(facts):
                large.append(work)
            else:
                small.guards += work.guards
                small.outs |= work.outs
        large.sort(key=lambda work: -sum(out.nbytes for out in work.outs.values()))
        in_threads(self._do, large, threads)
        self._do(small)

    def _do(self, work: _Work) -> None:
        with _following("a guard"), np.errstate(all="ignore"):
            for step, found in work.guards:
                if finding(self._value(step)) != found:
                    raise BrokenGuard(self._sources_of(step))
        self._make(work.outs)

    def _make(self, outs: Mapping[int, Array]) -> None:
        with _following("a constant"), np.errstate(all="ignore"):
            for blob, out in outs.items():
                self._store(self._recipes.blobs[blob], out)

    def _store(self, number: int, out: Array) -> None:
        """Bring the bytes of a step's value into ``out``, computing them there where possible."""
        known = None if self._results is None else self._results.get(number)
        if known is not None and known.nbytes == out.nbytes:
            out[:] = known.reshape(-1).view(np.uint8)
            return
        step = self._recipes.steps[number]
        if self._native is not None and self._facts.largest[number] >= LARGE_ELEMENTS:
            movements = self._bytes_of(number)
            if movements and self._has_kernels(number) and self._native.moved(movements, out):
                return
        if step.function in _SAME_BYTES and number not in self._shared:
            self._store(step.operands[0], out)
            return
        into = step.function in _INTO and number not in self._shared
        if into and step.function == "winograd" and self._transformed(step, out):
            return
        value = self._value(number, out if into else None)
        if value.nbytes != out.nbytes:
            raise PlanError(
                f"the recipes of the plan are damaged: a constant has {out.nbytes} bytes, its "
                f"recipe gives {value.nbytes}"
            )
        if not np.may_share_memory(value, out):
            np.copyto(out.view(value.dtype).reshape(value.shape), value)

    def _transformed(self, step: Step, out: Array) -> bool:
        """Let a kernel of the section compute a transform into ``out``; False if it cannot."""
        if self._native is None:
            return False
        filters, others = step.operands[0], self._arguments(step)[1:]
        movements = self._bytes_of(filters)
        if len(movements) != 1 or not movements[0].course.keeps_order:
            return self._native.winograd(self._value(filters), None, others, out)
        (movement,) = movements
        course = movement.course
        if course.chain in ("4", "float32*") and course.is_dense:
            w = movement.base.reshape(course.shape)
            return self._native.winograd(w, movement.factors, others, out)
        if not self._has_kernels(filters):
            return self._native.winograd(self._value(filters), None, others, out)
        return self._native.winograd_of(movement, others, out)

    def _sources_of(self, step: int) -> set[str]:
        found: set[str] = set()
        stack = [step]
        while stack:
            s = self._recipes.steps[stack.pop()]
            if s.function == SOURCE:
                found.add(s.arguments[0])
            stack += s.operands
        return found

    def _value(self, number: int, out: Array | None = None) -> Array:
        """Return the value of a step, perhaps in ``out``.

        What several steps read is kept until the last of them has read it, so that the next values
        find its memory in caches and page tables.
        """
        found = None if self._results is None else self._results.get(number)
        if found is None:
            found = self._seen(number)
        if found is not None:
            return found
        step = self._recipes.steps[number]
        if step.function == SOURCE:
            return self._sources(step.arguments[0])
        if number not in self._shared:
            return self._called(step, {n: self._value(n) for n in step.operands}, out)
        with self._locks[number]:
            value = self._kept.pop(number, None)
            if value is None:
                values = {n: self._value(n) for n in step.operands}
                value = self._called(step, values, None)
            self._shared[number] -= 1
            if self._shared[number] > 0 or value.nbytes < _LONG_BYTES:
                self._kept[number] = value
            return value

    def _seen(self, number: int) -> Array | None:
        """Return what somebody saw in a large value, where that needs less than the value."""
        if self._facts.largest[number] < LARGE_ELEMENTS:
            return None
        looks = self._facts.looks
        if number not in looks:
            looks[number] = self._movements().look_of(number)
        look = looks[number]
        movement = None if look is None else self._filled(look.template)
        if look is None or movement is None:
            return None
        if look.sought in (Sought.MAX, Sought.MIN):
            return look.limit(movement.base)
        if self._native is None:
            return None
        if look.sought is Sought.SUMS:
            sums = self._native.sums(movement)
            return None if sums is None else sums.astype(np.int64)
        measure = self._measured(look.template)
        return None if measure is None else look.found(measure)

    def _measured(self, template: Template) -> Measure | None:
        """Return what a kernel tells of some numbers, asked once."""
        key = (template.source, template.factor, template.course.chain)
        movement = self._filled(template)
        if self._native is not None and movement is not None and key not in self._measures:
            with self._measuring[template.source]:
                if key not in self._measures:
                    self._measures[key] = self._native.measured(movement)
        return self._measures.get(key)

    def _has_kernels(self, number: int) -> bool:
        """Whether kernels may convert the numbers that a step comes to: none for f16's NaN."""
        for template in self._facts.templates[number]:
            if "float16" in template.course.chain.replace("bfloat16", ""):
                measure = self._measured(before_rounding(template)[0])
                if measure is None or np.isnan(measure.largest):
                    return False
        return True

    def _called(self, step: Step, values: Mapping[int, Array], out: Array | None) -> Array:
        function = _function(step.function)
        if step.function == "astype" and self._native is not None:
            function = self._native.converted
        arguments = [argument(a, values, self._literals) for a in step.arguments]
        keywords = {k: argument(a, values, self._literals) for k, a in step.keywords.items()}
        if out is not None:
            keywords["out"] = out
        with _following(step.function):
            return np.asarray(function(*arguments, **keywords))


@contextmanager
def _following(what: str) -> Iterator[None]:
    """Raise PlanError for what recipes run into that no build has written."""
    try:
        yield
    except (DeviceError, InputError, PlanError):
        raise
    except _MISFITS as e:
        raise PlanError(
            f"the recipes of the plan are damaged: {what}: {type(e).__name__}: {e}"
        ) from e


@lru_cache(maxsize=256)
def _function(name: str) -> Callable[..., Any]:
    if name in _MODULES:
        importlib.import_module(_MODULES[name])
    if name not in FUNCTIONS:
        raise PlanError(f"the recipes of the plan call {name!r}, which does not exist here")
    return FUNCTIONS[name]
