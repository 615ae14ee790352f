"""Pointwise operations, sums, reductions, concatenation and channel shuffles."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from lamina.backends.cpu.onednn.attributes import NO_ATTRIBUTES, Attributes
from lamina.backends.cpu.onednn.construction import Construction
from lamina.backends.cpu.onednn.enums import BINARY, ELTWISE, FORWARD_INFERENCE, REDUCTION
from lamina.backends.cpu.onednn.memory import Layout


@dataclass(frozen=True)
class Binary:
    """``dst = src ∘ src_1``; src_1 has src's rank, with 1 where it is repeated."""

    algorithm: str
    src: Layout
    src_1: Layout
    dst: Layout
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", "src_1", "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        return c.describe(
            "binary_primitive_desc_create",
            c.library.engine,
            BINARY[self.algorithm],
            c.descriptor(self.src),
            c.descriptor(self.src_1),
            c.descriptor(self.dst),
            c.attributes(self.attributes),
        )


@dataclass(frozen=True)
class Eltwise:
    """Apply one of the functions that ``EltwisePostOp`` describes."""

    algorithm: str
    src: Layout
    dst: Layout
    alpha: float = 0.0
    beta: float = 0.0
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        return c.describe(
            "eltwise_forward_primitive_desc_create",
            c.library.engine,
            FORWARD_INFERENCE,
            ELTWISE[self.algorithm],
            c.descriptor(self.src),
            c.descriptor(self.dst),
            self.alpha,
            self.beta,
            c.attributes(self.attributes),
        )


@dataclass(frozen=True)
class PRelu:
    """``src`` where positive, ``weights * src`` elsewhere; weights broadcast where they are 1."""

    src: Layout
    weights: Layout
    dst: Layout
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", "weights", "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        return c.describe(
            "prelu_forward_primitive_desc_create",
            c.library.engine,
            FORWARD_INFERENCE,
            c.descriptor(self.src),
            c.descriptor(self.weights),
            c.descriptor(self.dst),
            c.attributes(self.attributes),
        )


@dataclass(frozen=True)
class Sum:
    """``dst = scales[0] * src[0] + scales[1] * src[1] + …``, all of the same dims."""

    sources: tuple[Layout, ...]
    dst: Layout
    scales: tuple[float, ...] = ()
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return [*(f"src[{i}]" for i in range(len(self.sources))), "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        count = len(self.sources)
        return c.describe(
            "sum_primitive_desc_create",
            c.library.engine,
            c.descriptor(self.dst),
            count,
            (ctypes.c_float * count)(*(self.scales or (1.0,) * count)),
            c.descriptors(self.sources),
            c.attributes(self.attributes),
        )


@dataclass(frozen=True)
class Concat:
    """Join sources along an axis, each from its own layout."""

    sources: tuple[Layout, ...]
    dst: Layout
    axis: int
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return [*(f"src[{i}]" for i in range(len(self.sources))), "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        return c.describe(
            "concat_primitive_desc_create",
            c.library.engine,
            c.descriptor(self.dst),
            len(self.sources),
            self.axis,
            c.descriptors(self.sources),
            c.attributes(self.attributes),
        )


@dataclass(frozen=True)
class Reduction:
    """Reduce the axes along which dst is 1 and src is not.

    ``norm_max`` and ``norm_sum`` are the p-norms with epsilon as a floor or as a summand.
    """

    algorithm: str
    src: Layout
    dst: Layout
    p: float = 0.0
    epsilon: float = 0.0
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        return c.describe(
            "reduction_primitive_desc_create",
            c.library.engine,
            REDUCTION[self.algorithm],
            c.descriptor(self.src),
            c.descriptor(self.dst),
            self.p,
            self.epsilon,
            c.attributes(self.attributes),
        )


@dataclass(frozen=True)
class Shuffle:
    """Reshape an axis to [n / group_size, group_size]-wise transposed order: ShuffleNet's step.

    Element ``i * groups + j`` of dst is element ``j * group_size + i`` of src, where groups is
    the axis' length divided by ``group_size``.
    """

    src: Layout
    dst: Layout
    axis: int
    group_size: int
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        return c.describe(
            "shuffle_forward_primitive_desc_create",
            c.library.engine,
            FORWARD_INFERENCE,
            c.descriptor(self.src),
            c.descriptor(self.dst),
            self.axis,
            self.group_size,
            c.attributes(self.attributes),
        )
