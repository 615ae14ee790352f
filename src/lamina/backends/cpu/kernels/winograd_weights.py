"""Winograd's transform of filters as a kernel, which plans hold for refits.

It is the same for all plans of an instruction set; sizes are parameters.
:mod:`lamina.backends.cpu.weights.native` calls it.
"""

from __future__ import annotations

from lamina.backends.cpu.weights.native import LANES, WINOGRAD
from lamina.codegen.llvm.builder import F32, F64, I32, Kernel, Module
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

    Operands: filters, the f64 matrix [positions, taps], a factor for each filter, the result.
    Parameters: groups of ``LANES`` filters, channels, positions, padded channels, groups in a
    block.  The result is as large as several caches, and its positions lie far apart: stores go
    past the caches.
    """
    filters, matrix, factors, result = (k.arg(i) for i in range(4))
    groups, channels, positions, padded, together = (k.param(i) for i in range(5))
    filter_bytes, row_bytes = channels * (4 * taps), together * (4 * LANES)
    wide = F64.vector(LANES)
    steps = k.iota(I32, LANES) * k.broadcast(k.convert(filter_bytes, I32), LANES)
    with k.loop(0, groups) as group:
        g = group.index
        source = k.offset(filters, g * filter_bytes * LANES)
        factor = k.load(F32.vector(LANES), factors, g * (4 * LANES))
        block = g // together
        begin = block * positions * padded * row_bytes + (g - block * together) * (4 * LANES)
        target = k.offset(result, begin)
        with k.loop(0, channels) as channel:
            at = k.offset(source, channel.index * (4 * taps))
            x = [
                k.convert(k.gather(F32, k.offset(at, 4 * t), steps) * factor, F64)
                for t in range(taps)
            ]
            place = k.offset(target, channel.index * row_bytes)
            with k.loop(0, positions) as position:
                row = k.offset(matrix, position.index * (8 * taps))
                total = k.const(wide, 0.0)
                for t in range(taps):
                    total = k.fma(k.load_broadcast(wide, row, 8 * t), x[t], total)
                u = k.convert(total, F32)
                k.store(u, place, position.index * padded * row_bytes, nontemporal=True)
