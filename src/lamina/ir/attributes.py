"""What the attributes of operators may hold, handled alike for every operator.

Allowed are bool, int, float, str, bytes, enumerations, :class:`DType`, value types, dimensions,
:class:`Weight`, nested graphs (anything that is a :class:`NestedGraph`), None, and tuples of these.
"""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from lamina.ir.dims import Dim, Expr, substitute, symbols
from lamina.ir.types import OptionalType, SequenceType, TensorType


class NestedGraph(ABC):
    """A graph inside an attribute, as far as symbols are concerned."""

    @abstractmethod
    def free_symbols(self) -> frozenset[str]:
        """Return the symbols that need a number from outside."""

    @abstractmethod
    def with_symbols(self, env: Mapping[str, Dim]) -> NestedGraph:
        """Replace symbols; returns the same object when it has none of them."""


def attribute_symbols(value: Any) -> Iterator[str]:
    """Yield the symbols in an attribute or a type."""
    if isinstance(value, Expr):
        yield from symbols(value)
    elif isinstance(value, TensorType):
        for d in value.shape:
            yield from symbols(d)
    elif isinstance(value, SequenceType | OptionalType):
        yield from attribute_symbols(value.element)
    elif isinstance(value, tuple):
        for v in value:
            yield from attribute_symbols(v)
    elif isinstance(value, NestedGraph):
        yield from value.free_symbols()


def substitute_attribute(value: Any, env: Mapping[str, Dim]) -> Any:
    """Replace symbols in an attribute; returns the same object when there are none."""
    if isinstance(value, Expr):
        return substitute(value, env)
    if isinstance(value, TensorType | SequenceType | OptionalType):
        return value.substitute(dict(env))
    if isinstance(value, tuple):
        changed = tuple(substitute_attribute(v, env) for v in value)
        return value if all(a is b for a, b in zip(changed, value, strict=True)) else changed
    if isinstance(value, NestedGraph):
        return value.with_symbols(env)
    return value


def format_attribute(value: Any) -> str:
    """Print an attribute without spaces, so that the text form can be split at spaces."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, str):
        return json.dumps(value).replace(" ", "\\u0020")
    if isinstance(value, bytes):
        return f"b64:{base64.b64encode(value).decode()}"
    if isinstance(value, tuple):
        inner = ",".join(format_attribute(v) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, NestedGraph):
        return "graph"  # the text form prints nested graphs as blocks of their own
    if is_dataclass(value) and not isinstance(
        value, Expr | TensorType | SequenceType | OptionalType
    ):
        return "{" + ",".join(format_attribute(getattr(value, f.name)) for f in fields(value)) + "}"
    return str(value)
