"""Direct convolution of our own: any filter, stride, dilation and padding, with or without groups.

An implicit matrix product: the register tile is ``rows`` neighbouring output pixels by ``vectors``
registers of output channels, reduced over the filter window and the input channels. Inputs may be
NHWC, nChw16c or (for first layers with few channels) NCHW; outputs NHWC or nChw16c. Threads divide
the tiles either with all output channels inside (``by_channels`` false: the input is read once) or
output channels first (true: each part of the filters is read once, for large filters and few
pixels).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lamina.backends.cpu.kernels import epilogue
from lamina.backends.cpu.kernels.convolution import CHANNEL_BLOCK, ConvolutionProblem
from lamina.backends.cpu.kernels.direct_source import Source, Window, locate, walk
from lamina.backends.cpu.kernels.microkernel import RowAccess, Tile, multiply_accumulate
from lamina.backends.cpu.kernels.output import OutputRegister, is_cheap, register_offset
from lamina.codegen.llvm.builder import F32, I64, Kernel, Module, Value
from lamina.codegen.llvm.target import Isa
from lamina.ir.blocks import blocked

_LARGE_FILTER_BYTES = 512 << 10


@dataclass(frozen=True)
class DirectConfig:
    """The register tile, and whether threads divide output channels before pixels."""

    rows: int
    vectors: int
    by_channels: bool = False


def why_not(problem: ConvolutionProblem) -> str | None:
    """Return why direct convolution cannot compute the problem, or None when it can."""
    p = problem
    if p.dst.is_planar:
        return "needs output channels next to each other, got planar order"
    layouts = [x for x in (p.src, p.dst, p.residual) if x is not None]
    if any(x.dtype != "f32" for x in layouts):
        return f"needs f32 activations, got {', '.join(x.dtype for x in layouts)}"
    if p.groups > 1:
        blocked = p.src.is_blocked or p.dst.is_blocked
        sizes = (p.in_channels // p.groups, p.out_channels // p.groups)
        if blocked and any(size % CHANNEL_BLOCK for size in sizes):
            return f"needs groups of whole blocks of 16 channels, got {sizes[0]} to {sizes[1]}"
    if p.activation is not None and p.activation.kind not in epilogue.SUPPORTED:
        return f"has no activation {p.activation.kind}"
    return None


def simplified(problem: ConvolutionProblem) -> ConvolutionProblem:
    """Return an equal problem with one image row, when the filter is 1x1 and rows are dense."""
    p = problem
    layouts = [p.src, p.dst, *([p.residual] if p.residual is not None else [])]
    dense = all(x.row == p.width * x.pixel for x in layouts)
    if p.kernel != (1, 1) or p.strides != (1, 1) or any(p.pads) or not dense:
        return p
    return replace(p, height=1, width=p.height * p.width)


def configs(problem: ConvolutionProblem, isa: Isa, threads: int = 2) -> Iterator[DirectConfig]:
    """Yield configurations worth timing, best guess first."""
    p = simplified(problem)
    lanes = isa.lanes(F32)
    out = -(-p.out_channels // p.groups // lanes)
    filter_bytes = 4 * p.out_channels * p.in_channels // p.groups * p.kernel[0] * p.kernel[1]
    ranked = []
    for vectors in range(1, 6):
        rows_fit = (isa.registers - 1 - vectors) // vectors
        aligned = vectors * lanes % CHANNEL_BLOCK == 0
        if not aligned or rows_fit < 2 or vectors > max(out, CHANNEL_BLOCK // lanes):
            continue
        rows = -(-p.out_width // -(-p.out_width // rows_fit))
        blocks = -(-p.out_width // rows) * -(-out // vectors)
        loads = (rows + vectors) / (rows * vectors)
        # Work in register tiles, and loads that do not hide behind multiplications.
        ranked.append((blocks * rows * vectors * (1 + max(0.0, loads - 0.75)), rows, vectors))
    ranked.sort()
    pixels = p.batch * p.out_height * p.out_width
    by_channels = filter_bytes > _LARGE_FILTER_BYTES and pixels < 1024
    for _, rows, vectors in ranked[:2]:
        yield DirectConfig(rows, vectors, by_channels)
    yield DirectConfig(*ranked[0][1:], not by_channels)


def packed_shape(problem: ConvolutionProblem, config: DirectConfig, isa: Isa) -> tuple[int, ...]:
    """Return the shape of what ``pack_weights`` returns."""
    g = _Geometry(problem, config, isa.lanes(F32))
    return problem.groups, g.out_blocks, g.depth, g.block_width


def pack_weights(
    w: NDArray[np.float32], problem: ConvolutionProblem, config: DirectConfig, isa: Isa
) -> NDArray[np.float32]:
    """Return filters [M, C/groups, kh, kw] in the order that the kernel reads them.

    That is [group][output block][reduction][output channel of the block], padded with zeros; the
    reduction runs over (c, kh, kw) for planar inputs, else over (kh, kw, c).
    """
    g = _Geometry(problem, config, isa.lanes(F32))
    order = (0, 1, 2, 3) if g.source.planar else (0, 2, 3, 1)
    filters = w.transpose(order).reshape(problem.groups, g.group_out, -1)
    padded = (problem.groups, g.out_blocks * g.block_width, filters.shape[2])
    return blocked(filters, ((), (g.block_width,), ()), (0, 1, 3, 2), padded)


def workspace_bytes(
    problem: ConvolutionProblem, config: DirectConfig, isa: Isa, threads: int
) -> int:
    """Return the workspace that ``threads`` threads need (aligned to 64 bytes or more)."""
    return threads * _Geometry(problem, config, isa.lanes(F32)).source.patch_bytes


def build(
    module: Module, name: str, problem: ConvolutionProblem, config: DirectConfig
) -> tuple[str, ...]:
    """Write the kernel and return its name. Operands: ``problem.operands``."""
    with module.kernel(name) as k:
        _Writer(k, _Geometry(problem, config, k.isa.lanes(F32)), problem.operands).write()
    return (name,)


class _Geometry:
    """Sizes that follow from problem, configuration and instruction set."""

    def __init__(self, problem: ConvolutionProblem, config: DirectConfig, lanes: int) -> None:
        self.problem = simplified(problem)
        self.config, self.lanes = config, lanes
        self.source = Source(self.problem, config.rows)
        self.group_out = problem.out_channels // problem.groups
        self.block_width = config.vectors * lanes
        stored = problem.stored_channels if problem.groups == 1 else self.group_out
        self.out_blocks = -(-stored // self.block_width)
        self.row_tiles = -(-self.problem.out_width // config.rows)
        self.tiles = problem.batch * self.problem.out_height * self.row_tiles
        self.depth = self.source.channels * problem.kernel[0] * problem.kernel[1]
        self.panel_bytes = self.depth * self.block_width * 4


class _Writer:
    """Writes the kernel's loops around the register tile."""

    def __init__(self, k: Kernel, g: _Geometry, operands: tuple[str, ...]) -> None:
        self.k, self.g, self.p = k, g, g.problem
        self.args = {name: k.arg(i) for i, name in enumerate(operands)}
        self.patch = self.args["workspace"] + k.tid * g.source.patch_bytes
        tile_bytes = g.config.rows * g.config.vectors * g.lanes * 4
        self.scratch = k.alloca(tile_bytes)

    def write(self) -> None:
        """Write the loops over this thread's share."""
        k, g = self.k, self.g
        if self.g.config.by_channels:
            first, last = k.my_range(self.p.groups * g.out_blocks * g.tiles)
            with k.loop(first, last) as items:
                panel, tile = items.index // g.tiles, items.index % g.tiles
                block = panel % g.out_blocks
                self._tile(panel // g.out_blocks, tile, block, block + 1)
        else:
            first, last = k.my_range(self.p.groups * g.tiles)
            with k.loop(first, last) as items:
                self._tile(items.index // g.tiles, items.index % g.tiles, 0, g.out_blocks)

    def _tile(self, group: Value, tile: Value, first: int | Value, last: int | Value) -> None:
        k, g, p = self.k, self.g, self.p
        x = tile % g.row_tiles * g.config.rows
        line = tile // g.row_tiles
        y, n = line % p.out_height, line // p.out_height
        image = self.args["src"] + n * p.src.batch
        if p.groups > 1:
            image = image + g.source.group_offset(group)
        window = locate(k, g.source, image, y, x, self.patch)
        count = k.min(k.const(I64, g.config.rows), p.out_width - x)
        with k.loop(first, last) as blocks:
            channel = blocks.index * g.block_width
            panel = group * g.out_blocks + blocks.index
            weights = self.args["weights"] + panel * g.panel_bytes
            registers = self._registers(channel)
            whole = channel + group * g.group_out if p.groups > 1 else channel
            start = self._initial(registers, whole)
            sums = self._walk(window, [*start, weights])
            self._store(sums, registers, (n, y, x, whole), count)

    def _registers(self, channel: Value) -> list[OutputRegister]:
        """Return how each register of the block's output channels is stored."""
        g, p = self.g, self.p
        partial = g.group_out != g.out_blocks * g.block_width
        return [
            OutputRegister(
                self.k,
                p.activation,
                remaining=g.group_out - (channel + j * g.lanes) if partial else None,
                dst=p.dst,
                residual=p.residual,
            )
            for j in range(g.config.vectors)
        ]

    def _initial(self, registers: list[OutputRegister], channel: Value) -> list[Value]:
        """Return the accumulators' first values: the bias of their channels."""
        k, g = self.k, self.g
        row = [k.const(r.type, 0.0) for r in registers]
        if self.p.bias:
            bias = self.args["bias"] + channel * 4
            row = [r.load_bias(bias, j * g.lanes * 4) for j, r in enumerate(registers)]
        return row * g.config.rows

    def _walk(self, window: Window, state: list[Value]) -> list[Value]:
        """Return the accumulators after the whole reduction; the state ends with the filters."""

        def body(inner: list[Value], address: Value) -> list[Value]:
            return self._reduce(inner, address, window.block_bytes)

        return walk(self.k, self.g.source.outer, window.steps, state, window.start, body)[:-1]

    def _reduce(self, state: list[Value], a: Value, block_bytes: int | Value) -> list[Value]:
        """Add the runs at one position of the outer loops."""
        k, g = self.k, self.g
        *sums, b = state
        row_bytes = self.p.strides[1] * self.p.src.pixel
        length, count, tail = g.source.run
        for run, times in ((length, count), (tail, 1)):
            if not run or not times:
                continue
            tile = Tile(g.config.rows, g.config.vectors, _unrolling(run))
            access = RowAccess(row_bytes, run, block_bytes)
            sums = multiply_accumulate(k, a, access, b, tile, blocks=times, start=sums)
            a = a + block_bytes * times
            b = b + run * times * g.block_width * 4
        return [*sums, b]

    def _store(
        self,
        sums: list[Value],
        registers: list[OutputRegister],
        place: tuple[Value, Value, Value, Value],
        count: Value,
    ) -> None:
        """Write the tile's pixels that exist: straight from registers, or through the stack."""
        k, rows, vectors = self.k, self.g.config.rows, self.g.config.vectors

        def through_stack() -> None:
            for i, value in enumerate(sums):
                k.store(value, self.scratch, i * registers[0].type.nbytes)
            with k.loop(0, count) as loop:
                at = self.scratch + loop.index * (vectors * registers[0].type.nbytes)
                loaded = [k.load(r.type, at, j * r.type.nbytes) for j, r in enumerate(registers)]
                self._pixel(loaded, registers, place, loop.index)

        if not is_cheap(self.p.activation):
            through_stack()
            return
        with k.if_(k.eq(count, rows)) as whole:
            for row in range(rows):
                values = sums[row * vectors : (row + 1) * vectors]
                self._pixel(values, registers, place, row)
        with whole.otherwise():
            through_stack()

    def _pixel(
        self,
        values: list[Value],
        registers: list[OutputRegister],
        place: tuple[Value, Value, Value, Value],
        row: int | Value,
    ) -> None:
        """Write one pixel's channels of the block; registers without channels are skipped."""
        n, y, x, channel = place
        p, lanes = self.p, self.g.lanes
        addresses = []
        for layout, name in ((p.dst, "dst"), (p.residual, "residual")):
            if layout is None:
                continue
            address = self.args[name] + n * layout.batch + y * layout.row + x * layout.pixel
            if layout.is_blocked:
                address = address + channel // CHANNEL_BLOCK * layout.block
            else:
                address = address + channel * 4
            addresses.append((layout, address + row * layout.pixel))
        for j, (value, register) in enumerate(zip(values, registers, strict=True)):
            dst, *residual = [a + register_offset(layout, j, lanes) for layout, a in addresses]
            self._write(register, value, dst, residual, channel + j * lanes)

    def _write(
        self,
        register: OutputRegister,
        value: Value,
        dst: Value,
        residual: list[Value],
        channel: Value,
    ) -> None:
        if register.mask is None or not self.p.dst.padded:
            register.write(value, dst, *residual)
            return
        # A padded layout ends after its last block: registers beyond it have no memory.
        with self.k.if_(channel < self.p.stored_channels):
            register.write(value, dst, *residual)


def _unrolling(run: int) -> int:
    """Return the largest divisor of the run's length up to 8 (4 suffices when it divides)."""
    return next(u for u in (4, 7, 8, 6, 5, 3, 2, 1) if run % u == 0)
