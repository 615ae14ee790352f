"""Copies between layouts and element types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lamina.backends.cpu.onednn.attributes import NO_ATTRIBUTES, Attributes
from lamina.backends.cpu.onednn.construction import Construction
from lamina.backends.cpu.onednn.enums import ARGUMENT
from lamina.backends.cpu.onednn.library import ExecutionArgument, Library
from lamina.backends.cpu.onednn.memory import Layout


@dataclass(frozen=True)
class Reorder:
    """Copy ``src`` into ``dst``'s layout and element type, rounding to nearest and saturating."""

    src: Layout
    dst: Layout
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        return c.describe(
            "reorder_primitive_desc_create",
            c.descriptor(self.src),
            c.library.engine,
            c.descriptor(self.dst),
            c.library.engine,
            c.attributes(self.attributes),
        )


def copy_between(
    library: Library, source: int, source_address: int, target: int, target_address: int
) -> None:
    """Copy one buffer into another, each described by the library's own descriptor.

    Reaches layouts that no request can name: opaque formats, weights with compensation data.
    """
    engine = library.engine
    handles: list[tuple[str, int]] = []

    def made(destroy: str, create: str, *arguments: Any) -> int:
        handle = library.create(create, *arguments)
        handles.append((destroy, handle))
        return handle

    try:
        description = made(
            "primitive_desc_destroy",
            "reorder_primitive_desc_create",
            source,
            engine,
            target,
            engine,
            None,
        )
        primitive = made("primitive_destroy", "primitive_create", description)
        origin = made("memory_destroy", "memory_create", source, engine, source_address)
        result = made("memory_destroy", "memory_create", target, engine, target_address)
        table = (ExecutionArgument * 2)(
            ExecutionArgument(ARGUMENT["src"], origin), ExecutionArgument(ARGUMENT["dst"], result)
        )
        stream = library.thread_stream.pointer
        library.call("primitive_execute", primitive, stream, 2, table)
    finally:
        for destroy, handle in reversed(handles):
            library.call(destroy, handle)
