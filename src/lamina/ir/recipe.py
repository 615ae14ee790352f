"""How constants were computed from named weights, written down while they are computed.

A :class:`Recipe` is one call of a function of :data:`FUNCTIONS` on other recipes and plain
arguments; equal calls are one recipe.  A :class:`Recording` holds the recipes of one compilation,
and *guards*: what somebody has looked at in values that depend on weights, and found there.  As
long as other weights lead to the same findings, the compilation would have taken the same
decisions, and evaluating its recipes again gives the constants that it would have made.

:mod:`.traced` makes arrays that record themselves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lamina.ir.threads import cast

Array = npt.NDArray[Any]

_LISTED_ELEMENTS: Final = 16
"""Arrays with at most as many elements stand in a guard themselves, others as a digest."""

SOURCE: Final = "source"
"""The function without operands: a weight by its name."""

_CALLED: Final = """
    absolute add all any argmax argmin broadcast_to ceil clip concatenate conjugate copy cos cumsum
    divide equal exp expand_dims expm1 flip floor floor_divide greater greater_equal isfinite isinf
    isnan less less_equal log log1p logical_and logical_not logical_or matmul max maximum mean min
    minimum moveaxis multiply negative not_equal ones_like pad power prod ravel reciprocal
    remainder repeat reshape rint roll round sign sin split sqrt square squeeze stack subtract sum
    swapaxes take tanh tile transpose trunc var where zeros_like
""".split()


def _astype(a: Array, dtype: npt.DTypeLike) -> Array:
    return cast(a, dtype)


def _view(a: Array, dtype: npt.DTypeLike) -> Array:
    return np.ascontiguousarray(a).view(dtype)


def _getitem(a: Array, key: Any) -> Array:
    return np.asarray(a[key])


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    **{name: getattr(np, name) for name in _CALLED},
    **{f"{name}.reduce": getattr(np, name).reduce for name in ("add", "maximum", "minimum")},
    "astype": _astype,
    "view": _view,
    "getitem": _getitem,
}
"""Pure functions that recipes may call, by name."""


def recipe_function(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a pure function one that recipes may call."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        FUNCTIONS[name] = function
        return function

    return register


class Recipe:
    """One call: ``form`` are its arguments as JSON data in which ``["$", n]`` is recipe ``n``."""

    __slots__ = ("_digest", "form", "function", "number", "operands", "recording")

    def __init__(
        self,
        recording: Recording,
        number: int,
        function: str,
        form: list[Any],
        operands: tuple[Recipe, ...],
    ) -> None:
        self.recording, self.number, self.function = recording, number, function
        self.form, self.operands = form, operands
        self._digest = ""

    @property
    def digest(self) -> str:
        """A text that is the same for the same computation in another recording."""
        if not self._digest:
            numbers = {r.number: r.digest for r in self.operands}
            literals = self.recording.literal_digests

            def walk(form: Any) -> Any:
                if isinstance(form, dict):
                    return {k: walk(v) for k, v in form.items()}
                if not isinstance(form, list) or not form:
                    return form
                if form[0] in ("$", "#"):
                    return (numbers if form[0] == "$" else literals)[form[1]]
                return [walk(item) for item in form]

            text = json.dumps([self.function, walk(self.form)])
            self._digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return self._digest


class Recording:
    """Recipes by what they call, and guards: recipes whose values were looked at.

    With ``keeps_open`` nobody should look for a simplification in values that may yet change.
    """

    def __init__(self, *, keeps_open: bool = False) -> None:
        self.keeps_open = keeps_open
        self.recipes: list[Recipe] = []
        self.literals: list[Array] = []
        self.guards: dict[Recipe, Any] = {}
        self._known: dict[str, Recipe] = {}
        self._literals: dict[str, int] = {}

    def source(self, name: str) -> Recipe:
        """Return the recipe of a named weight."""
        return self._recipe(SOURCE, [name], ())

    def call(self, function: str, *args: Any, **kwargs: Any) -> Recipe:
        """Return the recipe of a call; raises TypeError for arguments that cannot be stored."""
        operands: list[Recipe] = []
        form = [self._form(list(args), operands), self._form(kwargs, operands)]
        return self._recipe(function, form, tuple(operands))

    @property
    def literal_digests(self) -> list[str]:
        """What tells the literals apart, by their numbers."""
        return list(self._literals)

    def guard(self, recipe: Recipe, value: Array) -> None:
        """Note that somebody looked at a value."""
        if recipe not in self.guards:
            self.guards[recipe] = finding(value)

    def _recipe(self, function: str, form: list[Any], operands: tuple[Recipe, ...]) -> Recipe:
        key = json.dumps([function, form])
        known = self._known.get(key)
        if known is None:
            known = Recipe(self, len(self.recipes), function, form, operands)
            self._known[key] = known
            self.recipes.append(known)
        return known

    def _form(self, value: Any, operands: list[Recipe]) -> Any:
        if isinstance(value, Recipe):
            operands.append(value)
            return ["$", value.number]
        if isinstance(value, np.ndarray):
            if value.dtype == object:
                raise TypeError("recipes hold no objects")
            return ["#", self._literal(value)]
        if isinstance(value, list | tuple):
            return ["(", *(self._form(v, operands) for v in value)]
        if isinstance(value, dict):
            return {k: self._form(v, operands) for k, v in value.items()}
        return plain_form(value)

    def _literal(self, array: Array) -> int:
        digest = finding(array, listed=0)
        if digest not in self._literals:
            self._literals[digest] = len(self.literals)
            self.literals.append(array)
        return self._literals[digest]


def finding(value: Array, *, listed: int = _LISTED_ELEMENTS) -> str:
    """Return text that is equal for arrays of equal type, shape and bits."""
    head = _head(value.dtype, value.shape)
    if value.dtype == object or value.size <= listed:
        return f"{head} {np.ascontiguousarray(value).tobytes().hex()}"
    raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    return f"{head} {hashlib.blake2b(raw.data, digest_size=16).hexdigest()}"


@lru_cache(maxsize=256)
def _head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    return f"{dtype.name}{list(shape)}"


def plain_form(value: Any) -> Any:
    """Return an argument that is no array as JSON data; raises TypeError for a foreign one."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, slice):
        return [":", *(plain_form(v) for v in (value.start, value.stop, value.step))]
    if value is Ellipsis:
        return ["..."]
    if isinstance(value, np.generic):
        return ["@", value.dtype.name, value.tobytes().hex()]
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return ["f", value.hex()]
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return ["d", np.dtype(value).name]
    if value in (float, int, bool):
        return ["d", np.dtype(value).name]
    raise TypeError(f"recipes cannot hold {value!r}")


def in_order(roots: Iterable[Recipe]) -> list[Recipe]:
    """Return what recipes depend on, themselves included, operands before their readers.

    The order follows from the roots alone and not from when recipes were recorded.
    """
    found: dict[Recipe, None] = {}
    for root in roots:
        stack = [(root, iter(root.operands))]
        while stack:
            recipe, operands = stack[-1]
            if recipe in found:
                stack.pop()
                continue
            following = next((r for r in operands if r not in found), None)
            if following is None:
                found[recipe] = None
                stack.pop()
            else:
                stack.append((following, iter(following.operands)))
    return list(found)
