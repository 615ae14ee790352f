"""Convolutions in which warps share the work: one loads, two groups multiply, one finishes.

For compute capability 9.0, in Gluon: what :mod:`lamina.backends.cuda.kernels.boxes` computes, with
the warps of :mod:`lamina.backends.cuda.kernels.specialized`.  Filters are the rows of the product,
so that pixels, of which there are more, are the operand that matrix instructions share.
"""

from __future__ import annotations

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.boxes import box_place
from lamina.backends.cuda.kernels.epilogue import finished
from lamina.backends.cuda.kernels.matmul import turned
from lamina.backends.cuda.kernels.ring import following

_HALF = gl.constexpr(64)
"""Filters of a group of four warps, rows of one matrix instruction."""
_DEPTH = gl.constexpr(64)
"""Channels of 16 bits that fill the rows in which shared memory is swizzled."""
_PART = gl.constexpr(64)
"""Pixels that are finished at a time."""
_UP = gl.constexpr(1 << 10)
"""Added to coordinates, which padding makes negative, while they are divided."""


@gluon.jit
def _load(
    pixels, weights, others, more_weights, x_ring, w_ring, ready, free, tiles, chunks, z_chunks,
    X_COLUMN, W_TAP, IMAGES, OUT_H, OUT_W, FILTERS, BACKWARDS,
    TAPS_H: gl.constexpr, TAPS_W: gl.constexpr, STRIDE_H: gl.constexpr, STRIDE_W: gl.constexpr,
    DILATION_H: gl.constexpr, DILATION_W: gl.constexpr, PAD_H: gl.constexpr, PAD_W: gl.constexpr,
    BOX_N: gl.constexpr, BOX_H: gl.constexpr, BOX_W: gl.constexpr, GROUP: gl.constexpr,
    STAGES: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Fill the rings with the operands of every tile of this program, a step in each stage."""
    rows: gl.constexpr = BOX_N * BOX_H * BOX_W + 2 * _HALF
    size: gl.constexpr = x_ring.dtype.primitive_bitwidth // 8
    bytes: gl.constexpr = rows * _DEPTH * size
    stage, phase = 0, 1
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    for round in range(gl.cdiv(tiles - gl.program_id(0), gl.num_programs(0))):
        tile = turned(gl.program_id(0) + round * gl.num_programs(0), tiles, BACKWARDS)
        first_n, first_h, first_w, filter = box_place(
            tile, IMAGES, OUT_H, OUT_W, FILTERS, BOX_N, BOX_H, BOX_W, 2 * _HALF, GROUP
        )
        for tap in range(TAPS_H * TAPS_W):
            h = tap // TAPS_W * DILATION_H - PAD_H + _UP * STRIDE_H
            v = tap % TAPS_W * DILATION_W - PAD_W + _UP * STRIDE_W
            at_h, at_w = first_h + h // STRIDE_H - _UP, first_w + v // STRIDE_W - _UP
            for chunk in range(chunks):
                c = chunk * _DEPTH
                mbarrier.wait(free.index(stage), phase)
                came = ready.index(stage)
                mbarrier.expect(came, bytes)
                tma.async_copy_global_to_shared(
                    pixels, [first_n, at_h, h % STRIDE_H, at_w, v % STRIDE_W * X_COLUMN + c],
                    came, x_ring.index(stage),
                )  # fmt: skip
                tma.async_copy_global_to_shared(
                    weights, [filter, tap * W_TAP + c], came, w_ring.index(stage)
                )
                stage, phase = following(stage, phase, STAGES)
        if others is not None:
            for chunk in range(z_chunks):
                c = chunk * _DEPTH
                mbarrier.wait(free.index(stage), phase)
                came = ready.index(stage)
                mbarrier.expect(came, bytes)
                tma.async_copy_global_to_shared(
                    others, [first_n, first_h, 0, first_w, c], came, x_ring.index(stage)
                )
                tma.async_copy_global_to_shared(
                    more_weights, [filter, c], came, w_ring.index(stage)
                )
                stage, phase = following(stage, phase, STAGES)


@gluon.jit
def _load_rests(
    rests, given, came_rest, free_rest, tiles, IMAGES, OUT_H, OUT_W, FILTERS, BACKWARDS,
    BOX_N: gl.constexpr, BOX_H: gl.constexpr, BOX_W: gl.constexpr, GROUP: gl.constexpr,
    SLOTS: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Fetch what is added to the sums of every tile, if anything is, as soon as there is room."""
    if rests is not None:
        size: gl.constexpr = given.dtype.primitive_bitwidth // 8
        bytes: gl.constexpr = BOX_N * BOX_H * BOX_W * _HALF * size
        slot, phase = 0, 1
        if DEPENDENT:
            gdc_wait()
        for round in range(gl.cdiv(tiles - gl.program_id(0), gl.num_programs(0))):
            tile = turned(gl.program_id(0) + round * gl.num_programs(0), tiles, BACKWARDS)
            first_n, first_h, first_w, filter = box_place(
                tile, IMAGES, OUT_H, OUT_W, FILTERS, BOX_N, BOX_H, BOX_W, 2 * _HALF, GROUP
            )
            for who in gl.static_range(2):
                at = who * SLOTS + slot
                mbarrier.wait(free_rest.index(at), phase)
                mbarrier.expect(came_rest.index(at), bytes)
                tma.async_copy_global_to_shared(
                    rests, [first_n, first_h, first_w, filter + who * _HALF],
                    came_rest.index(at), given.index(at),
                )  # fmt: skip
            slot, phase = following(slot, phase, SLOTS)


@gluon.jit
def _multiply(
    WHO: gl.constexpr, x_ring, w_ring, sums, ready, free, full, empty, tiles, steps,
    PIXELS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Sum half ``WHO`` of the filters of every tile and hand the sums in, rounded to 16 bits."""
    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 128, 16]
    )
    stage, phase, before, turn = 0, 0, STAGES - 1, 1
    total = gl.zeros((_HALF, PIXELS), gl.float32, layout)
    for _ in range(gl.cdiv(tiles - gl.program_id(0), gl.num_programs(0))):
        for step in range(steps):
            mbarrier.wait(ready.index(stage), phase)
            left = w_ring.index(stage).slice(WHO * _HALF, _HALF, dim=0)
            right = x_ring.index(stage).reshape((PIXELS, _DEPTH)).permute((1, 0))
            total = warpgroup_mma(left, right, total, use_acc=step > 0, is_async=True)
            total = warpgroup_mma_wait(num_outstanding=1, deps=[total])
            mbarrier.arrive(free.index(before), count=1, pred=step > 0)
            before = stage
            stage, phase = following(stage, phase, STAGES)
        total = warpgroup_mma_wait(num_outstanding=0, deps=[total])
        mbarrier.arrive(free.index(before), count=1)
        mbarrier.wait(empty.index(WHO), turn)
        sums.index(WHO).permute((1, 0)).store(total.to(sums.dtype))
        mbarrier.arrive(full.index(WHO), count=1)
        turn ^= 1


@gluon.jit
def _finish(
    FIRST: gl.constexpr, LAST: gl.constexpr,
    sums, given, full, empty, came_rest, free_rest, bias, other_bias, y, tiles,
    IMAGES, OUT_H, OUT_W, FILTERS,
    Y_BATCH, Y_ROW, Y_COLUMN, BACKWARDS,
    BOX_N: gl.constexpr, BOX_H: gl.constexpr, BOX_W: gl.constexpr, GROUP: gl.constexpr,
    SLOTS: gl.constexpr, DEPENDENT: gl.constexpr,
    KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr,
):  # fmt: skip
    """Finish and store halves ``FIRST`` to ``LAST`` of every tile, some pixels at a time."""
    flat: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    parts: gl.constexpr = BOX_N * BOX_H * BOX_W // _PART
    pixel = gl.arange(0, _PART, gl.SliceLayout(1, flat))
    columns = gl.arange(0, _HALF, gl.SliceLayout(0, flat))
    turn, slot, phase = 0, 0, 0
    if DEPENDENT:
        gdc_wait()
    for round in range(gl.cdiv(tiles - gl.program_id(0), gl.num_programs(0))):
        tile = turned(gl.program_id(0) + round * gl.num_programs(0), tiles, BACKWARDS)
        first_n, first_h, first_w, filter = box_place(
            tile, IMAGES, OUT_H, OUT_W, FILTERS, BOX_N, BOX_H, BOX_W, 2 * _HALF, GROUP
        )
        for who in gl.static_range(FIRST, LAST + 1):
            at = who * SLOTS + slot
            filters = filter + who * _HALF + columns
            added = None
            if bias is not None:
                added = gl.load(bias + filters, mask=filters < FILTERS, other=0).to(gl.float32)
            if other_bias is not None:
                more = gl.load(other_bias + filters, mask=filters < FILTERS, other=0)
                added = more.to(gl.float32) if added is None else added + more.to(gl.float32)
            mbarrier.wait(full.index(who), turn)
            if given is not None:
                mbarrier.wait(came_rest.index(at), phase)
            for part in gl.static_range(parts):
                number = part * _PART + pixel
                n = first_n + number // (BOX_H * BOX_W)
                row, column = first_h + number // BOX_W % BOX_H, first_w + number % BOX_W
                real = (n < IMAGES) & (row < OUT_H) & (column < OUT_W)
                inside = real[:, None] & (filters < FILTERS)[None, :]
                total = sums.index(who).slice(part * _PART, _PART, dim=0).load(flat)
                total = total.to(gl.float32)
                if given is not None:
                    rest = given.index(at).reshape((parts * _PART, _HALF))
                    rest = rest.slice(part * _PART, _PART, dim=0).load(flat)
                    total += rest.to(gl.float32)
                if part == parts - 1:
                    mbarrier.arrive(empty.index(who), count=1)
                    if given is not None:
                        mbarrier.arrive(free_rest.index(at), count=1)
                total = finished(
                    total, added, None, None, y.dtype.element_ty, filters, inside,
                    1, 1, None, None, None, None, None, None, None, KIND, ALPHA, BETA,
                )  # fmt: skip
                out = y + n.to(gl.int64) * Y_BATCH + row * Y_ROW + column * Y_COLUMN
                gl.store(out[:, None] + filters[None, :], total, mask=inside)
        turn ^= 1
        slot, phase = following(slot, phase, SLOTS)


@gluon.jit
def _share(
    pixels, weights, others, more_weights, rests, bias, other_bias, y,
    IMAGES, OUT_H, OUT_W, CHANNELS, FILTERS, X_COLUMN, W_TAP, Z_CHANNELS, Y_BATCH, Y_ROW, Y_COLUMN,
    BACKWARDS,
    kind: gl.constexpr, box: gl.constexpr, flat: gl.constexpr, last: gl.constexpr,
    TAPS_H: gl.constexpr, TAPS_W: gl.constexpr, STRIDE_H: gl.constexpr, STRIDE_W: gl.constexpr,
    DILATION_H: gl.constexpr, DILATION_W: gl.constexpr, PAD_H: gl.constexpr, PAD_W: gl.constexpr,
    BOX_N: gl.constexpr, BOX_H: gl.constexpr, BOX_W: gl.constexpr, GROUP: gl.constexpr,
    STAGES: gl.constexpr, SLOTS: gl.constexpr, FINISHERS: gl.constexpr,
    KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Share the work of ``convolution_specialized`` among groups of warps."""
    many: gl.constexpr = BOX_N * BOX_H * BOX_W
    laid: gl.constexpr = gl.NVMMASharedLayout.get_default_for([many, _HALF], kind)
    given: gl.constexpr = None
    if rests is not None:
        given = gl.allocate_shared_memory(kind, [2 * SLOTS, BOX_N, BOX_H, BOX_W, _HALF], last)
    x_ring = gl.allocate_shared_memory(kind, [STAGES, BOX_N, BOX_H, 1, BOX_W, _DEPTH], box)
    w_ring = gl.allocate_shared_memory(kind, [STAGES, 2 * _HALF, _DEPTH], flat)
    sums = gl.allocate_shared_memory(kind, [2, many, _HALF], laid)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    came_rest = gl.allocate_shared_memory(gl.int64, [2 * SLOTS, 1], mbarrier.MBarrierLayout())
    free_rest = gl.allocate_shared_memory(gl.int64, [2 * SLOTS, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(ready.index(stage), count=1)
        mbarrier.init(free.index(stage), count=2)
    for at in gl.static_range(2 * SLOTS):
        mbarrier.init(came_rest.index(at), count=1)
        mbarrier.init(free_rest.index(at), count=1)
    for who in gl.static_range(2):
        mbarrier.init(full.index(who), count=1)
        mbarrier.init(empty.index(who), count=1)
    tiles = gl.cdiv(IMAGES, BOX_N) * gl.cdiv(OUT_H, BOX_H) * gl.cdiv(OUT_W, BOX_W)
    tiles *= gl.cdiv(FILTERS, 2 * _HALF)
    chunks = CHANNELS // _DEPTH
    z_chunks = Z_CHANNELS // _DEPTH
    steps = TAPS_H * TAPS_W * chunks + z_chunks
    if FINISHERS == 1:
        gl.warp_specialize([
            (_multiply, (0, x_ring, w_ring, sums, ready, free, full, empty, tiles, steps, many,
             STAGES)),
            (_multiply, (1, x_ring, w_ring, sums, ready, free, full, empty, tiles, steps, many,
             STAGES)),
            (_finish, (0, 1, sums, given, full, empty, came_rest, free_rest, bias, other_bias, y,
             tiles, IMAGES, OUT_H, OUT_W, FILTERS, Y_BATCH, Y_ROW, Y_COLUMN, BACKWARDS, BOX_N,
             BOX_H, BOX_W, GROUP, SLOTS, DEPENDENT, KIND,
             ALPHA, BETA)),
            (_load, (pixels, weights, others, more_weights, x_ring, w_ring, ready, free, tiles,
             chunks, z_chunks, X_COLUMN, W_TAP, IMAGES, OUT_H, OUT_W, FILTERS, BACKWARDS, TAPS_H,
             TAPS_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, PAD_H, PAD_W, BOX_N, BOX_H, BOX_W,
             GROUP, STAGES, DEPENDENT)),
            (_load_rests, (rests, given, came_rest, free_rest, tiles, IMAGES, OUT_H, OUT_W,
             FILTERS, BACKWARDS, BOX_N, BOX_H, BOX_W, GROUP, SLOTS, DEPENDENT)),
        ], [4, 4, 1, 1], [192, 104, 24, 24])  # fmt: skip
    else:
        gl.warp_specialize([
            (_multiply, (0, x_ring, w_ring, sums, ready, free, full, empty, tiles, steps, many,
             STAGES)),
            (_multiply, (1, x_ring, w_ring, sums, ready, free, full, empty, tiles, steps, many,
             STAGES)),
            (_finish, (0, 0, sums, given, full, empty, came_rest, free_rest, bias, other_bias, y,
             tiles, IMAGES, OUT_H, OUT_W, FILTERS, Y_BATCH, Y_ROW, Y_COLUMN, BACKWARDS, BOX_N,
             BOX_H, BOX_W, GROUP, SLOTS, DEPENDENT, KIND,
             ALPHA, BETA)),
            (_finish, (1, 1, sums, given, full, empty, came_rest, free_rest, bias, other_bias, y,
             tiles, IMAGES, OUT_H, OUT_W, FILTERS, Y_BATCH, Y_ROW, Y_COLUMN, BACKWARDS, BOX_N,
             BOX_H, BOX_W, GROUP, SLOTS, DEPENDENT, KIND,
             ALPHA, BETA)),
            (_load, (pixels, weights, others, more_weights, x_ring, w_ring, ready, free, tiles,
             chunks, z_chunks, X_COLUMN, W_TAP, IMAGES, OUT_H, OUT_W, FILTERS, BACKWARDS, TAPS_H,
             TAPS_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, PAD_H, PAD_W, BOX_N, BOX_H, BOX_W,
             GROUP, STAGES, DEPENDENT)),
            (_load_rests, (rests, given, came_rest, free_rest, tiles, IMAGES, OUT_H, OUT_W,
             FILTERS, BACKWARDS, BOX_N, BOX_H, BOX_W, GROUP, SLOTS, DEPENDENT)),
        ], [4, 4, 4, 1, 1], [120, 104, 104, 24, 24])  # fmt: skip


@gluon.jit
def convolution_specialized(
    x, w, bias, z, v, other_bias, residual, y, IMAGES, OUT_H, OUT_W, CHANNELS, FILTERS,
    X_COLUMN, W_TAP, Z_CHANNELS, Y_BATCH, Y_ROW, Y_COLUMN, BACKWARDS,
    TAPS_H: gl.constexpr, TAPS_W: gl.constexpr, STRIDE_H: gl.constexpr, STRIDE_W: gl.constexpr,
    DILATION_H: gl.constexpr, DILATION_W: gl.constexpr, PAD_H: gl.constexpr, PAD_W: gl.constexpr,
    BOX_N: gl.constexpr, BOX_H: gl.constexpr, BOX_W: gl.constexpr, GROUP: gl.constexpr,
    STAGES: gl.constexpr, SLOTS: gl.constexpr, FINISHERS: gl.constexpr,
    KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Compute every tile of 128 filters and a box of pixels.  Grid: any number of programs.

    For boxes and strides see :func:`lamina.backends.cuda.kernels.boxes.convolution_boxes`;
    channels must be a multiple of 64.  Operands, bias, residual and results are of one type of 16
    bits.  Sums are rounded to it before bias, residual and activation, which are applied in f32.
    With ``BACKWARDS`` 1 programs begin with the last tile.

    Of a residual, ``SLOTS`` tiles are fetched ahead.  With 2 ``FINISHERS`` a group of warps ends
    each half of a tile, which pays where sums are short.
    """
    kind: gl.constexpr = x.dtype
    box: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BOX_N, BOX_H, 1, BOX_W, _DEPTH], kind)
    flat: gl.constexpr = gl.NVMMASharedLayout.get_default_for([2 * _HALF, _DEPTH], kind)
    last: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BOX_N, BOX_H, BOX_W, _HALF], kind)
    _share(
        x, w, z, v, residual, bias, other_bias, y,
        IMAGES, OUT_H, OUT_W, CHANNELS, FILTERS, X_COLUMN, W_TAP, Z_CHANNELS,
        Y_BATCH, Y_ROW, Y_COLUMN, BACKWARDS, kind, box, flat, last,
        TAPS_H, TAPS_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, PAD_H, PAD_W,
        BOX_N, BOX_H, BOX_W, GROUP, STAGES, SLOTS, FINISHERS,
        KIND, ALPHA, BETA, DEPENDENT,
    )  # fmt: skip
