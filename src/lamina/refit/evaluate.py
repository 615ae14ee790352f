"""Computes constants of a section from named weights by its recipes."""

from __future__ import annotations

import importlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, Protocol

import numpy as np

from lamina.errors import DeviceError, InputError, LaminaError, PlanError
from lamina.ir import blocks
from lamina.ir.recipe import FUNCTIONS, SOURCE, Array, finding
from lamina.plan.plan import Section
from lamina.plan.recipes import Step, argument, recipes_of

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

_LONG_BYTES: Final = 256 << 10
"""Constants from which on a thread of their own pays."""

_SAME_BYTES: Final = ("ravel", "reshape", "view")
"""Functions whose result has the bytes of their operand, where that is dense."""

_INTO: Final = ("blocked", "fft", "winograd")
"""Functions that can write their result into given bytes."""


class Native(Protocol):
    """Kernels that a section holds for refits."""

    def winograd(
        self, w: Array, factor: Array | None, arguments: Sequence[Any], out: Array
    ) -> bool:
        """Compute a transform into bytes; False, having done nothing, for what it cannot."""

    def converted(self, a: Array, dtype: np.dtype[Any]) -> Array:
        """Return ``a.astype(dtype)``."""


class Evaluation:
    """The values of a section's recipes with other weights.

    ``sources`` gives the contents of every named weight, ``changed`` the names of those that are
    others than before.
    """

    def __init__(
        self,
        section: Section,
        sources: Callable[[str], Array],
        changed: Iterable[str],
        native: Native | None = None,
    ) -> None:
        self._recipes = recipes = recipes_of(section)
        self._literals, self._sources = section.literals, sources
        self._native = native
        changed = set(changed)
        depends: list[bool] = []
        for step in recipes.steps:
            own = step.function == SOURCE and step.arguments[0] in changed
            depends.append(own or any(depends[n] for n in step.operands))
        made = recipes.blobs.items()
        self.blobs = [blob for blob, step in made if depends[step] or blob in section.absent]
        self._guards = [(step, found) for step, found in recipes.guards if depends[step]]
        readers = Counter(n for step in recipes.steps for n in step.operands)
        readers.update(recipes.blobs.values())
        # How often each will be read yet.
        self._shared = {n: count for n, count in readers.items() if count > 1}
        self._kept: dict[int, Array] = {}
        self._locks = {n: threading.Lock() for n in self._shared}

    def broken_guard(self, threads: int) -> set[str] | None:
        """Return the weights behind a finding that is no longer the same; None for no such."""
        long = [g for g in self._guards if self._elements(g[0]) * 4 >= _LONG_BYTES and threads > 1]
        short = [g for g in self._guards if g not in long]
        broken = self._broken(short)
        if broken is None and long:
            # Guards of the same weights share values: a second thread would wait for the first.
            together: dict[frozenset[str], list[tuple[int, str]]] = {}
            for guard in long:
                together.setdefault(frozenset(self._sources_of(guard[0])), []).append(guard)
            with ThreadPoolExecutor(threads) as pool:
                found = pool.map(self._broken, together.values())
            broken = next((names for names in found if names is not None), None)
        return broken

    def _broken(self, guards: Sequence[tuple[int, str]]) -> set[str] | None:
        with _following("a guard"), np.errstate(all="ignore"):
            for step, found in guards:
                if finding(self._value(step)) != found:
                    return self._sources_of(step)
        return None

    def _elements(self, step: int) -> int:
        """Return how many elements the weights behind a step have."""
        return sum(self._recipes.sources[name].elements for name in self._sources_of(step))

    def run(self, threads: int, outs: Mapping[int, Array]) -> None:
        """Compute the blobs of ``outs``, in parallel, into these bytes.

        Raises PlanError for recipes that cannot be followed or give other sizes.
        """
        # Small ones first and alone: many short calls would keep the interpreter from the threads
        # that wait for it after long ones.
        small = [blob for blob in outs if outs[blob].nbytes < _LONG_BYTES or threads < 2]
        self._make({blob: outs[blob] for blob in small})
        large = sorted(outs.keys() - set(small), key=lambda blob: -outs[blob].nbytes)
        if not large:
            return
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(self._make, {blob: outs[blob]}) for blob in large]:
                done.result()

    def _make(self, outs: Mapping[int, Array]) -> None:
        with _following("a constant"), np.errstate(all="ignore"):
            for blob, out in outs.items():
                self._store(self._recipes.blobs[blob], out)

    def _store(self, number: int, out: Array) -> None:
        """Bring the bytes of a step's value into ``out``, computing them there where possible."""
        step = self._recipes.steps[number]
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
        w, factor = self._factored(step.operands[0])
        others = [argument(a, {}, self._literals) for a in step.arguments[1:]]
        return self._native.winograd(w, factor, others, out)

    def _factored(self, number: int) -> tuple[Array, Array | None]:
        """Return a value as an array and, perhaps, a factor for each index of its first axis."""
        step = self._recipes.steps[number]
        if step.function == "multiply" and number not in self._shared and not step.keywords:
            values = {n: self._value(n) for n in step.operands}
            x, y = (argument(a, values, self._literals) for a in step.arguments)
            for w, factor in ((x, y), (y, x)):
                if _is_factor_of(w, factor):
                    return w, factor
        return self._value(number), None

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
            if self._shared[number] > 0:
                self._kept[number] = value
            return value

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


def _is_factor_of(w: Any, factor: Any) -> bool:
    """Whether ``factor`` has one f32 number for each index of the first axis of f32 ``w``."""
    if not isinstance(w, np.ndarray) or not isinstance(factor, np.ndarray) or not w.ndim:
        return False
    column = (w.shape[0], *[1] * (w.ndim - 1))
    return bool(factor.shape == column and w.dtype == factor.dtype == np.float32)


@lru_cache(maxsize=256)
def _function(name: str) -> Callable[..., Any]:
    if name in _MODULES:
        importlib.import_module(_MODULES[name])
    if name not in FUNCTIONS:
        raise PlanError(f"the recipes of the plan call {name!r}, which does not exist here")
    return FUNCTIONS[name]
