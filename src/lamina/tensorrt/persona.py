"""Which version of TensorRT the package speaks for.

Versions differ in what classes and enumerations hold.  Classes here have the union of all members;
:func:`apply` removes those that the chosen version lacks from the classes (and puts them back
later), so that ``hasattr`` answers as in that version and calls cost nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lamina.errors import ConfigError
from lamina.tensorrt import enums, table
from lamina.tensorrt.enum_type import TrtEnum, fill

LEGACY_7: dict[str, frozenset[str]] = {
    "Builder": frozenset(
        "build_cuda_engine max_workspace_size fp16_mode int8_mode int8_calibrator debug_sync "
        "min_find_iterations average_find_iterations strict_type_constraints refittable "
        "build_serialized_network".split()
    ),
}
"""Members that programs of 7.x use beyond those of 8.6; the 8.x persona has them too."""


@dataclass(frozen=True)
class Persona:
    """A version: its major number, as in the table, and what ``__version__`` says."""

    major: str
    version: str


PERSONAS = {
    "8": Persona("8", "8.6.1"),
    "10": Persona("10", "10.16.1.11"),
    "11": Persona("11", "11.1.0.106"),
}
_current = PERSONAS["10"]
_removed: dict[tuple[type, str], Any] = {}


class _Hidden:
    """Stands for a member that a class would inherit but that the version lacks."""

    def __init__(self, cls: str, name: str) -> None:
        self.message = f"type object {cls!r} has no attribute {name!r}"

    def __get__(self, instance: Any, owner: type) -> Any:
        raise AttributeError(self.message)


def _visible(instance: object) -> list[str]:
    """Return what ``dir`` says of an instance: no member that the version lacks."""
    classes = type(instance).__mro__
    return [
        name
        for name in object.__dir__(instance)
        if not isinstance(
            next((c.__dict__[name] for c in classes if name in c.__dict__), None), _Hidden
        )
    ]


def current() -> Persona:
    """Return the version that is in force."""
    return _current


def find(version: str) -> Persona:
    """Return the persona for a version such as ``"8.6"``; 7.x and 9.x are served by 8.x.

    Raises ConfigError for others.
    """
    major = version.split(".")[0]
    major = {"7": "8", "9": "8"}.get(major, major)
    if major not in PERSONAS:
        known = ", ".join(p.version for p in PERSONAS.values())
        raise ConfigError(
            f"there is no TensorRT persona {version!r}", hint=f"the personas are {known}"
        )
    return PERSONAS[major]


def apply(persona: Persona, exported: Mapping[str, Any]) -> set[str]:
    """Give enumerations and classes the members of a version; returns the names to hide."""
    global _current
    _current = persona
    hidden = set()
    for enum in enums.ALL:
        if not fill(enum, persona.major):
            hidden.add(enum.__name__)
    for name, value in exported.items():
        if isinstance(value, type) and not issubclass(value, TrtEnum):
            if not _prune(name, value, persona.major):
                hidden.add(name)
    module = table.class_members("<module>", persona.major) or frozenset()
    functions = frozenset().union(
        *(table.class_members("<module>", v) or frozenset() for v in table.VERSIONS)
    )
    return hidden | (functions - module)


def implements(cls: type, member: str) -> bool:
    """Whether a class has a member in any version."""
    hidden = isinstance(cls.__dict__.get(member), _Hidden)
    return hidden or (cls, member) in _removed or hasattr(cls, member)


def _prune(name: str, cls: type, version: str) -> bool:
    """Hide the members that a version lacks; False when it lacks the whole class."""
    if name not in table.class_names():
        return True
    everything = frozenset[str]().union(
        *(table.class_members(name, v) or frozenset() for v in table.VERSIONS)
    )
    here = table.class_members(name, version)
    if here is None:
        return False
    extra = LEGACY_7.get(name, frozenset())
    allowed = here | (extra if version == "8" else frozenset())
    for member in sorted((everything | extra) - allowed):
        if member.startswith("__") or isinstance(cls.__dict__.get(member), _Hidden):
            continue
        if member in cls.__dict__:
            _removed[cls, member] = cls.__dict__[member]
            delattr(cls, member)
        if hasattr(cls, member):
            setattr(cls, member, _Hidden(name, member))
            cls.__dir__ = _visible  # type: ignore[method-assign, assignment]
    for member in allowed:
        if isinstance(cls.__dict__.get(member), _Hidden):
            delattr(cls, member)
        if (cls, member) in _removed:
            setattr(cls, member, _removed.pop((cls, member)))
    return True
