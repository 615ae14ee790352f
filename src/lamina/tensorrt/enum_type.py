"""Enumerations that behave as TensorRT's Python bindings let them behave.

A member has ``name``, ``value`` and ``int()``; equal members are of the same enumeration (or
plain integers).  Members and numbers differ between versions, so they are filled in by
:func:`fill`, which :func:`lamina.tensorrt.use` calls again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from lamina.tensorrt import table


class EnumType(type):
    """Looks members up by number; ``__members__`` maps names to members."""

    __members__: dict[str, Any]

    def __call__(cls, value: Any) -> Any:
        """Return the member with a number; ValueError for none."""
        number = int(value)
        for member in cls.__members__.values():
            if member.value == number:
                return member
        raise ValueError(f"{number} is not a valid {cls.__name__}")

    def __getattr__(cls, name: str) -> Any:
        if name in cls.__dict__.get("__members__", {}):
            return cls.__members__[name]
        raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")

    def __dir__(cls) -> Iterator[str]:
        yield from super().__dir__()
        yield from cls.__members__


class TrtEnum(metaclass=EnumType):
    """One member of an enumeration."""

    name: str
    value: int

    @classmethod
    def named(cls, name: str) -> Self:
        """Return a member by name, also one that the chosen version does not show."""
        member = cls.__members__.get(name)
        if member is None:
            numbers = [n for v in table.VERSIONS if (n := _numbers(cls, v)) is not None]
            known = next(n[name] for n in reversed(numbers) if name in n)
            member = _member(cls, name, known)
        found: Self = member
        return found

    def __int__(self) -> int:
        return self.value

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TrtEnum):
            return type(self) is type(other) and self.name == other.name
        return isinstance(other, int) and not isinstance(other, bool) and self.value == other

    def __hash__(self) -> int:
        return hash(self.value)

    def __lt__(self, other: Any) -> bool:
        return self.value < int(other)

    def __le__(self, other: Any) -> bool:
        return self.value <= int(other)

    def __gt__(self, other: Any) -> bool:
        return self.value > int(other)

    def __ge__(self, other: Any) -> bool:
        return self.value >= int(other)

    def __or__(self, other: Any) -> int:
        return self.value | int(other)

    def __and__(self, other: Any) -> int:
        return self.value & int(other)

    def __xor__(self, other: Any) -> int:
        return self.value ^ int(other)

    def __invert__(self) -> int:
        return ~self.value

    __ror__, __rand__, __rxor__ = __or__, __and__, __xor__

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self.value}>"

    def __reduce__(self) -> Any:
        return type(self).named, (self.name,)

    def __deepcopy__(self, memo: Mapping[int, Any]) -> Self:
        return self


def _numbers(cls: type[TrtEnum], version: str) -> dict[str, int] | None:
    return table.enum_members(cls.__dict__.get("_listed_as", cls.__name__), version)


def _member(cls: type[TrtEnum], name: str, number: int) -> Any:
    member = object.__new__(cls)
    member.name, member.value = name, number
    return member


def fill(cls: type[TrtEnum], version: str) -> bool:
    """Give an enumeration the members of a version; False when that version lacks it.

    Where it lacks it, the members of the newest version that has it stay usable inside.
    """
    numbers = _numbers(cls, version)
    present = numbers is not None
    if numbers is None:
        known = [n for v in table.VERSIONS if (n := _numbers(cls, v)) is not None]
        numbers = known[-1]
    members: dict[str, Any] = {}
    by_number: dict[int, Any] = {}
    for name, number in numbers.items():
        members[name] = by_number.setdefault(number, _member(cls, name, number))
    type.__setattr__(cls, "__members__", members)
    return present
