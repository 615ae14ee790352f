"""Activations of numbers that are rounded to 16 bits, two numbers at once where that is exact."""

from __future__ import annotations

import triton
import triton.language as tl

from lamina.backends.cuda.kernels.epilogue import activate_half


@triton.jit
def activated(
    x, element: tl.constexpr, KIND: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr
):
    """Apply an activation and round to 16 bits, from compute capability 8.0 on.

    Rounding keeps the order of numbers, so bounds that 16 bits hold may be applied behind it.
    """
    if KIND == "relu":
        return _at_least(x.to(element), 0.0)
    elif KIND == "clip" and _holds(ALPHA) and _holds(BETA):
        return _at_most(_at_least(x.to(element), ALPHA), BETA)
    else:
        return activate_half(x, KIND, ALPHA, BETA).to(element)


@triton.jit
def _at_least(x, BOUND: tl.constexpr):
    """Return the maximum of numbers and a bound; NaN stays."""
    bound = tl.full(x.shape, BOUND, tl.float32).to(x.dtype)
    if x.dtype == tl.float16:
        text: tl.constexpr = "max.NaN.f16x2 $0, $1, $2;"
    else:
        text: tl.constexpr = "max.NaN.bf16x2 $0, $1, $2;"
    return tl.inline_asm_elementwise(
        text, "=r,r,r", [x, bound], dtype=x.dtype, is_pure=True, pack=2
    )


@triton.jit
def _at_most(x, BOUND: tl.constexpr):
    """Return the minimum of numbers and a bound; NaN stays."""
    bound = tl.full(x.shape, BOUND, tl.float32).to(x.dtype)
    if x.dtype == tl.float16:
        text: tl.constexpr = "min.NaN.f16x2 $0, $1, $2;"
    else:
        text: tl.constexpr = "min.NaN.bf16x2 $0, $1, $2;"
    return tl.inline_asm_elementwise(
        text, "=r,r,r", [x, bound], dtype=x.dtype, is_pure=True, pack=2
    )


@triton.constexpr_function
def _holds(value):
    """Whether a number has at most eight significant bits, as few as any type of 16 bits."""
    return abs(value) <= 32 and value * 4 == int(value * 4)
