"""Elementary functions on f32 values, as inline instruction sequences.

Each takes the builder and an f32 scalar or vector and returns a value of the same type. Stated
errors are the largest seen against f64 over the finite range, in units in the last place (ulp) of
the f32 result; results in the denormal range may be off by one denormal step. NaN gives NaN and
infinities give the limits unless said otherwise. Polynomials are minimax fits made for this file,
on the intervals that the usual argument reductions (Cody and Waite, "Software Manual for the
Elementary Functions", 1980) leave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lamina.codegen.llvm.builder import F32, F64, I16, I32, I64, Builder, Value

_LN2_HIGH = 0.693359375  # 9 significant bits, so that n * it is exact
_LN2_LOW = math.log(2) - _LN2_HIGH
_LOG2_E = 1 / math.log(2)

# (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2
_EXP = (
    0.5000000078434277, 0.166666668568688, 0.04166626826326923,
    0.008333265166596028, 0.001394618974845981, 0.00019917971147758245,
)  # fmt: skip
# (ln(1 + f) - f + f^2/2) / f^3 on sqrt(1/2) <= 1 + f <= sqrt(2)
_LOG = (
    0.3333331043985704, -0.24999986599832008, 0.20002226614037905, -0.16669250815935766,
    0.14218658089452596, -0.12384348473866306, 0.11872976302316929, -0.11789807675665272,
    0.06915368024560425,
)  # fmt: skip
# (tanh(x) - x) / x^3 in x^2 on |x| <= 0.625
_TANH = (
    -0.33333330906671604, 0.13333209763788761, -0.05394720426835579,
    0.021702967099546444, -0.00818267384288034, 0.002147536846336704,
)  # fmt: skip
# erf(x) / x in x^2 on |x| <= 1
_ERF_SMALL = (
    1.1283791670631567, -0.37612638483809424, 0.11283782747214947, -0.026865445822469265,
    0.005221074881574288, -0.0008484711505528247, 0.00011270544936042387, -9.680137765307904e-06,
)  # fmt: skip
# -ln(1 - erf(x)) on 1 <= x <= 4
_ERF_LARGE = (
    -0.00018804023004822396, 1.129578424271267, 0.6332198930729288, 0.1084185773506443,
    -0.025208256748921336, 0.00420456187795779, -0.0004413363778819664, 2.168685001812928e-05,
)  # fmt: skip
# (sin(x) - x) / x^3 and (cos(x) - 1 + x^2/2) / x^4 in x^2 on |x| <= pi / 4
_SIN = (-0.16666666640612554, 0.008333329266695425, -0.00019839296122191568, 2.7179398297693323e-06)
_COS = (0.041666666621051784, -0.0013888883598226838, 2.479947861459853e-05, -2.720678728213088e-07)
# (atanh(z)/z - 1) / z^2 in z^2 on |z| <= 0.1716, and 2^r on |r| <= 1/2, both for f64 arithmetic
_ATANH = (
    0.3333333333305421, 0.20000000144496596, 0.14285689786795155,
    0.11112977897606989, 0.09021617606311366, 0.08874118148163557,
)  # fmt: skip
_EXP2 = (
    1.000000000000027, 0.6931471805459302, 0.24022650695463826, 0.05550410941216926,
    0.009618129229078174, 0.0013333450558394157, 0.00015403411286861368,
    1.5310081754994295e-05, 1.326413829721697e-06,
)  # fmt: skip


def polynomial(k: Builder, x: Value, coefficients: Sequence[float]) -> Value:
    """Evaluate a polynomial by Horner's rule; coefficients start with the constant term."""
    total = k.const(x.type, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = k.fma(total, x, c)
    return total


def _power_of_two(k: Builder, exponent: Value) -> Value:
    """Return 2^exponent for i32 lanes from -126 to 127."""
    return k.bitcast((exponent + 127) << 23, F32)


def _scale(k: Builder, x: Value, exponent: Value) -> Value:
    """Return x * 2^exponent (a whole float), correct where the result is denormal."""
    if k.isa.name == "avx512" and x.type == F32.vector(16):
        name = "llvm.x86.avx512.mask.scalef.ps.512"
        k.module.declare(name, x.type, (x.type, x.type, x.type, I16, I32))
        return k.emit(x.type, f"call {x.type} @{name}({x}, {exponent}, {x}, i16 -1, i32 4)")
    whole = k.convert(exponent, I32)
    half = k.ashr(whole, 1)
    return x * _power_of_two(k, half) * _power_of_two(k, whole - half)


def exp(k: Builder, x: Value) -> Value:
    """Return e^x, at most 1.5 ulp off."""
    x = k.min(89.0, k.max(-105.0, x))
    n = k.unary("roundeven", x * _LOG2_E)
    r = k.fma(n, -_LN2_LOW, k.fma(n, -_LN2_HIGH, x))
    p = k.fma(r * r, polynomial(k, r, _EXP), r) + 1.0
    return _scale(k, p, n)


def log(k: Builder, x: Value) -> Value:
    """Return the natural logarithm, at most 1.5 ulp off; -inf at 0, NaN below."""
    tiny = x < 1.1754943508222875e-38
    scaled = k.select(tiny, x * 8388608.0, x)
    bits = k.bitcast(scaled, I32)
    # Subtracting sqrt(1/2)'s bits puts the exponent boundary there instead of at a power of two.
    shifted = bits - 0x3F3504F3
    exponent = k.ashr(shifted, 23) - k.select(tiny, k.const(bits.type, 23), 0)
    f = k.bitcast((shifted & 0x007FFFFF) + 0x3F3504F3, F32) - 1.0
    n = k.convert(exponent, F32)
    square = f * f
    tail = k.fma(square * f, polynomial(k, f, _LOG), n * _LN2_LOW)
    result = k.fma(n, _LN2_HIGH, k.fma(square, -0.5, tail) + f)
    result = k.select(x < math.inf, result, x)
    result = k.select(x > 0.0, result, k.select(k.eq(x, 0.0), k.const(x.type, -math.inf), math.nan))
    return k.select(k.is_nan(x), x, result)


def sigmoid(k: Builder, x: Value) -> Value:
    """Return 1 / (1 + e^-x), at most 3 ulp off; 0 below -88.7, where the true value is denormal."""
    return 1.0 / (exp(k, -x) + 1.0)


def tanh(k: Builder, x: Value) -> Value:
    """Return the hyperbolic tangent, at most 2 ulp off."""
    magnitude = k.unary("fabs", x)
    square = x * x
    small = k.fma(x * square, polynomial(k, square, _TANH), x)
    # At 10 the result rounds to 1; the limit keeps e^(2x) finite. max/min pass NaN on.
    bounded = k.min(10.0, magnitude)
    large = 1.0 - 2.0 / (exp(k, bounded + bounded) + 1.0)
    large = k.intrinsic("copysign", x.type, large, x)
    return k.select(magnitude < 0.625, small, large)


def erf(k: Builder, x: Value) -> Value:
    """Return the error function, at most 2.5 ulp off."""
    magnitude = k.unary("fabs", x)
    small = x * polynomial(k, x * x, _ERF_SMALL)
    bounded = k.min(4.0, magnitude)
    large = 1.0 - exp(k, -polynomial(k, bounded, _ERF_LARGE))
    large = k.intrinsic("copysign", x.type, large, x)
    return k.select(magnitude < 1.0, small, large)


def sin(k: Builder, x: Value) -> Value:
    """Return the sine of radians, at most 2 ulp off for |x| <= 2^30; NaN at infinities.

    Beyond 2^30 the error grows with the argument, as the reduction has f64's precision.
    """
    return _sin_of_quadrant(k, x, 0)


def cos(k: Builder, x: Value) -> Value:
    """Return the cosine of radians, at most 2 ulp off for |x| <= 2^30; NaN at infinities.

    Beyond 2^30 the error grows with the argument, as the reduction has f64's precision.
    """
    return _sin_of_quadrant(k, x, 1)


def _sin_of_quadrant(k: Builder, x: Value, shift: int) -> Value:
    wide = k.convert(x, F64)
    turns = k.unary("roundeven", wide * (2 / math.pi))
    # The fused multiply-add makes the product with pi/2's f64 value exact; the rest follows.
    reduced = k.fma(turns, -6.123233995736766e-17, k.fma(turns, -(math.pi / 2), wide))
    quadrant = k.convert(k.convert(turns, I64), I32) + shift
    r = k.convert(reduced, F32)
    square = r * r
    sine = k.fma(r * square, polynomial(k, square, _SIN), r)
    cosine = k.fma(square * square, polynomial(k, square, _COS), k.fma(square, -0.5, 1.0))
    value = k.select(k.eq(quadrant & 1, 0), sine, cosine)
    signed = k.bitcast(k.bitcast(value, I32) ^ ((quadrant & 2) << 30), F32)
    result = k.select(k.unary("fabs", x) < math.inf, signed, math.nan)
    if shift == 0:
        return k.select(k.eq(x, 0.0), x, result)
    return result


def pow(k: Builder, x: Value, y: Value) -> Value:
    """Raise x to the power y, at most 1.5 ulp off, with the special cases of C's function."""
    magnitude = k.unary("fabs", x)
    exponent = k.convert(y, F64) * _log2_f64(k, magnitude)
    # Beyond these bounds the result is infinite or zero anyway.
    exponent = k.min(200.0, k.max(-200.0, exponent))
    n = k.unary("roundeven", exponent)
    mantissa = polynomial(k, exponent - n, _EXP2)
    power = k.bitcast((k.convert(n, I64) + 1023) << 52, F64)
    result = k.convert(mantissa * power, F32)
    whole = k.eq(k.unary("trunc", y), y)
    half = y * 0.5
    odd = whole & k.ne(k.unary("trunc", half), half)
    negative = k.bitcast(x, I32) < 0
    flipped = k.select(negative & odd, -result, result)
    invalid = (x < 0.0) & (x > -math.inf) & k.ne(whole, 1)
    result = k.select(invalid, k.const(x.type, math.nan), flipped)
    result = k.select(k.is_nan(x) | k.is_nan(y), x + y, result)
    one = k.const(x.type, 1.0)
    result = k.select(k.eq(magnitude, 1.0) & k.eq(k.unary("fabs", y), math.inf), one, result)
    return k.select(k.eq(x, 1.0) | k.eq(y, 0.0), one, result)


def _log2_f64(k: Builder, x: Value) -> Value:
    """Return log2 of non-negative f32 lanes in f64, relative error about 1e-14; -inf at 0."""
    wide = k.convert(x, F64)  # f32's denormals are normal numbers here
    shifted = k.bitcast(wide, I64) - 0x3FE6A09E667F3BCD
    n = k.convert(k.ashr(shifted, 52), F64)
    m = k.bitcast((shifted & 0x000FFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD, F64)
    z = (m - 1.0) / (m + 1.0)
    square = z * z
    series = k.fma(square, polynomial(k, square, _ATANH), 1.0)
    result = k.fma(z * series, 2 * _LOG2_E, n)
    result = k.select(wide < math.inf, result, wide)
    return k.select(k.eq(wide, 0.0), k.const(wide.type, -math.inf), result)
