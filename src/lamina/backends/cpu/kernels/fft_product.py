"""Products of complex numbers in registers: one by one, and as a matrix product over channels."""

from __future__ import annotations

from lamina.backends.cpu.kernels.fft_lines import load, multiply, store
from lamina.codegen.llvm.builder import F32, Builder, Value

_UNROLL = 2


def multiply_registers(k: Builder, numbers: Value, factors: Value, count: int) -> None:
    """Multiply ``count`` complex numbers per lane by as many others, in place."""
    size = 8 * k.isa.lanes(F32)
    with k.loop(0, count) as loop:
        at = loop.index * size
        store(k, multiply(k, load(k, numbers, at), load(k, factors, at)), numbers, at)


def products(
    k: Builder, left: Value, packed: Value, *, rows: int, registers: int, step: int
) -> list[Value]:
    """Return left @ packed for one register tile: real and imaginary part of each row in turn.

    Left rows lie one number per lane (a channel) apart, the registers of channels ``step`` bytes;
    ``packed`` holds a number per output lane for each channel.
    """
    lanes = k.isa.lanes(F32)
    type_ = F32.vector(lanes)
    number = 2 * type_.nbytes
    carried = [k.const(type_, 0.0) for _ in range(2 * rows)]

    def steps(sums: list[Value], a: Value, b: Value) -> list[Value]:
        for depth in range(_UNROLL):
            re, im = (k.load(type_, b, depth * number + part) for part in (0, type_.nbytes))
            negative = -im
            for row in range(rows):
                at = row * number + depth * 4
                x = k.load_broadcast(type_, a, at)
                y = k.load_broadcast(type_, a, at + type_.nbytes)
                sums[2 * row] = k.fma(y, negative, k.fma(x, re, sums[2 * row]))
                sums[2 * row + 1] = k.fma(y, re, k.fma(x, im, sums[2 * row + 1]))
        return [*sums, a + _UNROLL * 4, b + _UNROLL * number]

    with k.loop(0, registers, carry=[*carried, left, packed]) as outer:
        with k.loop(0, lanes, _UNROLL, carry=outer.values) as inner:
            inner.next(*steps(list(inner.values[:-2]), *inner.values[-2:]))
        *sums, a, b = inner.results
        outer.next(*sums, a + (step - 4 * lanes), b)
    return list(outer.results[:-2])
