"""How the loops of a nest are spread over programs and over the lanes of a program."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.codegen.nest import LoopNest
from lamina.ir.dims import Dim, ceildiv, product


@dataclass(frozen=True, kw_only=True)
class Tile:
    """The decisions: every loop is in one group, outermost first, and is counted as one number.

    A program has one value of ``outer``, ``y_block`` of ``y`` and ``x_block`` of ``x``.  Reduced
    loops form ``z``: with ``z_block`` they are lanes too, in one step when ``resident`` and else in
    a loop over blocks; without it (0) a program walks through them one by one.  Blocks are powers
    of two.
    """

    outer: tuple[int, ...] = ()
    y: tuple[int, ...] = ()
    x: tuple[int, ...] = ()
    z: tuple[int, ...] = ()
    y_block: int = 1
    x_block: int = 1
    z_block: int = 0
    resident: bool = False
    warps: int = 4

    def __str__(self) -> str:
        blocks = [str(b) for b in (self.y_block, self.x_block) if b > 1]
        if self.z_block:
            blocks.append(f"z{self.z_block}{'' if self.resident else '+'}")
        return f"{'x'.join(blocks) or '1'} w{self.warps}"

    def programs(self, nest: LoopNest) -> Dim:
        """Return how many programs the nest needs."""
        outer = extent(nest, self.outer)
        y = ceildiv(extent(nest, self.y), self.y_block)
        return outer * y * ceildiv(extent(nest, self.x), self.x_block)

    @property
    def elements(self) -> int:
        """Return the lanes of a program."""
        return self.y_block * self.x_block * max(1, self.z_block)


def extent(nest: LoopNest, loops: tuple[int, ...]) -> Dim:
    """Return how many values a group of loops has."""
    return product(nest.dims[d].size for d in loops)


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is not smaller."""
    return 1 << max(0, n - 1).bit_length()
