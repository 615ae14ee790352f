"""Pointwise convolutions that feed each other: pixels stream past filters that stay on the chip.

For compute capability 9.0, in Gluon.  One warp asks the copy engine for all that is read of a tile
of pixels while two groups of four warps each work on another one: they multiply, add what was
fetched, and hand every part of the middle both to the copy engine, which stores it, and to the
matrix units, which sum the last convolution over it.  So nobody waits for memory but for the first
tile, and a chain takes about as long as its images take to be read and written.
"""

from __future__ import annotations

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.epilogue import activate_half
from lamina.backends.cuda.kernels.ring import following

_SIDE = gl.constexpr(64)
"""Pixels of a tile, rows of one matrix instruction; channels of 16 bits that fill the rows in which
shared memory is swizzled."""
_GROUPS = gl.constexpr(2)
"""Groups of warps that compute, each on tiles of its own."""
_SLOTS = gl.constexpr(2)
"""Tiles of a group that are fetched or worked on."""


@gluon.jit
def _rounds(PIXELS):
    """Return how many times every group of this program has a tile, or may have one."""
    tiles = (PIXELS + (_GROUPS * _SIDE - 1)) // (_GROUPS * _SIDE)
    return gl.cdiv(tiles - gl.program_id(0), gl.num_programs(0))


@gluon.jit
def _first(round, PIXELS, WHO: gl.constexpr, BACKWARDS):
    """Return the first pixel of a tile, at least ``PIXELS`` where there is none."""
    tile = (gl.program_id(0) + round * gl.num_programs(0)) * _GROUPS + WHO
    count = (PIXELS + (_SIDE - 1)) // _SIDE
    return gl.where(tile < count, tile + BACKWARDS * (count - 1 - 2 * tile), count) * _SIDE


@gluon.jit
def _load(
    pixels, filters, others, more_filters, rests, back_filters,
    x_ring, z_ring, kept, more, given, backs, came, ready, free, PIXELS, BACKWARDS,
    CHUNKS: gl.constexpr, Z_CHUNKS: gl.constexpr, PARTS: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Fetch all filters, then what is read of every tile of this program."""
    block: gl.constexpr = _SIDE * _SIDE * (kept.dtype.primitive_bitwidth // 8)
    back: gl.constexpr = 0 if backs is None else 1
    mbarrier.expect(came, PARTS * (CHUNKS + Z_CHUNKS + back) * block)
    for part in gl.static_range(PARTS):
        for chunk in gl.static_range(CHUNKS):
            tma.async_copy_global_to_shared(
                filters, [part * _SIDE, chunk * _SIDE], came, kept.index(part * CHUNKS + chunk)
            )
        for chunk in gl.static_range(Z_CHUNKS):
            tma.async_copy_global_to_shared(
                more_filters, [part * _SIDE, chunk * _SIDE], came,
                more.index(part * Z_CHUNKS + chunk),
            )  # fmt: skip
        if backs is not None:
            tma.async_copy_global_to_shared(
                back_filters, [0, part * _SIDE], came, backs.index(part)
            )
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    added: gl.constexpr = 0 if rests is None else PARTS
    slot, phase = 0, 1
    for round in range(_rounds(PIXELS)):
        for who in gl.static_range(_GROUPS):
            first = _first(round, PIXELS, who, BACKWARDS)
            if first < PIXELS:
                at = who * _SLOTS + slot
                mbarrier.wait(free.index(at), phase)
                here = ready.index(at)
                mbarrier.expect(here, (CHUNKS + Z_CHUNKS + added) * block)
                for chunk in gl.static_range(CHUNKS):
                    to = x_ring.index(at * CHUNKS + chunk)
                    tma.async_copy_global_to_shared(pixels, [first, chunk * _SIDE], here, to)
                for chunk in gl.static_range(Z_CHUNKS):
                    to = z_ring.index(at * Z_CHUNKS + chunk)
                    tma.async_copy_global_to_shared(others, [first, chunk * _SIDE], here, to)
                for part in gl.static_range(added):
                    to = given.index(at * PARTS + part)
                    tma.async_copy_global_to_shared(rests, [first, part * _SIDE], here, to)
        slot, phase = following(slot, phase, _SLOTS)


@gluon.jit
def _begin(
    x_ring, z_ring, kept, more, at, PART: gl.constexpr, CHUNKS: gl.constexpr,
    Z_CHUNKS: gl.constexpr, layout: gl.constexpr,
):  # fmt: skip
    """Return the sums of a part of the middle, on which the matrix units begin to work."""
    total = gl.zeros((_SIDE, _SIDE), gl.float32, layout)
    for chunk in gl.static_range(CHUNKS):
        left = x_ring.index(at * CHUNKS + chunk)
        right = kept.index(PART * CHUNKS + chunk).permute((1, 0))
        total = warpgroup_mma(left, right, total, use_acc=chunk > 0, is_async=True)
    for chunk in gl.static_range(Z_CHUNKS):
        left = z_ring.index(at * Z_CHUNKS + chunk)
        right = more.index(PART * Z_CHUNKS + chunk).permute((1, 0))
        total = warpgroup_mma(left, right, total, is_async=True)
    return total


@gluon.jit
def _biased(total, bias, columns, COLUMNS):
    """Add a bias, which may be None, to some columns."""
    if bias is not None:
        added = gl.load(bias + columns, mask=columns < COLUMNS, other=0)
        total += added.to(gl.float32)[None, :]
    return total


@gluon.jit
def _compute(
    results, lasts, x_ring, z_ring, kept, more, given, backs, came, ready, free,
    bias, other_bias, back_bias, PIXELS, FILTERS, BACK_FILTERS, BACKWARDS, WHO: gl.constexpr,
    CHUNKS: gl.constexpr, Z_CHUNKS: gl.constexpr, PARTS: gl.constexpr, ADDED: gl.constexpr,
    KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr,
    BACK_KIND: gl.constexpr, BACK_ALPHA: gl.constexpr, BACK_BETA: gl.constexpr,
):  # fmt: skip
    """Compute the tiles of a group.

    Memory of a tile is free when what was stored from it has been read, which is asked when the
    products of the next tile are under way.
    """
    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 64, 16]
    )
    columns = gl.arange(0, _SIDE, gl.SliceLayout(0, layout))
    slot, phase = 0, 0
    mbarrier.wait(came, 0)
    for round in range(_rounds(PIXELS)):
        first = _first(round, PIXELS, WHO, BACKWARDS)
        if first < PIXELS:
            at = WHO * _SLOTS + slot
            held = at if ADDED else WHO
            mbarrier.wait(ready.index(at), phase)
            total = _begin(x_ring, z_ring, kept, more, at, 0, CHUNKS, Z_CHUNKS, layout)
            tma.store_wait(0)
            other = at + 1 - 2 * slot  # of the two slots of this group
            mbarrier.arrive(free.index(other), count=1, pred=round > 0)
            result = gl.zeros((_SIDE, _SIDE), gl.float32, layout)
            for part in gl.static_range(PARTS):
                if part > 0 and backs is not None:
                    total, result = warpgroup_mma_wait(num_outstanding=0, deps=[total, result])
                else:
                    total = warpgroup_mma_wait(num_outstanding=0, deps=[total])
                done = total
                if part + 1 < PARTS:
                    total = _begin(
                        x_ring, z_ring, kept, more, at, part + 1, CHUNKS, Z_CHUNKS, layout
                    )
                done = _biased(done, bias, part * _SIDE + columns, FILTERS)
                done = _biased(done, other_bias, part * _SIDE + columns, FILTERS)
                block = given.index(held * PARTS + part)
                if ADDED:
                    done += block.load(layout).to(gl.float32)
                block.store(activate_half(done, KIND, ALPHA, BETA).to(given.dtype))
                fence_async_shared()
                if results is not None:
                    tma.async_copy_shared_to_global(results, [first, part * _SIDE], block)
                if backs is not None:
                    right = backs.index(part).permute((1, 0))
                    result = warpgroup_mma(block, right, result, use_acc=part > 0, is_async=True)
            if backs is not None:
                result = warpgroup_mma_wait(num_outstanding=0, deps=[result])
                result = _biased(result, back_bias, columns, BACK_FILTERS)
                block = x_ring.index(at * CHUNKS)
                result = activate_half(result, BACK_KIND, BACK_ALPHA, BACK_BETA)
                block.store(result.to(given.dtype))
                fence_async_shared()
                tma.async_copy_shared_to_global(lasts, [first, 0], block)
        slot, phase = following(slot, phase, _SLOTS)
    tma.store_wait(0)


@gluon.jit
def streamed(
    x, w, bias, z, v, other_bias, residual, y, back, back_bias, last,
    PIXELS, DEPTH, Z_DEPTH, FILTERS, BACK_FILTERS, X_PIXEL, W_FILTER, Z_PIXEL, V_FILTER,
    RESIDUAL_PIXEL, Y_PIXEL, BACK_FILTER, LAST_PIXEL, BACKWARDS,
    CHUNKS: gl.constexpr, Z_CHUNKS: gl.constexpr, PARTS: gl.constexpr,
    KIND: gl.constexpr, ALPHA: gl.constexpr, BETA: gl.constexpr,
    BACK_KIND: gl.constexpr, BACK_ALPHA: gl.constexpr, BACK_BETA: gl.constexpr,
    DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Compute ``activation(w @ x + v @ z + biases + residual)`` and what back filters make of it.

    Every pixel's numbers lie ``*_PIXEL`` elements behind those of the one before.  Absent are None:
    z or residual, y, back filters.  ``CHUNKS`` and ``Z_CHUNKS`` times 64 are the channels of x and
    z, ``PARTS`` times 64 the ``FILTERS``, rounded up; there are at most 64 back filters.  With
    ``BACKWARDS`` 1 programs begin with the last tile.  Operands and results are of one type of 16
    bits, to which the middle is rounded before it is multiplied, as a stored result would be.
    Grid: any number of programs.
    """
    kind: gl.constexpr = x.dtype.element_ty
    laid: gl.constexpr = gl.NVMMASharedLayout.get_default_for([_SIDE, _SIDE], kind)
    box: gl.constexpr = [_SIDE, _SIDE]
    added: gl.constexpr = residual is not None
    tiles: gl.constexpr = _GROUPS * _SLOTS
    pixels = tma.make_tensor_descriptor(x, [PIXELS, DEPTH], [X_PIXEL, 1], box, laid)
    filters = tma.make_tensor_descriptor(w, [FILTERS, DEPTH], [W_FILTER, 1], box, laid)
    x_ring = gl.allocate_shared_memory(kind, [tiles * CHUNKS, _SIDE, _SIDE], laid)
    kept = gl.allocate_shared_memory(kind, [PARTS * CHUNKS, _SIDE, _SIDE], laid)
    blocks: gl.constexpr = (tiles if added else _GROUPS) * PARTS
    given = gl.allocate_shared_memory(kind, [blocks, _SIDE, _SIDE], laid)
    others, more_filters, z_ring, more, rests, results, back_filters, lasts, backs = (None,) * 9
    if z is not None:
        others = tma.make_tensor_descriptor(z, [PIXELS, Z_DEPTH], [Z_PIXEL, 1], box, laid)
        more_filters = tma.make_tensor_descriptor(v, [FILTERS, Z_DEPTH], [V_FILTER, 1], box, laid)
        z_ring = gl.allocate_shared_memory(kind, [tiles * Z_CHUNKS, _SIDE, _SIDE], laid)
        more = gl.allocate_shared_memory(kind, [PARTS * Z_CHUNKS, _SIDE, _SIDE], laid)
    if residual is not None:
        rests = tma.make_tensor_descriptor(
            residual, [PIXELS, FILTERS], [RESIDUAL_PIXEL, 1], box, laid
        )
    if y is not None:
        results = tma.make_tensor_descriptor(y, [PIXELS, FILTERS], [Y_PIXEL, 1], box, laid)
    if back is not None:
        back_filters = tma.make_tensor_descriptor(
            back, [BACK_FILTERS, FILTERS], [BACK_FILTER, 1], box, laid
        )
        lasts = tma.make_tensor_descriptor(last, [PIXELS, BACK_FILTERS], [LAST_PIXEL, 1], box, laid)
        backs = gl.allocate_shared_memory(kind, [PARTS, _SIDE, _SIDE], laid)
    came = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    ready = gl.allocate_shared_memory(gl.int64, [tiles, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [tiles, 1], mbarrier.MBarrierLayout())
    mbarrier.init(came, count=1)
    for at in gl.static_range(tiles):
        mbarrier.init(ready.index(at), count=1)
        mbarrier.init(free.index(at), count=1)
    gl.warp_specialize(
        [
            (
                _compute,
                (results, lasts, x_ring, z_ring, kept, more, given, backs, came, ready, free,
                 bias, other_bias, back_bias, PIXELS, FILTERS, BACK_FILTERS, BACKWARDS, 0,
                 CHUNKS, Z_CHUNKS, PARTS, added, KIND, ALPHA, BETA, BACK_KIND, BACK_ALPHA,
                 BACK_BETA),
            ),
            (
                _compute,
                (results, lasts, x_ring, z_ring, kept, more, given, backs, came, ready, free,
                 bias, other_bias, back_bias, PIXELS, FILTERS, BACK_FILTERS, BACKWARDS, 1,
                 CHUNKS, Z_CHUNKS, PARTS, added, KIND, ALPHA, BETA, BACK_KIND, BACK_ALPHA,
                 BACK_BETA),
            ),
            (
                _load,
                (pixels, filters, others, more_filters, rests, back_filters, x_ring, z_ring, kept,
                 more, given, backs, came, ready, free, PIXELS, BACKWARDS, CHUNKS, Z_CHUNKS, PARTS,
                 DEPENDENT),
            ),
        ],
        [4, 1],
        [208, 24],
    )  # fmt: skip
