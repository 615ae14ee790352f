"""Matrix products: batched matmul and the inner product of fully connected layers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from lamina.backends.cpu.onednn.attributes import NO_ATTRIBUTES, Attributes
from lamina.backends.cpu.onednn.construction import Construction
from lamina.backends.cpu.onednn.enums import FORWARD_INFERENCE
from lamina.backends.cpu.onednn.memory import Layout


@dataclass(frozen=True)
class MatMul:
    """``dst[…, M, N] = src[…, M, K] @ weights[…, K, N] + bias``.

    All operands have the same rank; a leading dimension of 1 in src or weights is broadcast.  The
    bias has that rank too, with 1 where it repeats.  Transposed operands are strides.
    """

    src: Layout
    weights: Layout
    dst: Layout
    bias: Layout | None = None
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", "weights", *(["bias"] if self.bias else []), "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        return c.describe(
            "matmul_primitive_desc_create",
            c.library.engine,
            c.descriptor(self.src),
            c.descriptor(self.weights),
            c.descriptor(self.bias),
            c.descriptor(self.dst),
            c.attributes(self.attributes),
        )

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds."""
        return prod(self.dst.dims) * self.src.dims[-1]


@dataclass(frozen=True)
class InnerProduct:
    """Fully connected layer: ``dst[N, O] = src[N, C, spatial…] · weights[O, C, spatial…] + bias``.

    src may keep the blocked layout of the convolution before it.
    """

    src: Layout
    weights: Layout
    dst: Layout
    bias: Layout | None = None
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        return ["src", "weights", *(["bias"] if self.bias else []), "dst"]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        return c.describe(
            "inner_product_forward_primitive_desc_create",
            c.library.engine,
            FORWARD_INFERENCE,
            c.descriptor(self.src),
            c.descriptor(self.weights),
            c.descriptor(self.bias),
            c.descriptor(self.dst),
            c.attributes(self.attributes),
        )

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds."""
        return self.dst.dims[0] * prod(self.weights.dims)
