"""Updates that are written to computed places, repeatably although places may repeat.

``work`` holds the slice that each update goes to, one i32 each, and behind them one i32 for each
slice of the result: the last update that names the slice, or the first.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def mark(work, COUNT, FIRST: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    """Find the last update of each slice, or with ``FIRST`` the first."""
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    update = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = update < COUNT
    place = work + COUNT + tl.load(work + update, mask=inside, other=0)
    if FIRST:
        tl.atomic_min(place, update, mask=inside)
    else:
        tl.atomic_max(place, update, mask=inside)


@triton.jit
def put(work, updates, y, COUNT, SLICE, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    """Write the last update of each slice."""
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    update, lane = element // SLICE, element % SLICE
    inside = update < COUNT
    target = tl.load(work + update, mask=inside, other=0).to(tl.int64)
    last = tl.load(work + COUNT + target, mask=inside, other=-1)
    kept = inside & (last == update)
    value = tl.load(updates + element, mask=kept)
    tl.store(y + target * SLICE + lane, value, mask=kept)


@triton.jit
def add(work, updates, y, COUNT, SLICE, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    """Add updates in any order."""
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    update, lane = element // SLICE, element % SLICE
    inside = update < COUNT
    target = tl.load(work + update, mask=inside, other=0).to(tl.int64)
    value = tl.load(updates + element, mask=inside)
    tl.atomic_add(y + target * SLICE + lane, value, mask=inside)


@triton.jit
def _wide(value):
    """Return a number in the type that it is joined in."""
    if value.dtype.primitive_bitwidth >= 32:
        return value
    elif value.dtype.is_floating():
        return value.to(tl.float32)
    else:
        return value.to(tl.int32)


@triton.jit
def _sum(a, b):
    return a + b


@triton.jit
def _product(a, b):
    return a * b


@triton.jit
def _largest(a, b):
    if a.dtype.is_floating():
        return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
    else:
        return tl.maximum(a, b)


@triton.jit
def _smallest(a, b):
    if a.dtype.is_floating():
        return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
    else:
        return tl.minimum(a, b)


@triton.jit
def _join(total, values, hit, KIND: tl.constexpr):
    """Join rows of values, where they are meant, with a total."""
    if KIND == "add":
        return total + tl.reduce(tl.where(hit, values, 0).to(total.dtype), 0, _sum)
    elif KIND == "mul":
        return total * tl.reduce(tl.where(hit, values, 1).to(total.dtype), 0, _product)
    elif KIND == "max":
        # A value joined with itself stays what it is.
        joined = _largest(values, total[None, :])
        return tl.reduce(tl.where(hit, joined, total[None, :]), 0, _largest)
    else:
        joined = _smallest(values, total[None, :])
        return tl.reduce(tl.where(hit, joined, total[None, :]), 0, _smallest)


@triton.jit
def join(
    work, updates, y, COUNT, SLICE, KIND: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Join all updates of a slice in the program of the first of them, in order."""
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    update = tl.program_id(0)
    target = tl.load(work + update)
    if tl.load(work + COUNT + target) == update:
        lane = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = lane < SLICE
        place = y + target.to(tl.int64) * SLICE + lane
        total = _wide(tl.load(place, mask=inside, other=0))
        for start in range(update, COUNT, ROWS):
            row = start + tl.arange(0, ROWS)
            hit = tl.load(work + row, mask=row < COUNT, other=-1) == target
            if tl.max(hit.to(tl.int32), 0) > 0:
                wanted = hit[:, None] & inside[None, :]
                element = row.to(tl.int64)[:, None] * SLICE + lane[None, :]
                values = _wide(tl.load(updates + element, mask=wanted, other=0))
                total = _join(total, values, wanted, KIND)
        tl.store(place, total.to(y.dtype.element_ty), mask=inside)
