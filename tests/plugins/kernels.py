"""Plugins with Triton kernels, shared by tests."""

from __future__ import annotations

import numpy as np
import triton
import triton.language as tl

import lamina
from lamina.plugins import Launch, Workspace, cdiv

_SCALE = tl.constexpr(2)


@triton.jit
def doubled(x):
    return x * _SCALE


@triton.jit
def add_kernel(a, b, y, n, FACTOR: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    sum = tl.load(a + i, mask=inside) + (FACTOR * tl.load(b + i, mask=inside)).to(
        a.dtype.element_ty
    )
    tl.store(y + i, doubled(sum), mask=inside)


def add_launches(a, b, y, *, factor):
    for block in (64, 128):
        yield Launch(
            add_kernel, (cdiv(y.size, block),), a, b, y, y.size, FACTOR=factor, BLOCK=block,
            num_warps=2,
        )  # fmt: skip


@lamina.plugin("kernels::scaled_add", types=lambda a, b, factor: a, triton=add_launches)
def scaled_add(a, b, *, factor: float = 1.0):
    return (2 * (a + (a.dtype.type(factor) * b))).astype(a.dtype)


@triton.jit
def square_kernel(x, work, ROWS, COLUMNS, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    value = tl.load(x + row * COLUMNS + i, mask=i < COLUMNS, other=0.0).to(tl.float32)
    target = work.to(tl.pointer_type(tl.float32))
    tl.store(target + row, tl.sum(value * value, 0))


@triton.jit
def unit_kernel(x, work, y, COLUMNS, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    total = tl.load(work.to(tl.pointer_type(tl.float32)) + row)
    value = tl.load(x + row * COLUMNS + i, mask=i < COLUMNS, other=0.0)
    unit = value.to(tl.float32) / tl.sqrt(total)
    tl.store(y + row * COLUMNS + i, unit.to(y.dtype.element_ty), mask=i < COLUMNS)


def unit_launches(x, y):
    rows, columns = x.shape
    work = Workspace(rows * 4)
    yield [
        Launch(square_kernel, (rows,), x, work, rows, columns, BLOCK=64),
        Launch(unit_kernel, (rows,), x, work, y, columns, BLOCK=64),
    ]


@lamina.plugin("kernels::unit", types=lambda x: x, triton=unit_launches)
def unit(x):
    wide = x.astype(np.float32)
    return (wide / np.sqrt((wide * wide).sum(1, keepdims=True))).astype(x.dtype)
