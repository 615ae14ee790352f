"""Depthwise convolution of our own: one filter per channel, vectors across channels.

The work is bound by memory and by loads, so each register of channels is loaded once per filter
row and used for all taps of all ``columns`` neighbouring output pixels that hold accumulators.
Pixels outside the image are read from a cache line of zeros instead, by choosing the address.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.backends.cpu.kernels import epilogue
from lamina.backends.cpu.kernels.convolution import (
    CHANNEL_BLOCK,
    ActivationLayout,
    ConvolutionProblem,
)
from lamina.backends.cpu.kernels.output import OutputRegister, is_cheap, load_f32, memory_type
from lamina.codegen.llvm.builder import F32, I64, Kernel, Module, Type, Value
from lamina.codegen.llvm.target import Isa
from lamina.ir.blocks import blocked

_UNROLLED_TAPS = 7


@dataclass(frozen=True)
class DepthwiseConfig:
    """How many neighbouring output pixels are computed at a time."""

    columns: int


def why_not(problem: ConvolutionProblem) -> str | None:
    """Return why this kernel cannot compute the problem, or None when it can."""
    p = problem
    if not p.groups == p.in_channels == p.out_channels:
        return f"needs one channel per group, got {p.groups} groups of {p.in_channels} channels"
    if p.src.is_planar or p.dst.is_planar:
        return "needs channels next to each other, got planar order"
    if p.activation is not None and p.activation.kind not in epilogue.SUPPORTED:
        return f"has no activation {p.activation.kind}"
    return None


def configs(problem: ConvolutionProblem, isa: Isa, threads: int = 2) -> Iterator[DepthwiseConfig]:
    """Yield configurations worth timing, best guess first."""
    # Accumulators, the input columns in use, and one tap must fit the registers.
    most = (isa.registers - 2) // (1 + problem.strides[1])
    for limit in (max(2, most), max(2, most // 2)):
        passes = -(-problem.out_width // limit)
        yield DepthwiseConfig(-(-problem.out_width // passes))


def packed_shape(problem: ConvolutionProblem, config: DepthwiseConfig, isa: Isa) -> tuple[int, ...]:
    """Return the shape of what ``pack_weights`` returns."""
    return (-(-problem.in_channels // CHANNEL_BLOCK), *problem.kernel, CHANNEL_BLOCK)


def pack_weights(
    w: NDArray[np.float32], problem: ConvolutionProblem, config: DepthwiseConfig, isa: Isa
) -> NDArray[np.float32]:
    """Return filters [C, 1, kh, kw] as [block of 16 channels][kh][kw][16], padded with zeros."""
    return blocked(w[:, 0], ((CHANNEL_BLOCK,), (), ()), (0, 2, 3, 1))


def workspace_bytes(
    problem: ConvolutionProblem, config: DepthwiseConfig, isa: Isa, threads: int
) -> int:
    """Return 0: the kernel needs no workspace."""
    return 0


def build(
    module: Module, name: str, problem: ConvolutionProblem, config: DepthwiseConfig
) -> tuple[str, ...]:
    """Write the kernel and return its name. Operands: ``problem.operands``."""
    with module.kernel(name) as k:
        _Writer(k, problem, config).write()
    return (name,)


class _Writer:
    """Writes the kernel's loops: rows of blocks, runs of pixels, filter rows, taps."""

    def __init__(self, k: Kernel, problem: ConvolutionProblem, config: DepthwiseConfig) -> None:
        self.k, self.p, self.columns = k, problem, config.columns
        self.lanes = k.isa.lanes(F32)
        self.type = F32.vector(self.lanes)
        self.args = {name: k.arg(i) for i, name in enumerate(problem.operands)}
        self.zeros = k.alloca(64)
        k.store(k.const(self.type, 0.0), self.zeros)
        if self.type.nbytes < 64:
            k.store(k.const(self.type, 0.0), self.zeros, 32)
        self.scratch = k.alloca(config.columns * 64)

    def write(self) -> None:
        """Write the loop over this thread's rows of channel blocks, in the order of memory."""
        k, p = self.k, self.p
        blocks = -(-p.in_channels // CHANNEL_BLOCK)
        first, last = k.my_range(p.batch * blocks * p.out_height)
        with k.loop(first, last) as items:
            index = items.index
            if not p.src.is_blocked:
                block, line = index % blocks, index // blocks
                y, n = line % p.out_height, line // p.out_height
            else:
                y, line = index % p.out_height, index // p.out_height
                block, n = line % blocks, line // blocks
            for part in range(CHANNEL_BLOCK // self.lanes):
                self._row(n, block, y, part)

    def _row(self, n: Value, block: Value, y: Value, part: int) -> None:
        k, p = self.k, self.p
        shift = part * self.lanes
        channel = block * CHANNEL_BLOCK + part * self.lanes
        partial = p.in_channels % CHANNEL_BLOCK != 0
        register = OutputRegister(
            k,
            p.activation,
            remaining=p.in_channels - channel if partial else None,
            dst=p.dst,
            residual=p.residual,
        )
        weights = self.args["weights"] + block * (p.kernel[0] * p.kernel[1] * 64) + shift * 4
        start = k.const(self.type, 0.0)
        if p.bias:
            start = register.load_bias(self.args["bias"], channel * 4)
        top = y * p.strides[0] - p.pads[0]
        first_row = (k.max(k.const(I64, 0), -top) + (p.dilations[0] - 1)) // p.dilations[0]
        last_row = k.min(
            k.const(I64, p.kernel[0]),
            (k.max(k.const(I64, 0), p.height - top) + (p.dilations[0] - 1)) // p.dilations[0],
        )
        image = self.args["src"] + n * p.src.batch + block * p.src.block + top * p.src.row
        image = image + shift * p.src.item_bytes
        addresses = []
        for layout, name in ((p.dst, "dst"), (p.residual, "residual")):
            if layout is not None:
                base = self.args[name] + n * layout.batch + block * layout.block
                base = base + shift * layout.item_bytes
                addresses.append((layout, base + y * layout.row))
        reader = _Reader(k, p, self.type, None if p.src.padded else register.mask, self.zeros)
        with k.loop(0, p.out_width, self.columns) as tiles:
            x = tiles.index
            left = x * p.strides[1] - p.pads[1]
            reader.move(image, left)
            reach = (self.columns - 1) * p.strides[1] + (p.kernel[1] - 1) * p.dilations[1]
            inside = (left >= 0) & (left + reach < p.width)
            count = k.min(k.const(I64, self.columns), p.out_width - x)
            places = [(layout, a + x * layout.pixel) for layout, a in addresses]
            with k.if_(inside) as branch:
                sums = self._sums(reader, weights, start, (first_row, last_row))
                self._store(sums, register, places, count)
            with branch.otherwise():
                reader.check()
                sums = self._sums(reader, weights, start, (first_row, last_row))
                self._store(sums, register, places, count)

    def _sums(
        self, reader: _Reader, weights: Value, start: Value, rows: tuple[Value, Value]
    ) -> list[Value]:
        """Return the accumulators of one run of pixels over the filter rows that exist."""
        k, p = self.k, self.p
        taps = p.kernel[1]
        with k.loop(*rows, carry=[start] * self.columns) as loop:
            line = loop.index * (p.dilations[0] * p.src.row)
            filters = weights + loop.index * (taps * 64)
            if taps <= _UNROLLED_TAPS:
                sums = list(loop.values)
                pixels: dict[int, Value] = {}
                for tap in range(taps):
                    w = k.load(self.type, filters, tap * 64)
                    for i in range(self.columns):
                        column = i * p.strides[1] + tap * p.dilations[1]
                        if column not in pixels:
                            pixels[column] = reader.pixel(line, column)
                        sums[i] = k.fma(pixels[column], w, sums[i])
            else:
                sums = self._many_taps(reader, filters, line, loop.values)
            loop.next(*sums)
        return list(loop.results)

    def _many_taps(
        self, reader: _Reader, filters: Value, line: Value, sums: Sequence[Value]
    ) -> list[Value]:
        """Add one row of a wide filter in a loop over its taps."""
        k, p = self.k, self.p
        with k.loop(0, p.kernel[1], carry=sums) as taps:
            w = k.load(self.type, filters, taps.index * 64)
            shift = taps.index * p.dilations[1]
            taps.next(
                *(
                    k.fma(reader.pixel(line, i * p.strides[1], shift), w, value)
                    for i, value in enumerate(taps.values)
                )
            )
        return list(taps.results)

    def _store(
        self,
        sums: list[Value],
        register: OutputRegister,
        places: list[tuple[ActivationLayout, Value]],
        count: Value,
    ) -> None:
        """Write the pixels that exist: straight from registers, or through the stack."""
        k = self.k

        def write(value: Value, column: int | Value) -> None:
            dst, *residual = [a + column * layout.pixel for layout, a in places]
            register.write(value, dst, *residual)

        def through_stack() -> None:
            for i, value in enumerate(sums):
                k.store(value, self.scratch, i * 64)
            with k.loop(0, count) as loop:
                write(k.load(self.type, self.scratch, loop.index * 64), loop.index)

        if not is_cheap(self.p.activation):
            through_stack()
            return
        with k.if_(k.eq(count, self.columns)) as whole:
            for i, value in enumerate(sums):
                write(value, i)
        with whole.otherwise():
            through_stack()


class _Reader:
    """Reads a pixel's register relative to the run's first input column."""

    def __init__(
        self, k: Kernel, p: ConvolutionProblem, type_: Type, mask: Value | None, zeros: Value
    ) -> None:
        self.k, self.p, self.type, self.mask, self.zeros = k, p, type_, mask, zeros
        self._checked = False

    def move(self, image: Value, left: Value) -> None:
        """Start at an input column of the image row block, all of whose columns exist."""
        self.left, self.start = left, image + left * self.p.src.pixel
        self._checked = False

    def check(self) -> None:
        """From now on read columns outside the image as zero."""
        self._checked = True

    def pixel(self, line: Value, column: int, shift: Value | None = None) -> Value:
        """Return the register at a column (plus a shift) of the row ``line`` bytes further."""
        k, pixel = self.k, self.p.src.pixel
        address = self.start + line + column * pixel
        place = self.left + column
        if shift is not None:
            address, place = address + shift * pixel, place + shift
        if self._checked:
            exists = k.compare("ult", place, self.p.width)
            address = k.select(exists, address, self.zeros)
        return load_f32(k, memory_type(self.p.src), address, mask=self.mask)
