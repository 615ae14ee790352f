"""What each version of TensorRT's Python API has: ``data/api.json``."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

VERSIONS = ("8", "10", "11")
"""Major versions in the table."""


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[str, dict[str, str]]]:
    text = (Path(__file__).parent / "data" / "api.json").read_text()
    tables: dict[str, dict[str, dict[str, str]]] = json.loads(text)
    return tables


def enum_names() -> frozenset[str]:
    """Return the enumerations of all versions."""
    return frozenset(_table()["enums"])


def enum_members(enum: str, version: str) -> dict[str, int] | None:
    """Return the members of an enumeration with their numbers; None where it does not exist."""
    text = _table()["enums"].get(enum, {}).get(version)
    if text is None:
        return None
    pairs = (item.split("=") for item in text.split())
    return {name: int(number) for name, number in pairs}


def class_names() -> frozenset[str]:
    """Return the classes of all versions (``<module>`` stands for the module's functions)."""
    return frozenset(_table()["classes"])


def class_members(name: str, version: str) -> frozenset[str] | None:
    """Return the methods and properties of a class; None where it does not exist."""
    text = _table()["classes"].get(name, {}).get(version)
    return None if text is None else frozenset(text.split())
