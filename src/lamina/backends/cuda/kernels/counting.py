"""Kernels that find out how many results there are: NonZero and NonMaxSuppression."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def count_set(x, counts, SIZE, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    """Count the elements of a chunk that are not zero."""
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    chunk = tl.program_id(0)
    element = chunk.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + element, mask=element < SIZE, other=0)
    tl.store(counts + chunk, tl.sum((value != 0).to(tl.int32), 0))


@triton.jit
def _sum_before(counts, END, STEP: tl.constexpr):
    """Return the sum of the first ``END`` counts."""
    total = tl.zeros((STEP,), tl.int64)
    for start in range(0, END, STEP):
        i = start + tl.arange(0, STEP)
        total += tl.load(counts + i, mask=i < END, other=0).to(tl.int64)
    return tl.sum(total, 0)


@triton.jit
def list_set(
    x, counts, y, slot, SIZE, CHUNKS, STRIDE, LENGTH, AXIS: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Write the coordinates along ``AXIS``, of ``LENGTH``, of a chunk's elements, and the count."""
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    chunk = tl.program_id(0)
    total = _sum_before(counts, CHUNKS, STEP)
    element = chunk.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + element, mask=element < SIZE, other=0)
    found = (value != 0) & (element < SIZE)
    place = _sum_before(counts, chunk, STEP) + tl.cumsum(found.to(tl.int32), 0) - 1
    tl.store(y + AXIS * total + place, element // STRIDE % LENGTH, mask=found)
    tl.store(slot, total, mask=chunk == 0)


@triton.jit
def _corners(first, second, CENTERS: tl.constexpr):
    """Return the low and the high end of a box along one axis."""
    if CENTERS:
        half = second * 0.5
        return first - half, first + half
    else:
        return tl.minimum(first, second), tl.maximum(first, second)


@triton.jit
def _box(boxes, number, mask, CENTERS: tl.constexpr, REAL: tl.constexpr):
    """Return the ends along both axes and the area of boxes."""
    at = boxes + number.to(tl.int64) * 4
    a = tl.load(at, mask=mask, other=0).to(REAL)
    b = tl.load(at + 1, mask=mask, other=0).to(REAL)
    c = tl.load(at + 2, mask=mask, other=0).to(REAL)
    d = tl.load(at + 3, mask=mask, other=0).to(REAL)
    low0, high0 = _corners(a, c, CENTERS)
    low1, high1 = _corners(b, d, CENTERS)
    return low0, high0, low1, high1, (high0 - low0) * (high1 - low1)


@triton.jit
def keep(
    boxes, scores, most, overlap, least, work, open_scores, KEPT_AT, SCORES_AT, CLASSES, COUNT,
    CENTERS: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Keep the best boxes of one class of one image: their numbers, and how many they are.

    Each pass drops the boxes that overlap the one just kept and finds the best of the others.
    ``work`` holds a count for each class, then the kept boxes; ``open_scores`` are the scores of
    boxes that may still be kept, -inf for others.
    """
    REAL: tl.constexpr = open_scores.dtype.element_ty
    NARROW: tl.constexpr = scores.dtype.element_ty
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    label = tl.program_id(0)
    boxes += (label // CLASSES).to(tl.int64) * COUNT * 4
    scores += label.to(tl.int64) * COUNT
    kept = work + KEPT_AT + label.to(tl.int64) * COUNT
    left = open_scores + SCORES_AT + label.to(tl.int64) * COUNT
    limit = tl.minimum(tl.load(most).to(tl.int64), COUNT).to(tl.int32)
    threshold = tl.load(overlap).to(REAL)
    smallest = tl.load(least).to(NARROW).to(REAL)
    lowest = tl.full((BLOCK,), float("-inf"), REAL)
    best, place = lowest, tl.zeros((BLOCK,), tl.int32)
    for start in range(0, COUNT, BLOCK):
        i = start + tl.arange(0, BLOCK)
        score = tl.load(scores + i, mask=i < COUNT, other=0).to(REAL)
        score = tl.where((score > smallest) & (i < COUNT), score, lowest)
        tl.store(left + i, score, mask=i < COUNT)
        place = tl.where(score > best, i, place)
        best = tl.maximum(score, best)
    found = 0
    top = tl.max(best, 0)
    while (found < limit) & (top > float("-inf")):
        own = tl.min(tl.where(best == top, place, 0x7FFFFFFF), 0)
        tl.store(kept + found, own)
        found += 1
        tl.debug_barrier()  # what is left was stored by other threads
        low0, high0, low1, high1, area = _box(boxes, own, own >= 0, CENTERS, REAL)
        best, place = lowest, tl.zeros((BLOCK,), tl.int32)
        for start in range(0, COUNT, BLOCK):
            i = start + tl.arange(0, BLOCK)
            score = tl.load(left + i, mask=i < COUNT, other=float("-inf"))
            l0, h0, l1, h1, other = _box(boxes, i, i < COUNT, CENTERS, REAL)
            side0 = tl.maximum(tl.minimum(high0, h0) - tl.maximum(low0, l0), 0.0)
            side1 = tl.maximum(tl.minimum(high1, h1) - tl.maximum(low1, l1), 0.0)
            shared = side0 * side1
            union = area + other - shared
            valid = (shared > 0) & (area > 0) & (other > 0) & (union > 0)
            whole = tl.where(valid, union, 1.0)
            if REAL == tl.float32:
                share = tl.where(valid, tl.div_rn(shared, whole), 0.0)
            else:
                share = tl.where(valid, shared / whole, 0.0)
            score = tl.where((share > threshold) | (i == own), lowest, score)
            tl.store(left + i, score, mask=i < COUNT)
            place = tl.where(score > best, i, place)
            best = tl.maximum(score, best)
        top = tl.max(best, 0)
    tl.store(work + label, found)


@triton.jit
def list_kept(
    work, y, slot, KEPT_AT, CLASSES, LABELS, COUNT,
    BLOCK: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Write rows of (image, class, box) behind those of the classes before, and their number."""
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    label = tl.program_id(0)
    total = _sum_before(work, LABELS, BLOCK)
    tl.store(slot, total, mask=label == 0)
    if label < LABELS:
        row = y + _sum_before(work, label, BLOCK) * 3
        kept = work + KEPT_AT + label.to(tl.int64) * COUNT
        number = tl.load(work + label)
        for start in range(0, number, BLOCK):
            i = start + tl.arange(0, BLOCK)
            box = tl.load(kept + i, mask=i < number, other=0)
            image = tl.full((BLOCK,), 0, tl.int64) + label // CLASSES
            tl.store(row + i * 3, image, mask=i < number)
            tl.store(row + i * 3 + 1, image * 0 + label % CLASSES, mask=i < number)
            tl.store(row + i * 3 + 2, box.to(tl.int64), mask=i < number)
