"""Attention over few keys: the scores of a row with all of them stay in registers.

Nothing runs along the keys, so there is no running maximum, and everything that a program reads is
asked for at once.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.attention import LOG2E, capped
from lamina.backends.cuda.kernels.quick import exp2
from lamina.backends.cuda.kernels.rounding import dot, factor


@triton.jit
def heads_of(base, begin, keys, row, WIDTH: tl.constexpr, D: tl.constexpr, BD: tl.constexpr):
    """Return ``WIDTH`` rows of keys or values from ``begin`` on, zeros after the last one."""
    column, d = begin + tl.arange(0, WIDTH), tl.arange(0, BD)
    at = base + column[:, None] * row + d[None, :]
    if begin + WIDTH > keys or D != BD:
        return tl.load(at, mask=(column[:, None] < keys) & (d[None, :] < D), other=0.0)
    return tl.load(at)


@triton.jit
def scores_of(
    queries, block, begin, keys, SCALE: tl.constexpr, SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Return scores, products still if nothing bounds them, of queries and a block of keys."""
    keys_there = factor(block, PRECISION).T
    scores = tl.dot(factor(queries, PRECISION), keys_there, input_precision=PRECISION)
    if SOFTCAP > 0:
        scores = capped(scores, SCALE, SOFTCAP)
    if begin + block.shape[0] > keys:
        seen = begin + tl.arange(0, block.shape[0]) < keys
        scores = tl.where(seen[None, :], scores, float("-inf"))
    return scores


@triton.jit
def attention_once(
    q, k, v, y, rows, keys: tl.constexpr, heads,
    q_offset, q_batch, q_head, q_row, k_offset, k_batch, k_head, k_row,
    v_offset, v_batch, v_head, v_row, y_offset, y_batch, y_head, y_row,
    SHARED: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, TURNS: tl.constexpr,
    P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr,
    SCALE: tl.constexpr, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute ``TURNS`` times BM rows of one head, all of which see every key.

    Program (i, b * heads + h) has rows i * BM * TURNS and on; P0, P1 and P2 are the powers of two,
    the last of them perhaps 0, that make up the keys.  For the others see
    :func:`lamina.backends.cuda.kernels.attention.attention`; SCALE must be positive.
    """
    UNIT: tl.constexpr = SCALE * LOG2E if SOFTCAP == 0 else 1.0
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    shared = head // SHARED
    d, dv = tl.arange(0, BD), tl.arange(0, BDV)
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    q += q_offset + batch * q_batch + head * q_head
    k += k_offset + batch * k_batch + shared * k_head
    v += v_offset + batch * v_batch + shared * v_head
    y += y_offset + batch * y_batch + head * y_head
    k0 = heads_of(k, 0, keys, k_row, P0, D, BD)
    if P1 > 0:
        k1 = heads_of(k, P0, keys, k_row, P1, D, BD)
    if P2 > 0:
        k2 = heads_of(k, P0 + P1, keys, k_row, P2, D, BD)
    v0 = heads_of(v, 0, keys, v_row, P0, DV, BDV)
    if P1 > 0:
        v1 = heads_of(v, P0, keys, v_row, P1, DV, BDV)
    if P2 > 0:
        v2 = heads_of(v, P0 + P1, keys, v_row, P2, DV, BDV)
    for turn in tl.range(0, TURNS, num_stages=1):
        row = (tl.program_id(0) * TURNS + turn) * BM + tl.arange(0, BM)
        inside = row[:, None] < rows
        at = q + row[:, None] * q_row + d[None, :]
        queries = tl.load(at, mask=inside & (d[None, :] < D), other=0.0)
        s0 = scores_of(queries, k0, 0, keys, SCALE, SOFTCAP, PRECISION)
        peak = tl.max(s0, 1)
        if P1 > 0:
            s1 = scores_of(queries, k1, P0, keys, SCALE, SOFTCAP, PRECISION)
            peak = tl.maximum(peak, tl.max(s1, 1))
        if P2 > 0:
            s2 = scores_of(queries, k2, P0 + P1, keys, SCALE, SOFTCAP, PRECISION)
            peak = tl.maximum(peak, tl.max(s2, 1))
        base = (peak * UNIT)[:, None]
        p0 = exp2(s0 * UNIT - base)
        total = tl.sum(p0, 1)
        share = factor(p0.to(v0.dtype), PRECISION)
        result = tl.dot(share, factor(v0, PRECISION), input_precision=PRECISION)
        if P1 > 0:
            p1 = exp2(s1 * UNIT - base)
            total += tl.sum(p1, 1)
            result = dot(p1.to(v0.dtype), v1, result, PRECISION)
        if P2 > 0:
            p2 = exp2(s2 * UNIT - base)
            total += tl.sum(p2, 1)
            result = dot(p2.to(v0.dtype), v2, result, PRECISION)
        result = result * (1.0 / total)[:, None]
        out = y + row[:, None] * y_row + dv[None, :]
        tl.store(out, result.to(y.dtype.element_ty), mask=inside & (dv[None, :] < DV))
