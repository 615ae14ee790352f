"""Attributes of plugins."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from lamina.tensorrt.enums import PluginFieldType

_NUMPY: dict[str, str] = {
    "FLOAT16": "float16", "FLOAT32": "float32", "FLOAT64": "float64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "CHAR": "uint8",
}  # fmt: skip
_TYPES = {numpy: name for name, numpy in _NUMPY.items()}


class PluginField:
    """One attribute: a name and an array, bytes or text."""

    name: str = ""
    data: Any = None
    type: PluginFieldType = PluginFieldType.named("UNKNOWN")

    def __init__(
        self,
        name: str = "",
        data: Any = None,
        type: PluginFieldType | None = None,
    ) -> None:
        """Take name, data and the type of its elements, which arrays tell themselves."""
        if not isinstance(name, str | bytes):
            raise TypeError(f"PluginField(): the name must be text, got {name!r}")
        self.name = name.decode() if isinstance(name, bytes) else name
        self.type = type or PluginFieldType.named("UNKNOWN")
        self.data = data
        if type is None and data is not None:
            self.type = PluginFieldType.named(_TYPES.get(str(self._array().dtype), "UNKNOWN"))

    @property
    def size(self) -> int:
        """Number of elements."""
        return 0 if self.data is None else int(self._array().size)

    def _array(self) -> np.ndarray[Any, Any]:
        if isinstance(self.data, str):
            return np.frombuffer(self.data.encode(), np.uint8)
        if isinstance(self.data, bytes | bytearray | memoryview):
            return np.frombuffer(bytes(self.data), _NUMPY.get(self.type.name, "uint8"))
        return np.asarray(self.data)

    def _value(self) -> Any:
        """Return a number, a list of numbers or text, as plain Python values."""
        if isinstance(self.data, str):
            return self.data
        if self.type.name == "CHAR":
            return self._array().tobytes().decode().rstrip("\0")
        array = self._array()
        return array.reshape(-1)[0].item() if array.size == 1 else array.reshape(-1).tolist()


class PluginFieldCollection_:
    """Attributes of a plugin in order."""

    def __init__(self, fields: Iterable[PluginField] = ()) -> None:
        """Take the attributes."""
        self._fields = list(fields)
        for field in self._fields:
            if not isinstance(field, PluginField):
                raise TypeError(f"PluginFieldCollection(): {field!r} is no PluginField")

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, index: Any) -> Any:
        return self._fields[index]

    def __iter__(self) -> Any:
        return iter(self._fields)

    def append(self, field: PluginField) -> None:
        """Add an attribute."""
        self._fields.append(field)

    def extend(self, fields: Iterable[PluginField]) -> None:
        """Add attributes."""
        self._fields.extend(fields)

    def insert(self, index: int, field: PluginField) -> None:
        """Add an attribute in front of another."""
        self._fields.insert(index, field)

    def pop(self, index: int = -1) -> PluginField:
        """Remove and return an attribute."""
        return self._fields.pop(index)

    def clear(self) -> None:
        """Remove all attributes."""
        self._fields.clear()


PluginFieldCollection = PluginFieldCollection_


def values(fields: Iterable[PluginField]) -> dict[str, Any]:
    """Return attributes as plain Python values by name."""
    return {f.name: f._value() for f in fields}


def encode(fields: Iterable[PluginField]) -> bytes:
    """Return attributes as bytes that :func:`decode` reads."""
    rows = []
    for f in fields:
        array = f._array() if f.data is not None else np.empty(0, np.uint8)
        content = base64.b64encode(array.tobytes()).decode()
        rows.append([f.name, f.type.name, str(array.dtype), list(array.shape), content])
    return json.dumps(rows).encode()


def decode(data: bytes) -> PluginFieldCollection_:
    """Return the attributes in bytes."""
    fields = []
    for name, kind, dtype, shape, content in json.loads(data):
        raw = base64.b64decode(content)
        # CHAR attributes come back as bytes, as programs decode them.
        array: Any = raw if kind == "CHAR" else np.frombuffer(raw, dtype).reshape(shape)
        fields.append(PluginField(name, array, PluginFieldType.named(kind)))
    return PluginFieldCollection_(fields)


__all__ = ["PluginField", "PluginFieldCollection", "PluginFieldCollection_"]
