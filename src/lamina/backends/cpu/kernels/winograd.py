"""Winograd convolution of our own: 3x3 filters with stride 1 or 2, 5x5 with stride 1.

Tiles of m x m outputs are computed as n*n independent matrix products over channels, where
n = m + r - 1, which needs n^2 / (m^2 r^2) of the plain multiplications. A thread transforms a
chunk of tiles into its workspace (V), multiplies by the transformed filters (U, packed at build
time) position by position for one block of output channels (M), transforms back, applies the
epilogue and stores: V and M stay in the L2 cache, only U is streamed. Where tiles are few and
filters large, the ``split`` form has two phases, and threads divide the output channels, so that
U is read once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.backends.cpu.kernels import epilogue
from lamina.backends.cpu.kernels.convolution import CHANNEL_BLOCK, ConvolutionProblem
from lamina.backends.cpu.kernels.microkernel import RowAccess, Tile, multiply_accumulate
from lamina.backends.cpu.kernels.winograd_matrices import weights_matrix
from lamina.backends.cpu.kernels.winograd_transform import (
    TileShape,
    input_function,
    output_function,
)
from lamina.backends.cpu.weights.winograd import transformed
from lamina.codegen.llvm.builder import F32, I64, Function, Kernel, Module, Value
from lamina.codegen.llvm.target import Isa

# filter side and stride -> output tile sides
_OUTPUT_SIZES = {(3, 1): (2, 4, 6), (5, 1): (2, 4), (3, 2): (2, 3, 4)}
_L2_BYTES = 512 << 10
_WORTH_TIMING, _MOST_CONFIGS = 1.35, 3
_BF16_ADVANTAGE = 0.6  # a plain bf16 convolution's time as part of an f32 one's


@dataclass(frozen=True)
class WinogradConfig:
    """One way to run it: output tile side, register tile, tiles per chunk, and who divides what."""

    m: int
    rows: int
    vectors: int
    chunk: int
    split: bool = False


@dataclass(frozen=True)
class _Geometry:
    """All sizes and strides that follow from problem, configuration and instruction set."""

    problem: ConvolutionProblem
    config: WinogradConfig
    lanes: int

    @property
    def shape(self) -> TileShape:
        p = self.problem
        return TileShape(self.config.m, p.kernel[0], self.lanes, p.strides[0])

    @property
    def positions(self) -> int:
        return self.shape.n**2

    @property
    def tile_rows(self) -> int:
        return -(-self.problem.out_height // self.config.m)

    @property
    def tile_columns(self) -> int:
        return -(-self.problem.out_width // self.config.m)

    @property
    def tiles(self) -> int:
        return self.problem.batch * self.tile_rows * self.tile_columns

    @property
    def chunks(self) -> int:
        return -(-self.tiles // self.config.chunk)

    @property
    def chunk_rows(self) -> int:
        return -(-self.config.chunk // self.config.rows) * self.config.rows

    @property
    def in_blocks(self) -> int:
        return -(-self.problem.in_channels // CHANNEL_BLOCK)

    @property
    def in_registers(self) -> int:
        return self.in_blocks * CHANNEL_BLOCK // self.lanes

    @property
    def out_width(self) -> int:
        """Return the output channels of one block of the packed filters."""
        return self.config.vectors * self.lanes

    @property
    def group_out(self) -> int:
        return self.problem.out_channels // self.problem.groups

    @property
    def group_blocks(self) -> int:
        """Return the blocks of output channels of one group."""
        return -(-self.group_out // self.out_width)

    @property
    def out_blocks(self) -> int:
        return self.problem.groups * self.group_blocks

    @property
    def group_in_blocks(self) -> int:
        return -(-self.problem.in_channels // self.problem.groups // CHANNEL_BLOCK)

    @property
    def v_register_bytes(self) -> int:
        rows = self.chunk_rows * (self.chunks if self.config.split else 1)
        return rows * self.lanes * 4

    @property
    def v_position_bytes(self) -> int:
        # One more cache line keeps the positions of a tile out of one cache set.
        return self.in_registers * self.v_register_bytes + 64

    @property
    def m_position_bytes(self) -> int:
        return self.chunk_rows * self.out_width * 4 + 64

    @property
    def v_bytes(self) -> int:
        return -(-self.positions * self.v_position_bytes // 4096) * 4096

    @property
    def m_bytes(self) -> int:
        return -(-self.positions * self.m_position_bytes // 4096) * 4096

    @property
    def panel_bytes(self) -> int:
        """Return the bytes of one position's filters for one block of output channels."""
        return self.group_in_blocks * CHANNEL_BLOCK * self.out_width * 4


def why_not(problem: ConvolutionProblem) -> str | None:
    """Return why Winograd cannot compute the problem, or None when it can."""
    side, stride = problem.kernel[0], problem.strides[0]
    square = problem.kernel == (side, side) and problem.strides == (stride, stride)
    if not square or (side, stride) not in _OUTPUT_SIZES:
        shown = "x".join(map(str, problem.kernel)), problem.strides
        return f"needs 3x3 with stride 1 or 2 or 5x5 with 1, got {shown[0]} with {shown[1]}"
    if problem.dilations != (1, 1):
        return f"needs dilation 1, got {problem.dilations}"
    sizes = (problem.in_channels // problem.groups, problem.out_channels // problem.groups)
    if problem.groups > 1 and any(size % CHANNEL_BLOCK for size in sizes):
        return f"needs groups of whole blocks of 16 channels, got {sizes[0]} to {sizes[1]}"
    if min(problem.pads) < 0:
        return f"needs non-negative padding, got {problem.pads}"
    if problem.src.is_planar or problem.dst.is_planar:
        return "needs channels next to each other, got planar order"
    if problem.activation is not None and problem.activation.kind not in epilogue.SUPPORTED:
        return f"has no activation {problem.activation.kind}"
    return None


def configs(
    problem: ConvolutionProblem, isa: Isa, threads: int = 2, sizes: tuple[int, ...] | None = None
) -> list[WinogradConfig]:
    """Return the configurations worth timing, the likely fastest first (at least one if any fits).

    Those that should take longer than a plain convolution at full rate are left out.
    ``sizes`` limits the output tile sides (accuracy falls as they grow).
    """
    found = []
    for m in _OUTPUT_SIZES[problem.kernel[0], problem.strides[0]]:
        if m > max(problem.out_height, problem.out_width) or (sizes and m not in sizes):
            continue
        for split in (False, True):
            config = _configured(problem, isa, threads, m, split)
            if config is not None:
                found.append((estimated_cycles(problem, config, isa, threads), config))
    if not found:
        return []
    found.sort(key=lambda item: item[0])
    plain = problem.multiply_adds / isa.lanes(F32) / threads
    if problem.src.dtype == "bf16" and isa.has("avx512bf16"):
        plain *= _BF16_ADVANTAGE
    limit = max(found[0][0], min(_WORTH_TIMING * found[0][0], plain))
    return [config for cycles, config in found if cycles <= limit][:_MOST_CONFIGS]


def estimated_cycles(
    problem: ConvolutionProblem, config: WinogradConfig, isa: Isa, threads: int
) -> float:
    """Return about how many cycles a thread takes, filters in the last-level cache.

    The terms and their weights were fitted to 130 measured layers (median error 10 %).
    """
    g = _Geometry(problem, config, isa.lanes(F32))
    chunks = -(-g.chunks // threads)
    if config.split:
        items = -(-g.out_blocks * g.chunks // threads)
        tiles_in, products, filter_reads = g.tiles / threads, items, g.out_blocks / threads
        spilled = g.v_bytes / 64 / threads if g.v_bytes > 4 * _L2_BYTES else 0.0
    else:
        tiles_in, products = chunks * config.chunk, chunks * g.out_blocks
        filter_reads, spilled = products, 0.0
    depth = g.group_in_blocks * CHANNEL_BLOCK
    multiply = products * g.chunk_rows * depth * config.vectors * g.positions
    stream = filter_reads * g.positions * g.panel_bytes / 64
    transform_in = tiles_in * g.in_registers * g.positions
    transform_out = products * config.chunk * config.vectors * g.positions
    return (
        1.3 * max(multiply, 6.0 * stream)
        + 3.6 * transform_in
        + 6.4 * transform_out
        + 36.0 * spilled
    )


def _configured(
    problem: ConvolutionProblem, isa: Isa, threads: int, m: int, split: bool
) -> WinogradConfig | None:
    lanes = isa.lanes(F32)
    group_out = problem.out_channels // problem.groups
    registers = -(-group_out // CHANNEL_BLOCK) * (CHANNEL_BLOCK // lanes)
    vectors = 2 if registers % 2 == 0 or registers > 6 else 1
    vectors = vectors if lanes == CHANNEL_BLOCK else 2
    most = (isa.registers - 1 - vectors) // vectors
    probe = _Geometry(problem, WinogradConfig(m, 1, vectors, 1), lanes)
    per_tile = 4 * probe.positions * (probe.in_blocks * CHANNEL_BLOCK + probe.out_width)
    limit = max(most, _L2_BYTES // per_tile)
    if split:
        chunk = probe.tiles if probe.tiles <= 4 * most else most * 2
        if probe.out_blocks < threads:
            return None
    else:
        share = -(-probe.tiles // threads)
        chunk = -(-share // -(-share // limit))
        if probe.tiles < threads:
            return None
    passes = -(-chunk // most)
    rows = -(-chunk // passes)
    return WinogradConfig(m, rows, vectors, chunk, split)


def packed_shape(problem: ConvolutionProblem, config: WinogradConfig, isa: Isa) -> tuple[int, ...]:
    """Return the shape of what ``pack_weights`` returns."""
    g = _Geometry(problem, config, isa.lanes(F32))
    return g.out_blocks, g.positions, g.group_in_blocks * CHANNEL_BLOCK, g.out_width


def pack_weights(
    w: NDArray[np.float32], problem: ConvolutionProblem, config: WinogradConfig, isa: Isa
) -> NDArray[np.float32]:
    """Return U for filters [M, C/groups, r, r]: transformed in f64 and rounded once.

    The layout is [output block][position][input channel][output channel of the block], padded with
    zeros.
    """
    g = _Geometry(problem, config, isa.lanes(F32))
    transform = weights_matrix(config.m, w.shape[2], problem.strides[0])
    padded = g.group_in_blocks * CHANNEL_BLOCK
    return transformed(w, transform, problem.groups, g.out_width, padded)


def workspace_bytes(
    problem: ConvolutionProblem, config: WinogradConfig, isa: Isa, threads: int
) -> int:
    """Return the workspace that ``threads`` threads need (aligned to 64 bytes or more)."""
    g = _Geometry(problem, config, isa.lanes(F32))
    if config.split:
        return g.v_bytes + threads * g.m_bytes
    return threads * (g.v_bytes + g.m_bytes)


def build(
    module: Module, name: str, problem: ConvolutionProblem, config: WinogradConfig
) -> tuple[str, ...]:
    """Write the kernels and return their names, to be run in this order with a barrier between.

    Operands: ``problem.operands``, weights as ``pack_weights`` makes them.
    """
    g = _Geometry(problem, config, module.isa.lanes(F32))
    strides = (g.v_position_bytes, g.v_register_bytes)
    to_v = input_function(module, f"{name}_tile_in", g.shape, problem, strides)
    from_m = output_function(
        module, f"{name}_tile_out", g.shape, problem, (g.m_position_bytes, config.vectors)
    )
    if not config.split:
        with module.kernel(name) as k:
            w = _Writer(k, g, to_v, from_m)
            w.fused()
        return (name,)
    with module.kernel(f"{name}_in") as k:
        _Writer(k, g, to_v, from_m).split_input()
    with module.kernel(f"{name}_out") as k:
        _Writer(k, g, to_v, from_m).split_output()
    return (f"{name}_in", f"{name}_out")


class _Writer:
    """Writes the loops of one kernel around the tile functions and the register tile."""

    def __init__(self, k: Kernel, g: _Geometry, to_v: Function, from_m: Function) -> None:
        self.k, self.g, self.to_v, self.from_m = k, g, to_v, from_m
        names = g.problem.operands
        self.args = {name: k.arg(i) for i, name in enumerate(names)}

    def fused(self) -> None:
        """Write the one-phase form: threads divide the chunks of tiles."""
        k, g = self.k, self.g
        v = self.args["workspace"] + k.tid * (g.v_bytes + g.m_bytes)
        first, last = k.my_range(g.chunks)
        with k.loop(first, last) as chunks:
            base = chunks.index * g.config.chunk
            count = k.min(k.const(I64, g.config.chunk), g.tiles - base)
            with k.loop(0, count) as tiles:
                self._tile_in(v + tiles.index * (g.lanes * 4), base + tiles.index, 0, g.in_blocks)
            with k.loop(0, g.out_blocks) as blocks:
                self._multiply(v, v + g.v_bytes, blocks.index, count)
                self._tiles_out(v + g.v_bytes, blocks.index, base, count)

    def split_input(self) -> None:
        """Write the first phase: threads divide (tile, channel block) pairs; V is shared."""
        k, g = self.k, self.g
        first, last = k.my_range(g.tiles * g.in_blocks)
        with k.loop(first // g.in_blocks, (last + (g.in_blocks - 1)) // g.in_blocks) as tiles:
            tile = tiles.index
            start = k.max(k.const(I64, 0), first - tile * g.in_blocks)
            stop = k.min(k.const(I64, g.in_blocks), last - tile * g.in_blocks)
            row = tile // g.config.chunk * g.chunk_rows + tile % g.config.chunk
            self._tile_in(self.args["workspace"] + row * (g.lanes * 4), tile, start, stop)

    def split_output(self) -> None:
        """Write the second phase: threads divide the blocks of output channels, then chunks."""
        k, g = self.k, self.g
        shared = self.args["workspace"]
        m = shared + g.v_bytes + k.tid * g.m_bytes
        first, last = k.my_range(g.out_blocks * g.chunks)
        with k.loop(first, last) as items:
            block, chunk = items.index // g.chunks, items.index % g.chunks
            base = chunk * g.config.chunk
            count = k.min(k.const(I64, g.config.chunk), g.tiles - base)
            v = shared + chunk * (g.chunk_rows * g.lanes * 4)
            self._multiply(v, m, block, count)
            self._tiles_out(m, block, base, count)

    def _tile_place(self, tile: Value) -> tuple[Value, Value, Value]:
        """Return image, first output row and first output column of a tile."""
        g = self.g
        per_image = g.tile_rows * g.tile_columns
        within = tile % per_image
        row, column = within // g.tile_columns, within % g.tile_columns
        return tile // per_image, row * g.config.m, column * g.config.m

    def _tile_in(self, v: Value, tile: Value, start: int | Value, stop: int | Value) -> None:
        k, p, n = self.k, self.g.problem, self.g.shape.n
        image, y, x = self._tile_place(tile)
        y, x = y * p.strides[0] - p.pads[0], x * p.strides[1] - p.pads[1]
        src = self.args["src"] + image * p.src.batch + y * p.src.row + x * p.src.pixel
        zero, side = k.const(I64, 0), k.const(I64, n)
        k.call(
            self.to_v, src, v, start, stop,
            k.max(zero, -y), k.min(side, p.height - y), k.max(zero, -x), k.min(side, p.width - x),
        )  # fmt: skip

    def _multiply(self, v: Value, m: Value, block: Value, count: Value) -> None:
        """Write M = V U of one chunk and one block of output channels, for all positions."""
        k, g, c = self.k, self.g, self.g.config
        type_ = F32.vector(g.lanes)
        access = RowAccess(g.lanes * 4, g.lanes, g.v_register_bytes)
        filters = self.args["weights"] + block * (g.positions * g.panel_bytes)
        if g.problem.groups > 1:
            registers = g.group_in_blocks * g.shape.parts
            v = v + block // g.group_blocks * (registers * g.v_register_bytes)
        with k.loop(0, g.positions) as positions, k.loop(0, count, c.rows) as rows:
            sums = multiply_accumulate(
                k,
                v + positions.index * g.v_position_bytes + rows.index * (g.lanes * 4),
                access,
                filters + positions.index * g.panel_bytes,
                Tile(c.rows, c.vectors),
                blocks=g.group_in_blocks * g.shape.parts,
            )
            out = m + positions.index * g.m_position_bytes + rows.index * (g.out_width * 4)
            for i, value in enumerate(sums):
                k.store(value, out, i * type_.nbytes)

    def _tiles_out(self, m: Value, block: Value, base: Value, count: Value) -> None:
        k, g, p = self.k, self.g, self.g.problem
        channel, limit = block * g.out_width, k.const(I64, p.stored_channels)
        if p.groups > 1:
            group = block // g.group_blocks
            channel = group * g.group_out + block % g.group_blocks * g.out_width
            limit = (group + 1) * g.group_out
        blocks = channel // CHANNEL_BLOCK
        side = k.const(I64, g.config.m)
        bias = self.args.get("bias", m)
        with k.loop(0, count) as tiles:
            image, y, x = self._tile_place(base + tiles.index)
            dst = self.args["dst"] + image * p.dst.batch + y * p.dst.row + x * p.dst.pixel
            residual = m
            if p.residual is not None:
                r = p.residual
                residual = self.args["residual"] + image * r.batch + y * r.row + x * r.pixel
                residual = residual + blocks * r.block
            k.call(
                self.from_m, m + tiles.index * (g.out_width * 4), dst + blocks * p.dst.block,
                residual, bias, channel, limit,
                k.min(side, p.out_height - y), k.min(side, p.out_width - x),
            )  # fmt: skip
