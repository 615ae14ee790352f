"""Checked properties of the builder's configuration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lamina.tensorrt.check import convert
from lamina.tensorrt.enum_type import TrtEnum


class Option:
    """A property that is kept as it was set; a wrong type is a TypeError.

    A default that is text names a member when the type is an enumeration.  What the package reads
    in versions that lack the property has a private name too: ``_name = name``.
    """

    def __init__(self, hint: Any, default: Any, doc: str) -> None:
        self._hint = hint
        self._default = default
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        if not name.startswith("_"):
            self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        if self._name in instance.__dict__:
            return instance.__dict__[self._name]
        if isinstance(self._hint, type) and issubclass(self._hint, TrtEnum):
            return self._hint.named(self._default)
        return self._default

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self._name] = convert(self._hint, value)


def bits(members: Iterable[Any]) -> int:
    """Return the bit mask of some members."""
    mask = 0
    for member in members:
        mask |= 1 << int(member)
    return mask


def names(enum: type[TrtEnum], mask: int) -> frozenset[str]:
    """Return the names of the members in a bit mask."""
    found = enum.__members__.items()
    return frozenset(name for name, member in found if mask >> int(member) & 1)
