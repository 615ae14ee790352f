"""Scaled dot-product attention in one pass over the keys, with a running softmax.

The running maximum and sum follow M. Milakov and N. Gimelshein, "Online normalizer calculation for
softmax" (2018); keeping a block of queries while keys stream by follows T. Dao et al.,
"FlashAttention" (2022).
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def visible(
    mask, row, column, rows, keys, m_row, m_column, causal_offset,
    MASK: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Return which keys a query sees, and what is added to its scores."""
    seen = column[None, :] < keys
    added = tl.zeros((row.shape[0], column.shape[0]), tl.float32)
    if CAUSAL:
        seen = seen & (column[None, :] <= row[:, None] + causal_offset)
    if MASK != "none":
        at = row[:, None].to(tl.int64) * m_row + column[None, :] * m_column
        inside = (row[:, None] < rows) & (column[None, :] < keys)
        if MASK == "keep":
            seen = seen & (tl.load(mask + at, mask=inside, other=0) != 0)
        else:
            added = tl.load(mask + at, mask=inside, other=0.0).to(tl.float32)
    return seen, added


@triton.jit
def attention(
    q, k, v, mask, y, rows, keys, heads,
    q_offset, q_batch, q_head, q_row, k_offset, k_batch, k_head, k_row,
    v_offset, v_batch, v_head, v_row, y_offset, y_batch, y_head, y_row,
    m_batch, m_head, m_row, m_column, causal_offset,
    SHARED: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    SCALE: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute BM rows of one head; program (i, b * heads + h) has rows i * BM and on.

    D and DV are the sizes of a head of q and v, BD and BDV powers of two not below them (at least
    16); SHARED query heads read one head of k and v.
    """
    block = tl.program_id(0)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    shared = head // SHARED
    row = block * BM + tl.arange(0, BM)
    d = tl.arange(0, BD)
    dv = tl.arange(0, BDV)
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    q += q_offset + batch * q_batch + head * q_head
    k += k_offset + batch * k_batch + shared * k_head
    v += v_offset + batch * v_batch + shared * v_head
    y += y_offset + batch * y_batch + head * y_head
    if MASK != "none":
        mask += batch * m_batch + head * m_head
    q_inside = (row[:, None] < rows) & (d[None, :] < D)
    queries = tl.load(q + row[:, None] * q_row + d[None, :], mask=q_inside, other=0.0)
    peak = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    result = tl.zeros((BM, BDV), tl.float32)
    end = keys
    if CAUSAL:
        end = tl.minimum(keys, tl.maximum((block + 1) * BM + causal_offset, 0))
    for begin in range(0, end, BN):
        column = begin + tl.arange(0, BN)
        k_inside = (column[None, :] < keys) & (d[:, None] < D)
        kt = tl.load(k + column[None, :] * k_row + d[:, None], mask=k_inside, other=0.0)
        scores = tl.dot(queries, kt, input_precision=PRECISION) * SCALE
        if SOFTCAP > 0:
            # tanh(x) = 1 - 2 / (exp(2 x) + 1), which neither overflows nor loses its limits
            twice = tl.exp2(scores * (2 * LOG2E / SOFTCAP))
            scores = SOFTCAP * (1 - 2 / (twice + 1))
        seen, added = visible(
            mask, row, column, rows, keys, m_row, m_column, causal_offset, MASK, CAUSAL
        )
        scores = tl.where(seen, (scores + added) * LOG2E, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        # A row that has seen nothing keeps the peak -inf; the difference must not be NaN.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(peak - base)
        v_inside = (column[:, None] < keys) & (dv[None, :] < DV)
        values = tl.load(v + column[:, None] * v_row + dv[None, :], mask=v_inside, other=0.0)
        total = total * shrink + tl.sum(p, 1)
        result = result * shrink[:, None]
        result = tl.dot(p.to(values.dtype), values, result, input_precision=PRECISION)
        peak = higher
    result = result / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(
        y + row[:, None] * y_row + dv[None, :], result.to(y.dtype.element_ty),
        mask=(row[:, None] < rows) & (dv[None, :] < DV),
    )  # fmt: skip
