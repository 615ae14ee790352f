"""Top-k: the rank of an element is the number of those that come before it.

A long row is narrowed down first: each part of it keeps the ``k`` elements of the lowest ranks,
by their places, until what is left is short enough to be ranked as a whole.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def _key(value, LARGEST: tl.constexpr, BOOL: tl.constexpr):
    """Return a signed integer that is larger for what comes first; NaN is the largest number."""
    if value.dtype.is_floating():
        if value.dtype.primitive_bitwidth == 64:
            bits = (value + 0.0).to(tl.int64, bitcast=True)
            ordered = bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
            key = tl.where(value != value, 0x7FFFFFFFFFFFFFFF, ordered)
        else:
            wide = value.to(tl.float32)
            bits = (wide + 0.0).to(tl.int32, bitcast=True)
            key = tl.where(wide != wide, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))
    elif value.dtype == tl.uint64:
        key = value.to(tl.int64, bitcast=True) ^ (-0x7FFFFFFFFFFFFFFF - 1)
    elif value.dtype.primitive_bitwidth < 32:
        key = value.to(tl.int32)
    elif value.dtype == tl.uint32:
        key = value.to(tl.int64)
    else:
        key = value
    if BOOL:
        key = (key != 0).to(tl.int32)
    if LARGEST:
        return key
    else:
        return ~key


@triton.jit
def _element(x, source, row, base, position, inside, COUNT, INNER, NARROWED: tl.constexpr):
    """Return the places (-1 for none) and the values at positions of a row's list."""
    place = position
    if NARROWED:
        place = tl.load(source + row.to(tl.int64) * COUNT + position, mask=inside, other=-1)
    there = inside & (place >= 0)
    value = tl.load(x + base + place.to(tl.int64) * INNER, mask=there, other=0)
    return place, there, value


@triton.jit
def rank(
    x, source, kept, values, indices, SIZE, INNER, COUNT, PART, K, SOURCE_AT, KEPT_AT,
    NARROWED: tl.constexpr, LAST: tl.constexpr, LARGEST: tl.constexpr, BOOL: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Rank the ``COUNT`` elements of a row's list within parts of ``PART``, keep ``K`` of each.

    Rows run along the middle of [outer, SIZE, INNER].  The list is the row itself or, with
    ``NARROWED``, places in it from element ``SOURCE_AT`` on.  With ``LAST`` the part is the whole
    list and results are written; else the places that are kept, from element ``KEPT_AT`` on.
    """
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    blocks, parts = tl.cdiv(PART, BLOCK), tl.cdiv(COUNT, PART)
    program = tl.program_id(0)
    block, part, row = program % blocks, program // blocks % parts, program // (blocks * parts)
    outer, inner = row // INNER, row % INNER
    base = outer.to(tl.int64) * SIZE * INNER + inner
    first = part * PART
    own = block * BLOCK + tl.arange(0, BLOCK)
    inside = (own < PART) & (first + own < COUNT)
    if NARROWED:
        source += SOURCE_AT
    place, there, value = _element(
        x, source, row, base, first + own, inside, COUNT, INNER, NARROWED
    )
    key = _key(value, LARGEST, BOOL)
    before = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, PART, STEP):
        other = start + tl.arange(0, STEP)
        known = (other < PART) & (first + other < COUNT)
        _, is_there, found = _element(
            x, source, row, base, first + other, known, COUNT, INNER, NARROWED
        )
        others = _key(found, LARGEST, BOOL)
        better = others[None, :] > key[:, None]
        tie = others[None, :] == key[:, None]
        earlier = other[None, :] < own[:, None]
        # What is not there comes last, in order.
        ahead = tl.where(there[:, None], better | (tie & earlier), True)
        beats = tl.where(is_there[None, :], ahead, ~there[:, None] & earlier)
        before += tl.sum(beats.to(tl.int32), 1)
    if LAST:
        target = (outer.to(tl.int64) * K + before) * INNER + inner
        tl.store(values + target, value, mask=there & (before < K))
        tl.store(indices + target, place.to(tl.int64), mask=there & (before < K))
    else:
        target = KEPT_AT + (row.to(tl.int64) * parts + part) * K + before
        chosen = tl.where(there, place, -1)
        tl.store(kept + target, chosen, mask=(own < PART) & (before < K))
