"""Discrete Fourier transforms of one line of registers, as a function of a module.

A line holds n complex numbers per lane; lanes (channels) are independent. n = n1 * n2 goes in two
passes (Cooley and Tukey, 1965): n2 transforms of length n1, twiddle factors, n1 transforms of
length n2. Both lengths are small enough for a transform to stay in registers.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

from lamina.codegen.llvm.builder import F32, I64, PTR, Builder, Function, Module, Value

FACTORS = {
    12: (3, 4), 16: (4, 4), 20: (4, 5), 24: (4, 6), 32: (4, 8), 40: (5, 8), 48: (6, 8), 64: (8, 8),
}  # fmt: skip
"""The lengths of lines, and the lengths of both passes."""


@dataclass(frozen=True)
class Complex:
    """A complex number per lane."""

    re: Value
    im: Value

    def __add__(self, other: Complex) -> Complex:
        return Complex(self.re + other.re, self.im + other.im)

    def __sub__(self, other: Complex) -> Complex:
        return Complex(self.re - other.re, self.im - other.im)


def load(k: Builder, pointer: Value, offset: int | Value = 0, step: int | Value = 0) -> Complex:
    """Load a number; its imaginary part lies ``step`` bytes on (0: one register)."""
    type_ = F32.vector(k.isa.lanes(F32))
    place = pointer + offset
    return Complex(k.load(type_, place), k.load(type_, place, step or type_.nbytes))


def store(
    k: Builder, x: Complex, pointer: Value, offset: int | Value = 0, step: int | Value = 0
) -> None:
    """Store a number; its imaginary part goes ``step`` bytes on (0: one register)."""
    place = pointer + offset
    k.store(x.re, place)
    k.store(x.im, place, step or x.re.type.nbytes)


def multiply(k: Builder, x: Complex, y: Complex) -> Complex:
    """Return the product."""
    return Complex(k.fma(x.re, y.re, -(x.im * y.im)), k.fma(x.re, y.im, x.im * y.re))


def pair(a: Complex, b: Complex) -> tuple[Complex, Complex]:
    """Return element j and element n - j of the spectrum of u + i v.

    ``a`` and ``b`` are element j of the spectra of the real lines u and v.
    """
    return (
        Complex(a.re - b.im, a.im + b.re),
        Complex(a.re + b.im, b.re - a.im),
    )


def unpair(p: Complex, q: Complex) -> tuple[Complex, Complex]:
    """Return twice element j of the spectra of the real lines u and v; undoes ``pair``."""
    return (
        Complex(p.re + q.re, p.im - q.im),
        Complex(p.im + q.im, q.re - p.re),
    )


def dft(k: Builder, x: list[Complex]) -> list[Complex]:
    """Return the transform of a few numbers: radix 2 down to lengths 1, 3 and 5."""
    n = len(x)
    if n == 1:
        return x
    if n % 2:
        return _odd_dft(k, x)
    even, odd = dft(k, x[::2]), dft(k, x[1::2])
    turned = [_turn(k, value, i, n) for i, value in enumerate(odd)]
    pairs = list(zip(even, turned, strict=True))
    return [a + b for a, b in pairs] + [a - b for a, b in pairs]


def _odd_dft(k: Builder, x: list[Complex]) -> list[Complex]:
    """Return the transform of 3 or 5 numbers by its definition, two results at a time."""
    n, half = len(x), range(1, len(x) // 2 + 1)
    sums = {i: x[i] + x[n - i] for i in half}
    differences = {i: x[i] - x[n - i] for i in half}
    first, low, high = x[0], [], []
    for total in sums.values():
        first = first + total
    for m in half:
        middle, rest = x[0], None
        for i in half:
            cosine, sine = (f(2 * math.pi * m * i / n) for f in (math.cos, math.sin))
            t, d = sums[i], differences[i]
            middle = Complex(k.fma(t.re, cosine, middle.re), k.fma(t.im, cosine, middle.im))
            rest = (
                Complex(d.im * sine, d.re * -sine)
                if rest is None
                else Complex(k.fma(d.im, sine, rest.re), k.fma(d.re, -sine, rest.im))
            )
        assert rest is not None
        low.append(middle + rest)
        high.append(middle - rest)
    return [first, *low, *reversed(high)]


def _turn(k: Builder, x: Complex, index: int, n: int) -> Complex:
    """Return x * exp(-2 pi i index / n) for less than half a turn."""
    if index == 0:
        return x
    if 4 * index == n:
        return Complex(x.im, -x.re)
    w = cmath.exp(-2j * math.pi * index / n)
    if 8 * index in (n, 3 * n):
        # Both parts are equally large.
        half = math.sqrt(0.5)
        if 8 * index == n:
            return Complex((x.re + x.im) * half, (x.im - x.re) * half)
        return Complex((x.im - x.re) * half, (x.re + x.im) * -half)
    return Complex(
        k.fma(x.re, w.real, x.im * -w.imag),
        k.fma(x.re, w.imag, x.im * w.real),
    )


def line_function(module: Module, name: str, n: int) -> Function:
    """Write ``name(src, src_step, dst, dst_step, imaginary, temporary)``: dst = transform of src.

    Steps are bytes between numbers, ``imaginary`` those from a real part to its imaginary part
    in both; exchanging the parts in both gives the inverse transform times n. ``temporary`` has
    room for n numbers. The three do not overlap.
    """
    n1, n2 = FACTORS[n]
    size = 4 * module.isa.lanes(F32)
    table = module.table(f"{name}_twiddles", F32, _twiddles(n1, n2))
    parameters = [
        ("src", PTR), ("src_step", I64), ("dst", PTR), ("dst_step", I64), ("imaginary", I64),
        ("temporary", PTR),
    ]  # fmt: skip
    with module.function(name, parameters) as k:
        src, src_step, dst, dst_step, imaginary, temporary = k.parameters
        type_ = F32.vector(k.isa.lanes(F32))
        with k.loop(0, n2) as loop:
            place = src + loop.index * src_step
            x = [load(k, place, src_step * (i * n2), imaginary) for i in range(n1)]
            for i, value in enumerate(dft(k, x)):
                if i:
                    at = loop.index * (8 * n1) + 8 * i
                    parts = (k.load_broadcast(type_, table, at + part) for part in (0, 4))
                    value = multiply(k, value, Complex(*parts))
                store(k, value, temporary, loop.index * (2 * size) + i * n2 * 2 * size)
        with k.loop(0, n1) as loop:
            place = temporary + loop.index * (n2 * 2 * size)
            x = [load(k, place, i * 2 * size) for i in range(n2)]
            place = dst + loop.index * dst_step
            for i, value in enumerate(dft(k, x)):
                store(k, value, place, dst_step * (i * n1), imaginary)
    return module.handle(name)


def _twiddles(n1: int, n2: int) -> list[float]:
    turns = [cmath.exp(-2j * math.pi * i * j / (n1 * n2)) for j in range(n2) for i in range(n1)]
    return [part for w in turns for part in (w.real, w.imag)]
