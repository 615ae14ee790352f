"""Recurrent layers: the products with the inputs of all times at once, then a walk through time.

A program walks with some rows of the batch in one direction.  States are f32, in global memory
that no other program touches; barriers order what its threads write and read there.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels.epilogue import activate
from lamina.backends.cuda.kernels.rounding import dot


@triton.jit
def project(
    x, w, b, gates, ROWS, INPUTS, GATED, SECOND, COLUMNS, GATES_AT,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Store x @ w.T + the input biases in f32: [ROWS, COLUMNS], directions side by side.

    ``GATED`` is the number of columns of a direction; ``b`` has two vectors of that length for
    each, of which the first ``SECOND`` elements of the second one are added too.
    """
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, INPUTS, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        left = tl.load(
            x + row.to(tl.int64)[:, None] * INPUTS + k[None, :],
            mask=(row < ROWS)[:, None] & (k < INPUTS)[None, :], other=0,
        )  # fmt: skip
        right = tl.load(
            w + column.to(tl.int64)[None, :] * INPUTS + k[:, None],
            mask=(column < COLUMNS)[None, :] & (k < INPUTS)[:, None], other=0,
        )  # fmt: skip
        total = dot(left, right, total, PRECISION)
    inside = column < COLUMNS
    own = column % GATED
    bias = b + column // GATED * (2 * GATED) + own
    added = tl.load(bias, mask=inside, other=0).to(tl.float32)
    added += tl.load(bias + GATED, mask=inside & (own < SECOND), other=0).to(tl.float32)
    place = GATES_AT + row.to(tl.int64)[:, None] * COLUMNS + column[None, :]
    tl.store(gates + place, total + added[None, :], mask=(row < ROWS)[:, None] & inside[None, :])


@triton.jit
def _product(
    state, r, row, there, column, H, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return rows of a state times ``r.T``, for columns of one gate."""
    total = tl.zeros((row.shape[0], column.shape[0]), tl.float32)
    for start in range(0, H, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        left = tl.load(
            state + row.to(tl.int64)[:, None] * H + k[None, :],
            mask=there[:, None] & (k < H)[None, :], other=0,
        )  # fmt: skip
        right = tl.load(
            r + column.to(tl.int64)[None, :] * H + k[:, None],
            mask=(column < H)[None, :] & (k < H)[:, None], other=0,
        )  # fmt: skip
        total = dot(left.to(right.dtype), right, total, PRECISION)
    return total


@triton.jit
def _gate(x, CLIP: tl.constexpr, KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr):
    if CLIP is not None:
        x = tl.minimum(tl.maximum(x, -CLIP), CLIP)
    return activate(x, KIND, ALPHA, BETA)


@triton.jit
def _begin(h, c, h0, c0, row, there, H, BLOCK_N: tl.constexpr):
    """Copy the first states to where they change."""
    for first in range(0, H, BLOCK_N):
        column = first + tl.arange(0, BLOCK_N)
        place = row.to(tl.int64)[:, None] * H + column[None, :]
        inside = there[:, None] & (column < H)[None, :]
        tl.store(h + place, tl.load(h0 + place, mask=inside).to(tl.float32), mask=inside)
        tl.store(c + place, tl.load(c0 + place, mask=inside).to(tl.float32), mask=inside)


@triton.jit
def _end(h, c, last_h, last_c, row, there, H, BLOCK_N: tl.constexpr):
    """Copy the last states to the results."""
    for first in range(0, H, BLOCK_N):
        column = first + tl.arange(0, BLOCK_N)
        place = row.to(tl.int64)[:, None] * H + column[None, :]
        inside = there[:, None] & (column < H)[None, :]
        state = tl.load(h + place, mask=inside)
        tl.store(last_h + place, state.to(last_h.dtype.element_ty), mask=inside)
        state = tl.load(c + place, mask=inside)
        tl.store(last_c + place, state.to(last_c.dtype.element_ty), mask=inside)


@triton.jit
def _lstm(
    a, c, old, r, given, peephole, direction, row, there, column, inside, H,
    INPUT_FORGET: tl.constexpr, CLIP: tl.constexpr,
    KIND_F: tl.constexpr, ALPHA_F: tl.constexpr, BETA_F: tl.constexpr,
    KIND_G: tl.constexpr, ALPHA_G: tl.constexpr, BETA_G: tl.constexpr,
    KIND_H: tl.constexpr, ALPHA_H: tl.constexpr, BETA_H: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the next h and c of an LSTM; ``a`` is the sum of its input gate."""
    real = column < H
    o = _product(old, r + H * H, row, there, column, H, BLOCK_K, PRECISION)
    o += tl.load(given + H, mask=inside, other=0)
    f = _product(old, r + 2 * H * H, row, there, column, H, BLOCK_K, PRECISION)
    f += tl.load(given + 2 * H, mask=inside, other=0)
    g = _product(old, r + 3 * H * H, row, there, column, H, BLOCK_K, PRECISION)
    g += tl.load(given + 3 * H, mask=inside, other=0)
    hole = peephole
    if peephole is not None:
        hole = peephole + direction * 3 * H + column
        a += tl.load(hole, mask=real, other=0).to(tl.float32)[None, :] * c
        f += tl.load(hole + 2 * H, mask=real, other=0).to(tl.float32)[None, :] * c
    i = _gate(a, CLIP, KIND_F, ALPHA_F, BETA_F)
    if INPUT_FORGET:
        f = 1 - i
    else:
        f = _gate(f, CLIP, KIND_F, ALPHA_F, BETA_F)
    next_c = f * c + i * _gate(g, CLIP, KIND_G, ALPHA_G, BETA_G)
    if peephole is not None:
        o += tl.load(hole + H, mask=real, other=0).to(tl.float32)[None, :] * next_c
    o = _gate(o, CLIP, KIND_F, ALPHA_F, BETA_F)
    return o * activate(next_c, KIND_H, ALPHA_H, BETA_H), next_c


@triton.jit
def walk(
    r, b, h0, c0, lengths, peephole, y, last_h, last_c, work,
    TIME, BATCH, H, COLUMNS, GATES_AT, FIRST, DIRECTIONS,
    CELL: tl.constexpr, LINEAR: tl.constexpr, INPUT_FORGET: tl.constexpr, BACKWARD: tl.constexpr,
    CLIP: tl.constexpr, KIND_F: tl.constexpr, ALPHA_F: tl.constexpr, BETA_F: tl.constexpr,
    KIND_G: tl.constexpr, ALPHA_G: tl.constexpr, BETA_G: tl.constexpr,
    KIND_H: tl.constexpr, ALPHA_H: tl.constexpr, BETA_H: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Walk through time from direction ``FIRST`` on.

    ``work`` holds two h, one c and one reset state of [DIRECTIONS, BATCH, H], then the gates of the
    inputs [TIME, BATCH, COLUMNS].  ``CELL`` is rnn, lstm or gru; ``LINEAR`` resets the
    GRU's product instead of its state.
    """
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    direction = FIRST + tl.program_id(1)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    there = row < BATCH
    gates_of: tl.constexpr = 4 if CELL == "lstm" else (3 if CELL == "gru" else 1)
    wide = direction.to(tl.int64)
    own = wide * BATCH * H
    states = (wide * 0 + DIRECTIONS) * BATCH * H
    cells, reset = work + 2 * states + own, work + 3 * states + own
    r += wide * gates_of * H * H
    b += direction * gates_of * 2 * H + gates_of * H
    end = tl.full((BLOCK_M,), 0, tl.int32) + TIME
    if lengths is not None:
        end = tl.load(lengths + row, mask=there, other=0)
    _begin(work + own, cells, h0 + own, c0 + own, row, there, H, BLOCK_N)
    tl.debug_barrier()
    for t in range(TIME):
        old = work + (t % 2) * states + own
        new = work + (1 - t % 2) * states + own
        alive = (t < end) & there
        turned = alive if BACKWARD else alive & (direction == 1)
        at = tl.where(turned, end - 1 - t, t)
        line = (at.to(tl.int64) * BATCH + row) * COLUMNS + direction * gates_of * H
        if CELL == "gru" and not LINEAR:
            for first in range(0, H, BLOCK_N):
                column = first + tl.arange(0, BLOCK_N)
                inside = there[:, None] & (column < H)[None, :]
                place = row.to(tl.int64)[:, None] * H + column[None, :]
                given = work + GATES_AT + line[:, None] + column[None, :]
                s = _product(old, r + H * H, row, there, column, H, BLOCK_K, PRECISION)
                s = _gate(
                    s + tl.load(given + H, mask=inside, other=0), CLIP, KIND_F, ALPHA_F, BETA_F
                )
                tl.store(reset + place, s * tl.load(old + place, mask=inside, other=0), mask=inside)
            tl.debug_barrier()
        for first in range(0, H, BLOCK_N):
            column = first + tl.arange(0, BLOCK_N)
            real = column < H
            inside = there[:, None] & real[None, :]
            place = row.to(tl.int64)[:, None] * H + column[None, :]
            given = work + GATES_AT + line[:, None] + column[None, :]
            h = tl.load(old + place, mask=inside, other=0)
            c = tl.load(cells + place, mask=inside, other=0)
            a = _product(old, r, row, there, column, H, BLOCK_K, PRECISION)
            a += tl.load(given, mask=inside, other=0)
            if CELL == "rnn":
                next_h, next_c = _gate(a, CLIP, KIND_F, ALPHA_F, BETA_F), c
            elif CELL == "gru":
                z = _gate(a, CLIP, KIND_F, ALPHA_F, BETA_F)
                added = tl.load(b + 2 * H + column, mask=real, other=0).to(tl.float32)[None, :]
                if LINEAR:
                    s = _product(old, r + H * H, row, there, column, H, BLOCK_K, PRECISION)
                    s += tl.load(given + H, mask=inside, other=0)
                    s = _gate(s, CLIP, KIND_F, ALPHA_F, BETA_F)
                    n = _product(old, r + 2 * H * H, row, there, column, H, BLOCK_K, PRECISION)
                    n = s * (n + added)
                else:
                    n = _product(reset, r + 2 * H * H, row, there, column, H, BLOCK_K, PRECISION)
                    n += added
                n += tl.load(given + 2 * H, mask=inside, other=0)
                n = _gate(n, CLIP, KIND_G, ALPHA_G, BETA_G)
                next_h, next_c = (1 - z) * n + z * h, c
            else:
                next_h, next_c = _lstm(
                    a, c, old, r, given, peephole, direction, row, there, column, inside, H,
                    INPUT_FORGET, CLIP, KIND_F, ALPHA_F, BETA_F, KIND_G, ALPHA_G, BETA_G,
                    KIND_H, ALPHA_H, BETA_H, BLOCK_K, PRECISION,
                )  # fmt: skip
            tl.store(new + place, tl.where(alive[:, None], next_h, h), mask=inside)
            tl.store(cells + place, tl.where(alive[:, None], next_c, c), mask=inside)
            shown = tl.where(alive[:, None], next_h, 0.0).to(y.dtype.element_ty)
            target = (at.to(tl.int64) * DIRECTIONS + direction) * BATCH + row
            tl.store(y + target[:, None] * H + column[None, :], shown, mask=inside)
        tl.debug_barrier()
    last = work + (TIME % 2) * states + own
    _end(last, cells, last_h + own, last_c + own, row, there, H, BLOCK_N)
