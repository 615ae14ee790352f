"""How the elements of a tensor lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.ir.dims import Dim, ceildiv


@dataclass(frozen=True)
class Layout:
    """Strides in elements, one per axis of the logical shape, and the element where it starts.

    With ``block > 1`` the axis ``block_axis`` is cut into blocks (nChw16c): ``strides`` holds the
    distance between blocks there and ``lane_stride`` the distance inside a block.  The last block
    is padded; what writes a blocked tensor keeps its padding zero.
    """

    strides: tuple[Dim, ...]
    offset: Dim = 0
    block_axis: int = -1
    block: int = 1
    lane_stride: Dim = 1

    @property
    def is_blocked(self) -> bool:
        """Whether an axis is cut into blocks."""
        return self.block > 1

    @staticmethod
    def dense(shape: Sequence[Dim]) -> Layout:
        """Return the row-major layout."""
        return Layout.ordered(shape, range(len(shape)))

    @staticmethod
    def ordered(shape: Sequence[Dim], order: Sequence[int]) -> Layout:
        """Return the contiguous layout whose axes lie in ``order``, outermost first."""
        strides: list[Dim] = [1] * len(shape)
        step: Dim = 1
        for axis in reversed(order):
            strides[axis] = step
            step = step * shape[axis]
        return Layout(tuple(strides))

    @staticmethod
    def channels_last(shape: Sequence[Dim]) -> Layout:
        """Return the contiguous layout with axis 1 innermost (NHWC)."""
        return Layout.ordered(shape, (0, *range(2, len(shape)), 1))

    @staticmethod
    def blocked(shape: Sequence[Dim], block: int = 16, axis: int = 1) -> Layout:
        """Return the layout that cuts ``axis`` into blocks which lie innermost (nChw16c)."""
        outer = [ceildiv(d, block) if i == axis else d for i, d in enumerate(shape)]
        strides = tuple(s * block for s in Layout.dense(outer).strides)
        return Layout(strides, 0, axis, block)

    def span(self, shape: Sequence[Dim]) -> Dim:
        """Return the number of elements from the first to after the last, padding included."""
        total: Dim = self.offset + 1
        for axis, (size, stride) in enumerate(zip(shape, self.strides, strict=True)):
            if axis == self.block_axis and self.is_blocked:
                total = total + (ceildiv(size, self.block) - 1) * stride
                total = total + (self.block - 1) * self.lane_stride
            else:
                total = total + (size - 1) * stride
        return total
