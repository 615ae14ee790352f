"""Programs in pairs: clusters of two that load what both need once.

Programs 2i and 2i + 1 form a pair and compute neighbouring tiles, which need the same part of one
operand.  Each loads half of that into the shared memory of both, so a buffer is free when both
have read theirs, and less comes from the L2 cache.  The launch has an even number of programs;
compiling turns the marks here into instructions, see :mod:`lamina.backends.cuda.kernels.pairing`.
"""

from __future__ import annotations

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from lamina.backends.cuda.kernels.matmul import tile_place, turned
from lamina.backends.cuda.kernels.pairing import BEGIN, END, MEET

_BEGIN = gl.constexpr(BEGIN)
_END = gl.constexpr(END)
_MEET = gl.constexpr(MEET)


@gluon.jit
def _write(TEXT: gl.constexpr):
    gl.inline_asm_elementwise(TEXT, "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def begin_both():
    """Let the copies and arrivals that follow be those of both programs, until ``end_both``."""
    _write(_BEGIN)


@gluon.jit
def end_both():
    """Let what follows be of this program alone again."""
    _write(_END)


@gluon.jit
def meet():
    """Wait until both programs have made their barriers: once, before warps get different tasks."""
    _write(_MEET)


@gluon.jit
def arrive(barrier, pred, PAIRED: gl.constexpr):
    """Arrive at a barrier once, in both programs of a pair."""
    if PAIRED != "":
        begin_both()
        mbarrier.arrive(barrier, count=1, pred=pred)
        end_both()
    else:
        mbarrier.arrive(barrier, count=1, pred=pred)


@gluon.jit
def is_mine(box):
    """Whether this program loads a box of those that both need, which alternate."""
    return box % 2 == gl.program_id(0) % 2


@gluon.jit
def whole_pairs(tiles_m, tiles_n, PAIRED: gl.constexpr):
    """Return how many rows and columns of tiles are computed: pairs may reach over the end."""
    if PAIRED == "a":
        return tiles_m, (tiles_n + 1) // 2 * 2
    elif PAIRED == "b":
        return (tiles_m + 1) // 2 * 2, tiles_n
    else:
        return tiles_m, tiles_n


@gluon.jit
def paired_place(
    tile, tiles_m, tiles_n, BACKWARDS, GROUP: gl.constexpr, PAIRED: gl.constexpr
):  # fmt: skip
    """Return row and column of a tile, as ``tile_place``; tiles 2i and 2i + 1 are neighbours.

    They share rows of operand ``a`` or columns of ``b``, as ``PAIRED`` says, or nothing ("").
    """
    if PAIRED == "a":
        pair = turned(tile // 2, tiles_m * tiles_n // 2, BACKWARDS)
        m, n = tile_place(pair, tiles_m, tiles_n // 2, GROUP)
        return m, 2 * n + tile % 2
    elif PAIRED == "b":
        pair = turned(tile // 2, tiles_m * tiles_n // 2, BACKWARDS)
        m, n = tile_place(pair, tiles_m // 2, tiles_n, GROUP)
        return 2 * m + tile % 2, n
    else:
        m, n = tile_place(turned(tile, tiles_m * tiles_n, BACKWARDS), tiles_m, tiles_n, GROUP)
        return m, n
