"""Input and output transforms of Winograd convolution for one tile, as functions of a module.

A tile is n x n input pixels of one register of channels (n = m + r - 1 with stride 1). Two passes
of the one-dimensional transform go through a small buffer on the stack, which stays in L1 cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.backends.cpu.kernels.convolution import (
    CHANNEL_BLOCK,
    ActivationLayout,
    ConvolutionProblem,
)
from lamina.backends.cpu.kernels.output import OutputRegister, load_f32, memory_type
from lamina.backends.cpu.kernels.winograd_matrices import Transforms, linear, transforms
from lamina.codegen.llvm.builder import F32, I64, PTR, Builder, Function, Module, Type, Value


@dataclass(frozen=True)
class TileShape:
    """F(m x m, r x r), perhaps with stride 2, on registers of ``lanes`` channels."""

    m: int
    r: int
    lanes: int
    stride: int = 1

    @property
    def n(self) -> int:
        """Return the side of the input tile."""
        return (self.m - 1) * self.stride + self.r

    @property
    def matrices(self) -> Transforms:
        """Return the matrices of the one-dimensional transforms."""
        return transforms(self.m, self.r, self.stride)

    @property
    def register_bytes(self) -> int:
        """Return the bytes of one register of channels."""
        return 4 * self.lanes

    @property
    def parts(self) -> int:
        """Return the registers that make one block of 16 channels."""
        return CHANNEL_BLOCK // self.lanes


def input_function(
    module: Module,
    name: str,
    shape: TileShape,
    problem: ConvolutionProblem,
    strides: tuple[int, int],
) -> Function:
    """Write ``name(src, v, block0, block1, y0, y1, x0, x1)``: B^T d B of one tile's channels.

    ``src`` is where the tile's first pixel lies, or would lie outside the image; y0..y1 and x0..x1
    are the rows and columns of the tile that exist, the others read as zero. ``strides`` are V's
    bytes between positions and between registers of channels.
    """
    parameters = [("src", PTR), ("v", PTR)] + [
        (x, I64) for x in ("block0", "block1", "y0", "y1", "x0", "x1")
    ]
    with module.function(name, parameters) as k:
        src, v, block0, block1, *ranges = k.parameters
        y0, y1, x0, x1 = ranges
        n = shape.n
        size = shape.lanes * problem.src.item_bytes
        patch, scratch = k.alloca(n * n * size), k.alloca(n * n * shape.register_bytes)
        inside = k.eq(y1 - y0, n) & k.eq(x1 - x0, n)
        layout = problem.src
        row = k.select(inside, layout.row, k.const(I64, n * size))
        pixel = k.select(inside, layout.pixel, k.const(I64, size))
        with k.if_(inside ^ 1):
            zero = k.const(memory_type(problem.src).vector(shape.lanes), 0.0)
            with k.loop(0, n * n * size, size) as clear:
                k.store(zero, patch, clear.index)
        with k.loop(block0, block1) as blocks:
            for part in range(shape.parts):
                base = src + blocks.index * layout.block + part * size
                first = blocks.index * CHANNEL_BLOCK + part * shape.lanes
                mask = _channel_mask(k, problem.in_channels, layout, first, shape.lanes)
                with k.if_(inside ^ 1):
                    _copy_patch(k, shape, layout, base, patch, ranges, mask)
                start = k.select(inside, base, patch)
                target = v + (blocks.index * shape.parts + part) * strides[1]
                source = (start, row, pixel)
                place = (target, strides[0])
                _transform_input(k, shape, source, memory_type(layout), mask, scratch, place)
    return module.handle(name)


def _channel_mask(
    k: Builder, channels: int, layout: ActivationLayout, first: Value, lanes: int
) -> Value | None:
    """Return the mask of channels that memory holds, or None when it holds whole registers."""
    if channels % CHANNEL_BLOCK == 0 or layout.padded:
        return None
    return k.lane_mask(k.max(k.const(I64, 0), channels - first), lanes)


def _copy_patch(
    k: Builder,
    shape: TileShape,
    layout: ActivationLayout,
    base: Value,
    patch: Value,
    ranges: Sequence[Value],
    mask: Value | None,
) -> None:
    y0, y1, x0, x1 = ranges
    size = shape.lanes * layout.item_bytes
    with k.loop(y0, y1) as rows, k.loop(x0, x1) as columns:
        offset = rows.index * layout.row + columns.index * layout.pixel
        value = k.load(memory_type(layout).vector(shape.lanes), base, offset, mask=mask)
        k.store(value, patch, (rows.index * shape.n + columns.index) * size)


def _transform_input(
    k: Builder,
    shape: TileShape,
    source: tuple[Value, Value, Value],
    scalar: Type,
    mask: Value | None,
    scratch: Value,
    target: tuple[Value, int],
) -> None:
    start, row, pixel = source
    n, size, type_ = shape.n, shape.register_bytes, F32.vector(shape.lanes)
    matrix = shape.matrices.input
    with k.loop(0, n) as columns:
        at = start + columns.index * pixel
        x = [load_f32(k, scalar, at, row * i, mask=mask) for i in range(n)]
        for i, value in enumerate(linear(k, matrix, x)):
            k.store(value, scratch, columns.index * size + i * n * size)
    pointer, stride = target
    with k.loop(0, n) as rows:
        at = scratch + rows.index * (n * size)
        x = [k.load(type_, at, j * size) for j in range(n)]
        out = pointer + rows.index * (n * stride)
        for j, value in enumerate(linear(k, matrix, x)):
            k.store(value, out, j * stride)


def output_function(
    module: Module,
    name: str,
    shape: TileShape,
    problem: ConvolutionProblem,
    geometry: tuple[int, int],
) -> Function:
    """Write ``name(m, dst, residual, bias, channel, limit, rows, columns)``: A^T m A and its store.

    ``geometry`` is the bytes between M's positions and the registers of channels that M holds per
    tile. ``channel`` is the first output channel, ``limit`` the one after the group's last;
    ``rows`` and ``columns`` are those that exist.
    ``bias`` and ``residual`` are read only when the problem has them.
    """
    stride, vectors = geometry
    parameters = [(x, PTR) for x in ("m", "dst", "residual", "bias")] + [
        (x, I64) for x in ("channel", "limit", "rows", "columns")
    ]
    with module.function(name, parameters) as k:
        m, dst, residual, bias, channel, limit, rows, columns = k.parameters
        size, parts = shape.register_bytes, shape.parts
        scratch = k.alloca(shape.m * shape.n * size)
        with k.loop(0, vectors // parts) as blocks:
            for part in range(parts):
                first = channel + blocks.index * CHANNEL_BLOCK + part * shape.lanes
                with k.if_(first < limit):
                    source = m + (blocks.index * parts + part) * size
                    _transform_columns(k, shape, source, stride, scratch)
                    store = _Store(k, problem, shape, first)
                    store.add_bias(bias)
                    store.point(dst, residual, blocks.index, part)
                    store.rows(scratch, rows, columns)
    return module.handle(name)


def _transform_columns(
    k: Builder, shape: TileShape, source: Value, stride: int, scratch: Value
) -> None:
    n, size, type_ = shape.n, shape.register_bytes, F32.vector(shape.lanes)
    with k.loop(0, n) as columns:
        at = source + columns.index * stride
        x = [k.load(type_, at, i * n * stride) for i in range(n)]
        for i, value in enumerate(linear(k, shape.matrices.output, x)):
            k.store(value, scratch, columns.index * size + i * n * size)


class _Store:
    """The second pass of the output transform: rows, epilogue and stores of one register."""

    def __init__(
        self, k: Builder, problem: ConvolutionProblem, shape: TileShape, first: Value
    ) -> None:
        self.k, self.problem, self.shape = k, problem, shape
        self.register = OutputRegister(
            k,
            problem.activation,
            remaining=problem.out_channels - first
            if problem.out_channels % CHANNEL_BLOCK
            else None,
            dst=problem.dst,
            residual=problem.residual,
        )
        self.first = first
        self.bias: Value | None = None
        self.residual: Value | None = None

    def add_bias(self, bias: Value) -> None:
        """Load the bias of these channels when the problem has one."""
        if self.problem.bias:
            self.bias = self.register.load_bias(bias, self.first * 4)

    def point(self, dst: Value, residual: Value, block: Value, part: int) -> None:
        """Set the addresses of the register's first output pixel."""
        first = part * self.shape.lanes
        layout = self.problem.dst
        self.dst = dst + block * layout.block + first * layout.item_bytes
        if self.problem.residual is not None:
            layout = self.problem.residual
            self.residual = residual + block * layout.block + first * layout.item_bytes

    def rows(self, scratch: Value, rows: Value, columns: Value) -> None:
        """Write the rows and columns of the tile that exist."""
        k, shape = self.k, self.shape
        with k.loop(0, rows) as loop:
            at = scratch + loop.index * (shape.n * shape.register_bytes)
            x = [k.load(self.register.type, at, j * shape.register_bytes) for j in range(shape.n)]
            values = linear(k, shape.matrices.output, x)
            if self.problem.out_width % shape.m == 0:
                self._pixels(loop.index, values)
            else:
                self._some_pixels(loop.index, values, columns)

    def _some_pixels(self, row: Value, values: Sequence[Value], columns: Value) -> None:
        with self.k.if_(self.k.eq(columns, self.shape.m)) as full:
            self._pixels(row, values)
        with full.otherwise():
            for j, value in enumerate(values[:-1]):
                with self.k.if_(columns > j):
                    self._pixel(row, j, value)

    def _pixels(self, row: Value, values: Sequence[Value]) -> None:
        for j, value in enumerate(values):
            self._pixel(row, j, value)

    def _pixel(self, row: Value, column: int, value: Value) -> None:
        dst, shortcut = self.problem.dst, self.problem.residual
        residual = None
        if self.residual is not None and shortcut is not None:
            residual = self.residual + row * shortcut.row + column * shortcut.pixel
        if self.bias is not None:
            value = value + self.bias
        self.register.write(value, self.dst + row * dst.row + column * dst.pixel, residual)
