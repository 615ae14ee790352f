"""Softmax, layer and batch normalization, local response normalization."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.backends.cpu.onednn.attributes import NO_ATTRIBUTES, Attributes
from lamina.backends.cpu.onednn.construction import Construction
from lamina.backends.cpu.onednn.enums import (
    FORWARD_INFERENCE,
    FUSE_RELU,
    LRN,
    SOFTMAX,
    USE_GLOBAL_STATISTICS,
    USE_SCALE,
    USE_SHIFT,
)
from lamina.backends.cpu.onednn.memory import Layout


@dataclass(frozen=True)
class Softmax:
    """``exp(src) / sum(exp(src))`` along an axis, or its logarithm (``logsoftmax``)."""

    src: Layout
    dst: Layout
    axis: int = -1
    algorithm: str = "softmax"
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        return c.describe(
            "softmax_forward_primitive_desc_create",
            c.library.engine,
            FORWARD_INFERENCE,
            SOFTMAX[self.algorithm],
            c.descriptor(self.src),
            c.descriptor(self.dst),
            self.axis % len(self.src.dims),
            c.attributes(self.attributes),
        )


@dataclass(frozen=True)
class LayerNormalization:
    """Normalize the last axis to mean 0 and variance 1, then ``* scale + shift`` [last dim]."""

    src: Layout
    dst: Layout
    epsilon: float = 1e-5
    has_scale: bool = True
    has_shift: bool = True
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", *_parameters(self.has_scale, self.has_shift), "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        return c.describe(
            "layer_normalization_forward_primitive_desc_create",
            c.library.engine,
            FORWARD_INFERENCE,
            c.descriptor(self.src),
            c.descriptor(self.dst),
            None,
            self.epsilon,
            USE_SCALE * self.has_scale | USE_SHIFT * self.has_shift,
            c.attributes(self.attributes),
        )


@dataclass(frozen=True)
class BatchNormalization:
    """``(src - mean) / sqrt(variance + epsilon) * scale + shift`` per channel, then ReLU if asked.

    All four parameters are f32 arguments of shape [C].
    """

    src: Layout
    dst: Layout
    epsilon: float = 1e-5
    fuse_relu: bool = False
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", "mean", "variance", "scale", "shift", "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        flags = USE_GLOBAL_STATISTICS | USE_SCALE | USE_SHIFT
        return c.describe(
            "batch_normalization_forward_primitive_desc_create",
            c.library.engine,
            FORWARD_INFERENCE,
            c.descriptor(self.src),
            c.descriptor(self.dst),
            self.epsilon,
            flags | FUSE_RELU * self.fuse_relu,
            c.attributes(self.attributes),
        )


@dataclass(frozen=True)
class LocalResponseNormalization:
    """``src * (k + alpha / size * sum of squares of neighbours) ** -beta``.

    Neighbours are ``size`` channels around each element (``across_channels``) or a window of that
    edge in its own channel (``within_channel``).
    """

    src: Layout
    dst: Layout
    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0
    algorithm: str = "across_channels"
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        return c.describe(
            "lrn_forward_primitive_desc_create",
            c.library.engine,
            FORWARD_INFERENCE,
            LRN[self.algorithm],
            c.descriptor(self.src),
            c.descriptor(self.dst),
            self.size,
            self.alpha,
            self.beta,
            self.k,
            c.attributes(self.attributes),
        )


def _parameters(has_scale: bool, has_shift: bool) -> list[str]:
    return ["scale"] * has_scale + ["shift"] * has_shift
