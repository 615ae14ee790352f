"""Winograd's transform of filters as a kernel, which plans hold for refits.

It is the same for all plans of an instruction set; sizes are parameters.
:mod:`lamina.backends.cpu.weights.native` calls it.
"""

from __future__ import annotations

from collections.abc import Iterable

from lamina.backends.cpu.weights.native import LANES, WINOGRAD, tap_sets
from lamina.codegen.llvm.builder import F32, F64, I32, I64, Kernel, Module, Value
from lamina.codegen.llvm.target import Isa


def module_text(isa: Isa) -> str:
    """Return a module with a kernel for each number of taps."""
    module = Module(isa)
    for taps, name in WINOGRAD.items():
        with module.kernel(name) as k:
            _write(k, taps)
    return str(module)


def _write(k: Kernel, taps: int) -> None:
    """Write U[block][position][channel][filter of the block] for filters [M, C, taps].

    Operands: filters, the f64 matrix [positions, taps], a factor for each filter, the result, the
    positions in the order of the sets of taps that they need.  Parameters: groups of ``LANES``
    filters, channels, positions, padded channels, groups in a block, and how many positions need no
    more than each set.  The result is as large as several caches, and its positions lie far apart:
    stores go past the caches.
    """
    filters, matrix, factors, result, order = (k.arg(i) for i in range(5))
    groups, channels, positions, padded, together = (k.param(i) for i in range(5))
    sets = tap_sets(taps)
    filter_bytes, row_bytes = channels * (4 * taps), together * (4 * LANES)
    wide = F64.vector(LANES)
    steps = k.iota(I32, LANES) * k.broadcast(k.convert(filter_bytes, I32), LANES)

    def write(x: list[Value], needed: Iterable[int], position: Value, place: Value) -> None:
        row = k.offset(matrix, position * (8 * taps))
        total = k.const(wide, 0.0)
        for t in needed:
            total = k.fma(k.load_broadcast(wide, row, 8 * t), x[t], total)
        k.store(k.convert(total, F32), place, position * padded * row_bytes, nontemporal=True)

    with k.loop(0, groups) as group:
        g = group.index
        source = k.offset(filters, g * filter_bytes * LANES)
        factor = k.load(F32.vector(LANES), factors, g * (4 * LANES))
        block = g // together
        begin = block * positions * padded * row_bytes + (g - block * together) * (4 * LANES)
        target = k.offset(result, begin)
        with k.loop(0, channels) as channel:
            at = k.offset(source, channel.index * (4 * taps))
            narrow = [k.gather(F32, k.offset(at, 4 * t), steps) * factor for t in range(taps)]
            x = [k.convert(number, F64) for number in narrow]
            place = k.offset(target, channel.index * row_bytes)
            with k.if_(_are_finite(k, narrow)) as branch:
                start: int | Value = 0
                for needed, stop in zip(
                    sets, (k.param(5 + i) for i in range(len(sets))), strict=True
                ):
                    with k.loop(start, stop) as loop:
                        write(x, needed, k.load(I64, order, loop.index * 8), place)
                    start = stop
            with branch.otherwise(), k.loop(0, positions) as every:
                write(x, range(taps), every.index, place)


def _are_finite(k: Kernel, numbers: list[Value]) -> Value:
    """Whether no lane is infinite or NaN, which a matrix's zeros would turn into NaN."""
    largest = k.const(I32.vector(LANES), 0)
    for number in numbers:
        largest = k.max(largest, k.bitcast(number, I32) & 0x7FFFFFFF)
    return k.reduce("max", largest) < 0x7F800000
