"""Plain data classes to and from JSON values, by their annotations.

Dimensions are integers or text, types are text, enumerations are their values, nested data classes
are lists of their fields in order (with the class known from the annotation), so that the header of
a plan stays small and reading it checks it.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar

from lamina.errors import GraphError, PlanError
from lamina.ir.dims import Expr, parse_dim
from lamina.ir.parse import parse_type
from lamina.ir.types import OptionalType, SequenceType, TensorType

T = TypeVar("T")
_TYPES = (TensorType, SequenceType, OptionalType)


def encode(value: Any) -> Any:
    """Return ``value`` as something JSON can express."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Expr | TensorType | SequenceType | OptionalType):
        return str(value)
    if isinstance(value, tuple | list):
        return [encode(v) for v in value]
    if is_dataclass(value):
        return [encode(getattr(value, f.name)) for f in fields(value)]
    return value


def decode(cls: type[T], data: Any) -> T:
    """Rebuild a data class; raises PlanError when ``data`` does not fit."""
    result: T = _reader(typing.cast("Any", cls))(data)
    return result


def _fail(data: Any, expected: str) -> typing.NoReturn:
    raise PlanError(f"the plan's header is damaged: {str(data)[:40]!r} is not {expected}")


@lru_cache(maxsize=256)
def _reader(hint: Any) -> Callable[[Any], Any]:
    if is_dataclass(hint) and hint not in (*_TYPES, Expr):
        return _record_reader(typing.cast("type", hint))
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return _tuple_reader(args)
    if origin in (typing.Union, types.UnionType):
        if set(args) == {int, Expr}:
            return _dim
        if set(args) == set(_TYPES):
            return _type
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum_reader(hint)
    if hint in (int, float, str, bool):
        return _scalar_reader(hint)
    raise TypeError(f"fields of type {hint} are not encoded")


def _record_reader(cls: type) -> Callable[[Any], Any]:
    hints = typing.get_type_hints(cls)
    names = [f.name for f in fields(cls)]

    def read(data: Any) -> Any:
        if not isinstance(data, list) or len(data) != len(names):
            _fail(data, f"a {cls.__name__}")
        # Readers are looked up late because data classes refer to each other.
        return cls(**{n: _reader(hints[n])(d) for n, d in zip(names, data, strict=True)})

    return read


def _tuple_reader(args: tuple[Any, ...]) -> Callable[[Any], Any]:
    def read(data: Any) -> Any:
        if not isinstance(data, list):
            _fail(data, "a list")
        if len(args) == 2 and args[1] is Ellipsis:
            item = _reader(args[0])
            return tuple(item(d) for d in data)
        if len(data) != len(args):
            _fail(data, f"a list of {len(args)}")
        return tuple(_reader(a)(d) for a, d in zip(args, data, strict=True))

    return read


def _enum_reader(cls: type[Enum]) -> Callable[[Any], Any]:
    def read(data: Any) -> Any:
        try:
            return cls(data)
        except ValueError:
            _fail(data, f"a {cls.__name__}")

    return read


def _scalar_reader(cls: type) -> Callable[[Any], Any]:
    def read(data: Any) -> Any:
        if type(data) is not cls and not (cls is float and type(data) is int):
            _fail(data, f"of type {cls.__name__}")
        return data

    return read


def _dim(data: Any) -> Any:
    if type(data) is int:
        return data
    if not isinstance(data, str):
        _fail(data, "a dimension")
    try:
        return parse_dim(data)
    except GraphError as e:
        raise PlanError(f"the plan's header is damaged: {e}") from e


def _type(data: Any) -> Any:
    if not isinstance(data, str):
        _fail(data, "a type")
    try:
        return parse_type(data)
    except GraphError as e:
        raise PlanError(f"the plan's header is damaged: {e}") from e
