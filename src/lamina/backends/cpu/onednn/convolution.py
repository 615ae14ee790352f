"""Convolution and transposed convolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from lamina.backends.cpu.onednn.attributes import NO_ATTRIBUTES, Attributes
from lamina.backends.cpu.onednn.construction import Construction
from lamina.backends.cpu.onednn.enums import (
    CONVOLUTION_ALGORITHM,
    DECONVOLUTION_ALGORITHM,
    FORWARD_INFERENCE,
)
from lamina.backends.cpu.onednn.memory import Layout


@dataclass(frozen=True)
class _Windows:
    """What both directions share; ``dilations`` counts as ONNX does: 1 is a dense kernel."""

    src: Layout
    weights: Layout
    dst: Layout
    bias: Layout | None = None
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    padding_begin: tuple[int, ...] = ()
    padding_end: tuple[int, ...] = ()
    algorithm: str = "direct"
    attributes: Attributes = NO_ATTRIBUTES

    function: ClassVar[str]
    algorithms: ClassVar[Mapping[str, int]]

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", "weights", *(["bias"] if self.bias else []), "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        spatial = len(self.src.dims) - 2
        return c.describe(
            self.function,
            c.library.engine,
            FORWARD_INFERENCE,
            self.algorithms[self.algorithm],
            c.descriptor(self.src),
            c.descriptor(self.weights),
            c.descriptor(self.bias),
            c.descriptor(self.dst),
            c.dims(self.strides or (1,) * spatial),
            c.dims(tuple(d - 1 for d in self.dilations) or (0,) * spatial),
            c.dims(self.padding_begin or (0,) * spatial),
            c.dims(self.padding_end or (0,) * spatial),
            c.attributes(self.attributes),
        )


@dataclass(frozen=True)
class Convolution(_Windows):
    """Cross-correlation of ``src`` [N, C, spatial…] with ``weights``, plus ``bias`` [O].

    Weights are [O, C, kernel…], or [G, O/G, C/G, kernel…] with groups; their layout is best left
    to the library.
    """

    function = "convolution_forward_primitive_desc_create"
    algorithms = CONVOLUTION_ALGORITHM

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds of the direct algorithm."""
        return _multiply_adds(self.dst.dims, self.weights.dims)


@dataclass(frozen=True)
class Deconvolution(_Windows):
    """Transposed convolution of ``src`` [N, C, spatial…], plus ``bias`` [O].

    Weights are [O, C, kernel…], or [G, O/G, C/G, kernel…] with groups: output channels first,
    unlike ONNX.  The dst dims decide the output padding.
    """

    function = "deconvolution_forward_primitive_desc_create"
    algorithms = DECONVOLUTION_ALGORITHM

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds of the direct algorithm."""
        return _multiply_adds(self.src.dims, self.weights.dims)


def _multiply_adds(activation: tuple[int, ...], weights: tuple[int, ...]) -> int:
    """Every spatial position of the activation meets every weight once per image."""
    return activation[0] * prod(activation[2:]) * prod(weights)
