"""Bytes that the builder or an engine hands out."""

from __future__ import annotations

from typing import ClassVar

from lamina.tensorrt.enums import DataType


class IHostMemory(bytes):
    """Serialized data; anything that takes bytes or a buffer takes it."""

    _dtype: ClassVar[str] = "INT8"

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return len(self)

    @property
    def dtype(self) -> DataType:
        """Element type of the data."""
        return DataType.named(self._dtype)

    def __repr__(self) -> str:
        return f"<IHostMemory of {len(self)} bytes>"

    __str__ = __repr__


__all__ = ["IHostMemory"]
