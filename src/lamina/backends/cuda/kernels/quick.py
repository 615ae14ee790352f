"""Functions for results of 16 bits: few instructions, errors that such results do not show.

The device computes powers of two and reciprocals in one instruction each, to about 22 bits; the
language's own functions add to that what subnormal numbers need.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def exp2(x):
    """Return 2 to the power of x, with a relative error of 2**-22; results below 2**-126 are 0."""
    return tl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def reciprocal(x):
    """Return 1 / x, with a relative error of 2**-23; results below 2**-126 are 0."""
    return tl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def sigmoid(x):
    """Return the logistic function."""
    return reciprocal(1.0 + exp2(x * -_LOG2E))


@triton.jit
def gelu(x):
    """Return GELU with an absolute error below 6e-6, a tenth of half a unit of f16 near 0.15.

    It is max(x, 0) - a N(-a) with a = abs(x) and the normal distribution N, whose logarithm to
    base 2 a polynomial gives up to a = 5.8, where the term is too small for f16.  The coefficients
    minimize the largest error of the result; the first one, -1, keeps small numbers exact.  The
    exact function takes four times as many operations, more than a wide product has time for.
    """
    a = tl.minimum(tl.abs(x), 5.8)
    p = a * -0.0003277463838458061 + 0.006034429185092449
    p = p * a - 0.04937116429209709
    p = p * a - 0.4621443748474121
    p = p * a - 1.1502573490142822
    p = p * a - 1.0
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) - a * exp2(p)


@triton.jit
def gelu_tanh(x):
    """Return GELU by its approximation with tanh, of which (1 + tanh(u)) / 2 is sigmoid(2 u)."""
    return x * sigmoid(x * (1.5957691216057308 + 0.07135481282052456 * x * x))
