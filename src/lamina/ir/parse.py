"""Reading types and attributes from the text form."""

from __future__ import annotations

import base64
import binascii
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

import numpy as np

from lamina.errors import GraphError
from lamina.ir.dims import Expr, parse_dim
from lamina.ir.graph import Graph, Op
from lamina.ir.types import DType, OptionalType, SequenceType, TensorType, ValueType
from lamina.ir.weight import Weight

_TENSOR = re.compile(r"(\w+)\[(.*)\]")
_WRAPPED = re.compile(r"(seq|optional)<(.+)>")


def split_top(text: str, separator: str = ",") -> list[str]:
    """Split at separators that stand outside brackets and quotes; empty text gives no parts."""
    parts, depth, quoted, begin, i = [], 0, False, 0, 0
    while i < len(text):
        c = text[i]
        if quoted:
            i += c == "\\"
            quoted = c != '"'
        elif c == '"':
            quoted = True
        elif c in "([{<":
            depth += 1
        elif c in ")]}>":
            depth -= 1
        elif c == separator and depth == 0:
            parts.append(text[begin:i])
            begin = i + 1
        i += 1
    parts.append(text[begin:])
    return [p for p in parts if p.strip()]


@lru_cache(maxsize=4096)
def parse_type(text: str) -> ValueType:
    """Parse ``f32[2,b]``, ``seq<…>`` or ``optional<…>``; raises GraphError."""
    text = text.strip()
    if m := _WRAPPED.fullmatch(text):
        element = parse_type(m[2])
        return SequenceType(element) if m[1] == "seq" else OptionalType(element)
    m = _TENSOR.fullmatch(text)
    if m is None:
        raise GraphError(f"not a type: {text!r}")
    try:
        dtype = DType(m[1])
    except ValueError:
        raise GraphError(f"not an element type: {m[1]!r}") from None
    return TensorType(dtype, tuple(parse_dim(d) for d in split_top(m[2])))


@lru_cache(maxsize=512)
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


class AttributeParser:
    """Reads attributes by the annotations of the operator's fields."""

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        weights: Mapping[str, Weight],
        named: Mapping[str, Weight],
    ) -> None:
        self.graphs, self.weights, self.named = graphs, weights, named

    def op(self, cls: type[Op], text: str) -> Op:
        """Build an operator from ``name=value`` parts; raises GraphError."""
        given: dict[str, str] = {}
        for part in split_top(text, " "):
            name, equals, value = part.partition("=")
            if not equals or name in given:
                raise GraphError(f"not an attribute: {part!r}")
            given[name] = value
        hints = _hints(typing.cast("Any", cls))
        parsed: dict[str, Any] = {}
        for f in fields(cls):
            if hints[f.name] is Weight:
                parsed[f.name] = self._weight(given, parsed.get("type"))
            elif f.name in given:
                parsed[f.name] = self.value(given.pop(f.name), hints[f.name])
        if given:
            raise GraphError(f"{cls.name} has no attribute {', '.join(given)}")
        try:
            return cls(**parsed)
        except TypeError as e:
            raise GraphError(f"{cls.name}: {e}") from e

    def value(self, text: str, hint: Any) -> Any:
        """Parse one attribute of the annotated type; raises GraphError."""
        origin = typing.get_origin(hint)
        if origin is typing.Union or origin is types.UnionType:
            return self._union(text, typing.get_args(hint))
        if origin is tuple:
            return self._tuple(text, typing.get_args(hint))
        try:
            return self._plain(text, hint)
        except (ValueError, KeyError, binascii.Error) as e:
            raise GraphError(f"{text!r} is not a {getattr(hint, '__name__', hint)}") from e

    def _plain(self, text: str, hint: Any) -> Any:
        if hint is bool:
            return {"true": True, "false": False}[text]
        if hint is int or hint is float:
            return hint(text)
        if hint is str:
            return str(json.loads(text))
        if hint is bytes:
            return base64.b64decode(text.removeprefix("b64:"), validate=True)
        if hint in (TensorType, SequenceType, OptionalType):
            parsed = parse_type(text)
            if not isinstance(parsed, hint):
                raise ValueError(text)
            return parsed
        if hint is Graph:
            return self.graphs[text]
        if hint is Expr:
            return parse_dim(text)
        if hint is type(None):
            return {"none": None}[text]
        if isinstance(hint, type) and issubclass(hint, Enum):
            return hint(text)
        if is_dataclass(hint) and isinstance(hint, type):
            return self._record(text, hint)
        raise GraphError(f"attributes of type {hint} have no text form")

    def _union(self, text: str, hints: tuple[Any, ...]) -> Any:
        for hint in hints:
            try:
                return self.value(text, hint)
            except GraphError:
                continue
        raise GraphError(f"{text!r} is none of {', '.join(map(str, hints))}")

    def _tuple(self, text: str, hints: tuple[Any, ...]) -> tuple[Any, ...]:
        if not (text.startswith("(") and text.endswith(")")):
            raise GraphError(f"{text!r} is not a tuple")
        parts = split_top(text[1:-1])
        if len(hints) == 2 and hints[1] is Ellipsis:
            return tuple(self.value(p, hints[0]) for p in parts)
        if len(parts) != len(hints):
            raise GraphError(f"{text!r} has {len(parts)} parts, expected {len(hints)}")
        return tuple(self.value(p, h) for p, h in zip(parts, hints, strict=True))

    def _record(self, text: str, cls: type) -> Any:
        parts = split_top(text.removeprefix("{").removesuffix("}"))
        names = [f.name for f in fields(cls)]
        if len(parts) != len(names):
            raise GraphError(f"{text!r} has {len(parts)} parts, expected {len(names)}")
        hints = _hints(cls)
        return cls(**{n: self.value(p, hints[n]) for n, p in zip(names, parts, strict=True)})

    def _weight(self, given: dict[str, str], type: TensorType | None) -> Weight:
        if type is None or not type.is_static:
            raise GraphError(f"a constant needs a type with known sizes, got {type}")
        name = given.pop("name", None)
        try:
            weight = self._contents(given, type.dtype.numpy, type.static_shape)
            if name is None:
                return weight
            known = str(json.loads(name))
            return self.named[known] if known in self.named else weight.renamed(known)
        except (MemoryError, OverflowError, TypeError, ValueError) as e:
            raise GraphError(f"not the contents of {type}: {e}") from e

    def _contents(
        self, given: dict[str, str], dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> Weight:
        if (seed := given.pop("seed", None)) is not None:
            numbers = np.random.default_rng(int(seed)).standard_normal(shape)
            return Weight((numbers * 4 if dtype.kind in "iu" else numbers).astype(dtype))
        if (digest := given.pop("digest", None)) is not None:
            if digest not in self.weights:
                raise GraphError(f"the weight table has no entry {digest}")
            return self.weights[digest]
        if (value := given.pop("value", None)) is not None:
            return Weight(parse_value(value, dtype).reshape(shape))
        return Weight(np.random.default_rng(0).standard_normal(shape).astype(dtype))


def parse_value(text: str, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return the numbers of ``value=…``, as a vector."""
    flat = [p for p in re.split(r"[(),]+", text) if p]
    if dtype.kind == "b":
        return np.array([p == "true" for p in flat], dtype)
    if dtype.kind in "iu":
        return np.array([int(p) for p in flat], dtype)
    return np.array([float(p) for p in flat]).astype(dtype)
