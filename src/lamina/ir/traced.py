"""Arrays that write down how they are computed.

A :class:`Traced` array stands for the values of a weight, or of what was computed from weights.
NumPy's functions and operators work on it as on any array, and its :class:`Recipe` grows with each.
Shapes and types may be read freely.  Whoever looks at *values* (a comparison in an ``if``,
``float(a)``, a conversion to a plain array) leaves a guard in the recording.  So nothing that
depends on weights gets away unseen: it either has a recipe or is guarded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

from lamina.ir.recipe import FUNCTIONS, Array, Recipe

_NAMES = {id(function): name for name, function in FUNCTIONS.items()}


class Traced(NDArrayOperatorsMixin):
    """An array with a recipe; ``value`` is what the recipe gives."""

    __slots__ = ("recipe", "value")

    def __init__(self, value: Array, recipe: Recipe) -> None:
        self.value, self.recipe = np.asarray(value), recipe

    # What may be known without looking at values.

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return self.value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type."""
        return self.value.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.value.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.value.size

    @property
    def nbytes(self) -> int:
        """The bytes of all elements."""
        return self.value.nbytes

    @property
    def itemsize(self) -> int:
        """The bytes of an element."""
        return self.value.itemsize

    def __len__(self) -> int:
        return len(self.value)

    # Looking at values.

    def seen(self) -> Array:
        """Return the values after noting that somebody saw them."""
        self.recipe.recording.guard(self.recipe, self.value)
        return self.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.seen(), dtype, copy=copy)

    def __bool__(self) -> bool:
        return bool(self.seen())

    def __float__(self) -> float:
        return float(self.seen())

    def __int__(self) -> int:
        return int(self.seen())

    def __index__(self) -> int:
        return int(self.seen().__index__())

    def item(self, *args: Any) -> Any:
        """Return one element."""
        return self.seen().item(*args)

    def tolist(self) -> Any:
        """Return nested lists."""
        return self.seen().tolist()

    def tobytes(self) -> bytes:
        """Return the bytes."""
        return self.seen().tobytes()

    def __iter__(self) -> Iterator[Traced]:
        return (self[i] for i in range(len(self)))

    # Computing.

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        return record(name, getattr(ufunc, method), *inputs, **kwargs)

    def __array_function__(
        self, function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return record(_NAMES.get(id(function), ""), function, *args, **kwargs)

    def __getitem__(self, key: Any) -> Traced:
        return self._call("getitem", key)

    def reshape(self, *shape: Any) -> Traced:
        """Return the same elements in another shape."""
        return self._call("reshape", _flat(shape))

    def transpose(self, *axes: Any) -> Traced:
        """Return the elements with axes in another order."""
        return self._call("transpose", _flat(axes) or None)

    @property
    def T(self) -> Traced:
        """The elements with axes in reverse order."""
        return self._call("transpose", None)

    def swapaxes(self, first: int, second: int) -> Traced:
        """Return the elements with two axes exchanged."""
        return self._call("swapaxes", first, second)

    def squeeze(self, axis: Any = None) -> Traced:
        """Return the elements without axes of size 1."""
        return self._call("squeeze", axis)

    def ravel(self) -> Traced:
        """Return the elements as a vector."""
        return self._call("ravel")

    flatten = ravel

    def astype(self, dtype: npt.DTypeLike, copy: bool = True) -> Traced:
        """Return the elements as another type."""
        wanted = np.dtype(dtype)
        return self if wanted == self.dtype else self._call("astype", wanted)

    def view(self, dtype: npt.DTypeLike) -> Traced:
        """Return the same bytes as another type."""
        return self._call("view", np.dtype(dtype))

    def copy(self) -> Traced:
        """Return the array itself: it never changes."""
        return self

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Traced:
        result: Traced = record(name, FUNCTIONS[name], self, *args, **kwargs)
        return result

    def __repr__(self) -> str:
        return f"Traced({self.dtype}{list(self.shape)})"


def _method(name: str) -> Callable[..., Traced]:
    def method(self: Traced, *args: Any, **kwargs: Any) -> Traced:
        return self._call(name, *args, **kwargs)

    return method


for _name in (
    "all", "any", "argmax", "argmin", "clip", "max", "mean", "min", "prod", "repeat", "round",
    "sum", "take", "var",
):  # fmt: skip
    setattr(Traced, _name, _method(_name))


def record(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of :data:`FUNCTIONS` and return its result with a recipe.

    Without a name, or with arguments that recipes cannot hold, the call is made all the same: what
    is traced among its arguments is looked at, and the result is plain.
    """
    found: list[Traced] = []
    named = {k: _plain(v, found) for k, v in kwargs.items()}
    value = function(*(_plain(a, found) for a in args), **named)
    if not found:
        return value
    result = isinstance(value, np.ndarray | np.generic) and kwargs.get("out") is None
    if name in FUNCTIONS and result:
        try:
            recipes = [_recipes(a) for a in args], {k: _recipes(v) for k, v in kwargs.items()}
            recording = found[0].recipe.recording
            return Traced(np.asarray(value), recording.call(name, *recipes[0], **recipes[1]))
        except TypeError:
            pass
    for operand in found:
        operand.seen()
    return value


def plain(array: Any) -> Array:
    """Return the values of an array, traced or not, without noting it.

    For whoever stores, times or prints them and decides nothing by them.
    """
    values: Array = array.value if isinstance(array, Traced) else array
    return values


def is_open(array: Any) -> bool:
    """Whether the values of an array are to decide nothing, because they may yet change."""
    return isinstance(array, Traced) and array.recipe.recording.keeps_open


def asarray(array: Any, dtype: npt.DTypeLike | None = None) -> Array:
    """Return ``np.asarray(array, dtype)`` with a recipe where the array has one."""
    if not isinstance(array, Traced):
        return np.asarray(array, dtype)
    return array if dtype is None else array.astype(dtype)  # type: ignore[return-value]


def dense(array: Any) -> Array:
    """Return ``np.ascontiguousarray(array)`` with a recipe where the array has one."""
    if not isinstance(array, Traced):
        return np.ascontiguousarray(array)
    return Traced(np.ascontiguousarray(array.value), array.recipe)  # type: ignore[return-value]


def _flat(items: tuple[Any, ...]) -> Any:
    return items[0] if len(items) == 1 and isinstance(items[0], list | tuple | None) else items


def _plain(value: Any, found: list[Traced]) -> Any:
    if isinstance(value, Traced):
        found.append(value)
        return value.value
    if isinstance(value, list):
        return [_plain(v, found) for v in value]
    if isinstance(value, tuple):
        return tuple(_plain(v, found) for v in value)
    return value


def _recipes(value: Any) -> Any:
    if isinstance(value, Traced):
        return value.recipe
    if isinstance(value, list):
        return [_recipes(v) for v in value]
    if isinstance(value, tuple):
        return tuple(_recipes(v) for v in value)
    return value
