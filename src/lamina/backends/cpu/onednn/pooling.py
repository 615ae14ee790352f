"""Pooling and resampling."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.backends.cpu.onednn.attributes import NO_ATTRIBUTES, Attributes
from lamina.backends.cpu.onednn.construction import Construction
from lamina.backends.cpu.onednn.enums import FORWARD_INFERENCE, POOLING, RESAMPLING
from lamina.backends.cpu.onednn.memory import Layout


@dataclass(frozen=True)
class Pooling:
    """Maximum or mean over windows of ``src`` [N, C, spatial…].

    ``algorithm``: ``max``, ``average_include_padding`` or ``average_exclude_padding``.
    ``dilations`` counts as ONNX does: 1 is a dense window.
    """

    src: Layout
    dst: Layout
    kernel: tuple[int, ...]
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    padding_begin: tuple[int, ...] = ()
    padding_end: tuple[int, ...] = ()
    algorithm: str = "max"
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        spatial = len(self.kernel)
        return c.describe(
            "pooling_forward_primitive_desc_create",
            c.library.engine,
            FORWARD_INFERENCE,
            POOLING[self.algorithm],
            c.descriptor(self.src),
            c.descriptor(self.dst),
            c.dims(self.strides or (1,) * spatial),
            c.dims(self.kernel),
            c.dims(tuple(d - 1 for d in self.dilations) or (0,) * spatial),
            c.dims(self.padding_begin or (0,) * spatial),
            c.dims(self.padding_end or (0,) * spatial),
            c.attributes(self.attributes),
        )


@dataclass(frozen=True)
class Resampling:
    """Resize the spatial axes of ``src`` [N, C, spatial…] to those of dst.

    ``nearest`` takes the source sample nearest to the half-pixel centre; ``linear`` interpolates
    between half-pixel centres and repeats the border.
    """

    src: Layout
    dst: Layout
    algorithm: str = "linear"
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        return c.describe(
            "resampling_forward_primitive_desc_create",
            c.library.engine,
            FORWARD_INFERENCE,
            RESAMPLING[self.algorithm],
            None,
            c.descriptor(self.src),
            c.descriptor(self.dst),
            c.attributes(self.attributes),
        )
