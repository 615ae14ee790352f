"""What contractions do with their sums: bias, residual, activation; the joining of split sums."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lamina.backends.cuda.kernels import quick

_LINES = tl.constexpr(8)
"""Lines of the cache that are asked for at a time in each row."""
_LINE_BYTES = tl.constexpr(128)


@triton.jit
def wait():
    """Wait for the kernel ahead, and let the next one start.

    The condition always holds, which the compiler does not know: what the program computes before
    stays in front, and is done while the kernel ahead still runs.  On an H200 that and asking for
    weights line by line took ResNet-50 at batch 1 from 222 to 208 microseconds.  To let the next
    kernel start before the wait makes networks slower, that one 236: too many programs wait.
    """
    if tl.program_id(0) < tl.num_programs(0):
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def activate(x, KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr):
    """Apply the activation that ``lamina.ops.kinds.ActivationKind`` calls ``KIND``; None: none."""
    if KIND == "relu":
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif KIND == "clip":
        x = tl.maximum(x, ALPHA, propagate_nan=tl.PropagateNan.ALL)
        x = tl.minimum(x, BETA, propagate_nan=tl.PropagateNan.ALL)
    elif KIND == "leaky_relu":
        x = tl.where(x >= 0, x, ALPHA * x)
    elif KIND == "thresholded_relu":
        x = tl.where(x > ALPHA, x, 0.0)
    elif KIND == "shrink":
        x = tl.where(x < -ALPHA, x + BETA, tl.where(x > ALPHA, x - BETA, 0.0))
    elif KIND == "softsign":
        x = x / (1 + tl.abs(x))
    elif KIND == "hard_sigmoid":
        x = _between(ALPHA * x + BETA)
    elif KIND == "hard_swish":
        x = x * _between(x / 6 + 0.5)
    else:
        x = _transcendental(x, KIND, ALPHA, BETA)
    return x


@triton.jit
def _transcendental(x, KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr):
    if KIND == "sigmoid":
        x = tl.sigmoid(x)
    elif KIND == "silu":
        x = x * tl.sigmoid(x * ALPHA)
    elif KIND == "gelu":
        x = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        # Hendrycks and Gimpel, "Gaussian Error Linear Units", section 2.
        x = 0.5 * x * (1 + libdevice.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    elif KIND == "tanh":
        x = libdevice.tanh(x)
    elif KIND == "scaled_tanh":
        x = ALPHA * libdevice.tanh(BETA * x)
    elif KIND == "softplus":
        x = _softplus(x)
    elif KIND == "mish":
        x = x * libdevice.tanh(_softplus(x))
    elif KIND == "elu":
        x = tl.where(x > 0, x, ALPHA * libdevice.expm1(x))
    elif KIND == "selu":
        x = BETA * tl.where(x > 0, x, ALPHA * libdevice.expm1(x))
    elif KIND == "celu":
        x = tl.where(x > 0, x, ALPHA * libdevice.expm1(x / ALPHA))
    else:
        tl.static_assert(KIND is None, "no such activation")
    return x


@triton.jit
def activate_half(x, KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr):
    """Apply an activation whose result is rounded to 16 bits."""
    if KIND == "gelu":
        x = quick.gelu(x)
    elif KIND == "gelu_tanh":
        x = quick.gelu_tanh(x)
    elif KIND == "silu":
        x = x * quick.sigmoid(x * ALPHA)
    elif KIND == "sigmoid":
        x = quick.sigmoid(x)
    else:
        x = activate(x, KIND, ALPHA, BETA)
    return x


@triton.jit
def _between(x):
    x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, 1.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _softplus(x):
    return tl.maximum(x, 0.0) + libdevice.log1p(tl.exp(-tl.abs(x)))


@triton.jit
def quantize(x, SCALE: tl.constexpr, ZERO: tl.constexpr, SIGNED: tl.constexpr):
    """Divide by the scale, round half to even, shift and saturate to 8 bits; NaN gives 0."""
    if SCALE != 1.0:
        x = tl.div_rn(x, tl.full(x.shape, SCALE, tl.float32))
    x = libdevice.rint(x) + ZERO
    low: tl.constexpr = -128.0 if SIGNED else 0.0
    high: tl.constexpr = 127.0 if SIGNED else 255.0
    x = tl.where(x == x, x, 0.0)
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit
def signed(numbers, UNSIGNED: tl.constexpr):
    """Return u8 numbers less 128, as i8; others as they are."""
    if UNSIGNED:
        numbers = (numbers ^ 0x80).to(tl.int8, bitcast=True)
    return numbers


@triton.jit
def real_sums(total, factors, shift, columns, inside):
    """Return integer sums less ``shift`` times ``factors``, both vectors of the columns, in f32.

    Without factors (None) the sums are real already.
    """
    if factors is not None:
        if shift is not None:
            total -= tl.load(shift + columns, mask=inside, other=0)[None, :]
        total = total.to(tl.float32) * tl.load(factors + columns, mask=inside, other=0)[None, :]
    return total


@triton.jit
def finish(
    total, added, bias, residual, y, row_inside, columns_left,
    BIAS_COLUMN, RESIDUAL_COLUMN, Y_COLUMN,
    RESIDUAL_SCALE: tl.constexpr, RESIDUAL_ZERO: tl.constexpr,
    Y_SCALE: tl.constexpr, Y_ZERO: tl.constexpr,
    ROUND_SCALE: tl.constexpr, ROUND_ZERO: tl.constexpr, ROUND_SIGNED: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    """Add bias and residual, apply the activation and store a tile of sums.

    Residual or result are 8-bit numbers of the given scale and zero point, where it is not None;
    so are the biased sums before the residual is added, with ``ROUND_SCALE``.

    ``bias`` and ``residual`` (each may be None) and ``y`` are vectors of pointers, one for each
    row; ``added`` is a bias that is the same in all rows, or None.  ``columns_left`` columns of
    the tile exist.  With ``HALVES`` the tile is stored in two parts, which halves the registers
    that bias and residual take.
    """
    if HALVES:
        rows: tl.constexpr = total.shape[0]
        half: tl.constexpr = total.shape[1] // 2
        left, right = total.reshape(rows, 2, half).permute(0, 2, 1).split()
        left_added, right_added = None, None
        if added is not None:
            left_added, right_added = added.reshape(2, half).permute(1, 0).split()
        _finish_part(
            left, left_added, bias, residual, y, row_inside, columns_left,
            BIAS_COLUMN, RESIDUAL_COLUMN, Y_COLUMN,
            RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
            ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA, 0,
        )  # fmt: skip
        _finish_part(
            right, right_added, bias, residual, y, row_inside, columns_left,
            BIAS_COLUMN, RESIDUAL_COLUMN, Y_COLUMN,
            RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
            ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA, half,
        )  # fmt: skip
    else:
        _finish_part(
            total, added, bias, residual, y, row_inside, columns_left,
            BIAS_COLUMN, RESIDUAL_COLUMN, Y_COLUMN,
            RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
            ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA, 0,
        )  # fmt: skip


@triton.jit
def _finish_part(
    total, added, bias, residual, y, row_inside, columns_left,
    BIAS_COLUMN, RESIDUAL_COLUMN, Y_COLUMN,
    RESIDUAL_SCALE: tl.constexpr, RESIDUAL_ZERO: tl.constexpr,
    Y_SCALE: tl.constexpr, Y_ZERO: tl.constexpr,
    ROUND_SCALE: tl.constexpr, ROUND_ZERO: tl.constexpr, ROUND_SIGNED: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    columns = FIRST + tl.arange(0, total.shape[1])
    inside = row_inside[:, None] & (columns < columns_left)[None, :]
    total = finished(
        total, added, bias, residual, y.dtype.element_ty, columns, inside,
        BIAS_COLUMN, RESIDUAL_COLUMN, RESIDUAL_SCALE, RESIDUAL_ZERO, Y_SCALE, Y_ZERO,
        ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED, KIND, ALPHA, BETA,
    )  # fmt: skip
    tl.store(y[:, None] + columns[None, :] * Y_COLUMN, total, mask=inside)


@triton.jit
def finished(
    total, added, bias, residual, element: tl.constexpr, columns, inside,
    BIAS_COLUMN, RESIDUAL_COLUMN, RESIDUAL_SCALE: tl.constexpr, RESIDUAL_ZERO: tl.constexpr,
    Y_SCALE: tl.constexpr, Y_ZERO: tl.constexpr,
    ROUND_SCALE: tl.constexpr, ROUND_ZERO: tl.constexpr, ROUND_SIGNED: tl.constexpr,
    KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
):  # fmt: skip
    """Return results, as numbers of type ``element``, of the sums at some columns of a tile."""
    if added is not None:
        total += added.to(total.dtype)[None, :]
    if bias is not None:
        block = bias[:, None] + columns[None, :] * BIAS_COLUMN
        total += tl.load(block, mask=inside, other=0).to(total.dtype)
    if ROUND_SCALE is not None:
        total = (quantize(total, ROUND_SCALE, ROUND_ZERO, ROUND_SIGNED) - ROUND_ZERO) * ROUND_SCALE
    if residual is not None:
        block = residual[:, None] + columns[None, :] * RESIDUAL_COLUMN
        rest = tl.load(block, mask=inside, other=0).to(total.dtype)
        if RESIDUAL_SCALE is not None:
            rest = (rest - RESIDUAL_ZERO) * RESIDUAL_SCALE
        total += rest
    if element.is_floating() and element.primitive_bitwidth == 16:
        total = activate_half(total, KIND, ALPHA, BETA)
    else:
        total = activate(total, KIND, ALPHA, BETA)
    if Y_SCALE is not None:
        total = quantize(total, Y_SCALE, Y_ZERO, element.is_int_signed())
    return total.to(element)


@triton.jit
def is_last(
    total, partial, counters, tile, piece,
    SPLIT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Hand in a share of a tile's sums; whether all other shares have been handed in.

    The counter of the tile is zero again after the last one.
    """
    pieces = shares(SPLIT)
    last = pieces == 1
    if pieces > 1:
        hand_in(total, partial, tile, piece, SPLIT, ROWS, COLUMNS)
        tl.debug_barrier()  # the counter says that every thread of the program has stored
        arrived = tl.atomic_add(counters + tile, 1, sem="acq_rel")
        last = arrived == pieces - 1
        if last:
            tl.store(counters + tile, 0)
    return last


@triton.jit
def hand_in(
    total, partial, tile, piece,
    SPLIT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store a share of a tile's sums."""
    place = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    share = (tile * shares(SPLIT) + piece).to(tl.int64) * (ROWS * COLUMNS)
    tl.store(partial + share + place, total)


@triton.jit
def shares(SPLIT: tl.constexpr):
    """Return how many programs share a tile; with ``SPLIT`` 0 the shapes decided it."""
    if SPLIT > 0:
        return SPLIT
    else:
        return tl.num_programs(1)


@triton.jit
def joined(total, partial, tile, SPLIT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the sum of the shares of a tile, always in the same order."""
    pieces = shares(SPLIT)
    if pieces > 1:
        place = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        first = partial + (tile * pieces).to(tl.int64) * (ROWS * COLUMNS)
        total = tl.load(first + place, cache_modifier=".cg")
        if SPLIT > 0:
            for piece in tl.static_range(1, SPLIT):
                total += tl.load(first + piece * (ROWS * COLUMNS) + place, cache_modifier=".cg")
        else:
            for piece in range(1, pieces):
                total += tl.load(first + piece * (ROWS * COLUMNS) + place, cache_modifier=".cg")
    return total


@triton.jit
def prefetch(rows, bytes):
    """Ask for ``bytes`` (a multiple of 16) at each of a vector of pointers to be brought into L2.

    Constants may be asked for before ``gdc_wait``, while the kernel ahead still runs.  Every thread
    asks for lines of its own: the instruction for many lines is issued for one thread after the
    other, which takes longer than the rest of what a kernel does before it waits.
    """
    lines = tl.arange(0, _LINES)[None, :] * _LINE_BYTES
    places = rows.to(tl.int64)[:, None] + lines
    for first in range(0, bytes, _LINES * _LINE_BYTES):
        # What lies behind the end repeats the last line.
        kept = tl.minimum(lines + first, bytes - 16) - lines
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
            "=r,l",
            [places + kept],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
