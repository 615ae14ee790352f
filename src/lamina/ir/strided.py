"""Tensors seen through reshapes, transposes and slices without moving an element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lamina.ir.dims import Dim, floordiv, product


@dataclass(frozen=True)
class StridedView:
    """A shape, the distance in elements along each axis, and the element where it starts."""

    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim = 0

    @staticmethod
    def dense(shape: Sequence[Dim]) -> StridedView:
        """Return the row-major view of a whole tensor."""
        strides: list[Dim] = []
        step: Dim = 1
        for d in reversed(shape):
            strides.insert(0, step)
            step = step * d
        return StridedView(tuple(shape), tuple(strides))

    def transposed(self, perm: Sequence[int]) -> StridedView:
        """Return the view whose axis i is axis ``perm[i]`` of this one."""
        shape = tuple(self.shape[a] for a in perm)
        return StridedView(shape, tuple(self.strides[a] for a in perm), self.offset)

    def sliced(
        self, starts: Sequence[Dim], sizes: Sequence[Dim], steps: Sequence[int]
    ) -> StridedView:
        """Return the view of every ``steps``-th element from ``starts`` on."""
        offset = self.offset
        for start, stride in zip(starts, self.strides, strict=True):
            offset = offset + start * stride
        strides = tuple(s * step for s, step in zip(self.strides, steps, strict=True))
        return StridedView(tuple(sizes), strides, offset)

    def reshaped(self, shape: Sequence[Dim]) -> StridedView | None:
        """Return the view with another shape, or None where elements would have to move.

        Axes are paired in groups of equal products; the axes of a group must follow each other
        without gaps.
        """
        old = [(d, s) for d, s in zip(self.shape, self.strides, strict=True) if d != 1]
        new = [d for d in shape if d != 1]
        strides: list[Dim] = []
        while old or new:
            group = _group(old, new)
            if group is None:
                return None
            axes, sizes = group
            if any(a[1] != b[1] * b[0] for a, b in pairwise(axes)):
                return None
            step = axes[-1][1]
            inner = [step * product(sizes[i + 1 :]) for i in range(len(sizes))]
            strides += inner
            del old[: len(axes)], new[: len(sizes)]
        moved = iter(strides)
        return StridedView(
            tuple(shape), tuple(0 if d == 1 else next(moved) for d in shape), self.offset
        )


def _group(
    old: Sequence[tuple[Dim, Dim]], new: Sequence[Dim]
) -> tuple[list[tuple[Dim, Dim]], list[Dim]] | None:
    """Return the fewest leading axes of both whose sizes multiply to the same number."""
    if not old or not new:
        return None
    axes, sizes = [old[0]], [new[0]]
    while (a := product(d for d, _ in axes)) != (b := product(sizes)):
        if _divides(a, b) and len(axes) < len(old):
            axes.append(old[len(axes)])
        elif _divides(b, a) and len(sizes) < len(new):
            sizes.append(new[len(sizes)])
        else:
            return None
    return axes, sizes


def _divides(a: Dim, b: Dim) -> bool:
    """Whether ``b`` is a multiple of ``a`` for all values of their symbols."""
    if a == 0 or b == 0:
        return False
    return floordiv(b, a) * a == b
