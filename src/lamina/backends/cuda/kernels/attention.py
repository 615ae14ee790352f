"""Scaled dot-product attention in one pass over the keys, with a running softmax.

The running maximum and sum follow M. Milakov and N. Gimelshein, "Online normalizer calculation for
softmax" (2018); keeping a block of queries while keys stream by follows T. Dao et al.,
"FlashAttention" (2022).
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.quick import exp2
from lamina.backends.cuda.kernels.rounding import dot, factor

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def masked(
    scores, mask, row, column, rows, keys, m_row, m_column, causal_offset,
    MASK: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Return scores in units of log 2, -inf where a query does not see a key."""
    seen = column[None, :] < keys
    if CAUSAL:
        seen = seen & (column[None, :] <= row[:, None] + causal_offset)
    if MASK != "none":
        at = row[:, None].to(tl.int64) * m_row + column[None, :] * m_column
        inside = (row[:, None] < rows) & (column[None, :] < keys)
        if MASK == "keep":
            seen = seen & (tl.load(mask + at, mask=inside, other=0) != 0)
        else:
            scores += tl.load(mask + at, mask=inside, other=0.0).to(tl.float32) * LOG2E
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def capped(products, SCALE: tl.constexpr, SOFTCAP: tl.constexpr):
    """Return scores in units of log 2, where a bound or a mask needs them so."""
    if SOFTCAP > 0:
        # tanh(x) = 1 - 2 / (exp(2 x) + 1), which neither overflows nor loses its limits
        twice = tl.exp2(products * (2 * LOG2E * SCALE / SOFTCAP))
        return SOFTCAP * LOG2E * (1 - 2 / (twice + 1))
    return products * (SCALE * LOG2E)


@triton.jit
def absorb(
    queries, k, v, mask, row, column, rows, keys, k_row, v_row, m_row, m_column, causal_offset,
    peak, total, result,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    SCALE: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr, CHECKED: tl.constexpr,
):  # fmt: skip
    """Take a block of keys into the running maximum, sum and result of each row.

    Without ``CHECKED`` every query sees every key of the block.  Scores stay products of queries
    and keys, ``UNIT`` of log 2, where nothing is added to them: then one multiply-add takes a
    score to its exponent.
    """
    RAW: tl.constexpr = (SOFTCAP == 0) and (MASK != "add") and (SCALE > 0)
    UNIT: tl.constexpr = SCALE * LOG2E if RAW else 1.0
    d, dv = tl.arange(0, BD), tl.arange(0, BDV)
    keys_at = k + column[None, :] * k_row + d[:, None]
    values_at = v + column[:, None] * v_row + dv[None, :]
    if CHECKED:
        block = tl.load(keys_at, mask=(column[None, :] < keys) & (d[:, None] < D), other=0.0)
    elif D != BD:
        block = tl.load(keys_at, mask=d[:, None] < D, other=0.0)
    else:
        block = tl.load(keys_at)
    left, right = factor(queries, PRECISION), factor(block, PRECISION)
    scores = tl.dot(left, right, input_precision=PRECISION)
    if not RAW:
        scores = capped(scores, SCALE, SOFTCAP)
    if CHECKED:
        scores = masked(
            scores, mask, row, column, rows, keys, m_row, m_column, causal_offset, MASK, CAUSAL
        )
    higher = tl.maximum(peak, tl.max(scores, 1))
    base = higher * UNIT
    if CHECKED:
        # A row that has seen nothing keeps the peak -inf; the difference must not be NaN.
        base = tl.where(higher == float("-inf"), 0.0, base)
    p = exp2(scores * UNIT - base[:, None])
    shrink = exp2(peak * UNIT - base)
    if CHECKED:
        values = tl.load(values_at, mask=(column[:, None] < keys) & (dv[None, :] < DV), other=0.0)
    elif DV != BDV:
        values = tl.load(values_at, mask=dv[None, :] < DV, other=0.0)
    else:
        values = tl.load(values_at)
    total = total * shrink + tl.sum(p, 1)
    result = result * shrink[:, None]
    result = dot(p.to(values.dtype), values, result, PRECISION)
    return higher, total, result


@triton.jit
def absorb_rest(
    queries, k, v, rows, keys, k_row, v_row, peak, total, result,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    SCALE: tl.constexpr, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
    WIDTH: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """Take the last ``REST`` keys, at most ``WIDTH``, in blocks of falling powers of two."""
    if REST == 0:
        return peak, total, result
    ALL: tl.constexpr = (WIDTH == 16) or (8 * REST > 7 * WIDTH) or (WIDTH == 32 and REST > 16)
    TAKEN: tl.constexpr = WIDTH if ALL else (WIDTH // 2 if 2 * REST >= WIDTH else 0)
    if TAKEN > 0:
        column = keys - REST + tl.arange(0, TAKEN)
        peak, total, result = absorb(
            queries, k, v, None, None, column, rows, keys, k_row, v_row, 0, 0, 0,
            peak, total, result,
            D, DV, BD, BDV, SCALE, SOFTCAP, "none", False, PRECISION, TAKEN > REST,
        )  # fmt: skip
    if TAKEN < REST:
        peak, total, result = absorb_rest(
            queries, k, v, rows, keys, k_row, v_row, peak, total, result,
            D, DV, BD, BDV, SCALE, SOFTCAP, PRECISION, WIDTH // 2, REST - TAKEN,
        )  # fmt: skip
    return peak, total, result


@triton.jit
def attend(
    q, k, v, mask, y, first, rows, keys, q_row, k_row, v_row, y_row, m_row, m_column,
    causal_offset,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    SCALE: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr,
    REST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute BM rows of one head, from row ``first`` on; pointers are those of the head."""
    row = first + tl.arange(0, BM)
    d = tl.arange(0, BD)
    dv = tl.arange(0, BDV)
    q_inside = (row[:, None] < rows) & (d[None, :] < D)
    queries = tl.load(q + row[:, None] * q_row + d[None, :], mask=q_inside, other=0.0)
    peak = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    result = tl.zeros((BM, BDV), tl.float32)
    # Blocks that every query of the program sees whole come first, without any checks.
    end, whole = keys, 0
    if MASK == "none":
        whole = keys // BN * BN
    if CAUSAL:
        end = tl.minimum(keys, tl.maximum(first + BM + causal_offset, 0))
        seen_by_all = tl.maximum(first + causal_offset + 1, 0) // BN * BN
        whole = tl.minimum(whole, seen_by_all)
    for begin in range(0, whole, BN):
        column = begin + tl.arange(0, BN)
        peak, total, result = absorb(
            queries, k, v, mask, row, column, rows, keys, k_row, v_row, m_row, m_column,
            causal_offset, peak, total, result,
            D, DV, BD, BDV, SCALE, SOFTCAP, MASK, CAUSAL, PRECISION, False,
        )  # fmt: skip
    if REST is not None:
        peak, total, result = absorb_rest(
            queries, k, v, rows, keys, k_row, v_row, peak, total, result,
            D, DV, BD, BDV, SCALE, SOFTCAP, PRECISION, BN, REST,
        )  # fmt: skip
    else:
        for begin in range(whole, end, BN):
            column = begin + tl.arange(0, BN)
            peak, total, result = absorb(
                queries, k, v, mask, row, column, rows, keys, k_row, v_row, m_row, m_column,
                causal_offset, peak, total, result,
                D, DV, BD, BDV, SCALE, SOFTCAP, MASK, CAUSAL, PRECISION, True,
            )  # fmt: skip
    result = result / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(
        y + row[:, None] * y_row + dv[None, :], result.to(y.dtype.element_ty),
        mask=(row[:, None] < rows) & (dv[None, :] < DV),
    )  # fmt: skip


@triton.jit
def attention(
    q, k, v, mask, y, rows, keys, heads,
    q_offset, q_batch, q_head, q_row, k_offset, k_batch, k_head, k_row,
    v_offset, v_batch, v_head, v_row, y_offset, y_batch, y_head, y_row,
    m_batch, m_head, m_row, m_column, causal_offset,
    SHARED: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, LAST: tl.constexpr, BN: tl.constexpr,
    SCALE: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr,
    REST: tl.constexpr, PRECISION: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute BM rows of one head; program (i, b * heads + h) has rows i * BM and on.

    D and DV are the sizes of a head of q and v, BD and BDV powers of two not below them (at least
    16); SHARED query heads read one head of k and v.  The last program of a head has LAST rows.
    ``REST`` is the number of keys after the last whole block, where it is known and every query
    sees every key, otherwise None.
    """
    block = tl.program_id(0)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    shared = head // SHARED
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    q += q_offset + batch * q_batch + head * q_head
    k += k_offset + batch * k_batch + shared * k_head
    v += v_offset + batch * v_batch + shared * v_head
    y += y_offset + batch * y_batch + head * y_head
    if MASK != "none":
        mask += batch * m_batch + head * m_head
    if LAST == BM or block < tl.num_programs(0) - 1:
        attend(
            q, k, v, mask, y, block * BM, rows, keys, q_row, k_row, v_row, y_row, m_row, m_column,
            causal_offset,
            D, DV, BD, BDV, BM, BN, SCALE, SOFTCAP, MASK, CAUSAL, REST, PRECISION,
        )  # fmt: skip
    else:
        attend(
            q, k, v, mask, y, block * BM, rows, keys, q_row, k_row, v_row, y_row, m_row, m_column,
            causal_offset,
            D, DV, BD, BDV, LAST, BN, SCALE, SOFTCAP, MASK, CAUSAL, REST, PRECISION,
        )  # fmt: skip
