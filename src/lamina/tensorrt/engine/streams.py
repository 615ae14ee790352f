"""Engines that are read and written piece by piece."""

from __future__ import annotations

from typing import Any

from lamina.errors import PlanError
from lamina.tensorrt.enums import SeekPosition
from lamina.tensorrt.foundation.interface import IVersionedInterface

_CHUNK_BYTES = 1 << 26


class IStreamReader(IVersionedInterface):
    """Gives the bytes of an engine; subclass it and define ``read``."""

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, fewer at the end."""
        raise NotImplementedError(f"{type(self).__name__} must define read")


class IStreamReaderV2(IVersionedInterface):
    """Gives the bytes of an engine in any order; subclass it and define both methods."""

    def read(self, num_bytes: int, stream: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        raise NotImplementedError(f"{type(self).__name__} must define read")

    def seek(self, offset: int, where: SeekPosition) -> bool:
        """Move to a place; returns whether it exists."""
        raise NotImplementedError(f"{type(self).__name__} must define seek")


class IStreamWriter(IVersionedInterface):
    """Takes the bytes of an engine; subclass it and define ``write``."""

    def write(self, data: bytes) -> int:
        """Take bytes and return how many were written."""
        raise NotImplementedError(f"{type(self).__name__} must define write")


def read_all(reader: IStreamReader | IStreamReaderV2) -> bytes:
    """Return everything that a reader gives; raises PlanError when it gives no bytes."""
    parts: list[bytes] = []
    arguments: tuple[Any, ...] = (0,) if isinstance(reader, IStreamReaderV2) else ()
    while True:
        part = reader.read(_CHUNK_BYTES, *arguments)
        if part is None or not isinstance(part, bytes | bytearray | memoryview):
            raise PlanError(
                f"{type(reader).__name__}.read returned {type(part).__name__}, expected bytes"
            )
        if len(part) == 0:
            return b"".join(parts)
        parts.append(bytes(part))


def write_all(writer: IStreamWriter, data: bytes) -> None:
    """Hand bytes to a writer; raises PlanError when it does not take all of them."""
    view = memoryview(data)
    for at in range(0, len(view), _CHUNK_BYTES):
        part = bytes(view[at : at + _CHUNK_BYTES])
        written = writer.write(part)
        if written != len(part):
            raise PlanError(
                f"{type(writer).__name__}.write took {written!r} of {len(part)} bytes",
                hint="it must return the number of bytes it wrote",
            )


__all__ = ["IStreamReader", "IStreamReaderV2", "IStreamWriter"]
