"""Attention for compute capability 9.0, with all keys and values of a head in shared memory.

Products run beside the softmax: while a warp group turns a block of scores into weights, the
matrix units compute the next block of scores and add up the block of values before it, after
J. Shah et al., "FlashAttention-3" (2024).  Copies into shared memory are asked for all at once, and
waited for block by block.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

LOG2E = gl.constexpr(1.4426950408889634)


@gluon.constexpr_function
def blocks(keys, width):
    """Return the widths of blocks of keys: whole ones, then powers of two with little left over."""
    found = [width] * (keys // width)
    rest = keys % width
    while rest > 0:
        taken = max(16, 1 << (rest - 1).bit_length())
        if taken > 32 and 8 * rest <= 7 * taken:
            taken //= 2
        found.append(taken)
        rest -= taken
    return tuple(found)


@gluon.constexpr_function
def begin_of(widths, block):
    """Return the first key of a block."""
    return sum(widths[:block])


@gluon.constexpr_function
def boxed(rows, columns, dtype):
    """Return how matrix units want rows in shared memory."""
    return gl.NVMMASharedLayout.get_default_for([rows, columns], dtype)


@gluon.constexpr_function
def sums(warps, columns):
    """Return where the sums of a warp group's product are."""
    return gl.NVMMADistributedLayout([3, 0], [warps, 1], [16, columns, 16])


@gluon.constexpr_function
def of_rows(warps, columns):
    """Return where numbers of each row of such sums are."""
    return gl.SliceLayout(1, sums(warps, columns))


@gluon.constexpr_function
def vectors(columns, warps):
    """Return a layout whose neighbouring threads copy neighbouring 16 bytes of a row."""
    across = min(32, columns // 8)
    return gl.BlockedLayout([1, 8], [32 // across, across], [warps, 1], [1, 0])


@gluon.jit
def exp2(x):
    """Return 2 to the power of x, with a relative error of 2**-22; results below 2**-126 are 0."""
    return gl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1
    )


@gluon.jit
def bring(
    shared, base, begin, end, stride,
    ROWS: gl.constexpr, D: gl.constexpr, BD: gl.constexpr, WARPS: gl.constexpr,
    CHECKED: gl.constexpr,
):  # fmt: skip
    """Begin to copy rows from ``begin`` on; those from ``end`` on become zeros."""
    row = begin + gl.arange(0, ROWS, gl.SliceLayout(1, vectors(BD, WARPS)))
    d = gl.arange(0, BD, gl.SliceLayout(0, vectors(BD, WARPS)))
    at = base + row[:, None] * stride + d[None, :]
    if CHECKED or D != BD:
        inside = (row[:, None] < end) & (d[None, :] < D)
        async_copy.async_copy_global_to_shared(shared, at, mask=inside)
    else:
        async_copy.async_copy_global_to_shared(shared, at)


@gluon.jit
def arrived(PENDING: gl.constexpr):
    """Wait until only so many groups of copies are under way; matrix units may read the others."""
    async_copy.wait_group(PENDING)
    fence_async_shared()


@gluon.jit
def products(queries, block, ROWS: gl.constexpr, WIDTH: gl.constexpr, WARPS: gl.constexpr):
    """Begin the products of queries and a block of keys."""
    none = gl.full([ROWS, WIDTH], 0.0, gl.float32, sums(WARPS, WIDTH))
    return warpgroup_mma(queries, block.permute((1, 0)), none, use_acc=False, is_async=True)


@gluon.jit
def mask_of(
    mask, first, rows, begin, keys, m_row, m_column,
    ROWS: gl.constexpr, WIDTH: gl.constexpr, L: gl.constexpr,
    MASK: gl.constexpr, REPEATED: gl.constexpr,
):  # fmt: skip
    """Return the part of a mask for rows and a block of keys: one row if rows are REPEATED."""
    column = begin + gl.arange(0, WIDTH, gl.SliceLayout(0, L))
    part = column[None, :] * m_column
    if MASK != "none":
        inside = column[None, :] < keys
        if not REPEATED:
            row = first + gl.arange(0, ROWS, gl.SliceLayout(1, L))
            part = row[:, None].to(gl.int64) * m_row + part
            inside = (row[:, None] < rows) & inside
        part = gl.load(mask + part, mask=inside, other=0)
    return part


@gluon.jit
def seen(
    scores, mask, begin, keys,
    UNIT: gl.constexpr, WIDTH: gl.constexpr, L: gl.constexpr, MASK: gl.constexpr,
):  # fmt: skip
    """Return the scores of a block, -inf where a key is not seen; in units of log 2 if added to."""
    if MASK == "add":
        scores = scores * UNIT + mask.to(gl.float32) * LOG2E
    if MASK == "keep":
        scores = gl.where(mask != 0, scores, float("-inf"))
    if begin + WIDTH > keys:
        column = begin + gl.arange(0, WIDTH, gl.SliceLayout(0, L))
        scores = gl.where(column[None, :] < keys, scores, float("-inf"))
    return scores


@gluon.jit
def base_of(peak, UNIT: gl.constexpr, MASK: gl.constexpr):
    """Return the largest scores of rows in units of log 2, 0 where a row sees no key."""
    base = peak * UNIT
    if MASK != "none":
        base = gl.where(peak == float("-inf"), 0.0, base)
    return base


@gluon.jit
def over(result, total, MASK: gl.constexpr):
    """Return results divided by the sums of weights, zeros for rows that see no key."""
    if MASK != "none":
        total = gl.where(total == 0.0, 1.0, total)
    return result * (1.0 / total)[:, None]


@gluon.jit
def write(
    value, staging, y, first, rows, y_row,
    ROWS: gl.constexpr, DV: gl.constexpr, BDV: gl.constexpr, WARPS: gl.constexpr,
):  # fmt: skip
    """Write rows of results, by way of shared memory: whole lines at a time."""
    staging.store(value)
    lines = staging.load(vectors(BDV, WARPS))
    row = first + gl.arange(0, ROWS, gl.SliceLayout(1, vectors(BDV, WARPS)))
    d = gl.arange(0, BDV, gl.SliceLayout(0, vectors(BDV, WARPS)))
    inside = (row[:, None] < rows) & (d[None, :] < DV)
    gl.store(y + row[:, None] * y_row + d[None, :], lines, mask=inside)


@gluon.jit
def attend(
    queries, ks, vs, mask, first, rows, keys: gl.constexpr, m_row, m_column,
    UNIT: gl.constexpr, WIDTHS: gl.constexpr, ROWS: gl.constexpr, BD: gl.constexpr,
    WARPS: gl.constexpr, MASK: gl.constexpr, REPEATED: gl.constexpr,
    INITIAL: gl.constexpr, AHEAD: gl.constexpr, LATER: gl.constexpr,
):  # fmt: skip
    """Return the results of a tile of rows.

    The ``INITIAL`` tile of a program waits for keys and values; ``LATER`` is how many groups of
    copies for other tiles are asked for behind them.  With ``AHEAD`` the scores of the next block
    are computed while those of a block become weights.
    """
    N: gl.constexpr = len(WIDTHS)
    SCORE: gl.constexpr = 1.0 if MASK == "add" else UNIT
    peak = gl.full([ROWS], float("-inf"), gl.float32, of_rows(WARPS, BD))
    total = gl.full([ROWS], 0.0, gl.float32, of_rows(WARPS, BD))
    result = gl.full([ROWS, BD], 0.0, gl.float32, sums(WARPS, BD))
    arrived(2 * N - 1 + LATER if INITIAL else LATER)
    scores = products(queries, ks[0], ROWS, WIDTHS[0], WARPS)
    for i in gl.static_range(N):
        if AHEAD and i + 1 < N:
            if INITIAL:
                arrived(2 * N - 2 - i + LATER)
            ahead = products(queries, ks[i + 1], ROWS, WIDTHS[i + 1], WARPS)
        added = mask_of(
            mask, first, rows, begin_of(WIDTHS, i), keys, m_row, m_column,
            ROWS, WIDTHS[i], sums(WARPS, WIDTHS[i]), MASK, REPEATED,
        )  # fmt: skip
        # The operands of products stay in their registers until the products are done.
        if i == 0:
            scores = warpgroup_mma_wait(1 if AHEAD and N > 1 else 0, deps=(scores,))
        else:
            scores, result, left = warpgroup_mma_wait(
                1 if AHEAD and i + 1 < N else 0,
                deps=(scores, result, left),  # noqa: F821  of the block before
            )
        scores = seen(
            scores, added, begin_of(WIDTHS, i), keys,
            UNIT, WIDTHS[i], sums(WARPS, WIDTHS[i]), MASK,
        )  # fmt: skip
        higher = gl.maximum(peak, gl.convert_layout(gl.max(scores, 1), of_rows(WARPS, BD)))
        # A sum is not negative: adding its negative part only makes the compiler add up a block's
        # weights before it computes those of the next one, which saves registers.
        base = base_of(higher, SCORE, MASK) + gl.minimum(total, 0.0)
        spread = gl.convert_layout(base, of_rows(WARPS, WIDTHS[i]))
        weights = exp2(scores * SCORE - spread[:, None])
        shrink = exp2(peak * SCORE - base)
        peak = higher
        total = total * shrink + gl.convert_layout(gl.sum(weights, 1), of_rows(WARPS, BD))
        # Here, before the weights are rounded, the compiler moves this wait ahead of the softmax.
        if INITIAL:
            arrived(N - 1 - i + LATER)
        if i > 0:
            result = result * shrink[:, None]
        left = gl.convert_layout(
            weights.to(queries.dtype), gl.DotOperandLayout(0, sums(WARPS, BD), 2)
        )
        result = warpgroup_mma(left, vs[i], result, use_acc=i > 0, is_async=True)
        if AHEAD and i + 1 < N:
            scores = ahead
        elif i + 1 < N:
            if INITIAL:
                arrived(2 * N - 2 - i + LATER)
            scores = products(queries, ks[i + 1], ROWS, WIDTHS[i + 1], WARPS)
    result, left = warpgroup_mma_wait(0, deps=(result, left))
    return over(result, total, MASK).to(queries.dtype)


@gluon.jit
def bring_blocks(
    base, keys: gl.constexpr, stride, WIDTHS: gl.constexpr,
    D: gl.constexpr, BD: gl.constexpr, WARPS: gl.constexpr,
):  # fmt: skip
    """Begin to copy keys or values, each block a group of its own; return where they will be."""
    dtype: gl.constexpr = base.dtype.element_ty
    shared = ()
    for i in gl.static_range(len(WIDTHS)):
        block = gl.allocate_shared_memory(dtype, [WIDTHS[i], BD], boxed(WIDTHS[i], BD, dtype))
        bring(
            block, base, begin_of(WIDTHS, i), keys, stride, WIDTHS[i], D, BD, WARPS,
            begin_of(WIDTHS, i + 1) > keys,
        )  # fmt: skip
        async_copy.commit_group()
        shared = shared + (block,)  # noqa: RUF005  the language has no stars
    return shared


@gluon.jit
def attention_hopper(
    q, k, v, mask, y, rows, keys: gl.constexpr, heads,
    q_offset, q_batch, q_head, q_row, k_offset, k_batch, k_head, k_row,
    v_offset, v_batch, v_head, v_row, y_offset, y_batch, y_head, y_row,
    m_batch, m_head, m_row, m_column,
    SHARED: gl.constexpr, D: gl.constexpr, BD: gl.constexpr, ROWS: gl.constexpr,
    TURNS: gl.constexpr, WIDTH: gl.constexpr, AHEAD: gl.constexpr, SCALE: gl.constexpr,
    MASK: gl.constexpr, REPEATED: gl.constexpr, WARPS: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Compute up to ``TURNS`` tiles of rows of one head.

    Program (i, b * heads + h) has rows i * ROWS * TURNS and on.  D is the size of a head, BD the
    power of two not below it; SHARED query heads read one head of k and v.  There is a warp for
    every 16 rows of a tile.  WIDTH is that of a block of keys, a power of two; SCALE must be
    positive.  MASK is ``none``, ``add`` or ``keep``, and REPEATED where all rows of a head have
    the same.
    """
    UNIT: gl.constexpr = SCALE * LOG2E
    WIDTHS: gl.constexpr = blocks(keys, WIDTH)
    LATER: gl.constexpr = 1 if TURNS > 1 else 0
    dtype: gl.constexpr = q.dtype.element_ty
    batch = (gl.program_id(1) // heads).to(gl.int64)
    head = gl.program_id(1) % heads
    shared = head // SHARED
    first = gl.program_id(0) * (TURNS * ROWS)
    q += q_offset + batch * q_batch + head * q_head
    k += k_offset + batch * k_batch + shared * k_head
    v += v_offset + batch * v_batch + shared * v_head
    y += y_offset + batch * y_batch + head * y_head
    if MASK != "none":
        mask += batch * m_batch + head * m_head
    tiles = gl.allocate_shared_memory(dtype, [1 + LATER, ROWS, BD], boxed(ROWS, BD, dtype))
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    bring(tiles.index(0), q, first, rows, q_row, ROWS, D, BD, WARPS, True)
    ks = bring_blocks(k, keys, k_row, WIDTHS, D, BD, WARPS)
    vs = bring_blocks(v, keys, v_row, WIDTHS, D, BD, WARPS)
    if TURNS > 1:
        bring(tiles.index(1), q, first + ROWS, rows, q_row, ROWS, D, BD, WARPS, True)
        async_copy.commit_group()
    mine = tiles.index(0)
    result = attend(
        mine, ks, vs, mask, first, rows, keys, m_row, m_column, UNIT, WIDTHS, ROWS, BD, WARPS,
        MASK, REPEATED, True, AHEAD, LATER,
    )  # fmt: skip
    write(result, mine, y, first, rows, y_row, ROWS, D, BD, WARPS)
    if TURNS > 1:
        for turn in range(1, gl.minimum(TURNS, (rows - first + ROWS - 1) // ROWS)):
            row = first + turn * ROWS
            ahead = tiles.index((turn + 1) % 2)
            bring(ahead, q, row + ROWS, rows, q_row, ROWS, D, BD, WARPS, True)
            async_copy.commit_group()
            mine = tiles.index(turn % 2)
            result = attend(
                mine, ks, vs, mask, row, rows, keys, m_row, m_column, UNIT, WIDTHS, ROWS, BD,
                WARPS, MASK, REPEATED, False, AHEAD, 1,
            )  # fmt: skip
            write(result, mine, y, row, rows, y_row, ROWS, D, BD, WARPS)
