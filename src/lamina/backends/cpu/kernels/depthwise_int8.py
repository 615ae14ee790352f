"""Depthwise convolution and averages of 8-bit integers: four taps of a channel in one instruction.

The bytes of four neighbouring pixels are interleaved, so that each lane of 32 bits holds four taps
of one channel and one VNNI instruction multiplies and adds them.  Four interleaved pixels serve
every output pixel whose taps they hold, each with filters of its own, shifted and filled up with
zeros.  Interleaving permutes channels within 16; packing the sums to bytes undoes exactly that.
Pixels outside the image are read from a line that repeats the zero point.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.codegen.layout import Layout
from lamina.codegen.llvm.builder import F32, I8, I16, I32, I64, Kernel, Module, Type, Value
from lamina.codegen.llvm.target import Isa

QUAD = 4
"""Taps of one instruction."""

WIDEST = 64
"""Channels of one register."""

_NARROWEST = 16
_MOST_TAPS = 7
_ROUND_TO_NEAREST = 4  # the current direction of rounding
_FEATURES = ("avx512bw", "avx512vl", "avx512vnni")


@dataclass(frozen=True)
class DepthwiseInt8Problem:
    """u8 NHWC images with one s8 filter a channel to 8-bit images; strides are bytes.

    Pairs are (vertical, horizontal), ``pads`` are those before; strides of memory are (image, row,
    pixel).  The result is ``clip(round(factor * sum + bias), *limits)``, an i8 where ``signed``.
    For an average the factor is also multiplied with shares of the row and the column, since
    windows at the border may hold fewer pixels.
    """

    batch: int
    channels: int
    size: tuple[int, int]
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    src: tuple[int, int, int]
    dst: tuple[int, int, int]
    signed: bool
    limits: tuple[int, int]
    is_average: bool = False

    @property
    def quads(self) -> int:
        """Return how many groups of four columns hold the taps of a filter row."""
        return -(-self.kernel[1] // QUAD)

    @property
    def together(self) -> int:
        """Return how many neighbouring output pixels find their taps in the same columns."""
        return (QUAD * self.quads - self.kernel[1]) // self.strides[1] + 1


def why_not(problem: DepthwiseInt8Problem, isa: Isa) -> str | None:
    """Return why this kernel cannot compute the problem, or None when it can."""
    if not all(map(isa.has, _FEATURES)):
        return f"needs {', '.join(_FEATURES)}"
    if problem.channels < _NARROWEST:
        return f"needs {_NARROWEST} channels, got {problem.channels}"
    if max(problem.kernel) > _MOST_TAPS:
        return f"needs windows of at most {_MOST_TAPS}, got {problem.kernel}"
    return None


def chunks(channels: int) -> Iterator[tuple[int, int]]:
    """Yield (first channel, width) of the registers that cover all channels; they may overlap."""
    whole = channels // WIDEST
    yield from ((i * WIDEST, WIDEST) for i in range(whole))
    rest = channels - whole * WIDEST
    if rest:
        width = next(w for w in (16, 32, 64) if w >= rest)
        width = min(width, WIDEST if whole else 1 << (channels.bit_length() - 1))
        yield channels - width, width
        if rest > width:
            yield whole * WIDEST, width


def pixel_strides(where: Layout) -> tuple[int, int, int]:
    """Return how many bytes images, rows and pixels of an NHWC image lie apart."""
    image, _, row, pixel = (int(s) for s in where.strides)  # type: ignore[arg-type]
    return image, row, pixel


def pack_weights(w: NDArray[np.int8], problem: DepthwiseInt8Problem) -> NDArray[np.int8]:
    """Return filters [C, kh, kw] as [chunk][row][quad][output pixel][register][lane][tap]."""
    kw = problem.kernel[1]
    quad, pixel, byte = np.indices((problem.quads, problem.together, QUAD))
    tap = QUAD * quad + byte - pixel * problem.strides[1]
    # What is no tap of the filter is the zero behind the last one.
    taps = np.where((tap >= 0) & (tap < kw), tap, kw)
    spread = np.take(np.pad(w, ((0, 0), (0, 0), (0, 1))), taps, axis=2)
    parts = [
        np.moveaxis(_permuted(spread[first : first + width]), (0, 1), (3, 4)).reshape(-1)
        for first, width in chunks(w.shape[0])
    ]
    return np.concatenate(parts)


def pack_vector(v: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return one number a channel in the order of the registers: [chunk][register][lane]."""
    return np.concatenate([_permuted(v[a : a + n]).reshape(-1) for a, n in chunks(v.size)])


def _permuted(a: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return [channel, ...] as [register of four][lane, ...], as interleaving orders them."""
    blocks = a.reshape(-1, QUAD, QUAD, *a.shape[1:])
    return np.swapaxes(blocks, 0, 1).reshape(QUAD, -1, *a.shape[1:])


def pack_shares(problem: DepthwiseInt8Problem, *, counts_padding: bool) -> NDArray[np.float32]:
    """Return the shares of each row, then of each column: one over how many pixels count."""
    shares = []
    for axis in range(2):
        kernel, size = problem.kernel[axis], problem.size[axis]
        first = np.arange(problem.out_size[axis]) * problem.strides[axis] - problem.pads[axis]
        inside = np.minimum(first + kernel, size) - np.maximum(first, 0)
        shares.append(1.0 / (np.full_like(inside, kernel) if counts_padding else inside))
    # The kernel may read, but not store, for a few columns behind the last.
    return np.concatenate([*shares, np.zeros(problem.together)]).astype(np.float32)


def build(module: Module, name: str, problem: DepthwiseInt8Problem) -> tuple[str, ...]:
    """Write the kernel. Operands: src, weights, factors, bias, 64 zero points, [shares], dst."""
    with module.kernel(name) as k:
        lines = problem.batch * problem.out_size[0]
        parts = list(chunks(problem.channels))
        whole = problem.channels // WIDEST
        weights, vectors = 0, 0
        if whole:
            low, high = k.my_range(lines * whole)
            with k.loop(low, high) as items:
                _Row(k, problem, WIDEST).write(
                    items.index // whole, items.index % whole * WIDEST, items.index % whole, 0, 0
                )
            weights, vectors = whole * _weight_bytes(problem, WIDEST), whole * WIDEST * 4
        for first, width in parts[whole:]:
            low, high = k.my_range(lines)
            with k.loop(low, high) as items:
                row = _Row(k, problem, width)
                row.write(items.index, k.const(I64, first), k.const(I64, 0), weights, vectors)
            weights, vectors = weights + _weight_bytes(problem, width), vectors + width * 4
    return (name,)


def _weight_bytes(p: DepthwiseInt8Problem, width: int) -> int:
    return p.kernel[0] * p.quads * p.together * QUAD * width


class _Row:
    """Writes the loop over one output row of one register of channels."""

    def __init__(self, k: Kernel, p: DepthwiseInt8Problem, width: int) -> None:
        self.k, self.p, self.width = k, p, width
        self.bytes = I8.vector(width)
        self.sums, self.reals = I32.vector(width // 4), F32.vector(width // 4)
        names = ["src", "weights", "factors", "bias", "zeros", "dst"]
        if p.is_average:
            names.insert(5, "shares")
        self.args = {name: k.arg(i) for i, name in enumerate(names)}

    def write(self, line: Value, channel: Value, chunk: Value, weights: int, vectors: int) -> None:
        """Write the row: ``weights`` and ``vectors`` are where this width's constants begin."""
        k, p = self.k, self.p
        image, y = line // p.out_size[0], line % p.out_size[0]
        self.filters = self.args["weights"] + chunk * _weight_bytes(p, self.width) + weights
        self.offset = chunk * (self.width * 4) + vectors
        source = self.args["src"] + image * p.src[0] + channel
        top = y * p.strides[0] - p.pads[0]
        rows = []
        for r in range(p.kernel[0]):
            exists = k.compare("ult", top + r, p.size[0])
            start = k.select(exists, source + (top + r) * p.src[1], self.args["zeros"])
            rows.append((start, k.select(exists, k.const(I64, p.src[2]), k.const(I64, 0))))
        self.y = y
        target = self.args["dst"] + image * p.dst[0] + y * p.dst[1] + channel
        reach = QUAD * p.quads - 1
        with k.loop(0, p.out_size[1], p.together) as tiles:
            x = tiles.index
            left = x * p.strides[1] - p.pads[1]
            inside = (left >= 0) & (left + reach < p.size[1])
            inside = inside & (x + p.together <= p.out_size[1])
            with k.if_(inside) as branch:
                self._pixels(rows, left, target, x, checked=False)
            with branch.otherwise():
                self._pixels(rows, left, target, x, checked=True)

    def _pixels(
        self,
        rows: list[tuple[Value, Value]],
        left: Value,
        target: Value,
        x: Value,
        *,
        checked: bool,
    ) -> None:
        """Compute the output pixels that share their columns; some may lie beyond the row."""
        k, p = self.k, self.p
        zero = k.const(self.sums, 0)
        sums = [[zero] * QUAD for _ in range(p.together)]
        at = 0
        for start, step in rows:
            for quad in range(p.quads):
                columns = []
                for i in range(QUAD):
                    column = left + (QUAD * quad + i)
                    address = start + column * step
                    if checked:
                        exists = k.compare("ult", column, p.size[1])
                        address = k.select(exists, address, self.args["zeros"])
                    columns.append(k.load(self.bytes, address))
                quads = self._interleaved(columns)
                for pixel in range(p.together):
                    for j in range(QUAD):
                        w = k.load(self.bytes, self.filters, at)
                        sums[pixel][j] = self._dot(sums[pixel][j], quads[j], w)
                        at += self.width
        for pixel, registers in enumerate(sums):
            place = target + (x + pixel) * p.dst[2]
            result = self._narrowed(registers, x + pixel)
            if checked and pixel:
                with k.if_(x + pixel < p.out_size[1]):
                    k.store(result, place)
            else:
                k.store(result, place)

    def _interleaved(self, columns: list[Value]) -> list[Value]:
        """Return four registers whose lanes of 32 bits hold a channel of all four columns."""
        pairs = [self._zip(columns[i], columns[i + 1], half) for half in (0, 1) for i in (0, 2)]
        words = [self.k.emit(t, f"bitcast {v} to {t}") for v in pairs for t in [self._words]]
        mixed = [self._zip(words[i], words[i + 1], half) for i in (0, 2) for half in (0, 1)]
        return [self.k.emit(self.bytes, f"bitcast {v} to {self.bytes}") for v in mixed]

    @property
    def _words(self) -> Type:
        return I16.vector(self.width // 2)

    def _zip(self, a: Value, b: Value, half: int) -> Value:
        """Interleave the lower or upper halves of each 128 bits, as one instruction does."""
        lanes, block = a.type.lanes, a.type.lanes * 16 // self.width
        order = []
        for start in range(0, lanes, block):
            for i in range(block // 2):
                source = start + half * (block // 2) + i
                order += [source, source + lanes]
        return self.k.shuffle(a, b, order)

    def _dot(self, total: Value, x: Value, w: Value) -> Value:
        return self.k.intrinsic(
            "x86.avx512.vpdpbusd", self.sums, total, x, w, suffix=str(self.width * 8)
        )

    def _share(self, x: Value) -> Value:
        """Return what a sum in column ``x`` of the row is multiplied with for the average."""
        k, shares = self.k, self.args["shares"]
        of_row = k.load_broadcast(self.reals, shares, self.y * 4)
        return of_row * k.load_broadcast(self.reals, shares, (x + self.p.out_size[0]) * 4)

    def _narrowed(self, registers: list[Value], x: Value) -> Value:
        """Return the scaled, rounded and saturated bytes of a pixel, channels in order."""
        k, p = self.k, self.p
        share = self._share(x) if p.is_average else None
        whole = []
        for j, register in enumerate(registers):
            place = self.offset + j * self.width
            factor = k.load(self.reals, self.args["factors"], place)
            factor = factor if share is None else factor * share
            bias = k.load(self.reals, self.args["bias"], place)
            whole.append(self._rounded(k.fma(k.convert(register, F32), factor, bias)))
        words = [self._pack("packssdw", a, b, I16) for a, b in (whole[:2], whole[2:])]
        narrowest = "packsswb" if p.signed else "packuswb"
        result = self._pack(narrowest, words[0], words[1], I8)
        prefix, (low, high) = "" if p.signed else "u", p.limits
        least = -128 if p.signed else 0
        if low > least:
            bound = k.const(self.bytes, low)
            result = k.select(k.compare(f"{prefix}gt", result, bound), result, bound)
        if high < least + 255:
            bound = k.const(self.bytes, high)
            result = k.select(k.compare(f"{prefix}lt", result, bound), result, bound)
        return result

    def _rounded(self, x: Value) -> Value:
        """Return the nearest integers, ties to even."""
        k = self.k
        if self.width == 64:
            return k.intrinsic(
                "x86.avx512.mask.cvtps2dq", self.sums, x, k.const(self.sums, 0),
                k.const(I16, -1), k.const(I32, _ROUND_TO_NEAREST), suffix="512",
            )  # fmt: skip
        name, suffix = (
            ("x86.avx.cvt", "ps2dq.256") if self.width == 32 else ("x86.sse2", "cvtps2dq")
        )
        return k.intrinsic(name, self.sums, x, suffix=suffix)

    def _pack(self, name: str, a: Value, b: Value, scalar: Type) -> Value:
        """Narrow two registers into one with saturation, within each 128 bits."""
        result = scalar.vector(2 * a.type.lanes)
        set_, suffix = {64: ("avx512", ".512"), 32: ("avx2", ""), 16: ("sse2", ".128")}[self.width]
        return self.k.intrinsic(f"x86.{set_}", result, a, b, suffix=name + suffix)
