"""Memory layouts of inputs and outputs, in words and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.ir.dims import Dim, ceildiv
from lamina.ir.types import DType
from lamina.tensorrt.enums import DataType
from lamina.tensorrt.foundation.dtype import to_ir

Shape = tuple[Dim, ...]

TYPE_WORDS = {
    DType.F32: "FP32", DType.F16: "FP16", DType.BF16: "BF16", DType.I8: "Int8",
    DType.I32: "Int32", DType.I64: "Int64", DType.BOOL: "Bool", DType.U8: "UInt8",
}  # fmt: skip
"""Element types as descriptions of formats name them; others have their own names."""


@dataclass(frozen=True)
class Format:
    """A layout: the words that describe it, and the channels that lie together.

    Channels are the axis before ``spatial`` others.  With ``last`` they lie innermost, padded to a
    multiple of ``components``; otherwise vectors of ``components`` channels do, the last one
    padded.  ``LINEAR`` has neither.
    """

    sentence: str
    components: int = 1
    spatial: int = 2
    last: bool = False

    @property
    def is_linear(self) -> bool:
        """Whether elements lie in row-major order."""
        return self.components == 1 and not self.last

    def axis(self, rank: int) -> int:
        """Return the axis of the channels, -1 where there is none."""
        return rank - self.spatial - 1 if rank > self.spatial else -1

    def physical(self, shape: Sequence[Dim]) -> Shape:
        """Return the shape of the memory, padding included, as a row-major array."""
        given = tuple(shape)
        if self.is_linear:
            return given
        axis = self.axis(len(given))
        vectors = ceildiv(given[axis], self.components)
        front, back = given[:axis], given[axis + 1 :]
        if self.last:
            return (*front, *back, vectors * self.components)
        return (*front, vectors, *back, self.components)

    def logical(self, shape: Sequence[Dim], channels: Dim) -> Shape:
        """Return the tensor's shape for that of the memory; -1 for ``channels``: all there are."""
        given = tuple(shape)
        if self.is_linear:
            return given
        if channels == -1:
            channels = given[-1]
        axis = self.axis(len(given) if self.last else len(given) - 1)
        back = given[axis:-1] if self.last else given[axis + 1 : -1]
        return (*given[:axis], channels, *back)

    def strides(self, shape: Sequence[int]) -> list[int]:
        """Return the distance of neighbours along each axis, in vectors; -1 where a size is -1."""
        order = list(range(len(shape)))
        sizes = list(shape)
        if not self.is_linear:
            axis = self.axis(len(sizes))
            sizes[axis] = -1 if sizes[axis] < 0 else -(-sizes[axis] // self.components)
            if self.last:
                order.append(order.pop(axis))
        strides, step = [0] * len(sizes), 1
        for axis in reversed(order):
            strides[axis] = step
            step = -1 if sizes[axis] < 0 or step < 0 else step * sizes[axis]
        return strides


FORMATS = {
    "LINEAR": Format("Row major linear"),
    "CHW2": Format("Two wide channel vectorized row major", 2),
    "HWC8": Format("Eight wide channel vectorized, channel last", 8, last=True),
    "CHW4": Format("Four wide channel vectorized row major", 4),
    "CHW16": Format("Sixteen wide channel vectorized row major", 16),
    "CHW32": Format("Thirty-two wide channel vectorized row major", 32),
    "DHWC8": Format("Eight wide channel vectorized, channel last, with depth", 8, 3, last=True),
    "CDHW32": Format("Thirty-two wide channel vectorized row major, with depth", 32, 3),
    "HWC": Format("Channel major", last=True),
    "DLA_LINEAR": Format("Row major linear DLA"),
    "DLA_HWC4": Format("Four wide channel last DLA", 4, last=True),
    "HWC16": Format("Sixteen wide channel vectorized, channel last", 16, last=True),
    "DHWC": Format("Channel major, with depth", 1, 3, last=True),
}
"""Layouts by their name in TensorFormat."""


def sentence_of(layout: str, dtype: str) -> str:
    """Return the words for a layout and an element type, by their names in TensorRT's enums."""
    kind = TYPE_WORDS.get(to_ir(DataType.named(dtype)), dtype)
    return f"{FORMATS[layout].sentence} {kind} format (k{layout})"
