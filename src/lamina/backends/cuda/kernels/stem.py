"""First layers of networks: few channels, windows that advance by two columns, perhaps a maximum.

For compute capability 9.0, in Gluon.  A program goes down a strip of a row-major image.  Columns
are read in words of two, so that the windows of neighbouring results are shifted by a word.  What
all results of a row see of as many rows as windows advance by is copied to shared memory once, as
an operand of matrix instructions, and stays there for all results whose windows contain these
rows.  The filters stay in registers.  Some warps copy; two groups of four multiply, each half of
the columns, and store the results or the maxima over three rows and columns of them.

For maxima the columns of a strip are runs of 16 that overlap, so that a thread which holds a run
finds seven maxima without its neighbours.
"""

from __future__ import annotations

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.epilogue import activate_half
from lamina.backends.cuda.kernels.ring import following

_FILTERS = gl.constexpr(64)
"""Rows of a matrix instruction."""
_PIXELS = gl.constexpr(128)
_HALF = gl.constexpr(64)
"""Pixels of a group of four warps."""
_RUN = gl.constexpr(16)
"""Columns of the convolution that a thread takes maxima of, and"""
_MAXIMA = gl.constexpr(7)
"""how many maxima of three columns, every other one, they give."""
_DEPTH = gl.constexpr(8)
"""Words of two numbers that are the depth of a matrix instruction."""
_SUMS = gl.constexpr(
    gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 64, 16])
)
_ROW_LAID = gl.constexpr(gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0]))
"""How a group holds a row of results, and"""
_MAXIMA_LAID = gl.constexpr(gl.BlockedLayout([1, 2], [1, 32], [4, 1], [1, 0]))
"""how one maximum of each run."""
_LOADERS = gl.constexpr(8)
"""Warps that copy."""
_LINES = gl.constexpr(8)
"""At least the lines of a row of the image that a strip needs,"""
_LINE = gl.constexpr(32)
"""of so many words each."""
_LOWEST = gl.constexpr(float("-inf"))
"""What results of the convolution that do not exist count as."""


@gluon.jit
def _seen(
    x, row, column, IN_H, WIDTH, X_CHANNEL, X_ROW,
    CHANNELS: gl.constexpr, WORDS: gl.constexpr, STRIDE_H: gl.constexpr, APART: gl.constexpr,
    CHUNKS: gl.constexpr, WARPS: gl.constexpr,
):  # fmt: skip
    """Return what the windows of a row of results see of ``STRIDE_H`` rows of the image.

    The depth is rows, in them channels, in them the ``WORDS`` of a window.  Runs of columns begin
    ``APART`` words after each other.
    """
    laid: gl.constexpr = gl.BlockedLayout([1, 4], [16, 2], [WARPS, 1], [1, 0])
    number = gl.arange(0, _PIXELS, gl.SliceLayout(1, laid))
    depth = gl.arange(0, _DEPTH, gl.SliceLayout(0, laid))
    columns = column + number // _RUN * APART + number % _RUN
    found = ()
    for chunk in gl.static_range(CHUNKS):
        at = chunk * _DEPTH + depth
        down, channel = at // (WORDS * CHANNELS), at // WORDS % CHANNELS
        h, v = row + down, columns[:, None] + (at % WORDS)[None, :]
        real = (h.to(gl.uint32, bitcast=True) < IN_H) & (down < STRIDE_H)
        inside = real[None, :] & (v.to(gl.uint32, bitcast=True) < WIDTH)
        place = (channel * X_CHANNEL + h * X_ROW)[None, :] + v
        found = found + (gl.load(x + place, mask=inside, other=0),)  # noqa: RUF005 (no stars here)
    return found


@gluon.jit
def _ask(
    x, row, column, IN_H, WIDTH, X_CHANNEL, X_ROW,
    CHANNELS: gl.constexpr, STRIDE_H: gl.constexpr, WARPS: gl.constexpr,
):  # fmt: skip
    """Have the lines of some rows of the image brought to the L2 cache."""
    laid: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    number = gl.arange(0, 32 * WARPS, laid)
    down, channel = number // _LINES // CHANNELS, number // _LINES % CHANNELS
    h, v = row + down, gl.maximum(column + number % _LINES * _LINE, 0)
    inside = (h.to(gl.uint32, bitcast=True) < IN_H) & (down < STRIDE_H)
    inside = inside & (v < WIDTH)
    gl.inline_asm_elementwise(
        "{ .reg .pred p; setp.ne.s32 p, $2, 0; @p prefetch.global.L2 [$1]; mov.u32 $0, 0; }",
        "=r,l,r",
        [x + gl.where(inside, channel * X_CHANNEL + h * X_ROW + v, 0), inside.to(gl.int32)],
        dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def _load(
    x, ring, ready, free, place, IN_H, WIDTH, X_BATCH, X_CHANNEL, X_ROW,
    CHANNELS: gl.constexpr, WORDS: gl.constexpr, STRIDE_H: gl.constexpr, APART: gl.constexpr,
    CHUNKS: gl.constexpr, GROUPS: gl.constexpr, STAGES: gl.constexpr, WARPS: gl.constexpr,
    AHEAD: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Copy ``GROUPS`` groups of rows.

    The fence waits for all that its threads have asked for, later groups too.  So ``AHEAD`` groups
    before they are loaded rows are asked for by instructions that bring nothing back.
    """
    image, row, column = place
    x += image.to(gl.int64) * X_BATCH
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    first = _seen(
        x, row, column, IN_H, WIDTH, X_CHANNEL, X_ROW, CHANNELS, WORDS, STRIDE_H, APART, CHUNKS,
        WARPS,
    )  # fmt: skip
    row += STRIDE_H
    second = _seen(
        x, row, column, IN_H, WIDTH, X_CHANNEL, X_ROW, CHANNELS, WORDS, STRIDE_H, APART, CHUNKS,
        WARPS,
    )  # fmt: skip
    stage, phase = 0, 1
    for _ in range(GROUPS):
        row += STRIDE_H
        _ask(
            x, row + AHEAD * STRIDE_H, column, IN_H, WIDTH, X_CHANNEL, X_ROW, CHANNELS, STRIDE_H,
            WARPS,
        )  # fmt: skip
        third = _seen(
            x, row, column, IN_H, WIDTH, X_CHANNEL, X_ROW, CHANNELS, WORDS, STRIDE_H, APART,
            CHUNKS, WARPS,
        )  # fmt: skip
        mbarrier.wait(free.index(stage), phase)
        for chunk in gl.static_range(CHUNKS):
            ring.index(stage * CHUNKS + chunk).store(first[chunk])
        fence_async_shared()
        mbarrier.arrive(ready.index(stage), count=1)
        first, second = second, third
        stage, phase = following(stage, phase, STAGES)


@gluon.jit
def _sums(
    ring, ready, free, filters, stage, phase,
    WHO: gl.constexpr, CHUNKS: gl.constexpr, LAST: gl.constexpr, DEEP: gl.constexpr,
    STAGES: gl.constexpr,
):  # fmt: skip
    """Return the sums of a row, and the stage and phase with which the next one begins.

    ``stage`` holds the first of the groups of rows that windows contain; the ones that other rows
    of results have waited for before are there.
    """
    total = gl.zeros((_FILTERS, _HALF), gl.float32, _SUMS)
    first = stage
    after, after_phase = following(stage, phase, STAGES)
    for group in gl.static_range(DEEP):
        if group == DEEP - 1:
            mbarrier.wait(ready.index(stage), phase)
        for chunk in gl.static_range(LAST if group == DEEP - 1 else CHUNKS):
            part = ring.index(stage * CHUNKS + chunk).slice(WHO * _HALF, _HALF, dim=0)
            total = warpgroup_mma(
                filters[group * CHUNKS + chunk], part.permute((1, 0)), total,
                use_acc=group + chunk > 0, is_async=True,
            )  # fmt: skip
        stage, phase = following(stage, phase, STAGES)
    total = warpgroup_mma_wait(0, deps=[total])
    mbarrier.arrive(free.index(first), count=1)
    return total, after, after_phase


@gluon.jit
def _filters_of(w, filter, STEPS: gl.constexpr, ALL: gl.constexpr):
    """Return the filters of the first ``STEPS`` of ``ALL`` parts of the depth."""
    operand: gl.constexpr = gl.DotOperandLayout(0, _SUMS, 2)
    row = filter + gl.arange(0, _FILTERS, gl.SliceLayout(1, operand))
    source = w + row[:, None] * (ALL * 2 * _DEPTH)
    source += gl.arange(0, 2 * _DEPTH, gl.SliceLayout(0, operand))[None, :]
    found = ()
    for step in gl.static_range(STEPS):
        found = found + (gl.load(source + step * (2 * _DEPTH)),)  # noqa: RUF005
    return found


@gluon.jit
def _existing(total, row, CONV_H, kind: gl.constexpr):
    """Return the sums of a row, the lowest ones if the convolution has no such row."""
    lowest = gl.full((_FILTERS, _HALF), _LOWEST, gl.float32, _SUMS).to(kind)
    return gl.where((row >= 0) & (row < CONV_H), total.to(kind), lowest)


@gluon.jit
def _multiply(
    ring, sums, ready, free, w, bias, y, place, filter, CONV_H, CONV_W, OUT_H, OUT_W, FILTERS,
    Y_BATCH, Y_ROW, Y_COLUMN,
    WHO: gl.constexpr, CHUNKS: gl.constexpr, LAST: gl.constexpr, DEEP: gl.constexpr,
    STAGES: gl.constexpr, ROWS: gl.constexpr, POOLED: gl.constexpr, POOL_PAD_W: gl.constexpr,
    CUT: gl.constexpr, KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr,
    DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Compute half ``WHO`` of the columns of a strip, row by row."""
    kind: gl.constexpr = sums.dtype
    filters = _filters_of(w, filter, (DEEP - 1) * CHUNKS + LAST, DEEP * CHUNKS)
    image, row, first, column = place
    y += image.to(gl.int64) * Y_BATCH
    if DEPENDENT:
        gdc_wait()
    added = None
    if bias is not None:
        flat: gl.constexpr = _MAXIMA_LAID if POOLED else _ROW_LAID
        numbers = filter + gl.arange(0, _FILTERS, gl.SliceLayout(0, flat))
        added = gl.load(bias + numbers, mask=numbers < FILTERS, other=0).to(gl.float32)[None, :]
    stage, phase = 0, 0
    for group in gl.static_range(DEEP - 1):
        mbarrier.wait(ready.index(group), 0)
    if POOLED:
        total, stage, phase = _sums(
            ring, ready, free, filters, stage, phase, WHO, CHUNKS, LAST, DEEP, STAGES
        )
        best = _existing(total, row, CONV_H, kind)
    for step in range(ROWS):
        total, stage, phase = _sums(
            ring, ready, free, filters, stage, phase, WHO, CHUNKS, LAST, DEEP, STAGES
        )
        if POOLED:
            best = gl.maximum(best, _existing(total, row + 1, CONV_H, kind)).to(kind)
            total, stage, phase = _sums(
                ring, ready, free, filters, stage, phase, WHO, CHUNKS, LAST, DEEP, STAGES
            )
            row += 2
            last = _existing(total, row, CONV_H, kind)
            sums.permute((1, 0)).store(gl.maximum(best, last).to(kind))
            best = last
            _store_maxima(
                sums, added, y, first + step, column, filter, CONV_W, OUT_H, OUT_W, FILTERS,
                Y_ROW, Y_COLUMN, WHO, POOL_PAD_W, CUT, KIND, ALPHA, BETA,
            )  # fmt: skip
        else:
            sums.permute((1, 0)).store(total.to(kind))
            _store(
                sums, added, y, first + step, column, filter, OUT_H, OUT_W, FILTERS,
                Y_ROW, Y_COLUMN, WHO, KIND, ALPHA, BETA,
            )  # fmt: skip


@gluon.jit
def _store(
    sums, added, y, row, column, filter, OUT_H, OUT_W, FILTERS, Y_ROW, Y_COLUMN,
    WHO: gl.constexpr, KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr,
):  # fmt: skip
    """Finish and store a row of results."""
    flat: gl.constexpr = _ROW_LAID
    columns = column + WHO * _HALF + gl.arange(0, _HALF, gl.SliceLayout(1, flat))
    filters = filter + gl.arange(0, _FILTERS, gl.SliceLayout(0, flat))
    total = sums.load(flat).to(gl.float32)
    if added is not None:
        total += added
    total = activate_half(total, KIND, ALPHA, BETA).to(y.dtype.element_ty)
    inside = ((columns < OUT_W) & (row < OUT_H))[:, None] & (filters < FILTERS)[None, :]
    gl.store(y + row * Y_ROW + (columns * Y_COLUMN)[:, None] + filters[None, :], total, mask=inside)


@gluon.jit
def _parts(block, COUNT: gl.constexpr):
    """Return the last axis of a tile [rows, columns, COUNT] as tiles, in order."""
    if COUNT == 1:
        return (block.reshape((block.shape[0], block.shape[1])),)
    else:
        halves = block.reshape((block.shape[0], block.shape[1], 2, COUNT // 2))
        low, high = gl.split(halves.permute((0, 1, 3, 2)))
        return _parts(low, COUNT // 2) + _parts(high, COUNT // 2)


@gluon.jit
def _store_maxima(
    sums, added, y, row, column, filter, CONV_W, OUT_H, OUT_W, FILTERS, Y_ROW, Y_COLUMN,
    WHO: gl.constexpr, POOL_PAD_W: gl.constexpr, CUT: gl.constexpr,
    KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr,
):  # fmt: skip
    """Take the maxima of columns of the maxima of rows, finish and store them."""
    runs: gl.constexpr = _HALF // _RUN
    flat: gl.constexpr = gl.BlockedLayout([_RUN, 2], [1, 32], [runs, 1], [1, 0])
    tile: gl.constexpr = _MAXIMA_LAID
    block = sums.load(flat).reshape((runs, _RUN, _FILTERS)).permute((0, 2, 1))
    first = column + (WHO * runs + gl.arange(0, runs, gl.SliceLayout(1, tile))) * _MAXIMA
    filters = filter + gl.arange(0, _FILTERS, gl.SliceLayout(0, tile))
    lowest = gl.full((runs, _FILTERS), _LOWEST, gl.float32, tile).to(sums.dtype)
    all = _parts(block, _RUN)
    seen = ()
    for i in gl.static_range(2 * _MAXIMA + 1):
        part = gl.convert_layout(all[i], tile, assert_trivial=True)
        if CUT or i < POOL_PAD_W:
            exists = (2 * first - POOL_PAD_W + i).to(gl.uint32, bitcast=True) < CONV_W
            part = gl.where(exists[:, None], part, lowest)
        seen = seen + (part,)  # noqa: RUF005
    y += row * Y_ROW + (first * Y_COLUMN)[:, None] + filters[None, :]
    for q in gl.static_range(_MAXIMA):
        best = gl.maximum(gl.maximum(seen[2 * q], seen[2 * q + 1]), seen[2 * q + 2])
        total = best.to(gl.float32)
        if added is not None:
            total += added
        total = activate_half(total, KIND, ALPHA, BETA).to(y.dtype.element_ty)
        inside = ((first + q < OUT_W) & (row < OUT_H))[:, None] & (filters < FILTERS)[None, :]
        gl.store(y + q * Y_COLUMN, total, mask=inside)


@gluon.jit
def stem(
    x, w, bias, y, IN_H, WIDTH, CONV_H, CONV_W, OUT_H, OUT_W, FILTERS,
    X_BATCH, X_CHANNEL, X_ROW, Y_BATCH, Y_ROW, Y_COLUMN,
    CHANNELS: gl.constexpr, WORDS: gl.constexpr, STRIDE_H: gl.constexpr, PAD_H: gl.constexpr,
    FIRST: gl.constexpr, CHUNKS: gl.constexpr, LAST: gl.constexpr, DEEP: gl.constexpr,
    POOLED: gl.constexpr, POOL_PAD_H: gl.constexpr, POOL_PAD_W: gl.constexpr, CUT: gl.constexpr,
    ROWS: gl.constexpr, STAGES: gl.constexpr, AHEAD: gl.constexpr,
    KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Compute ``ROWS`` rows of 128 columns of results, or of 56 with the maximum (``POOLED``).

    Grid: images, in them bands of rows, in them strips of columns; blocks of 64 filters.  The
    image, WIDTH and X_* are in words of two numbers; the window of column 0 begins at word
    ``FIRST`` and is ``WORDS`` wide.  w is [filters, ``DEEP`` groups of ``STRIDE_H`` rows,
    ``CHUNKS`` * 16: rows, channels, columns], with zeros for what windows do not contain.  The
    maximum is that of three rows and columns, every other one; ``CUT``: it may reach beyond the
    last column of the convolution.  Operands and results are of one type of 16 bits; sums are
    rounded to it before bias and activation, which must not change the order of numbers.
    """
    kind: gl.constexpr = x.dtype.element_ty
    apart: gl.constexpr = 2 * _MAXIMA if POOLED else _RUN
    groups: gl.constexpr = 2 * ROWS + DEEP if POOLED else ROWS + DEEP - 1
    words: gl.constexpr = gl.NVMMASharedLayout(32, 32, 2)
    numbers: gl.constexpr = gl.NVMMASharedLayout(32, 16, 2)
    laid: gl.constexpr = gl.NVMMASharedLayout.get_default_for([_HALF, _FILTERS], kind)
    ring = gl.allocate_shared_memory(gl.int32, [STAGES * CHUNKS, _PIXELS, _DEPTH], words)
    pixels = ring._reinterpret(kind, [STAGES * CHUNKS, _PIXELS, 2 * _DEPTH], numbers)
    sums = gl.allocate_shared_memory(kind, [2, _HALF, _FILTERS], laid)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(ready.index(stage), count=1)
        mbarrier.init(free.index(stage), count=2)
    wide: gl.constexpr = _PIXELS // _RUN * _MAXIMA if POOLED else _PIXELS
    strips, bands = gl.cdiv(OUT_W, wide), gl.cdiv(OUT_H, ROWS)
    column = gl.program_id(0) % strips * wide
    first = gl.program_id(0) // strips % bands * ROWS
    image = gl.program_id(0) // (strips * bands)
    filter = gl.program_id(1) * _FILTERS
    row = 2 * first - POOL_PAD_H if POOLED else first
    left = 2 * column - POOL_PAD_W if POOLED else column
    source = (image, row * STRIDE_H - PAD_H, left + FIRST)
    place = (image, row, first, column)
    x = x.to(gl.pointer_type(gl.int32), bitcast=True)
    gl.warp_specialize(
        [
            (
                _multiply,
                (pixels, sums.index(0), ready, free, w, bias, y, place, filter, CONV_H, CONV_W,
                 OUT_H, OUT_W, FILTERS, Y_BATCH, Y_ROW, Y_COLUMN, 0, CHUNKS, LAST, DEEP, STAGES,
                 ROWS, POOLED, POOL_PAD_W, CUT, KIND, ALPHA, BETA, DEPENDENT),
            ),
            (
                _multiply,
                (pixels, sums.index(1), ready, free, w, bias, y, place, filter, CONV_H, CONV_W,
                 OUT_H, OUT_W, FILTERS, Y_BATCH, Y_ROW, Y_COLUMN, 1, CHUNKS, LAST, DEEP, STAGES,
                 ROWS, POOLED, POOL_PAD_W, CUT, KIND, ALPHA, BETA, DEPENDENT),
            ),
            (
                _load,
                (x, ring, ready, free, source, IN_H, WIDTH, X_BATCH, X_CHANNEL, X_ROW, CHANNELS,
                 WORDS, STRIDE_H, apart, CHUNKS, groups, STAGES, _LOADERS, AHEAD,
                 DEPENDENT),
            ),
        ],
        [4, _LOADERS],
        [168, 88],
    )  # fmt: skip
