"""Convolutions with three rows of taps in which every row of the image is read once for all three.

For compute capability 9.0, in Gluon.  A program goes down a strip of the image.  A row of pixels,
as shifted for one column of taps, meets the filters of all rows of taps while it lies in shared
memory, and adds to the sums of three rows of results, which roll on from row to row in registers.
The filters stay in shared memory.  So three times fewer bytes come from the L2 cache than where
each tap reads its own box, which is what bounds convolutions to few filters.  One warp loads, four
multiply, four finish what others have summed; see :mod:`lamina.backends.cuda.kernels.specialized`.
"""

from __future__ import annotations

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_init,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.epilogue import finished
from lamina.backends.cuda.kernels.matmul import turned
from lamina.backends.cuda.kernels.ring import following

_FILTERS = gl.constexpr(64)
"""Rows of a matrix instruction."""
_PIXELS = gl.constexpr(128)
_DEPTH = gl.constexpr(64)
"""Channels of 16 bits that fill the rows in which shared memory is swizzled."""
_ROLL = gl.constexpr(3)
"""Rows of taps, and of sums."""


@gluon.jit
def _load(
    pixels, weights, ring, kept, came, ready, free, place, filter, W_TAP, PAD_H, PAD_W,
    CHUNKS: gl.constexpr, TAPS_W: gl.constexpr, DILATION_W: gl.constexpr,
    ROUNDS: gl.constexpr, STAGES: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Fetch the filters, then every row of the strip once for each column of taps."""
    size: gl.constexpr = ring.dtype.primitive_bitwidth // 8
    mbarrier.expect(came, _ROLL * TAPS_W * CHUNKS * _FILTERS * _DEPTH * size)
    for block in gl.static_range(_ROLL * TAPS_W * CHUNKS):
        place_of = block // CHUNKS * W_TAP + block % CHUNKS * _DEPTH
        tma.async_copy_global_to_shared(weights, [filter, place_of], came, kept.index(block))
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    image, row, column = place
    stage, phase = 0, 1
    for number in range(ROUNDS * _ROLL):
        for tap in range(TAPS_W):
            for chunk in range(CHUNKS):
                mbarrier.wait(free.index(stage), phase)
                mbarrier.expect(ready.index(stage), _PIXELS * _DEPTH * size)
                tma.async_copy_global_to_shared(
                    pixels,
                    [image, row + number - PAD_H, column + tap * DILATION_W - PAD_W,
                     chunk * _DEPTH],
                    ready.index(stage), ring.index(stage),
                )  # fmt: skip
                stage, phase = following(stage, phase, STAGES)


@gluon.jit
def _hand_in(sums, full, empty, total, turn):
    """Hand in the sums of a row, rounded to 16 bits; return the next turn."""
    mbarrier.wait(empty, turn % 2 ^ 1)
    sums.permute((1, 0)).store(total.to(sums.dtype))
    mbarrier.arrive(full, count=1)
    return turn + 1


@gluon.jit
def _row(
    ending, running, starting, turn, stage, phase, ring, kept, sums, ready, free, full, empty,
    NUMBER: gl.constexpr, LEFT: gl.constexpr,
    CHUNKS: gl.constexpr, TAPS_W: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Add what a row of pixels gives to three rows of results; hand in the one that ends.

    ``NUMBER`` rows of the strip are in front of it and ``LEFT`` behind it, or more where these are
    2: at both ends not all of the results exist.
    """
    columns: gl.constexpr = TAPS_W * CHUNKS
    begun: gl.constexpr = (NUMBER >= 2) + (NUMBER >= 1 and LEFT >= 1) + (LEFT >= 2)
    nothing = gl.zeros((256,), gl.float32, gl.BlockedLayout([2], [32], [4], [0]))
    for block in range(columns):
        mbarrier.wait(ready.index(stage), phase)
        right = ring.index(stage).reshape((_PIXELS, _DEPTH)).permute((1, 0))
        if NUMBER >= 2:
            low = kept.index(2 * columns + block)
            ending = warpgroup_mma(low, right, ending, is_async=True)
        if NUMBER >= 1 and LEFT >= 1:
            middle = kept.index(columns + block)
            running = warpgroup_mma(middle, right, running, is_async=True)
        if LEFT >= 2:
            high = kept.index(block)
            starting = warpgroup_mma(high, right, starting, use_acc=block > 0, is_async=True)
        warpgroup_mma_wait(begun, deps=[nothing])
        before = free.index((stage + STAGES - 1) % STAGES)
        mbarrier.arrive(before, count=1, pred=block + NUMBER > 0)
        stage, phase = following(stage, phase, STAGES)
    if NUMBER >= 2:
        ending = warpgroup_mma_wait(0, deps=[ending])
        turn = _hand_in(sums, full, empty, ending, turn)
        ending = warpgroup_mma_init(ending)
    return ending, running, starting, turn, stage, phase


@gluon.jit
def _round(
    first, second, third, turn, stage, phase, ring, kept, sums, ready, free, full, empty,
    NUMBER: gl.constexpr, LEFT: gl.constexpr,
    CHUNKS: gl.constexpr, TAPS_W: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Go on by three rows, after which the sums are again those of the same rows relative to it."""
    first, second, third, turn, stage, phase = _row(
        first, second, third, turn, stage, phase, ring, kept, sums, ready, free, full, empty,
        NUMBER, LEFT + 2, CHUNKS, TAPS_W, STAGES,
    )  # fmt: skip
    second, third, first, turn, stage, phase = _row(
        second, third, first, turn, stage, phase, ring, kept, sums, ready, free, full, empty,
        NUMBER + 1, LEFT + 1, CHUNKS, TAPS_W, STAGES,
    )  # fmt: skip
    third, first, second, turn, stage, phase = _row(
        third, first, second, turn, stage, phase, ring, kept, sums, ready, free, full, empty,
        NUMBER + 2, LEFT, CHUNKS, TAPS_W, STAGES,
    )  # fmt: skip
    return first, second, third, turn, stage, phase


@gluon.jit
def _multiply(
    ring, kept, sums, came, ready, free, full, empty,
    CHUNKS: gl.constexpr, TAPS_W: gl.constexpr, ROUNDS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Sum all rows of a strip and hand them in."""
    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 128, 16]
    )
    first = warpgroup_mma_init(gl.zeros((_FILTERS, _PIXELS), gl.float32, layout))
    second = warpgroup_mma_init(gl.zeros((_FILTERS, _PIXELS), gl.float32, layout))
    third = warpgroup_mma_init(gl.zeros((_FILTERS, _PIXELS), gl.float32, layout))
    turn, stage, phase = 0, 0, 0
    mbarrier.wait(came, 0)
    first, second, third, turn, stage, phase = _round(
        first, second, third, turn, stage, phase, ring, kept, sums, ready, free, full, empty,
        0, ROUNDS * _ROLL - _ROLL, CHUNKS, TAPS_W, STAGES,
    )  # fmt: skip
    for _ in range(1, ROUNDS - 1):
        first, second, third, turn, stage, phase = _round(
            first, second, third, turn, stage, phase, ring, kept, sums, ready, free, full, empty,
            _ROLL, _ROLL, CHUNKS, TAPS_W, STAGES,
        )  # fmt: skip
    if ROUNDS > 1:
        _round(
            first, second, third, turn, stage, phase, ring, kept, sums, ready, free, full, empty,
            _ROLL, 0, CHUNKS, TAPS_W, STAGES,
        )  # fmt: skip


@gluon.jit
def _finish(
    sums, full, empty, bias, residual, y, place, filter, IMAGES, OUT_H, OUT_W, FILTERS,
    RESIDUAL_BATCH, RESIDUAL_ROW, RESIDUAL_COLUMN, Y_BATCH, Y_ROW, Y_COLUMN,
    BOX_W: gl.constexpr, ROUNDS: gl.constexpr,
    KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Finish and store the rows that are handed in."""
    flat: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    number = gl.arange(0, _PIXELS, gl.SliceLayout(1, flat))
    columns = gl.arange(0, _FILTERS, gl.SliceLayout(0, flat))
    left = FILTERS - filter
    image, row, column = place
    image = (image + number // BOX_W).to(gl.int64)
    column += number % BOX_W
    real = (image < IMAGES) & (column < OUT_W)
    if DEPENDENT:
        gdc_wait()
    added = None
    if bias is not None:
        added = gl.load(bias + filter + columns, mask=columns < left, other=0)
    out = y + filter + image * Y_BATCH + column * Y_COLUMN
    for turn in range(ROUNDS * _ROLL - (_ROLL - 1)):
        mbarrier.wait(full, turn % 2)
        total = sums.load(flat)
        mbarrier.arrive(empty, count=1)
        at = row + turn
        inside = (real & (at < OUT_H))[:, None] & (columns < left)[None, :]
        rest = None
        if residual is not None:
            rest = residual + filter + image * RESIDUAL_BATCH + column * RESIDUAL_COLUMN
            rest = rest + at * RESIDUAL_ROW
        total = finished(
            total.to(gl.float32), added, None, rest, y.dtype.element_ty, columns, inside, 1, 1,
            None, None, None, None, None, None, None, KIND, ALPHA, BETA,
        )  # fmt: skip
        gl.store((out + at * Y_ROW)[:, None] + columns[None, :], total, mask=inside)


@gluon.jit
def convolution_rolling(
    x, w, bias, residual, y, IMAGES, OUT_H, OUT_W, FILTERS, W_TAP,
    RESIDUAL_BATCH, RESIDUAL_ROW, RESIDUAL_COLUMN, Y_BATCH, Y_ROW, Y_COLUMN, BACKWARDS,
    TAPS_W: gl.constexpr, DILATION_W: gl.constexpr, PAD_H: gl.constexpr, PAD_W: gl.constexpr,
    BOX_N: gl.constexpr, BOX_W: gl.constexpr, ROUNDS: gl.constexpr, STAGES: gl.constexpr,
    CHUNKS: gl.constexpr,
    KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Compute 3 * ``ROUNDS`` - 2 rows of ``BOX_N`` images, ``BOX_W`` columns and 64 filters.

    Grid: blocks of filters, in them strips: images, columns, rows.  ``BOX_N`` * ``BOX_W`` is 128,
    and ``CHUNKS`` times 64 is the number of channels.  Operands, bias, residual and results are of
    one type of 16 bits.  Sums are rounded to it before bias, residual and activation, which are
    applied in f32.  With ``BACKWARDS`` 1 the first program computes the last strip.
    """
    kind: gl.constexpr = x.dtype
    rows: gl.constexpr = _ROLL * ROUNDS - (_ROLL - 1)
    box: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BOX_N, 1, BOX_W, _DEPTH], kind)
    laid: gl.constexpr = gl.NVMMASharedLayout.get_default_for([_FILTERS, _DEPTH], kind)
    ring = gl.allocate_shared_memory(kind, [STAGES, BOX_N, 1, BOX_W, _DEPTH], box)
    kept = gl.allocate_shared_memory(kind, [_ROLL * TAPS_W * CHUNKS, _FILTERS, _DEPTH], laid)
    sums = gl.allocate_shared_memory(kind, [_PIXELS, _FILTERS], laid)
    came = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(came, count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(ready.index(stage), count=1)
        mbarrier.init(free.index(stage), count=1)
    mbarrier.init(full, count=1)
    mbarrier.init(empty, count=1)
    strips_h, strips_w = gl.cdiv(OUT_H, rows), gl.cdiv(OUT_W, BOX_W)
    strips = strips_h * strips_w * gl.cdiv(IMAGES, BOX_N)
    strip = turned(gl.program_id(0) % strips, strips, BACKWARDS)
    filter = gl.program_id(0) // strips * _FILTERS
    row, column = strip % strips_h * rows, strip // strips_h % strips_w * BOX_W
    place = (strip // (strips_h * strips_w) * BOX_N, row, column)
    gl.warp_specialize(
        [
            (
                _multiply,
                (ring, kept, sums, came, ready, free, full, empty, CHUNKS, TAPS_W, ROUNDS, STAGES),
            ),
            (
                _finish,
                (sums, full, empty, bias, residual, y, place, filter, IMAGES, OUT_H, OUT_W,
                 FILTERS, RESIDUAL_BATCH, RESIDUAL_ROW, RESIDUAL_COLUMN, Y_BATCH, Y_ROW, Y_COLUMN,
                 BOX_W, ROUNDS, KIND, ALPHA, BETA, DEPENDENT),
            ),
            (
                _load,
                (x, w, ring, kept, came, ready, free, place, filter, W_TAP, PAD_H,
                 PAD_W, CHUNKS, TAPS_W, DILATION_W, ROUNDS, STAGES, DEPENDENT),
            ),
        ],
        [4, 1],
        [152, 24],
    )  # fmt: skip
