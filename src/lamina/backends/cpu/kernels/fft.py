"""Convolution through Fourier transforms, for large filters: full channels, groups, or depthwise.

Tiles of n x n input pixels overlap by what the filter reaches (overlap-save), or one tile covers
the whole image, whose padding then takes the place of the overlap. Each tile's spectrum is
multiplied by that of the filters, which is made at build time: a complex matrix product over
channels for each of the n^2 / 2 + 2 numbers of a spectrum, or one product per channel for
depthwise filters. The work hardly grows with the filter's size. Rounding errors are relative to
the largest result of a tile, 1e-6 of it about, and do not depend on the filter's size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.backends.cpu.kernels import epilogue
from lamina.backends.cpu.kernels.convolution import CHANNEL_BLOCK, ConvolutionProblem
from lamina.backends.cpu.kernels.fft_lines import FACTORS
from lamina.backends.cpu.kernels.fft_product import multiply_registers, products
from lamina.backends.cpu.kernels.fft_tiles import Spectrum, Transforms
from lamina.backends.cpu.weights.fft import spectra
from lamina.codegen.llvm.builder import F32, I64, Kernel, Module, Value
from lamina.codegen.llvm.target import Isa

_L2_BYTES = 512 << 10
_MOST_CONFIGS = 2
_WORTH_TIMING = 1.35
_MOST_GROWTH = 8
"""How many times larger than the filters their spectra may be, above a megabyte."""


@dataclass(frozen=True)
class FftConfig:
    """Side of the tiles; tiles per register tile and per chunk of the matrix product."""

    n: int
    rows: int = 1
    chunk: int = 1


@dataclass(frozen=True)
class _Geometry:
    """All sizes and strides that follow from problem, configuration and instruction set."""

    problem: ConvolutionProblem
    config: FftConfig
    lanes: int

    @property
    def spectrum(self) -> Spectrum:
        return Spectrum(self.config.n, self.lanes)

    @property
    def is_depthwise(self) -> bool:
        return _is_depthwise(self.problem)

    @property
    def tile(self) -> tuple[int, int]:
        """Return the output rows and columns of a tile (0 where the filter does not fit)."""
        p = self.problem
        return (
            _tile_outputs(p, 0, p.height, p.out_height, self.config.n),
            _tile_outputs(p, 1, p.width, p.out_width, self.config.n),
        )

    @property
    def tile_rows(self) -> int:
        return -(-self.problem.out_height // self.tile[0])

    @property
    def tile_columns(self) -> int:
        return -(-self.problem.out_width // self.tile[1])

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
    def in_registers(self) -> int:
        return -(-self.problem.in_channels // CHANNEL_BLOCK) * CHANNEL_BLOCK // self.lanes

    @property
    def out_registers(self) -> int:
        return -(-self.problem.out_channels // CHANNEL_BLOCK) * CHANNEL_BLOCK // self.lanes

    @property
    def group_in_registers(self) -> int:
        groups = self.problem.groups
        return -(-self.problem.in_channels // groups // CHANNEL_BLOCK) * CHANNEL_BLOCK // self.lanes

    @property
    def v_register_bytes(self) -> int:
        return self.chunk_rows * self.chunks * self.spectrum.number_bytes

    @property
    def v_position_bytes(self) -> int:
        # One more cache line keeps the positions of a tile out of one cache set.
        return self.in_registers * self.v_register_bytes + 64

    @property
    def m_position_bytes(self) -> int:
        return self.chunk_rows * self.spectrum.number_bytes + 64

    @property
    def v_bytes(self) -> int:
        """Return the bytes of the spectra of all tiles; a depthwise filter needs none of them."""
        if self.is_depthwise:
            return 0
        return -(-self.spectrum.positions * self.v_position_bytes // 4096) * 4096

    @property
    def own_bytes(self) -> int:
        """Return the bytes of each thread: products of one register, a plane and its lines."""
        position = self.spectrum.number_bytes if self.is_depthwise else self.m_position_bytes
        size = self.spectrum.positions * position + self.spectrum.work_bytes
        return -(-size // 4096) * 4096

    @property
    def panel_bytes(self) -> int:
        """Return the bytes of one position's filters for one register of output channels."""
        depth = 1 if self.is_depthwise else self.group_in_registers * self.lanes
        return depth * self.spectrum.number_bytes


def _is_depthwise(p: ConvolutionProblem) -> bool:
    return p.groups == p.in_channels == p.out_channels


def _tile_outputs(p: ConvolutionProblem, axis: int, size: int, outputs: int, n: int) -> int:
    """Return the outputs along one axis of a tile of n pixels.

    A tile gives the n - span + 1 outputs whose whole windows it holds. If it holds the whole
    image, a window may also leave it at the end and go on at its begin, where the padding is: all
    outputs are right when that padding is long enough.
    """
    span = (p.kernel[axis] - 1) * p.dilations[axis] + 1
    stride, pad = p.strides[axis], p.pads[axis]
    read = (outputs - 1) * stride + span
    if n >= pad + size and n >= read - pad:
        return outputs
    return max(0, n - span + stride) // stride


def why_not(problem: ConvolutionProblem) -> str | None:
    """Return why this kernel cannot compute the problem, or None when it can."""
    p = problem
    sizes = (p.in_channels // p.groups, p.out_channels // p.groups)
    if p.groups > 1 and not _is_depthwise(p) and any(size % CHANNEL_BLOCK for size in sizes):
        return f"needs groups of whole blocks of 16 channels, got {sizes[0]} to {sizes[1]}"
    if min(p.pads) < 0:
        return f"needs non-negative padding, got {p.pads}"
    if p.src.is_planar or p.dst.is_planar:
        return "needs channels next to each other, got planar order"
    if p.activation is not None and p.activation.kind not in epilogue.SUPPORTED:
        return f"has no activation {p.activation.kind}"
    spans = [(k - 1) * d + 1 for k, d in zip(p.kernel, p.dilations, strict=True)]
    if max(spans) > max(FACTORS):
        return f"needs filters that reach {max(FACTORS)} pixels or less, got {max(spans)}"
    return None


def configs(
    problem: ConvolutionProblem, isa: Isa, threads: int = 2, sizes: tuple[int, ...] | None = None
) -> list[FftConfig]:
    """Return the configurations that may win by their operation count, the likely fastest first.

    Left out is what should take longer than a plain convolution at full rate; with ``sizes``
    those tiles are returned whatever they cost, if the filter fits them.
    """
    plain = problem.multiply_adds / isa.lanes(F32) / threads
    if problem.src.dtype == "bf16" and isa.has("avx512bf16"):
        plain *= 0.6
    found = []
    for n in sizes or FACTORS:
        config = _configured(problem, isa, threads, n)
        if config is None:
            continue
        cycles = estimated_cycles(problem, config, isa, threads)
        if sizes or (cycles <= plain and not _grows(problem, config, isa)):
            found.append((cycles, config))
    found.sort(key=lambda item: item[0])
    return [c for cycles, c in found if sizes or cycles <= _WORTH_TIMING * found[0][0]][
        : None if sizes else _MOST_CONFIGS
    ]


def _grows(problem: ConvolutionProblem, config: FftConfig, isa: Isa) -> bool:
    """Tell whether the filters' spectra take unreasonably more memory than the filters."""
    g = _Geometry(problem, config, isa.lanes(F32))
    packed = g.out_registers * g.spectrum.positions * g.panel_bytes
    plain = 4 * problem.out_channels * problem.in_channels // problem.groups
    plain *= problem.kernel[0] * problem.kernel[1]
    return packed > max(1 << 20, _MOST_GROWTH * plain)


def _configured(problem: ConvolutionProblem, isa: Isa, threads: int, n: int) -> FftConfig | None:
    lanes = isa.lanes(F32)
    g = _Geometry(problem, FftConfig(n), lanes)
    if min(g.tile) < 1:
        return None
    if g.is_depthwise:
        return FftConfig(n)
    most = (isa.registers - 4) // 2
    limit = max(most, _L2_BYTES // (g.spectrum.positions * g.spectrum.number_bytes))
    if g.out_registers < threads:
        limit = min(limit, -(-g.tiles // threads))
    chunk = -(-g.tiles // -(-g.tiles // limit))
    rows = -(-chunk // -(-chunk // most))
    return FftConfig(n, rows, chunk)


def estimated_cycles(
    problem: ConvolutionProblem, config: FftConfig, isa: Isa, threads: int
) -> float:
    """Return about how many cycles a thread takes, as measured where an FMA takes one."""
    g = _Geometry(problem, config, isa.lanes(F32))
    pixels = config.n * config.n
    forward, backward = 15.0 * pixels, 17.0 * pixels
    if g.is_depthwise:
        items = -(-g.tiles * g.in_registers // threads)
        return items * (forward + backward + 5.0 * pixels)
    items = -(-g.out_registers * g.chunks // threads)
    depth = g.group_in_registers * g.lanes
    multiply = 4.4 * items * g.chunk_rows * g.spectrum.positions * depth
    stream = items * g.spectrum.positions * g.panel_bytes / 64
    transforms = g.tiles * g.in_registers / threads * forward + items * config.chunk * backward
    return max(multiply, 6.0 * stream) + transforms


def packed_shape(problem: ConvolutionProblem, config: FftConfig, isa: Isa) -> tuple[int, ...]:
    """Return the shape of what ``pack_weights`` returns."""
    g = _Geometry(problem, config, isa.lanes(F32))
    depth = g.panel_bytes // g.spectrum.number_bytes
    return g.out_registers, g.spectrum.positions, depth, 2, g.lanes


def pack_weights(
    w: NDArray[np.float32], problem: ConvolutionProblem, config: FftConfig, isa: Isa
) -> NDArray[np.float32]:
    """Return the spectra of filters [M, C/groups, kh, kw]: made in f64 and rounded once.

    The layout is [output register][position][input channel][re, im][lane], without input channels
    for depthwise filters, padded with zeros. All factors of the transforms are in the spectra.
    """
    shape = packed_shape(problem, config, isa)
    return spectra(w, config.n, isa.lanes(F32), problem.dilations, shape)


def workspace_bytes(problem: ConvolutionProblem, config: FftConfig, isa: Isa, threads: int) -> int:
    """Return the workspace that ``threads`` threads need (aligned to 64 bytes or more)."""
    g = _Geometry(problem, config, isa.lanes(F32))
    return g.v_bytes + threads * g.own_bytes


def build(
    module: Module, name: str, problem: ConvolutionProblem, config: FftConfig
) -> tuple[str, ...]:
    """Write the kernels and return their names, to be run in this order with a barrier between.

    Operands: ``problem.operands``, weights as ``pack_weights`` makes them.
    """
    g = _Geometry(problem, config, module.isa.lanes(F32))
    transforms = Transforms(module, name, g.spectrum, problem)
    if g.is_depthwise:
        with module.kernel(name) as k:
            _Writer(k, g, transforms).depthwise()
        return (name,)
    with module.kernel(f"{name}_in") as k:
        _Writer(k, g, transforms).inputs()
    with module.kernel(f"{name}_out") as k:
        _Writer(k, g, transforms).outputs()
    return (f"{name}_in", f"{name}_out")


class _Writer:
    """Writes the loops of one kernel around the transforms and products."""

    def __init__(self, k: Kernel, g: _Geometry, transforms: Transforms) -> None:
        self.k, self.g, self.transforms = k, g, transforms
        self.args = {name: k.arg(i) for i, name in enumerate(g.problem.operands)}
        own = self.args["workspace"] + g.v_bytes + k.tid * g.own_bytes
        self.work = own
        self.products = own + g.spectrum.work_bytes

    def depthwise(self) -> None:
        """Write the kernel of one filter per channel: threads divide (register, tile) pairs."""
        k, g, t = self.k, self.g, self.transforms
        step = g.spectrum.number_bytes
        first, last = k.my_range(g.in_registers * g.tiles)
        with k.loop(first, last) as items:
            register, tile = items.index // g.tiles, items.index % g.tiles
            self._rows_in(register, tile)
            k.call(t.columns_in, self.products, step, self.work)
            filters = self.args["weights"] + register * (g.spectrum.positions * g.panel_bytes)
            multiply_registers(k, self.products, filters, g.spectrum.positions)
            self._out(register, tile, self.products, k.const(I64, step))

    def inputs(self) -> None:
        """Write the first phase: threads divide (tile, register) pairs; spectra are shared."""
        k, g, t = self.k, self.g, self.transforms
        first, last = k.my_range(g.tiles * g.in_registers)
        with k.loop(first, last) as items:
            tile, register = items.index // g.in_registers, items.index % g.in_registers
            self._rows_in(register, tile)
            c = g.config
            row = tile // c.chunk * g.chunk_rows + tile % c.chunk
            v = self.args["workspace"] + register * g.v_register_bytes
            v = v + row * g.spectrum.number_bytes
            k.call(t.columns_in, v, g.v_position_bytes, self.work)

    def outputs(self) -> None:
        """Write the second phase: threads divide the registers of output channels, then chunks."""
        k, g = self.k, self.g
        first, last = k.my_range(g.out_registers * g.chunks)
        with k.loop(first, last) as items:
            register, chunk = items.index // g.chunks, items.index % g.chunks
            base = chunk * g.config.chunk
            count = k.min(k.const(I64, g.config.chunk), g.tiles - base)
            self._multiply(register, chunk, count)
            with k.loop(0, count) as tiles:
                m = self.products + tiles.index * g.spectrum.number_bytes
                self._out(register, base + tiles.index, m, k.const(I64, g.m_position_bytes))

    def _multiply(self, register: Value, chunk: Value, count: Value) -> None:
        """Write the products of one chunk and one register of output channels."""
        k, g = self.k, self.g
        number = g.spectrum.number_bytes
        v = self.args["workspace"] + chunk * (g.chunk_rows * number)
        if g.problem.groups > 1:
            per_group = g.out_registers // g.problem.groups
            v = v + register // per_group * (g.group_in_registers * g.v_register_bytes)
        filters = self.args["weights"] + register * (g.spectrum.positions * g.panel_bytes)
        with (
            k.loop(0, g.spectrum.positions) as positions,
            k.loop(0, count, g.config.rows) as rows,
        ):
            left = v + positions.index * g.v_position_bytes + rows.index * number
            sums = products(
                k, left, filters + positions.index * g.panel_bytes,
                rows=g.config.rows, registers=g.group_in_registers, step=g.v_register_bytes,
            )  # fmt: skip
            out = self.products + positions.index * g.m_position_bytes + rows.index * number
            for i, value in enumerate(sums):
                k.store(value, out, i * (number // 2))

    def _place(self, tile: Value) -> tuple[Value, Value, Value]:
        """Return image, first output row and first output column of a tile."""
        g = self.g
        per_image = g.tile_rows * g.tile_columns
        within = tile % per_image
        row, column = within // g.tile_columns, within % g.tile_columns
        return tile // per_image, row * g.tile[0], column * g.tile[1]

    def _channel(self, register: Value) -> tuple[Value, int]:
        """Return the block of 16 channels of a register, and the registers of a block."""
        parts = CHANNEL_BLOCK // self.g.lanes
        return register // parts, parts

    def _rows_in(self, register: Value, tile: Value) -> None:
        k, p = self.k, self.g.problem
        image, y, x = self._place(tile)
        y, x = y * p.strides[0] - p.pads[0], x * p.strides[1] - p.pads[1]
        block, parts = self._channel(register)
        src = self.args["src"] + image * p.src.batch + y * p.src.row + x * p.src.pixel
        src = src + block * p.src.block + register % parts * (self.g.lanes * p.src.item_bytes)
        zero, side = k.const(I64, 0), k.const(I64, self.g.config.n)
        k.call(
            self.transforms.rows_in, src, register * self.g.lanes,
            k.max(zero, -y), k.min(side, p.height - y), k.max(zero, -x), k.min(side, p.width - x),
            self.work,
        )  # fmt: skip

    def _out(self, register: Value, tile: Value, spectrum: Value, step: Value) -> None:
        """Transform one register's products of a tile back and write its pixels."""
        k, g, p = self.k, self.g, self.g.problem
        k.call(self.transforms.columns_out, spectrum, step, self.work)
        image, y, x = self._place(tile)
        block, parts = self._channel(register)
        first = register * g.lanes
        addresses = []
        for layout, name in ((p.dst, "dst"), (p.residual, "residual")):
            if layout is None:
                addresses.append(self.args["dst"])
                continue
            at = self.args[name] + image * layout.batch + y * layout.row + x * layout.pixel
            at = at + register % parts * (g.lanes * layout.item_bytes)
            addresses.append(at + block * layout.block)
        bias = self.args.get("bias", self.work)
        with k.if_(first < p.stored_channels):
            k.call(
                self.transforms.rows_out, *addresses, bias, first,
                k.min(k.const(I64, g.tile[0]), p.out_height - y),
                k.min(k.const(I64, g.tile[1]), p.out_width - x),
                self.work,
            )  # fmt: skip
