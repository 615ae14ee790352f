"""How direct convolution walks its input: contiguous runs, outer loops, and patches at the border.

A register tile covers ``rows`` neighbouring output pixels of one image row. Its reduction runs over
outer loops (filter rows, filter columns, planar channels) around blocks of values that lie next to
each other. Where a tile needs pixels outside the image, the pixels that exist are copied into a
zeroed patch with the same distance between pixels, and the same code reads the patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lamina.backends.cpu.kernels.convolution import CHANNEL_BLOCK, ConvolutionProblem
from lamina.codegen.llvm.builder import F32, I8, I64, Builder, Value


@dataclass(frozen=True)
class OuterLoop:
    """One loop around the runs: trip count, and bytes per step in the image and in the patch."""

    count: int
    image_step: int
    patch_step: int


@dataclass(frozen=True)
class Source:
    """The input of one group of channels as the register tile of ``rows`` pixels sees it."""

    problem: ConvolutionProblem
    rows: int

    @property
    def channels(self) -> int:
        """Return the input channels of a group."""
        return self.problem.in_channels // self.problem.groups

    @property
    def planar(self) -> bool:
        """Tell whether each channel is an image of its own (NCHW)."""
        return self.problem.src.is_planar

    @property
    def merged(self) -> bool:
        """Tell whether the channels of a filter row's pixels form one run (NHWC, few channels)."""
        p = self.problem
        dense = p.src.pixel == 4 * p.in_channels and not p.src.is_blocked and p.groups == 1
        return dense and not self.planar and p.dilations[1] == 1 and self.channels < CHANNEL_BLOCK

    @property
    def blocked(self) -> bool:
        """Tell whether blocks of 16 channels lie apart from each other."""
        return self.problem.src.is_blocked

    @property
    def units(self) -> int:
        """Return the separate images that make the group: blocks, planes, or one."""
        if self.planar:
            return self.channels
        return -(-self.channels // CHANNEL_BLOCK) if self.blocked else 1

    @property
    def unit_step(self) -> int:
        """Return the bytes from one unit to the next in the image."""
        return self.problem.src.channel if self.planar else self.problem.src.block

    @property
    def pixel_extent(self) -> int:
        """Return the bytes of one pixel's data within a unit."""
        if self.planar:
            return 4
        return 64 if self.blocked else 4 * self.channels

    @property
    def patch_columns(self) -> int:
        """Return the input columns that one register tile reads."""
        p = self.problem
        return (self.rows - 1) * p.strides[1] + (p.kernel[1] - 1) * p.dilations[1] + 1

    @property
    def patch_row(self) -> int:
        """Return the bytes of one patch row."""
        return -(-self.patch_columns * self.problem.src.pixel // 64) * 64

    @property
    def patch_unit(self) -> int:
        """Return the bytes of one unit of the patch."""
        return self.patch_row * self.problem.kernel[0]

    @property
    def patch_bytes(self) -> int:
        """Return the bytes of the patch, with room for whole registers at its end."""
        return -(-(self.units * self.patch_unit + 64) // 4096) * 4096

    @property
    def run(self) -> tuple[int, int, int]:
        """Return a run's length, the runs per outer step, and the length of a last, shorter one."""
        p = self.problem
        if self.planar:
            return (p.kernel[1], 1, 0) if p.dilations[1] == 1 else (1, 1, 0)
        if self.merged:
            return (p.kernel[1] * self.channels, 1, 0)
        return (CHANNEL_BLOCK, self.channels // CHANNEL_BLOCK, self.channels % CHANNEL_BLOCK)

    @property
    def outer(self) -> tuple[OuterLoop, ...]:
        """Return the loops around the runs, outermost first."""
        p = self.problem
        rows = OuterLoop(p.kernel[0], p.dilations[0] * p.src.row, self.patch_row)
        step = p.dilations[1] * p.src.pixel
        columns = OuterLoop(p.kernel[1], step, step)
        if self.planar:
            planes = OuterLoop(self.channels, p.src.channel, self.patch_unit)
            return (planes, rows) if p.dilations[1] == 1 else (planes, rows, columns)
        return (rows,) if self.merged else (rows, columns)

    def group_offset(self, group: int | Value) -> int | Value:
        """Return the bytes from the first group's channels to those of another."""
        if self.blocked:
            return group * (self.channels // CHANNEL_BLOCK * self.problem.src.block)
        return group * (self.channels * self.problem.src.channel)


@dataclass(frozen=True)
class Window:
    """Where one register tile reads: address and outer steps, in the image or in the patch."""

    start: Value
    steps: tuple[Value, ...]
    block_bytes: int | Value


def locate(k: Builder, source: Source, image: Value, y: Value, x: Value, patch: Value) -> Window:
    """Return the window of the tile at output (y, x), filling the patch at the border."""
    p, layout = source.problem, source.problem.src
    top, left = y * p.strides[0] - p.pads[0], x * p.strides[1] - p.pads[1]
    reach = (p.kernel[0] - 1) * p.dilations[0]
    inside = (top >= 0) & (top + reach < p.height)
    inside = inside & (left >= 0) & (left + (source.patch_columns - 1) < p.width)
    start = image + top * layout.row + left * layout.pixel
    with k.if_(inside ^ 1):
        _fill_patch(k, source, start, top, left, patch)
    steps = tuple(
        k.select(inside, k.const(I64, loop.image_step), loop.patch_step) for loop in source.outer
    )
    block = k.select(inside, k.const(I64, source.unit_step), source.patch_unit)
    return Window(
        k.select(inside, start, patch), steps, block if source.blocked else CHANNEL_BLOCK * 4
    )


def _fill_patch(
    k: Builder, source: Source, start: Value, top: Value, left: Value, patch: Value
) -> None:
    """Copy the pixels that exist; everything else of the patch is zero."""
    p, layout = source.problem, source.problem.src
    k.fill(patch, k.const(I8, 0), source.units * source.patch_unit)
    zero = k.const(I64, 0)
    first = k.max(zero, -left)
    last = k.min(k.const(I64, source.patch_columns), p.width - left)
    lanes = k.isa.lanes(F32)
    floats = ((last - first - 1) * layout.pixel + source.pixel_extent) // 4
    with k.if_(last > first), k.loop(0, p.kernel[0]) as rows:
        y = top + rows.index * p.dilations[0]
        with k.if_((y >= 0) & (y < p.height)), k.loop(0, source.units) as units:
            shift = first * layout.pixel
            origin = start + rows.index * (p.dilations[0] * layout.row)
            origin = origin + units.index * source.unit_step + shift
            target = patch + rows.index * source.patch_row
            target = target + units.index * source.patch_unit + shift

            def copy(i: Value, mask: Value | None) -> None:
                value = k.load(F32.vector(lanes), origin, i * 4, mask=mask)
                k.store(value, target, i * 4, mask=mask)

            k.vectorized(0, floats, lanes, copy)


def walk(
    k: Builder,
    loops: Sequence[OuterLoop],
    steps: Sequence[Value],
    state: Sequence[Value],
    address: Value,
    body: Callable[[list[Value], Value], list[Value]],
) -> list[Value]:
    """Run ``body(state, address)`` inside the outer loops and return the state after them."""
    if not loops:
        return body(list(state), address)
    with k.loop(0, loops[0].count, carry=[*state, address]) as loop:
        *inner, base = loop.values
        result = walk(k, loops[1:], steps[1:], inner, base, body)
        loop.next(*result, base + steps[0])
    return list(loop.results[:-1])
