"""Products in which warps share the work: two load, two groups multiply, one finishes.

For compute capability 9.0, in Gluon.  Two warps ask the copy engine for operands; two groups of
four warps do nothing but multiply, each half of the rows of a tile; a third group adds, activates
and stores what they have summed while they are at the next tile.  So neither waiting for memory nor
activations take time from the matrix units.  The structure is that of CUTLASS's warp-specialized
kernels, with an epilogue in warps of its own.
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

from lamina.backends.cuda.kernels.epilogue import activate_half
from lamina.backends.cuda.kernels.pairs import (
    arrive,
    begin_both,
    end_both,
    is_mine,
    meet,
    paired_place,
    whole_pairs,
)
from lamina.backends.cuda.kernels.ring import following

_HALF = gl.constexpr(64)
"""Rows of a group of four warps, those of one matrix instruction."""
_PART = gl.constexpr(64)
"""Columns that are finished together."""


@gluon.jit
def _load(
    boxes, ring, beside, ready, free, tiles_m, tiles_n, steps, BACKWARDS,
    ROWS: gl.constexpr, BLOCK: gl.constexpr, MORE: gl.constexpr, BLOCK_K: gl.constexpr,
    GROUP: gl.constexpr, STAGES: gl.constexpr, DEPENDENT: gl.constexpr,
    PAIRED: gl.constexpr, SHARED: gl.constexpr,
):  # fmt: skip
    """Fill a ring with an operand's part of every step of every tile of this program.

    A tile needs ``BLOCK`` rows in ``ring`` and the ``MORE`` next ones in ``beside``, a number of
    boxes.  ``ROWS``: they are rows of the product; others are constant, so that nobody waits for
    the kernel ahead to load them.  ``SHARED``: the other program of the pair needs the same ones
    and loads half, every other box.
    """
    kind: gl.constexpr = ring.dtype
    rows: gl.constexpr = boxes.block_shape[0]
    bytes: gl.constexpr = (BLOCK + MORE) * BLOCK_K * (kind.primitive_bitwidth // 8)
    stage, phase = 0, 1
    if DEPENDENT and ROWS:
        gdc_wait()
    for tile in range(gl.program_id(0), tiles_m * tiles_n, gl.num_programs(0)):
        tile_m, tile_n = paired_place(tile, tiles_m, tiles_n, BACKWARDS, GROUP, PAIRED)
        row = (tile_m if ROWS else tile_n) * (BLOCK + MORE)
        for step in range(steps):
            mbarrier.wait(free.index(stage), phase)
            came = ready.index(stage)
            mbarrier.expect(came, bytes)
            if SHARED:
                begin_both()
            for first in gl.static_range(0, BLOCK + MORE, rows):
                if first < BLOCK:
                    part = ring.index(stage).slice(first, rows, dim=0)
                else:
                    part = beside.index(stage).slice(first - BLOCK, rows, dim=0)
                mine = is_mine(first // rows) if SHARED else True
                at = [row + first, step * BLOCK_K]
                tma.async_copy_global_to_shared(boxes, at, came, part, pred=mine)
            if SHARED:
                end_both()
            stage, phase = following(stage, phase, STAGES)
    if SHARED:
        for _ in range(STAGES):  # the other program still tells this one that it has read
            mbarrier.wait(free.index(stage), phase)
            stage, phase = following(stage, phase, STAGES)


@gluon.jit
def _multiply(
    a_ring, b_ring, c_ring, sums, rest, ready, free, full, empty, bias, residual, y, M, N,
    tiles_m, tiles_n, steps, RESIDUAL_ROW, Y_ROW, BACKWARDS, WHO: gl.constexpr, WIDTH: gl.constexpr,
    BLOCK_N: gl.constexpr, MORE: gl.constexpr, STAGES: gl.constexpr, GROUP: gl.constexpr,
    KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr, DEPENDENT: gl.constexpr,
    PAIRED: gl.constexpr,
):  # fmt: skip
    """Sum half ``WHO`` of the rows of every tile and hand the sums in, rounded to 16 bits.

    Those of the last tile, which no other tile follows, are finished here.
    """
    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, WIDTH, 16]
    )
    narrow: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, _PART, 16]
    )
    tiles, apart = tiles_m * tiles_n, gl.num_programs(0)
    stage, phase, before, turn = 0, 0, STAGES - 1, 1
    total = gl.zeros((_HALF, BLOCK_N), gl.float32, layout)
    if MORE > 0:
        more = gl.zeros((_HALF, MORE), gl.float32, narrow)
    for tile in range(gl.program_id(0), tiles, apart):
        for step in range(steps):
            mbarrier.wait(ready.index(stage), phase)
            left = a_ring.index(stage).slice(WHO * _HALF, _HALF, dim=0)
            right = b_ring.index(stage).permute((1, 0))
            total = warpgroup_mma(left, right, total, use_acc=step > 0, is_async=True)
            if MORE > 0:
                right = c_ring.index(stage).permute((1, 0))
                more = warpgroup_mma(left, right, more, use_acc=step > 0, is_async=True)
                total, more = warpgroup_mma_wait(num_outstanding=2, deps=[total, more])
            else:
                total = warpgroup_mma_wait(num_outstanding=1, deps=[total])
            arrive(free.index(before), step > 0, PAIRED)
            before = stage
            stage, phase = following(stage, phase, STAGES)
        if MORE > 0:
            total, more = warpgroup_mma_wait(num_outstanding=0, deps=[total, more])
        else:
            total = warpgroup_mma_wait(num_outstanding=0, deps=[total])
        arrive(free.index(before), True, PAIRED)
        mbarrier.wait(empty.index(WHO), turn)
        sums.index(WHO).store(total.to(sums.dtype))
        if MORE > 0:
            rest.index(WHO).store(more.to(rest.dtype))
        mbarrier.arrive(full.index(WHO), count=1, pred=tile + apart < tiles)
        turn ^= 1
    if DEPENDENT:
        gdc_wait()
    last = tiles - 1 - (tiles - 1 - gl.program_id(0)) % apart
    _finish_half(
        sums, rest, None, None, 0, bias, residual, y, last, M, N, tiles_m, tiles_n, RESIDUAL_ROW,
        Y_ROW, BACKWARDS, WHO, 4, BLOCK_N, MORE, GROUP, KIND, ALPHA, BETA, PAIRED,
    )  # fmt: skip


@gluon.jit
def _finish_half(
    sums, rest, full, empty, turn, bias, residual, y, tile, M, N, tiles_m, tiles_n, RESIDUAL_ROW,
    Y_ROW, BACKWARDS, who, WARPS: gl.constexpr,
    BLOCK_N: gl.constexpr, MORE: gl.constexpr, GROUP: gl.constexpr,
    KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr,
    PAIRED: gl.constexpr,
):  # fmt: skip
    """Finish and store half ``who`` of the rows of a tile.

    With barriers, ``full`` says when the sums are there, and ``empty`` hears when they were read.
    What is added to them is asked for before: the memory answers while the sums are waited for.
    """
    across: gl.constexpr = _PART // 8
    flat: gl.constexpr = gl.BlockedLayout([1, 8], [32 // across, across], [WARPS, 1], [1, 0])
    parts: gl.constexpr = (BLOCK_N + MORE) // _PART
    # Parts of a residual that are asked for before they are needed.
    ahead: gl.constexpr = WARPS // 2
    tile_m, tile_n = paired_place(tile, tiles_m, tiles_n, BACKWARDS, GROUP, PAIRED)
    rows = (2 * tile_m + who) * _HALF + gl.arange(0, _HALF, gl.SliceLayout(1, flat))
    row_inside, rows = rows < M, rows.to(gl.int64)
    first = tile_n * (BLOCK_N + MORE)
    numbers = gl.arange(0, _PART, gl.SliceLayout(0, flat))
    y += first + rows * Y_ROW
    if residual is not None:
        residual += first + rows * RESIDUAL_ROW
    added, kept = (), ()
    for part in gl.static_range(parts):
        columns = part * _PART + numbers
        if bias is not None:
            more = gl.load(bias + first + columns, mask=columns < N - first, other=0)
            added = added + (more,)  # noqa: RUF005 (Gluon has no stars)
        if residual is not None and part < ahead:
            inside = row_inside[:, None] & (columns < N - first)[None, :]
            block = gl.load(residual[:, None] + columns[None, :], mask=inside, other=0)
            kept = kept + (block,)  # noqa: RUF005
    if full is not None:
        mbarrier.wait(full.index(who), turn)
    for part in gl.static_range(parts):
        columns = part * _PART + numbers
        inside = row_inside[:, None] & (columns < N - first)[None, :]
        if part * _PART < BLOCK_N:
            total = sums.index(who).slice(part * _PART, _PART, dim=1).load(flat)
        else:
            total = rest.index(who).slice(part * _PART - BLOCK_N, _PART, dim=1).load(flat)
        if part == parts - 1 and empty is not None:
            mbarrier.arrive(empty.index(who), count=1)
        if residual is not None and part + ahead < parts:
            later = columns + ahead * _PART
            inside_later = row_inside[:, None] & (later < N - first)[None, :]
            block = gl.load(residual[:, None] + later[None, :], mask=inside_later, other=0)
            kept = kept + (block,)  # noqa: RUF005
        total = total.to(gl.float32)
        if bias is not None:
            total += added[part].to(gl.float32)[None, :]
        if residual is not None:
            total += kept[part].to(gl.float32)
        total = activate_half(total, KIND, ALPHA, BETA).to(y.dtype.element_ty)
        gl.store(y[:, None] + columns[None, :], total, mask=inside)


@gluon.jit
def _finish(
    sums, rest, full, empty, bias, residual, y, M, N, tiles_m, tiles_n, RESIDUAL_ROW, Y_ROW,
    BACKWARDS, WARPS: gl.constexpr, BLOCK_N: gl.constexpr, MORE: gl.constexpr, GROUP: gl.constexpr,
    KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr, DEPENDENT: gl.constexpr,
    PAIRED: gl.constexpr,
):  # fmt: skip
    """Finish and store what is handed in: every tile of this program but the last."""
    apart = gl.num_programs(0)
    turn = 0
    if DEPENDENT:
        gdc_wait()
    for later in range(gl.program_id(0) + apart, tiles_m * tiles_n, apart):
        tile = later - apart
        for who in range(2):
            _finish_half(
                sums, rest, full, empty, turn, bias, residual, y, tile, M, N, tiles_m, tiles_n,
                RESIDUAL_ROW, Y_ROW, BACKWARDS, who, WARPS, BLOCK_N, MORE, GROUP, KIND, ALPHA,
                BETA, PAIRED,
            )  # fmt: skip
        turn ^= 1


@gluon.jit
def matmul_specialized(
    a, b, bias, residual, y, M, N, K, RESIDUAL_ROW, Y_ROW, BACKWARDS,
    BLOCK_N: gl.constexpr, MORE: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr,
    GROUP: gl.constexpr, FINISHERS: gl.constexpr,
    KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr, DEPENDENT: gl.constexpr,
    PAIRED: gl.constexpr,
):  # fmt: skip
    """Compute every tile of 128 rows of a product; b is [N, K].  Grid: any number of programs.

    Operands, bias, residual and results are of one type of 16 bits.  Sums are rounded to it before
    bias, residual and activation, which are applied in f32; one beyond its range is infinite.
    With ``BACKWARDS`` 1 programs begin with the last tile.  Pairs of programs, an even number of
    them, share operand ``PAIRED``, see :mod:`lamina.backends.cuda.kernels.pairs`.
    """
    kind: gl.constexpr = a.dtype
    left: gl.constexpr = gl.NVMMASharedLayout.get_default_for([2 * _HALF, BLOCK_K], kind)
    right: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_N, BLOCK_K], kind)
    laid: gl.constexpr = gl.NVMMASharedLayout.get_default_for([_HALF, BLOCK_N], kind)
    a_ring = gl.allocate_shared_memory(kind, [STAGES, 2 * _HALF, BLOCK_K], left)
    b_ring = gl.allocate_shared_memory(kind, [STAGES, BLOCK_N, BLOCK_K], right)
    sums = gl.allocate_shared_memory(kind, [2, _HALF, BLOCK_N], laid)
    c_ring, rest = None, None
    if MORE > 0:
        narrow: gl.constexpr = gl.NVMMASharedLayout.get_default_for([MORE, BLOCK_K], kind)
        small: gl.constexpr = gl.NVMMASharedLayout.get_default_for([_HALF, MORE], kind)
        c_ring = gl.allocate_shared_memory(kind, [STAGES, MORE, BLOCK_K], narrow)
        rest = gl.allocate_shared_memory(kind, [2, _HALF, MORE], small)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(ready.index(stage), count=2)
        mbarrier.init(free.index(stage), count=4 if PAIRED != "" else 2)
    for who in gl.static_range(2):
        mbarrier.init(full.index(who), count=1)
        mbarrier.init(empty.index(who), count=1)
    tiles_m, tiles_n = gl.cdiv(M, 2 * _HALF), gl.cdiv(N, BLOCK_N + MORE)
    tiles_m, tiles_n = whole_pairs(tiles_m, tiles_n, PAIRED)
    steps = gl.cdiv(K, BLOCK_K)
    if PAIRED != "":
        meet()
    # One instruction for all columns of sums takes more registers than 512 threads begin with.
    width: gl.constexpr = BLOCK_N if FINISHERS == 2 else 128
    if DEPENDENT:
        gdc_launch_dependents()
    gl.warp_specialize(
        [
            (
                _multiply,
                (a_ring, b_ring, c_ring, sums, rest, ready, free, full, empty, bias, residual, y,
                 M, N, tiles_m, tiles_n, steps, RESIDUAL_ROW, Y_ROW, BACKWARDS, 0, width, BLOCK_N,
                 MORE, STAGES, GROUP, KIND, ALPHA, BETA, DEPENDENT, PAIRED),
            ),
            (
                _multiply,
                (a_ring, b_ring, c_ring, sums, rest, ready, free, full, empty, bias, residual, y,
                 M, N, tiles_m, tiles_n, steps, RESIDUAL_ROW, Y_ROW, BACKWARDS, 1, width, BLOCK_N,
                 MORE, STAGES, GROUP, KIND, ALPHA, BETA, DEPENDENT, PAIRED),
            ),
            (
                _finish,
                (sums, rest, full, empty, bias, residual, y, M, N, tiles_m, tiles_n, RESIDUAL_ROW,
                 Y_ROW, BACKWARDS, FINISHERS, BLOCK_N, MORE, GROUP, KIND, ALPHA, BETA, DEPENDENT,
                 PAIRED),
            ),
            (
                _load,
                (a, a_ring, None, ready, free, tiles_m, tiles_n, steps, BACKWARDS, True, 2 * _HALF,
                 0, BLOCK_K, GROUP, STAGES, DEPENDENT, PAIRED, PAIRED == "a"),
            ),
            (
                _load,
                (b, b_ring, c_ring, ready, free, tiles_m, tiles_n, steps, BACKWARDS, False, BLOCK_N,
                 MORE, BLOCK_K, GROUP, STAGES, DEPENDENT, PAIRED, PAIRED == "b"),
            ),
        ],
        [4, FINISHERS, 1, 1],
        [176, 136, 24, 24] if FINISHERS == 4 else [168, 168, 168, 168],
    )  # fmt: skip
