"""Input and output transforms of FFT convolution for one tile, as functions of a module.

A tile is n x n input pixels of one register of channels. Two real rows make one complex line, so
that every transform is a complex one of length n, forwards or backwards; the halves of a spectrum
that follow from symmetry are neither stored nor multiplied. A tile's *plane* holds, for each row,
the numbers 1 .. n/2 - 1 of its spectrum, and in place of number 0 the numbers 0 and n/2, which are
real. Its *spectrum* holds n (n/2 - 1) + n + 2 numbers: columns 1 .. n/2 - 1 whole, then the first
n/2 + 1 of column 0 and of column n/2.
"""

from __future__ import annotations

from dataclasses import dataclass

from lamina.backends.cpu.kernels.convolution import CHANNEL_BLOCK, ConvolutionProblem
from lamina.backends.cpu.kernels.fft_lines import (
    Complex,
    line_function,
    load,
    pair,
    store,
    unpair,
)
from lamina.backends.cpu.kernels.output import OutputRegister, load_f32, memory_type
from lamina.codegen.llvm.builder import F32, I64, PTR, Builder, Function, Module, Value


@dataclass(frozen=True)
class Spectrum:
    """Sizes of a tile of ``n`` x ``n`` pixels on registers of ``lanes`` channels."""

    n: int
    lanes: int

    @property
    def register_bytes(self) -> int:
        """Return the bytes of one register."""
        return 4 * self.lanes

    @property
    def number_bytes(self) -> int:
        """Return the bytes of one complex number per lane."""
        return 2 * self.register_bytes

    @property
    def positions(self) -> int:
        """Return the complex numbers of a spectrum."""
        return self.n * self.n // 2 + 2

    @property
    def row_bytes(self) -> int:
        """Return the bytes between rows of a plane; one number more keeps cache sets apart."""
        return (self.n // 2 + 1) * self.number_bytes

    @property
    def plane_bytes(self) -> int:
        """Return the bytes of a plane."""
        return self.n * self.row_bytes

    @property
    def work_bytes(self) -> int:
        """Return the bytes of a plane and three lines, which every function here works in."""
        return self.plane_bytes + 3 * self.n * self.number_bytes


class Transforms:
    """The functions of one module; ``work`` is memory of ``spectrum.work_bytes``."""

    def __init__(
        self, module: Module, stem: str, spectrum: Spectrum, problem: ConvolutionProblem
    ) -> None:
        self.spectrum, self.problem = spectrum, problem
        self.line = line_function(module, f"{stem}_line", spectrum.n)
        self.rows_in = self._rows_in(module, f"{stem}_rows_in")
        self.columns_in = self._columns_in(module, f"{stem}_columns_in")
        self.columns_out = self._columns_out(module, f"{stem}_columns_out")
        self.rows_out = self._rows_out(module, f"{stem}_rows_out")

    def _lines(self, work: Value) -> tuple[Value, Value, Value]:
        first = work + self.spectrum.plane_bytes
        line = self.spectrum.n * self.spectrum.number_bytes
        return first, first + line, first + 2 * line

    def _rows_in(self, module: Module, name: str) -> Function:
        """Write ``name(src, channel, y0, y1, x0, x1, work)``: the plane of a tile's pixels.

        ``src`` is where the tile's first pixel lies, or would lie outside the image; y0..y1 and
        x0..x1 are the rows and columns of the tile that exist, the others read as zero.
        """
        s, p = self.spectrum, self.problem
        parameters = [("src", PTR)] + [(x, I64) for x in ("channel", "y0", "y1", "x0", "x1")]
        with module.function(name, [*parameters, ("work", PTR)]) as k:
            src, channel, y0, y1, x0, x1, work = k.parameters
            pixels, spectra, temporary = self._lines(work)
            zeros = k.alloca(64)
            k.store(k.const(F32.vector(s.lanes), 0.0), zeros)
            mask = None
            if p.in_channels % CHANNEL_BLOCK and not p.src.padded:
                mask = k.lane_mask(p.in_channels - channel, s.lanes)
            with k.loop(0, s.n, 2) as rows:
                there = [(rows.index + i >= y0) & (rows.index + i < y1) for i in (0, 1)]
                plane = work + rows.index * s.row_bytes
                with k.if_(there[0] | there[1]) as some:
                    self._gather(k, src + rows.index * p.src.row, there, (x0, x1), mask, zeros)
                    k.call(
                        self.line, pixels, s.number_bytes, spectra, s.number_bytes,
                        s.register_bytes, temporary,
                    )  # fmt: skip
                    self._separate_rows(k, spectra, plane)
                with some.otherwise(), k.loop(0, 2 * s.row_bytes, s.register_bytes) as clear:
                    k.store(k.const(F32.vector(s.lanes), 0.0), plane, clear.index)
        return module.handle(name)

    def _gather(
        self,
        k: Builder,
        src: Value,
        there: list[Value],
        columns: tuple[Value, Value],
        mask: Value | None,
        zeros: Value,
    ) -> None:
        """Copy two rows of pixels into a complex line."""
        s, layout = self.spectrum, self.problem.src
        pixels, _, _ = self._lines(k.parameters[-1])
        x0, x1 = columns
        with k.loop(0, s.n) as loop:
            inside = k.compare("ult", loop.index - x0, x1 - x0)
            place = src + loop.index * layout.pixel
            parts = [
                load_f32(k, memory_type(layout), k.select(exists & inside, at, zeros), mask=mask)
                for exists, at in zip(there, (place, place + layout.row), strict=True)
            ]
            store(k, Complex(*parts), pixels, loop.index * s.number_bytes)

    def _separate_rows(self, k: Builder, spectra: Value, plane: Value) -> None:
        s = self.spectrum
        first, middle = load(k, spectra), load(k, spectra, s.n // 2 * s.number_bytes)
        store(k, Complex(first.re, middle.re), plane)
        store(k, Complex(first.im, middle.im), plane, s.row_bytes)
        with k.loop(1, s.n // 2) as loop:
            at = loop.index * s.number_bytes
            a, b = unpair(load(k, spectra, at), load(k, spectra, s.n * s.number_bytes - at))
            store(k, a, plane, at)
            store(k, b, plane, at + s.row_bytes)

    def _columns_in(self, module: Module, name: str) -> Function:
        """Write ``name(spectrum, step, work)``: the spectrum of the plane, times 2."""
        s = self.spectrum
        size = s.number_bytes
        with module.function(name, [("spectrum", PTR), ("step", I64), ("work", PTR)]) as k:
            spectrum, step, work = k.parameters
            line, _, temporary = self._lines(work)
            with k.loop(1, s.n // 2) as loop:
                target = spectrum + (loop.index - 1) * s.n * step
                k.call(
                    self.line, work + loop.index * size, s.row_bytes, target, step,
                    s.register_bytes, temporary,
                )  # fmt: skip
            k.call(self.line, work, s.row_bytes, line, size, s.register_bytes, temporary)
            first = spectrum + step * (s.n * (s.n // 2 - 1))
            with k.loop(0, s.n // 2 + 1) as loop:
                p = load(k, line, loop.index * size)
                q = load(k, line, (s.n - loop.index) % s.n * size)
                a, b = unpair(p, q)
                store(k, a, first, loop.index * step)
                store(k, b, first, (loop.index + (s.n // 2 + 1)) * step)
        return module.handle(name)

    def _columns_out(self, module: Module, name: str) -> Function:
        """Write ``name(spectrum, step, work)``: the plane of a spectrum, times n."""
        s = self.spectrum
        size, half = s.number_bytes, s.register_bytes
        with module.function(name, [("spectrum", PTR), ("step", I64), ("work", PTR)]) as k:
            spectrum, step, work = k.parameters
            line, _, temporary = self._lines(work)
            with k.loop(1, s.n // 2) as loop:
                source = spectrum + (loop.index - 1) * s.n * step
                target = work + loop.index * size
                k.call(self.line, source + half, step, target + half, s.row_bytes, -half, temporary)
            first = spectrum + step * (s.n * (s.n // 2 - 1))
            with k.loop(0, s.n // 2 + 1) as loop:
                a = load(k, first, loop.index * step)
                b = load(k, first, (loop.index + (s.n // 2 + 1)) * step)
                p, q = pair(a, b)
                # Number 0 is its own counterpart, and so is n/2; both are real in both columns.
                store(k, q, line, (s.n - loop.index) % s.n * size)
                store(k, p, line, loop.index * size)
            k.call(self.line, line + half, size, work + half, s.row_bytes, -half, temporary)
        return module.handle(name)

    def _rows_out(self, module: Module, name: str) -> Function:
        """Write ``name(dst, residual, bias, channel, rows, columns, work)``.

        It turns the plane into pixels, times n, and writes rows x columns of them with the
        epilogue; ``channel`` is the register's first.
        """
        s, p = self.spectrum, self.problem
        parameters = [(x, PTR) for x in ("dst", "residual", "bias")]
        parameters += [(x, I64) for x in ("channel", "rows", "columns")]
        with module.function(name, [*parameters, ("work", PTR)]) as k:
            dst, residual, bias, channel, rows, columns, work = k.parameters
            line, pixels, temporary = self._lines(work)
            half = s.register_bytes
            remaining = p.out_channels - channel if p.out_channels % CHANNEL_BLOCK else None
            register = OutputRegister(
                k, p.activation, remaining=remaining, dst=p.dst, residual=p.residual
            )
            shift = register.load_bias(bias, channel * 4) if p.bias else None
            with k.loop(0, rows, 2) as loop:
                first = loop.index * p.strides[0]
                # Past the last row any finite numbers will do: nobody reads their pixels.
                second = k.min(first + p.strides[0], s.n - 1)
                self._join_rows(k, work + first * s.row_bytes, work + second * s.row_bytes, line)
                k.call(
                    self.line, line + half, s.number_bytes, pixels + half, s.number_bytes,
                    -half, temporary,
                )  # fmt: skip
                with k.loop(loop.index, k.min(rows, loop.index + 2)) as part:
                    source = pixels + (part.index - loop.index) * half
                    with k.loop(0, columns) as column:
                        at = column.index * (p.strides[1] * s.number_bytes)
                        value = k.load(F32.vector(s.lanes), source, at)
                        value = value if shift is None else value + shift
                        extra = None
                        if p.residual is not None:
                            r = p.residual
                            extra = residual + part.index * r.row + column.index * r.pixel
                        place = dst + part.index * p.dst.row + column.index * p.dst.pixel
                        register.write(value, place, extra)
        return module.handle(name)

    def _join_rows(self, k: Builder, a: Value, b: Value, line: Value) -> None:
        """Make one complex line of the spectra of two real rows."""
        s = self.spectrum
        x, y = load(k, a), load(k, b)
        store(k, Complex(x.re, y.re), line)
        store(k, Complex(x.im, y.im), line, s.n // 2 * s.number_bytes)
        with k.loop(1, s.n // 2) as loop:
            at = loop.index * s.number_bytes
            p, q = pair(load(k, a, at), load(k, b, at))
            store(k, p, line, at)
            store(k, q, line, s.n * s.number_bytes - at)
